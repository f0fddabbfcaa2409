"""A sweep loses nothing that was finished, and its numbers do not depend on who computed them."""

import dataclasses
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from studies.engine import _workers, interrupts
from studies.engine import grid as sweep
from studies.engine.errors import UserError
from studies.engine.grid import load_grid, outlook, product, run_grid

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Setting:
    mu: float
    seed: int
    steps: int = 50


def decay(config):
    """A little LMS run: numbers with rounding in them, and an array."""
    rng = np.random.default_rng(config.seed)
    u = rng.standard_normal((config.steps, 4))
    w = np.zeros(4)
    errors = []
    for row in u:
        error = row @ np.arange(4.0) - row @ w
        w += config.mu * error * row
        errors.append(error)
    return {"final": errors[-1], "weights": w, "pid": None, "nested": {"mse": np.mean(u @ w)}}


def careless(config):
    """Draws from global generators that it never seeded."""
    return [random.random(), np.random.random(), config["x"]]  # noqa: NPY002


def touching(config):
    """Leaves a trace of every call, and does what the config says."""
    with open(config["log"], "a") as log:
        log.write(f"{config['x']}\n")
    if config["x"] == config.get("bad") and not Path(config["log"] + ".mended").exists():
        raise ValueError("x is bad")
    if config["x"] == config.get("dies"):
        os.kill(os.getpid(), signal.SIGKILL)
    if config["x"] == config.get("dies_once") and not Path(config["log"] + ".died").exists():
        Path(config["log"] + ".died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(config.get("sleep", 0))
    return {"square": config["x"] ** 2}


def threads(config):
    import threadpoolctl
    import torch

    pools = [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]
    return [torch.get_num_threads(), max(pools), os.environ.get("OMP_NUM_THREADS")]


def odd_values(config):
    return {"nan": float("nan"), "inf": np.float32(np.inf), "n": np.int64(3), "empty": np.zeros(0)}


def unpresentable(config):
    return {"curve": [object()]}


def add(*, a, b=1):
    return a + b


def calls(folder):
    return sorted(map(int, (folder / "log").read_text().split()))


def grid_of(tmp_path, count=4, **fixed):
    return product({"log": str(tmp_path / "log"), **fixed}, x=range(count))


def digests(folder):
    """Of the numbers of every cell."""
    found = {}
    for path in sorted((folder / "cells").glob("*.json")):
        record = json.loads(path.read_text())
        found[path.name] = record["digest"], record["arrays"]
    return found


def quiet(*arguments, **options):
    return run_grid(*arguments, **{"progress": False, "engine": "serial", **options})


# --- the grid --------------------------------------------------------------------------------


def test_product():
    assert product({"a": 1}, b=[1, 2], c=["x", "y"]) == [
        {"a": 1, "b": 1, "c": "x"},
        {"a": 1, "b": 1, "c": "y"},
        {"a": 1, "b": 2, "c": "x"},
        {"a": 1, "b": 2, "c": "y"},
    ]
    assert product(Setting(0.1, 0), seed=[0, 1]) == [Setting(0.1, 0), Setting(0.1, 1)]
    assert product() == [{}]
    with pytest.raises(UserError, match="must be a list"):
        product(a="text")
    with pytest.raises(UserError, match="is empty"):
        product(a=[])
    with pytest.raises(UserError, match="Setting has no lr"):
        product(Setting(0.1, 0), lr=[1.0])


def test_order_is_that_of_the_grid_and_twins_run_once(tmp_path):
    grid = [{"x": x, "log": str(tmp_path / "log")} for x in (3, 1, 3, 2)]
    cells = quiet(touching, grid, tmp_path)
    assert [cell.config["x"] for cell in cells] == [3, 1, 3, 2]
    assert [cell.result["square"] for cell in cells] == [9, 1, 9, 4]
    assert calls(tmp_path) == [1, 2, 3]


def test_key_is_of_the_meaning(tmp_path):
    def key(config, **options):
        return quiet(odd_values, [config], tmp_path, **options)[0].key

    assert key({"a": 1, "b": (2, 3)}) == key({"b": [2, 3], "a": np.int64(1)})
    assert key({"a": 1}) != key({"a": 2})
    assert key({"a": 1}) != key({"a": 1}, version="2")
    assert key({"a": 1}) != quiet(careless, [{"a": 1, "x": 0}], tmp_path)[0].key


@pytest.mark.parametrize(
    ("function", "grid", "message"),
    [
        (lambda config: 0, [{}], "top level of a module"),
        (odd_values, [], "grid is empty"),
        (odd_values, [{"a": {1: 2}}], r"names in the config\['a'\] must be strings"),
        (odd_values, [{"a": [{1}]}], r"config\['a'\]\[0\] is a set"),
        (odd_values, [3], "a mapping or a dataclass"),
    ],
)
def test_unfit_grids(tmp_path, function, grid, message):
    with pytest.raises(UserError, match=message):
        quiet(function, grid, tmp_path)


def test_unfit_options(tmp_path):
    with pytest.raises(UserError, match="unknown engine 'ray'"):
        quiet(odd_values, [{}], tmp_path, engine="ray")
    with pytest.raises(UserError, match="address of a cluster"):
        quiet(odd_values, [{}], tmp_path, engine="dask")
    with pytest.raises(UserError, match="at least 1"):
        quiet(odd_values, [{}], tmp_path, workers=0)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write results"):
        quiet(odd_values, [{}], tmp_path / "file")


# --- what is on disk -------------------------------------------------------------------------


def test_values_come_back_as_they_were(tmp_path):
    for _ in range(2):
        (cell,) = quiet(odd_values, [{"lr": float("inf")}], tmp_path)
        assert np.isnan(cell.result["nan"])
        assert cell.result["inf"] == np.inf
        assert cell.result["n"] == 3
        assert cell.result["empty"].shape == (0,)
        assert cell.config == {"lr": np.inf}


def test_manifest(tmp_path):
    (cell,) = quiet(decay, [Setting(0.1, 7)], tmp_path)
    (file,) = (tmp_path / "cells").glob("*.json")
    record = json.loads(file.read_text())
    assert file.stem == cell.key
    assert record["config"] == dataclasses.asdict(Setting(0.1, 7))
    assert record["function"] == "tests.studies.engine.test_sweep:decay"
    manifest = record["manifest"]
    assert manifest["seed"] == 7
    assert manifest["versions"]["numpy"] == np.__version__
    assert {"device", "machine", "commit", "started"} <= set(manifest)
    assert 0 < record["seconds"] < 60


def test_rerun_skips_what_is_there(tmp_path):
    quiet(touching, grid_of(tmp_path, 2), tmp_path)
    quiet(touching, grid_of(tmp_path, 4), tmp_path)
    assert calls(tmp_path) == [0, 1, 2, 3]


def arrays_of(path):
    (found,) = path.parent.glob(f"{path.stem}.*.npz")
    return found


def damage(path, how):
    if how == "cut":
        path.write_bytes(path.read_bytes()[:40])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "number":
        path.write_text(path.read_text().replace('"final": ', '"final": 1'))
    elif how == "other":
        path.write_text(path.read_text().replace(path.stem, "f" * 24))
    elif how == "arrays cut":
        arrays_of(path).write_bytes(b"PK")
    elif how == "arrays gone":
        arrays_of(path).unlink()
    elif how == "manifest":
        path.write_text(path.read_text().replace('"manifest": {', '"manifest": [], "x": {'))
    elif how == "commit":
        record = json.loads(path.read_text())
        record["manifest"]["commit"] = {}
        path.write_text(json.dumps(record))
    else:
        path.write_text("[]")


@pytest.mark.parametrize(
    "how",
    ["cut", "empty", "number", "other", "arrays cut", "arrays gone", "list", "manifest", "commit"],
)
def test_damaged_results_are_made_again(tmp_path, how, caplog):
    grid = product(Setting(0.1, 0), seed=[0, 1])
    quiet(decay, grid, tmp_path)
    before = digests(tmp_path)
    damage(next((tmp_path / "cells").glob("*.json")), how)
    assert len(load_grid(tmp_path)) == 1
    caplog.clear()
    cells = quiet(decay, grid, tmp_path)
    assert [cell.config["seed"] for cell in cells] == [0, 1]
    assert digests(tmp_path) == before
    assert len(caplog.messages) == 1
    assert "is damaged and does not count" in caplog.text


def test_errors_have_their_own_files_and_are_tried_again(tmp_path):
    grid = grid_of(tmp_path, bad=1)
    cells = quiet(touching, grid, tmp_path)
    assert [cell.error for cell in cells] == [None, "ValueError: x is bad", None, None]
    assert cells[1].result is None
    (file,) = (tmp_path / "cells").glob("*.error.json")
    record = json.loads(file.read_text())
    assert "raise ValueError" in record["error"]["traceback"]
    assert record["config"]["x"] == 1
    assert [row["error"] for row in load_grid(tmp_path)][1] == "ValueError: x is bad"

    (tmp_path / "log.mended").touch()
    cells = quiet(touching, grid, tmp_path)
    assert cells[1].result == {"square": 1}
    assert calls(tmp_path) == [0, 1, 1, 2, 3]
    assert not file.exists()


def test_results_that_cannot_be_kept(tmp_path):
    (cell,) = quiet(unpresentable, [{}], tmp_path)
    assert cell.error.startswith("TypeError: the result['curve'][0] is a object; a result holds")


class Untold(Exception):
    def __str__(self):
        raise RuntimeError("no words")


class Own(BaseException):
    pass


def hostile(config):
    """Every way to take a sweep down that somebody has found."""
    kind = config["kind"]
    raised = {
        "untold": Untold(),
        "own": Own("of its own"),
        "ctrl-c": KeyboardInterrupt(),
        "exit": SystemExit(5),
        "generator": GeneratorExit(),
        "memory": MemoryError(),
    }
    if kind in raised:
        raise raised[kind]
    if kind == "moves":
        os.chdir("/")
    return {
        "float": {"__float__": "boom"},
        "array": {"__array__": "x"},
        "mapping": {"__mapping__": {"__float__": "nan"}},
        "digits": {"x": 10**5000},
        "surrogate": {"name\udcff": "\udcff"},
        "twice": {1: "a", "1": "b"},
        "dots": {"a.b": 1, "a": {"b": 2}},
        "cycle": cycle(),
    }.get(kind, {"x": 1})


def cycle():
    ring = []
    ring.append(ring)
    return ring


KEPT = {
    "float": {"__float__": "boom"},
    "array": {"__array__": "x"},
    "mapping": {"__mapping__": {"__float__": "nan"}},
    "surrogate": {"name\udcff": "\udcff"},
    "moves": {"x": 1},
    "plain": {"x": 1},
}
ENDS = {
    "untold": "Untold: its message cannot be shown",
    "own": "Own: of its own",
    "ctrl-c": "KeyboardInterrupt: ",
    "exit": "SystemExit: 5",
    "generator": "GeneratorExit: ",
    "memory": "MemoryError: ",
    "digits": "ValueError: Exceeds the limit",
    "twice": "ValueError: two names in the result are written '1'",
    "dots": "ValueError: two numbers of the result are called 'a.b' in a table",
    "cycle": "RecursionError: ",
}


@pytest.mark.parametrize("engine", ["serial", "joblib"])
def test_no_cell_ends_a_sweep(tmp_path, monkeypatch, engine):
    monkeypatch.chdir(tmp_path)
    grid = product(kind=[*ENDS, *KEPT])
    for _ in range(2):
        cells = quiet(hostile, grid, "out", engine=engine, workers=2)
        for cell in cells:
            kind = cell.config["kind"]
            if kind in KEPT:
                assert (cell.result, cell.error) == (KEPT[kind], None)
            else:
                assert cell.error.startswith(ENDS[kind])
    assert len(list((tmp_path / "out" / "cells").glob("*.json"))) == len(grid)
    assert len(load_grid("out")) == len(grid)


def test_configs_that_read_like_marks_come_back(tmp_path):
    config = {"x": 1, "kind": "plain", "odd": {"__float__": "boom"}}
    assert quiet(hostile, [config], tmp_path)[0].config == config
    assert quiet(hostile, [config], tmp_path)[0].config == config
    with pytest.raises(UserError, match="cannot be written down"):
        quiet(hostile, [{"kind": 10**5000}], tmp_path)


def test_a_grid_is_counted_before_it_is_made():
    with pytest.raises(UserError, match="1,280,000,000 cells; at most 1,000,000"):
        product(**{name: range(20) for name in "abcdefg"})


def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path):
    grid = grid_of(tmp_path, 4)
    quiet(touching, grid[:2], tmp_path)
    code = (
        "import resource\n"
        "from tests.studies.engine.test_sweep import *\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))\n"
        f"grid, out = {grid!r}, {str(tmp_path)!r}\n"
        "try:\n"
        "    quiet(touching, grid, out)\n"
        "except UserError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"cannot write {tmp_path}/")
    assert "File too large" in done.stdout
    assert len(load_grid(tmp_path)) == 2
    assert [cell.result["square"] for cell in quiet(touching, grid, tmp_path)] == [0, 1, 4, 9]


def noisy(config):
    return {"noise": np.frombuffer(os.urandom(4000), dtype=np.uint8), "x": config["x"]}


def test_runs_on_one_folder_do_not_disturb_each_other(tmp_path):
    grid = product(x=range(20))
    code = (
        "from tests.studies.engine.test_sweep import *\n"
        f"quiet(noisy, product(x=range(20)), {str(tmp_path)!r})"
    )
    runs = [python(code) for _ in range(2)]
    assert [run.wait(timeout=120) for run in runs] == [0, 0]
    assert [row["x"] for row in load_grid(tmp_path)] == list(range(20))
    assert len(quiet(noisy, grid, tmp_path)) == 20


def forgets(config):
    """Removes what was finished before it."""
    if config["x"] == 3:
        for path in Path(config["out"], "cells").iterdir():
            path.unlink()
    return config["x"]


def test_results_that_somebody_removes_are_missed(tmp_path):
    with pytest.raises(UserError, match="3 of 4 finished cells are no longer in"):
        quiet(forgets, product({"out": str(tmp_path)}, x=range(4)), tmp_path)


def test_leftovers_of_killed_runs_are_removed(tmp_path):
    quiet(odd_values, [{}], tmp_path)
    fresh, stale = (tmp_path / "cells" / f".unfinished-{name}.json" for name in "ab")
    for path in (fresh, stale):
        path.touch()
    os.utime(stale, (0, 0))
    quiet(odd_values, [{}], tmp_path)
    assert fresh.exists()
    assert not stale.exists()


def words(config):
    return ",".join({"alpha", "beta", "gamma", "delta", str(config["x"])})


def test_sets_have_one_order_on_processes(tmp_path):
    found = [
        quiet(words, [{"x": 1}], tmp_path / name, engine="joblib", workers=1)[0].result
        for name in "ab"
    ]
    assert found[0] == found[1]


def test_load_grid(tmp_path):
    quiet(decay, product(Setting(0.1, 0), mu=[0.2, 0.1]), tmp_path)
    rows = load_grid(tmp_path)
    assert [row["mu"] for row in rows] == [0.2, 0.1]
    assert {"seed", "steps", "final", "nested.mse", "seconds", "error"} <= set(rows[0])
    assert rows[0]["weights"].shape == (4,)
    assert quiet(add, [{"a": 1, "result": 5}], tmp_path / "b")[0].row()["error"]
    quiet(add, [{"a": 1}], tmp_path / "c", keywords=True)
    assert load_grid(tmp_path / "c")[0]["result"] == 2
    with pytest.raises(UserError, match="no sweep was run"):
        load_grid(tmp_path / "absent")


def test_same_name_in_config_and_result():
    cell = sweep.Record("k", {"lr": 1, "opt": {"m": 2}}, {"lr": 3, "loss": {"end": 4}}, None, 1, {})
    assert cell.row() == {
        "lr": 1,
        "opt.m": 2,
        "result.lr": 3,
        "loss.end": 4,
        "seconds": 1,
        "error": None,
    }


def test_outlook(tmp_path):
    grid = grid_of(tmp_path, 5, bad=1, sleep=0.02)
    before = outlook(touching, grid, tmp_path, workers=2)
    assert before == sweep.Outlook(5, 0, 0, None, None)
    assert not (tmp_path / "cells").exists()
    quiet(touching, grid[:3], tmp_path)
    after = outlook(touching, grid, tmp_path, workers=2)
    assert (after.cells, after.done, after.failed) == (5, 2, 1)
    assert after.seconds == pytest.approx(2 * after.seconds_per_cell)
    assert 0.02 <= after.seconds_per_cell < 1


# --- engines ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    out = tmp_path_factory.mktemp("serial")
    quiet(decay, GRID, out)
    return digests(out)


GRID = product(Setting(0.1, 0), mu=[0.1, 0.01], seed=[0, 1, 2])


@pytest.mark.parametrize("workers", [1, 3])
def test_numbers_are_the_same_on_processes(tmp_path, workers, reference):
    cells = run_grid(decay, GRID, tmp_path, workers=workers)
    assert [cell.config["seed"] for cell in cells] == [0, 1, 2, 0, 1, 2]
    assert digests(tmp_path) == reference


def test_unseeded_functions_give_the_same_anyway(tmp_path):
    state = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    grid = product(x=[0, 1])
    serial = quiet(careless, grid, tmp_path / "a")
    assert (random.getstate(), np.random.get_state()[1].tolist()) == state  # noqa: NPY002
    other = quiet(careless, grid[::-1], tmp_path / "b", engine="joblib", workers=2)[::-1]
    assert [cell.result for cell in serial] == [cell.result for cell in other]
    assert serial[0].result[:2] != serial[1].result[:2]


def test_workers_have_one_thread(tmp_path):
    (cell,) = quiet(threads, [{}], tmp_path, engine="joblib", workers=1)
    assert cell.result == [1, 1, "1"]
    (cell,) = quiet(threads, [{"here": True}], tmp_path)
    assert cell.result[:2] == [1, 1]


def test_torch_has_its_threads_back():
    # in a process of its own: numba starts its threads, which OpenMP takes note of, only once
    code = (
        "import numba, torch\n"
        "from studies.engine.grid import one_thread\n"
        "torch.set_num_threads(1)\n"
        "with one_thread(): pass\n"
        "print(torch.get_num_threads())\n"
    )
    env = os.environ | {"NUMBA_NUM_THREADS": "2", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1"]


def test_a_killed_worker_loses_only_its_cell(tmp_path, caplog):
    grid = grid_of(tmp_path, 5, dies_once=1, dies=3)
    cells = quiet(touching, grid, tmp_path, engine="joblib", workers=2)
    assert [cell.error is None for cell in cells] == [True, True, True, False, True]
    assert "died 2 times" in cells[3].error
    assert calls(tmp_path) == [0, 1, 1, 2, 3, 3, 4]
    assert "is run again" in caplog.text


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def finished(folder):
    return [p for p in folder.glob("cells/*.json") if not p.name.startswith(".")]


def python(code):
    # a shell starts background jobs with Ctrl-C ignored, and their children inherit that
    listen = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    command = [sys.executable, "-c", listen + code]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)


def alive(log):
    """The processes that still work on the cells which write this log."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"SWEEP_UNDER_TEST={log}".encode() in path.read_bytes():
                found.append(path.parent.name)
        except OSError:
            continue
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGHUP, signal.SIGTERM])
def test_no_worker_outlives_its_run(tmp_path, stop, monkeypatch):
    monkeypatch.setenv("SWEEP_UNDER_TEST", str(tmp_path))
    grid = grid_of(tmp_path, 30, sleep=0.1)
    run = python(
        "from tests.studies.engine.test_sweep import run_grid, touching\n"
        f"run_grid(touching, {grid!r}, {str(tmp_path)!r}, workers=2)"
    )
    wait_for(lambda: len(finished(tmp_path)) >= 2)
    assert len(alive(tmp_path)) >= 3
    run.send_signal(stop)
    assert run.wait(timeout=60) != 0
    wait_for(lambda: not alive(tmp_path))


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_loses_only_what_was_in_flight(tmp_path, stop):
    grid = grid_of(tmp_path, 30, sleep=0.1)
    run = python(
        "from tests.studies.engine.test_sweep import run_grid, touching\n"
        f"run_grid(touching, {grid!r}, {str(tmp_path)!r}, workers=2)"
    )
    wait_for(lambda: len(finished(tmp_path)) >= 3)
    run.send_signal(stop)
    assert run.wait(timeout=60) != 0
    kept = finished(tmp_path)
    assert 3 <= len(kept) < 30
    time.sleep(0.3)  # orphans finish what they had in hand
    before = calls(tmp_path)
    cells = quiet(touching, grid, tmp_path)
    assert [cell.result["square"] for cell in cells] == [x * x for x in range(30)]
    assert len(calls(tmp_path)) == len(before) + 30 - len(kept)
    assert len(before) - len(kept) <= 2 * 2  # two workers, and the cell each took up next


# --- a Dask cluster --------------------------------------------------------------------------


def dask(kind, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", f"distributed.cli.dask_{kind}", "--no-dashboard", *arguments],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A scheduler and two worker processes on the loopback interface."""
    pytest.importorskip("distributed")
    folder = tmp_path_factory.mktemp("cluster")
    file = folder / "scheduler.json"
    local = ["--host", "127.0.0.1", "--scheduler-file", str(file)]
    processes = [dask("scheduler", *local, "--port", "0")]
    options = [*local, "--nthreads", "1", "--no-nanny", "--local-directory", str(folder)]
    try:
        wait_for(file.exists)
        wait_for(lambda: file.read_text().strip().endswith("}"))
        processes += [dask("worker", *options) for _ in range(2)]
        yield json.loads(file.read_text())["address"], processes, options
    finally:
        # nothing of theirs is worth a farewell, which takes long when the scheduler is gone
        for process in processes:
            process.kill()
            process.wait()


def test_numbers_are_the_same_on_a_cluster(tmp_path, cluster, reference):
    address, _, _ = cluster
    cells = run_grid(decay, GRID, tmp_path, cluster=address)
    assert [cell.config["seed"] for cell in cells] == [0, 1, 2, 0, 1, 2]
    assert digests(tmp_path) == reference


def test_errors_and_reruns_on_a_cluster(tmp_path, cluster):
    address, _, _ = cluster
    grid = grid_of(tmp_path, bad=2)
    cells = quiet(touching, grid, tmp_path, cluster=address)
    assert [cell.error for cell in cells] == [None, None, "ValueError: x is bad", None]
    (tmp_path / "log.mended").touch()
    cells = quiet(touching, grid, tmp_path, cluster=address)
    assert [cell.result["square"] for cell in cells] == [0, 1, 4, 9]
    assert calls(tmp_path) == [0, 1, 2, 2, 3]


def test_user_modules_reach_the_cluster(tmp_path, cluster, monkeypatch):
    (tmp_path / "their_model.py").write_text("def train(lr):\n    return {'loss': 1 / lr}\n")
    monkeypatch.syspath_prepend(tmp_path)
    import their_model

    (cell,) = quiet(their_model.train, [{"lr": 4}], tmp_path, cluster=cluster[0], keywords=True)
    assert cell.result == {"loss": 0.25}


def test_a_killed_worker_of_a_cluster(tmp_path, cluster):
    address, processes, options = cluster
    grid = grid_of(tmp_path, 16, sleep=0.15)
    code = (
        "from tests.studies.engine.test_sweep import run_grid, touching\n"
        f"run_grid(touching, {grid!r}, {str(tmp_path)!r}, cluster={address!r})"
    )
    run = python(code)
    wait_for(lambda: len(finished(tmp_path)) >= 3)
    processes[1].kill()
    assert run.wait(timeout=120) == 0
    assert [row["square"] for row in load_grid(tmp_path)] == [x * x for x in range(16)]
    assert len(calls(tmp_path)) <= 16 + 2  # what the dead worker had in hand
    processes[1].wait()
    processes[1] = dask("worker", *options)


def test_no_cluster(tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(_workers, "WAIT_FOR_CLUSTER", 0.5)
    quiet(odd_values, [{"done": True}], tmp_path)
    for grid in ([{}], [{"done": True}]):
        with pytest.raises(UserError, match="no Dask scheduler answers at tcp:"):
            quiet(odd_values, grid, tmp_path, cluster="tcp://127.0.0.1:9")


def test_a_cluster_without_workers(tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    file = tmp_path / "scheduler.json"
    options = ["--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(file)]
    scheduler = dask("scheduler", *options)
    try:
        wait_for(lambda: file.exists() and file.read_text().strip().endswith("}"))
        address = json.loads(file.read_text())["address"]
        monkeypatch.setattr(_workers, "WAIT_FOR_CLUSTER", 5)
        with pytest.raises(UserError, match="has no workers"):
            quiet(odd_values, [{}], tmp_path, cluster=address)
    finally:
        scheduler.kill()
        scheduler.wait()


def test_cluster_without_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UserError, match=r"a cluster needs distributed\..*\[cluster\]"):
        quiet(odd_values, [{}], tmp_path, cluster="tcp://127.0.0.1:9")


def test_keys_do_not_change_between_releases(tmp_path):
    """A new key for an old config would silently throw away everybody's results."""
    (cell,) = quiet(add, [{"a": 1.5, "b": 2}], tmp_path, keywords=True)
    text = (
        '{"config":{"a":1.5,"b":2},"function":"tests.studies.engine.test_sweep:add","version":""}'
    )
    assert cell.key == hashlib.sha256(text.encode()).hexdigest()[:24]


def test_an_interrupt_waits_for_calls_that_take_locks():
    done = []

    def interrupted():
        with interrupts.interruptible(signal.SIGINT):
            with interrupts.deferred():
                os.kill(os.getpid(), signal.SIGINT)
                done.append("the call ends")
            done.append("never")

    with pytest.raises(interrupts.Interrupted, match="SIGINT"):
        interrupted()
    assert done == ["the call ends"]
