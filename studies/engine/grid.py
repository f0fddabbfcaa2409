"""One pure function from config to result, over a grid of configs.

A result lands on disk as soon as it is there, in a file named by the hash of its config, so that
a run that dies loses only what was in flight and the next one skips what is done. The numbers do
not depend on the engine, the number of workers or the order: every cell has one thread, random
generators seeded from its config, and a process in which nothing else runs meanwhile.

>>> product({"steps": 100}, lr=[0.1, 0.2], seed=[0])
[{'steps': 100, 'lr': 0.1, 'seed': 0}, {'steps': 100, 'lr': 0.2, 'seed': 0}]
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import importlib.util
import inspect
import io
import itertools
import json
import logging
import math
import os
import random
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import threadpoolctl
from tqdm import tqdm

from studies.engine import summary as results
from studies.engine.errors import UserError
from studies.engine.protocol import Lazy

__all__ = [
    "Cell",
    "Outlook",
    "cell_keys",
    "load_cells",
    "load_grid",
    "outlook",
    "product",
    "run_grid",
]

Engine = Literal["joblib", "serial", "dask"]
Config = Any  # a mapping with string keys, or a dataclass
Arrays = dict[str, np.ndarray]

FORMAT = 1
DEATHS = 2  # a cell that has taken so many workers with it is given up
WAIT_FOR_CLUSTER = 20  # seconds, for a scheduler and then for its first worker
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cell:
    """One config of a grid and what came of it.

    Attributes
    ----------
    key : the hash of function, version and config; names the file.
    config : as plain data.
    result : what the function returned, as it reads from disk; None after an error.
    error : type and message of what it raised; None when it returned.
    seconds : how long it took.
    manifest : seed, versions, machine, device, commit, time of start.
    """

    key: str
    config: Mapping[str, Any]
    result: Any
    error: str | None
    seconds: float
    manifest: Mapping[str, Any]

    def row(self) -> dict[str, Any]:
        """One flat mapping: the config, the result, ``seconds`` and ``error``.

        Names inside mappings are joined with dots. A number of the result that is called like one
        of the config gets ``result.`` in front; a result that is no mapping is called ``result``.
        """
        row = results.flat(self.config)
        found = self.result if isinstance(self.result, Mapping) else {"result": self.result}
        for name, value in results.flat(found if self.error is None else {}).items():
            row[f"result.{name}" if name in row else name] = value
        return {**row, "seconds": self.seconds, "error": self.error}


@dataclass(frozen=True)
class Outlook:
    """What a grid would cost, before it is run.

    Attributes
    ----------
    cells : different configs in the grid.
    done : of them, those whose result is there.
    failed : those that raised last time, and would be tried again.
    seconds_per_cell : the median over the cells done; None when there are none.
    seconds : for what is left, on so many workers; None when unknown.
    """

    cells: int
    done: int
    failed: int
    seconds_per_cell: float | None
    seconds: float | None


def product(base: Config | None = None, /, **axes: Sequence[Any]) -> list[Any]:
    """Every combination of the axes, the last one turning fastest, put into a base config.

    Parameters
    ----------
    base : mapping or dataclass with what stays the same.
    axes : the values of each name.

    Returns
    -------
    A list of dicts, or of such dataclasses.
    """
    for name, values in axes.items():
        if isinstance(values, str) or not isinstance(values, Sequence | np.ndarray):
            raise UserError(f"the values of {name!r} must be a list, got {values!r}.")
        if len(values) == 0:
            raise UserError(f"the list of values of {name!r} is empty.")
    combinations = [dict(zip(axes, v, strict=True)) for v in itertools.product(*axes.values())]
    if dataclasses.is_dataclass(base) and not isinstance(base, type):
        unknown = axes.keys() - {field.name for field in dataclasses.fields(base)}
        if unknown:
            raise UserError(f"{type(base).__name__} has no {', '.join(sorted(unknown))}.")
        return [dataclasses.replace(base, **combination) for combination in combinations]
    fixed = dict(base or {})  # type: ignore[arg-type]
    return [{**fixed, **combination} for combination in combinations]


def run_grid(
    function: Callable[..., Any],
    grid: Sequence[Config],
    out: str | Path,
    *,
    engine: Engine | None = None,
    workers: int | None = None,
    cluster: str | None = None,
    progress: bool = True,
    version: str = "",
    keywords: bool = False,
    name: str | None = None,
) -> list[Cell]:
    """Run a function over a grid of configs; skip what an earlier run has left.

    Parameters
    ----------
    function : of one config; pure, defined at the top level of a module. It returns numbers,
        strings, None, arrays, and lists and mappings of such.
    grid : configs: mappings with string keys, or dataclasses, of plain data. One that appears
        twice is run once.
    out : folder for the results; ``load_grid`` reads it.
    engine : ``joblib``: processes on this machine, by joblib's loky; ``serial``: here, one after
        the other, the default for one worker; ``dask``: on the cluster at ``cluster``, which
        implies it.
    workers : of ``joblib``; None for one per processor.
    cluster : address of a Dask scheduler, such as ``tcp://10.0.0.5:8786``. Its workers must be
        able to import the function. They send results back, so no shared disk is needed.
    progress : show a bar with the time left.
    version : part of what names a result. Change it when the function changes its meaning, and
        nothing computed before will be taken for new.
    keywords : call ``function(**config)`` instead of ``function(config)``.
    name : names the results in place of the function's import path, so that it may move.

    Returns
    -------
    One ``Cell`` per config, in the order of the grid. A cell that raised has its ``error`` set
    and is tried again by the next run; the others go on.

    Raises
    ------
    UserError : the grid, the folder or the cluster will not do.
    KeyboardInterrupt : passed on, with everything finished on disk.

    Examples
    --------
    >>> import operator, tempfile
    >>> folder = tempfile.mkdtemp()
    >>> grid = product(x=[[1.0, 2.0], [0.5]])
    >>> [c.result for c in run_grid(len, grid, folder, engine="serial", progress=False)]
    [1, 1]
    """
    if cluster is not None:
        engine = "dask"
    elif engine == "dask":
        raise UserError("the engine dask needs the address of a cluster.")
    elif engine is None:
        engine = "serial" if workers == 1 else "joblib"
    if engine not in ("joblib", "serial", "dask"):
        raise UserError(f"unknown engine {engine!r}: choose joblib, serial or dask.")
    tasks = _tasks(function, grid, version, keywords, name)
    store = _Store(results.output_folder(Path(out)))
    store.write_plan(tasks)
    done = {key: cell for key in dict.fromkeys(t.key for t in tasks) if (cell := store.read(key))}
    todo = list({t.key: t for t in tasks if t.key not in done}.values())
    count = _worker_count(workers, len(todo))

    finished: Iterator[tuple[_Task, _Outcome]]
    if not todo:
        finished = iter(())
    elif engine == "dask":
        finished = _on_cluster(todo, str(cluster))
    elif engine == "serial":
        finished = ((task, _run_cell(task)) for task in todo)
    else:
        finished = _on_processes(todo, count)

    failures = 0
    with (
        contextlib.closing(_closable(finished)) as stream,
        _bar(len(done) + len(todo), len(done), progress) as bar,
    ):
        for task, outcome in stream:
            done[task.key] = store.write(task, outcome)
            failures += outcome.error is not None
            if failures:
                bar.set_postfix_str(f"{failures} failed", refresh=False)
            bar.update()
    return [done[task.key] for task in tasks]


def load_cells(
    function: Callable[..., Any],
    grid: Sequence[Config],
    out: str | Path,
    *,
    version: str = "",
    name: str | None = None,
) -> list[Cell | None]:
    """What ``run_grid`` with these arguments has left: one per config, None for one not run."""
    store = _Store(Path(out))
    keys = cell_keys(function, grid, version=version, name=name)
    return [store.read(key) or store.read_error(key) for key in keys]


def cell_keys(
    function: Callable[..., Any],
    grid: Sequence[Config],
    *,
    version: str = "",
    name: str | None = None,
) -> list[str]:
    """The keys that ``run_grid`` with these arguments gives the cells."""
    return [task.key for task in _tasks(function, grid, version, False, name)]


def outlook(
    function: Callable[..., Any],
    grid: Sequence[Config],
    out: str | Path,
    *,
    workers: int | None = None,
    version: str = "",
    keywords: bool = False,
    name: str | None = None,
) -> Outlook:
    """What ``run_grid`` with these arguments would cost, from what is in the folder already."""
    keys = {task.key for task in _tasks(function, grid, version, keywords, name)}
    store = _Store(Path(out))
    done = {key: cell for key in keys if (cell := store.read(key))}
    left = len(keys) - len(done)
    seconds = float(np.median([cell.seconds for cell in done.values()])) if done else None
    rounds = -(-left // _worker_count(workers, left))
    return Outlook(
        cells=len(keys),
        done=len(done),
        failed=sum(store.error_path(key).exists() for key in keys - done.keys()),
        seconds_per_cell=seconds,
        seconds=0.0 if not left else None if seconds is None else seconds * rounds,
    )


def load_grid(out: str | Path) -> list[dict[str, Any]]:
    """The results in a folder, one flat row per cell, ready for a table or a data frame.

    The rows are those of the last grid run there, in its order, as far as they have got; see
    ``Cell.row``. Cells that raised are there with their ``error``.

    Raises
    ------
    UserError : no grid was run there.
    """
    store = _Store(Path(out))
    found = (store.read(key) or store.read_error(key) for key in store.read_plan())
    return [cell.row() for cell in found if cell is not None]


# --- what names a cell -----------------------------------------------------------------------


@dataclass(frozen=True)
class _Task:
    """Everything a worker needs for one cell; it travels by pickle."""

    key: str
    name: str  # with the version and the config, what the key is made of
    version: str
    path: str  # where to import the function from
    function: Callable[..., Any] | None  # None: import it by its path
    root: str | None  # where its top-level module lies, in case the worker's path lacks it
    config: Config
    data: Mapping[str, Any]  # the config as plain data
    keywords: bool


def _tasks(
    function: Callable[..., Any],
    grid: Sequence[Config],
    version: str,
    keywords: bool,
    name: str | None = None,
) -> list[_Task]:
    path = function_name(function)
    name = path if name is None else name
    if not len(grid):
        raise UserError("the grid is empty.")
    tasks = []
    for config in grid:
        data = canonical(config)
        if not isinstance(data, dict):
            raise UserError(f"a config must be a mapping or a dataclass, got {config!r}.")
        identity = {"function": name, "version": version, "config": data}
        tasks.append(
            _Task(
                key=hashlib.sha256(_text(identity).encode()).hexdigest()[:24],
                name=name,
                version=version,
                path=path,
                function=function if path.startswith("__main__:") else None,
                root=_root(function),
                config=config,
                data=data,
                keywords=keywords,
            )
        )
    return tasks


def function_name(function: Callable[..., Any]) -> str:
    """``package.module:function``, for a function that has one."""
    if isinstance(function, Lazy):
        return function.path
    name = getattr(function, "__qualname__", None)
    module = getattr(function, "__module__", None)
    if name is None or module is None or "<" in name:
        raise UserError(
            f"a sweep needs a function defined at the top level of a module, got {function!r}: "
            "what it depends on must be in the config, which names the results."
        )
    return f"{module}:{name}"


def canonical(value: Any, where: str = "the config") -> Any:
    """Plain data that is the same whenever the config is: what the hash is made of."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise UserError(f"names in {where} must be strings, got {name!r}.")
        return {name: canonical(part, f"{where}[{name!r}]") for name, part in value.items()}
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, list | tuple):
        return [canonical(part, f"{where}[{i}]") for i, part in enumerate(value)]
    if isinstance(value, float):
        return value if math.isfinite(value) else {"__float__": repr(value)}
    if isinstance(value, str | int | None):
        return value
    if isinstance(value, Path):
        return str(value)
    raise UserError(
        f"{where} is a {type(value).__name__}; a config holds numbers, strings, lists and mappings."
    )


