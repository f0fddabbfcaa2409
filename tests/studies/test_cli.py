"""The command line: what works leaves results, what cannot work is one sentence."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from studies import registry
from studies.cli import app
from studies.engine.bars import bar
from studies.engine.summary import Summary
from tests.studies import fake_study

ROOT = Path(__file__).parents[2]


@pytest.fixture
def fakes(monkeypatch):
    """The registry holds fake studies, and a paper of them."""
    fake_study.forget()
    monkeypatch.setattr(registry, "STUDIES", {n: f"{n}-package" for n in fake_study.NAMES})
    monkeypatch.setattr(registry, "find", fake_study.STUDIES.__getitem__)
    monkeypatch.setattr(registry, "find_paper", lambda name: fake_study.PAPER)


def call(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def assert_refused(result, *words):
    assert result.exit_code == 2, result.output
    assert len(result.stderr.strip().splitlines()) == 1
    assert "Traceback" not in result.output
    for word in words:
        assert word in result.stderr


def test_list():
    result = call("list")
    assert result.exit_code == 0
    assert result.stdout.startswith("conv-modes  ")


def test_unknown_command():
    assert_refused(call("filtr"), "there is no command 'filtr' (did you mean filter?)")


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ("design --misadjustment 0.1 --taps 2", 0, "mu = 0.0833"),
        ("design --misadjustment 0.05 --samples 9", 5, "No step grants"),
        ("simulate --mu 0.1 --taps 2 --runs 20 --steps 50 --independent", 0, "prediction holds"),
        ("filter --help", 0, "--reference"),
    ],
)
def test_commands_for_filters_are_passed_on(words, status, said):
    result = call(*words.split())
    assert result.exit_code == status, result.output
    assert said in result.stdout


def test_mistakes_in_commands_for_filters_name_this_program():
    assert_refused(call("filter", "a.wav", "b.wav", "-o", "c.wav"), "naturalmodes filter: a.wav")


@pytest.mark.parametrize(
    "words",
    ["run conv-modes --preset huge", "run conv-modes --device tpu", "run conv-mods", "filtr",
     "run conv-modes --set foo=1", "reproduce chai2020 --device tpu"],
)  # fmt: skip
def test_options_are_checked_before_torch_and_numba_are_imported(words):
    code = (
        "import sys\n"
        "from studies.__main__ import main\n"
        f"sys.argv = ['naturalmodes', *{words.split()!r}]\n"
        "try:\n    main()\n"
        "except SystemExit as stop:\n    assert stop.code == 2, stop.code\n"
        "print({'torch', 'numba', 'matplotlib', 'scipy'} & set(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"


def test_bars_in_a_file_are_lines(capsys):
    told = bar(total=3, desc="cells", mininterval=0)
    told.update()
    told.update(2)
    told.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("cells:   0%")
    assert lines[-1].startswith("cells: 100%")


def test_unknown_study():
    assert_refused(call("run", "conv-mods"), "conv-mods", "conv-modes")


def test_unknown_preset(tmp_path):
    result = call("run", "conv-modes", "--preset", "huge", "--out", tmp_path)
    assert_refused(result, "huge", "smoke, laptop, full")


def test_unknown_device(tmp_path):
    result = call("run", "conv-modes", "--device", "tpu", "--out", tmp_path)
    assert_refused(result, "tpu")


def test_cuda_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = call("run", "conv-modes", "--device", "cuda", "--out", tmp_path)
    assert_refused(result, "no CUDA device")


def test_missing_data_leaves_an_older_run_alone(tmp_path):
    (tmp_path / "summary.json").write_text("older")
    result = call("run", "conv-modes", "--data", "folder:/no/such", "--out", tmp_path)
    assert_refused(result, "naturalmodes: there is no folder /no/such.")
    assert (tmp_path / "summary.json").read_text() == "older"


def test_cifar10_without_root(tmp_path):
    result = call("run", "conv-modes", "--data", "cifar10", "--out", tmp_path)
    assert_refused(result, "--data-root")


def test_out_is_a_file(tmp_path):
    (tmp_path / "taken").write_text("")
    result = call("run", "conv-modes", "--out", tmp_path / "taken")
    assert_refused(result, "cannot write results", "taken")


@pytest.mark.parametrize("package", ["typer", "torch", "matplotlib"])
def test_missing_package_is_one_sentence(package, tmp_path):
    code = (
        f"import sys; sys.modules[{package!r}] = None; from studies.__main__ import main; "
        f"sys.argv = ['naturalmodes', 'run', 'conv-modes', '--out', {str(tmp_path)!r}]; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert package in done.stderr
    assert "In a checkout: pip install '.[studies]'" in done.stderr


def test_listing_studies_needs_no_torch():
    code = "import sys; sys.modules['torch'] = None; from studies.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "list"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "conv-modes" in done.stdout


@pytest.mark.usefixtures("fakes")
def test_reproduce_and_compare(tmp_path):
    for seed in (0, 1):
        result = call("reproduce", "fake2020", "--seed", seed, "--out", tmp_path / f"run{seed}")
        assert result.exit_code == 0, result.output
        assert "3. Least" in result.stdout
        assert (tmp_path / f"run{seed}" / "report.html").exists()
    page = tmp_path / "page.html"
    result = call("compare", tmp_path / "run0", tmp_path / "run1", "--out", page)
    assert result.exit_code == 0, result.output
    assert "studies.fake-a.seed" in result.stdout
    assert "No check that is in both runs has another verdict." in result.stdout
    assert "studies.fake-a.seed" in page.read_text()


def test_reproduce_refuses(tmp_path):
    assert_refused(call("reproduce", "chai2021", "--out", tmp_path), "chai2020")
    result = call("reproduce", "chai2020", "--preset", "huge", "--out", tmp_path)
    assert_refused(result, "huge")


def test_compare_refuses(tmp_path):
    assert_refused(call("compare", tmp_path, tmp_path), "no summary.json")
    (tmp_path / "summary.json").write_text("{")
    assert_refused(call("compare", tmp_path, tmp_path), "is not the summary of a run")


@pytest.mark.usefixtures("fakes")
def test_options_that_a_study_does_not_have(tmp_path):
    result = call("run", "fake-a", "--data", "cifar10", "--out", tmp_path)
    assert_refused(result, "uses no images")
    assert call("run", "fake-a", "--workers", "2", "--out", tmp_path).exit_code == 0
    result = call("run", "fake-a", "--set", "sed=1", "--out", tmp_path)
    assert_refused(result, "has no 'sed'")
    assert_refused(call("run", "fake-a", "--set", "seed", "--out", tmp_path), "NAME=VALUE")


@pytest.mark.usefixtures("fakes")
def test_set_and_judge(tmp_path):
    words = ("run", "fake-a", "--set", "seed=7", "--out", tmp_path)
    assert call(*words).exit_code == 0
    summary = Summary.read(tmp_path / "summary.json")
    assert "--set seed=7" in summary.command
    fake_study.BEHAVIOUR["fake-a"] = "silent"
    result = call("judge", tmp_path)
    assert result.exit_code == 0, result.output
    assert "Verdict: holds." in result.stdout
    assert fake_study.RUNS == ["fake-a"]
    assert Summary.read(tmp_path / "summary.json").answer.against == []


def command(*words, **options):
    return subprocess.run(
        [sys.executable, "-m", "studies", *words], capture_output=True, check=False, **options
    )


def test_terminals_that_lack_letters_and_streams_that_are_closed(tmp_path):
    (tmp_path / "my.toml").write_text(
        'function = "operator:abs"\n[grid]\na = ["λ"]', encoding="utf-8"
    )
    latin = {
        **os.environ,
        "PYTHONIOENCODING": "latin-1",
        "PYTHONUTF8": "0",
        "PYTHONPATH": str(ROOT),
    }
    done = command("sweep", "my.toml", "--dry-run", cwd=tmp_path, env=latin)
    assert b"\\u03bb" in done.stdout, done.stderr
    quoted = shlex.join([sys.executable, "-m", "studies", "list"])
    closed = subprocess.run(f"{quoted} >&-", shell=True, capture_output=True, cwd=ROOT)
    assert (closed.returncode, closed.stderr) == (0, b"")


def test_help_shows_names_in_brackets():
    assert "[grid] and [fixed]" in " ".join(call("sweep", "--help").stdout.split())


def test_a_seed_is_no_negative_number(tmp_path):
    result = call("run", "conv-modes", "--seed", "-1", "--out", tmp_path)
    assert result.exit_code == 2
    assert "seed" in result.stderr


def test_version_is_one_for_all_packages_and_commands():
    import adaptive
    import cnnbridge
    import studies

    result = call("--version")
    assert result.exit_code == 0
    assert result.stdout == f"naturalmodes {adaptive.__version__}\n"
    assert adaptive.__version__ == cnnbridge.__version__ == studies.__version__
    done = subprocess.run(
        [sys.executable, "-m", "adaptive", "--version"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout == result.stdout


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["run", "conv-mode"], "conv-modes"),
        (["run", "conv-modes", "--preset", "lpatop"], "laptop"),
        (["reproduce", "chai2021"], "chai2020"),
    ],
)
def test_a_slip_is_answered_with_what_was_meant(arguments, meant):
    assert_refused(call(*arguments), f"(did you mean {meant}?)")


@pytest.mark.parametrize("study", registry.STUDIES)
def test_options_are_checked_before_anything_slow_is_imported(study):
    code = (
        "import sys\n"
        "for name in ('torch', 'numba', 'matplotlib', 'scipy'): sys.modules[name] = None\n"
        f"sys.argv = ['naturalmodes', 'run', {study!r}, '--preset', 'tiny']\n"
        "from studies.__main__ import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "unknown preset 'tiny'" in done.stderr


def test_names_keep_their_case(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mytrain.py").write_text("")
    assert_refused(call("run", "mytrain:nope"), "mytrain has no nope.")


@pytest.mark.usefixtures("fakes")
def test_figures_refuses_in_one_sentence(tmp_path):
    assert_refused(call("figures", tmp_path), "summary.json")
    assert call("run", "fake-a", "--out", tmp_path).exit_code == 0
    assert_refused(call("figures", tmp_path, "--width", "wide"), "--width takes a length")
    assert_refused(call("figures", tmp_path, "--formats", "gif"), "unknown format 'gif'")


def test_figures_names_its_files(tmp_path):
    options = ("--preset", "smoke", "--workers", "1")
    assert call("run", "spectra", *options, "--out", tmp_path).exit_code in (0, 1)
    result = call("figures", tmp_path, "--formats", "svg", "--width", "88mm")
    assert result.exit_code == 0, result.output
    named = result.stdout.split()
    assert named
    assert all((tmp_path / "figures").joinpath(name).is_file() for name in named)