def _text(data: Any) -> str:
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _root(function: Callable[..., Any]) -> str | None:
    if isinstance(function, Lazy):
        module = function.path.partition(":")[0]
        spec = importlib.util.find_spec(module)
        source = None if spec is None else spec.origin
    else:
        module = function.__module__
        try:
            source = inspect.getfile(function)
        except TypeError:  # a builtin
            source = None
    if source is None:
        return None
    file = Path(source).resolve()
    return str(file.parents[module.count(".") + (file.name == "__init__.py")])


# --- running one cell ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Outcome:
    """What a worker sends back for one cell."""

    document: Any = None  # the result as plain data, arrays by name
    arrays: Arrays = dataclasses.field(default_factory=dict)
    error: Mapping[str, str] | None = None
    seconds: float = 0.0
    manifest: Mapping[str, Any] = dataclasses.field(default_factory=dict)


# Random generators and thread counts belong to the process: where a worker has several threads,
# they take turns.
_turn = threading.Lock()


def _run_cell(task: _Task) -> _Outcome:
    with _turn:
        started = datetime.now(UTC).isoformat(timespec="seconds")
        began = time.perf_counter()
        document, error, source = None, None, None
        arrays: Arrays = {}
        try:
            function = task.function or _import(task.path, task.root)
            source = inspect.getsourcefile(function) if inspect.isfunction(function) else None
            with one_thread(), _seeded(task.key):
                result = function(**task.config) if task.keywords else function(task.config)
            document, arrays = _encode(result)
        except (Exception, SystemExit) as caught:
            error = {
                "type": type(caught).__name__,
                "message": str(caught),
                "traceback": traceback.format_exc(),
            }
        seconds = time.perf_counter() - began
        manifest = {
            "seed": task.data.get("seed"),
            "started": started,
            "device": _device(),
            "versions": _versions(),
            "machine": results.machine(),
            "commit": _commit(source),
        }
        return _Outcome(document, arrays, error, seconds, manifest)


def _import(name: str, root: str | None) -> Callable[..., Any]:
    module, _, attributes = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError:
        if root is None or root in sys.path:
            raise
        sys.path.append(root)
        found = importlib.import_module(module)
    for attribute in attributes.split("."):
        found = getattr(found, attribute)
    return found


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Give BLAS, OpenMP, torch and numba one thread each while the context is open.

    Workers that each take every core wait for one another, and the number of threads can change
    the last digits of a sum.
    """
    torch, numba = sys.modules.get("torch"), sys.modules.get("numba")
    before_torch = torch.get_num_threads() if torch else 1
    # to ask numba is to start its threads, which changes the number that OpenMP gives torch
    before_numba = numba.get_num_threads() if numba else 1
    try:
        with threadpoolctl.threadpool_limits(1):
            try:
                if torch:
                    torch.set_num_threads(1)
                if numba:
                    numba.set_num_threads(1)
                yield
            finally:
                if numba:
                    numba.set_num_threads(before_numba)
    finally:
        if torch:
            torch.set_num_threads(before_torch)


@contextlib.contextmanager
def _seeded(key: str) -> Iterator[None]:
    """Global random generators that depend on the config alone, and their old state afterwards.

    A function should seed its own; one that forgets to is then at least the same every time.
    """
    seed = int(key[:8], 16)
    torch = sys.modules.get("torch")
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng() if torch else contextlib.nullcontext():
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        if torch:
            torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002


@functools.cache
def _versions() -> dict[str, str | None]:
    return results.versions()


@functools.cache
def _commit(source: str | None) -> dict[str, Any] | None:
    return None if source is None else results.commit(Path(source))


def _device() -> str:
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_initialized():
        return f"cuda ({torch.cuda.get_device_name()})"
    return "cpu"


def _encode(value: Any) -> tuple[Any, Arrays]:
    """Plain data and the arrays that were in it."""
    arrays: Arrays = {}
    torch = sys.modules.get("torch")

    def encode(value: Any, where: str) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        if torch and isinstance(value, torch.Tensor):
            value = value.detach().cpu().numpy()
        if isinstance(value, Mapping):
            return {str(name): encode(part, f"{where}[{name!r}]") for name, part in value.items()}
        if isinstance(value, list | tuple):
            return [encode(part, f"{where}[{i}]") for i, part in enumerate(value)]
        if isinstance(value, np.ndarray) and not value.dtype.hasobject:
            name = f"array{len(arrays)}"
            arrays[name] = value
            return {"__array__": name}
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, float) and not math.isfinite(value):
            return {"__float__": repr(value)}
        if isinstance(value, str | int | float | None):
            return value
        if isinstance(value, Path):
            return str(value)
        raise TypeError(
            f"{where} is a {type(value).__name__}; a result holds numbers, strings, arrays, "
            "lists and mappings"
        )

    return encode(value, "the result"), arrays


def _decode(document: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if isinstance(document, dict):
        if document.keys() == {"__float__"}:
            return float(document["__float__"])
        if document.keys() == {"__array__"}:
            return arrays[document["__array__"]]
        return {name: _decode(part, arrays) for name, part in document.items()}
    if isinstance(document, list):
        return [_decode(part, arrays) for part in document]
    return document


# --- engines ---------------------------------------------------------------------------------


def _worker_count(workers: int | None, cells: int) -> int:
    import joblib

    if workers is not None and workers < 1:
        raise UserError(f"the number of workers must be at least 1, got {workers}.")
    return max(1, min(workers or joblib.cpu_count(), cells))


def _closable(iterator: Iterator[Any]) -> Any:
    """A generator, so that leaving early ends what feeds it."""
    yield from iterator


def _on_processes(tasks: Sequence[_Task], workers: int) -> Iterator[tuple[_Task, _Outcome]]:
    """Cells on processes of this machine, as they finish.

    Every worker is a pool of one: when it dies, only its own cell is lost, and it is known which.
    """
    from joblib.externals import loky

    queue, deaths = deque(tasks), dict.fromkeys((task.key for task in tasks), 0)
    environment = dict.fromkeys(THREAD_VARIABLES, "1")
    pools: set[loky.ProcessPoolExecutor] = set()
    idle: list[loky.ProcessPoolExecutor] = []
    running: dict[Future[_Outcome], tuple[_Task, loky.ProcessPoolExecutor]] = {}
    try:
        while queue or running:
            while queue and len(running) < workers:
                if not idle:
                    idle.append(loky.ProcessPoolExecutor(1, env=environment))
                    pools.add(idle[-1])
                pool, task = idle.pop(), queue.popleft()
                running[pool.submit(_run_cell, task)] = task, pool
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task, pool = running.pop(future)
                try:
                    outcome = future.result()
                except loky.BrokenProcessPool as error:
                    pools.discard(pool)
                    pool.shutdown(wait=False, kill_workers=True)
                    deaths[task.key] += 1
                    if deaths[task.key] < DEATHS:
                        logger.warning("A worker died; its cell %s is run again.", task.key)
                        queue.append(task)
                    else:
                        message = f"its worker process died {DEATHS} times: {_first_line(error)}"
                        yield task, _lost("WorkerDied", message)
                else:
                    idle.append(pool)
                    yield task, outcome
    finally:
        # waiting lets a pool take its semaphores with it; only an early end has work to kill
        for pool in pools:
            pool.shutdown(wait=True, kill_workers=bool(running))


def _on_cluster(tasks: Sequence[_Task], address: str) -> Iterator[tuple[_Task, _Outcome]]:
    """Cells on an existing Dask cluster, as they finish."""
    try:
        import distributed
    except ModuleNotFoundError as reason:
        raise UserError(
            f"a cluster needs {reason.name}: pip install 'naturalmodes[cluster]'."
        ) from reason
    try:
        client = distributed.Client(address, timeout=WAIT_FOR_CLUSTER, set_as_default=False)
    except (OSError, ValueError) as reason:
        raise UserError(f"no Dask scheduler answers at {address}.") from reason
    with client:
        try:
            client.wait_for_workers(1, timeout=WAIT_FOR_CLUSTER)
        except TimeoutError as reason:
            raise UserError(f"the Dask scheduler at {address} has no workers.") from reason
        # Keys of our own: an error that the scheduler remembers from an earlier run is not ours.
        run = os.urandom(8).hex()
        futures = {
            client.submit(_run_cell, task, key=f"sweep-{run}-{task.key}", pure=False): task
            for task in tasks
        }
        try:
            stream = distributed.as_completed(list(futures), loop=client.loop, raise_errors=False)
            for future in stream:
                task = futures.pop(future)
                if future.status == "finished":
                    yield task, future.result()
                elif future.status == "error":
                    raised = future.exception()
                    yield task, _lost(type(raised).__name__, _first_line(raised))
                else:
                    raise UserError(f"the Dask scheduler at {address} has gone away.")
                future.release()
        finally:
            with contextlib.suppress(Exception):
                client.cancel(list(futures))


def _lost(kind: str, message: str) -> _Outcome:
    return _Outcome(error={"type": kind, "message": message, "traceback": ""})


def _first_line(error: BaseException | None) -> str:
    return str(error).strip().partition("\n")[0]


def _bar(total: int, initial: int, progress: bool) -> tqdm:
    """A bar whose estimate is the mean over the whole run; in a log, a line now and then."""
    return tqdm(
        total=total,
        initial=initial,
        desc="cells",
        unit="cell",
        smoothing=0,
        mininterval=0.5 if sys.stderr.isatty() else 30,
        disable=not progress,
    )


# --- on disk ---------------------------------------------------------------------------------


class _Store:
    """The files of one folder: ``sweep.json``, and per cell ``cells/KEY.json``.

    Arrays of a cell are in ``cells/KEY.npz``, which the JSON names by its hash; it is written
    first, so that a cell is there when its JSON is. What raised is in ``cells/KEY.error.json``.
    """

    def __init__(self, out: Path) -> None:
        self.plan_path = out / "sweep.json"
        self.cells = out / "cells"

    def error_path(self, key: str) -> Path:
        """Where the error of a cell is."""
        return self.cells / f"{key}.error.json"

    def write_plan(self, tasks: Sequence[_Task]) -> None:
        plan = {
            "format": FORMAT,
            "function": tasks[0].name,
            "version": tasks[0].version,
            "cells": [task.key for task in tasks],
        }
        results.write_json(self.plan_path, plan)

    def read_plan(self) -> list[str]:
        """The keys of the last grid, in order, each once."""
        try:
            return list(dict.fromkeys(json.loads(self.plan_path.read_text())["cells"]))
        except FileNotFoundError:
            raise UserError(f"no sweep was run in {self.plan_path.parent}.") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.plan_path} is damaged: {error}.") from error

    def write(self, task: _Task, outcome: _Outcome) -> Cell:
        record = {
            "format": FORMAT,
            "key": task.key,
            "function": task.name,
            "version": task.version,
            "config": task.data,
            "seconds": outcome.seconds,
            "manifest": outcome.manifest,
        }
        if outcome.error is not None:
            self._write_text(self.error_path(task.key), {**record, "error": outcome.error})
            return _failed(record, outcome.error)
        path = self.cells / f"{task.key}.json"
        record["arrays"] = None
        if outcome.arrays:
            buffer = io.BytesIO()
            np.savez_compressed(buffer, **outcome.arrays)  # type: ignore[arg-type]
            content = buffer.getvalue()
            results.write_atomically(path.with_suffix(".npz"), lambda t: t.write_bytes(content))
            record["arrays"] = hashlib.sha256(content).hexdigest()
        record["result"] = outcome.document
        record["digest"] = _digest(record)
        self._write_text(path, record)
        self.error_path(task.key).unlink(missing_ok=True)
        cell = self.read(task.key)
        if cell is None:
            raise OSError(f"{path} did not read back as it was written")
        return cell

    def read(self, key: str) -> Cell | None:
        """The cell, or None when it is not there or not whole; the latter is said."""
        path = self.cells / f"{key}.json"
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["format"] != FORMAT or record["key"] != key:
                raise ValueError("it is not the result that its name says")
            if record["digest"] != _digest(record):
                raise ValueError("its content does not match its checksum")
            return Cell(
                key=key,
                config=_decode(record["config"], {}),
                result=_decode(record["result"], self._read_arrays(path, record["arrays"])),
                error=None,
                seconds=record["seconds"],
                manifest=record["manifest"],
            )
        except FileNotFoundError as error:
            if not path.exists():
                return None
            reason: Exception = error
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = error
        logger.warning("The result %s is damaged and does not count: %s.", path, reason)
        return None

    def read_error(self, key: str) -> Cell | None:
        """The cell that raised, or None when it did not."""
        try:
            record = json.loads(self.error_path(key).read_text(encoding="utf-8"))
            return _failed(record, record["error"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _read_arrays(self, path: Path, digest: str | None) -> Mapping[str, np.ndarray]:
        if digest is None:
            return {}
        content = path.with_suffix(".npz").read_bytes()
        if hashlib.sha256(content).hexdigest() != digest:
            raise ValueError("its arrays do not match their checksum")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return dict(arrays)

    def _write_text(self, path: Path, record: Mapping[str, Any]) -> None:
        text = json.dumps(record, indent=1, allow_nan=False) + "\n"
        results.write_atomically(path, lambda t: t.write_text(text, encoding="utf-8"))


def _failed(record: Mapping[str, Any], error: Mapping[str, str]) -> Cell:
    return Cell(
        key=record["key"],
        config=_decode(record["config"], {}),
        result=None,
        error=f"{error['type']}: {error['message']}",
        seconds=record["seconds"],
        manifest=record["manifest"],
    )


def _digest(record: Mapping[str, Any]) -> str:
    """Of what was asked and answered; not of when, where and how long."""
    names = ("function", "version", "config", "result")
    return hashlib.sha256(_text({name: record[name] for name in names}).encode()).hexdigest()
