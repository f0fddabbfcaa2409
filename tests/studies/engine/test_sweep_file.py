"""Sweeping a model of the user's own, from a TOML file."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from studies.cli import app
from studies.engine.sweep_file import duration
from tests.studies.browser import look

ROOT = Path(__file__).parents[3]

MODEL = '''
import time

def train(lr, seed, epochs=1):
    """Somebody's training."""
    if lr > 5:
        raise FloatingPointError("diverged")
    return {"loss": lr / epochs + seed, "stable": lr < 1, "curve": [lr] * 3}

def one(config):
    return config["x"] * 2

def slow(x):
    time.sleep(0.2)
    return x

not_a_function = 3
'''


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with somebody's model, which nothing has imported yet."""
    (tmp_path / "their_training.py").write_text(MODEL)
    (tmp_path / "broken_training.py").write_text("1 / 0")
    (tmp_path / "leaving_training.py").write_text("raise SystemExit(5)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("their_training", None)


def sweep(here, text, *options):
    (here / "my.toml").write_text(textwrap.dedent(text))
    return CliRunner().invoke(app, ["sweep", "my.toml", *map(str, options)])


def table(out):
    return list(csv.DictReader((out / "results.csv").read_text().splitlines()))


GRID = """
    function = "their_training:train"
    [grid]
    lr = [0.1, 1.0]
    seed = [0, 1]
    [fixed]
    epochs = 2
"""


def test_results(here):
    result = sweep(here, GRID, "--workers", 2)
    assert result.exit_code == 0, result.output
    out = here / "results" / "my"
    rows = table(out)
    assert [(row["lr"], row["seed"], row["loss"]) for row in rows] == [
        ("0.1", "0", "0.05"),
        ("0.1", "1", "1.05"),
        ("1.0", "0", "0.5"),
        ("1.0", "1", "1.5"),
    ]
    summary = json.loads((out / "summary.json").read_text())
    assert summary["status"] == "complete"
    assert summary["config"]["grid"] == {"lr": [0.1, 1.0], "seed": [0, 1]}
    assert summary["results"]["cells"]["lr=0.1, seed=1"] == {"loss": 1.05, "stable": True}
    assert summary["command"] == "naturalmodes sweep my.toml --out results/my"
    seen = look(out / "report.html", here)
    assert seen["tables"][0][1][0] == ["0.1", "0.1", "1", "1"]
    assert "Every check" not in (out / "report.html").read_text()

    again = sweep(here, GRID.replace("[0, 1]", "[1, 2]"))
    assert again.exit_code == 0
    assert len(list((out / "cells").iterdir())) == 6
    assert len(table(out)) == 4


def test_a_cell_that_fails(here):
    result = sweep(here, GRID.replace("1.0]", "10.0]"))
    assert result.exit_code == 1
    assert "lr=10.0, seed=0 failed: FloatingPointError: diverged." in result.stderr
    rows = table(here / "results" / "my")
    assert [row["error"] for row in rows][2] == "FloatingPointError: diverged"


def test_a_function_of_one_config(here):
    result = sweep(here, 'function = "their_training:one"\n[grid]\nx = [2, 3]')
    assert result.exit_code == 0, result.output
    rows = table(here / "results" / "my")
    assert [row["result"] for row in rows] == ["4", "6"]


def test_dry_run(here):
    result = sweep(here, GRID, "--dry-run")
    assert result.exit_code == 0
    assert "4 cells" in result.stdout
    assert "0 done, 4 to run." in result.stdout
    assert "--time-one" in result.stdout
    assert "Always: epochs = 2" in result.stdout
    assert not (here / "results").exists()


def test_dry_run_that_times_a_cell(here):
    slow = 'function = "their_training:slow"\n[grid]\nx = [1, 2, 3, 4, 5]'
    result = sweep(here, slow, "--dry-run", "--time-one", "--workers", 2)
    assert result.exit_code == 0, result.output
    assert "1 done, 4 to run." in result.stdout
    one, rest = re.search(r"A cell takes (\S+) s .* takes about (\S+) s", result.stdout).groups()
    assert float(one) >= 0.2
    assert float(rest) == pytest.approx(2 * float(one), rel=0.1)
    assert sweep(here, slow).exit_code == 0
    assert "Nothing is left to compute." in sweep(here, slow, "--dry-run").stdout


def test_large_grids_are_cut_short_in_a_dry_run(here):
    result = sweep(
        here, f'function = "their_training:one"\n[grid]\nx = {list(range(50))}', "--dry-run"
    )
    assert "and 30 more" in result.stdout


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("function = ", ["is not TOML"]),
        ("[grid]\nx = [1]", ["must name a function"]),
        ('function = "train"', ["package.module:function", "'train'"]),
        ('function = "no_such_module:f"', ["cannot import no_such_module"]),
        ('function = "broken_training:f"', ["importing broken_training raises ZeroDivisionError"]),
        ('function = "their_training:absent"', ["their_training has no absent"]),
        ('function = "their_training:not_a_function"', ["cannot call its not_a_function"]),
        (GRID + "learning = 3", ["train has no parameter learning", "lr, seed, epochs"]),
        (GRID.replace("seed = [0, 1]", ""), ["train needs seed"]),
        (GRID.replace("seed = [0, 1]", "seed = 0"), ["must be a list", "[fixed]"]),
        (GRID.replace("seed = [0, 1]", "seed = []"), ["seed", "is an empty list"]),
        (GRID + "    lr = 3", ["lr is in [grid] and in [fixed]"]),
        ('functions = "a:b"', ["functions", "fixed, function, grid, version"]),
        ('grid = 3\nfunction = "their_training:one"', ["grid", "must be a table"]),
        ('function = "builtins:int"', ["int does not say which parameters it has"]),
        ('function = "leaving_training:f"', ["importing leaving_training raises SystemExit: 5"]),
        (
            'function = "their_training:one"\n[grid]\n'
            + "".join(f"{name} = {[*range(20)]}\n" for name in "abcdefg"),
            ["the grid has 1,280,000,000 cells"],
        ),
        ('version = 2\nfunction = "their_training:one"', ['version = "2"']),
    ],
)
def test_files_that_will_not_do(here, text, words):
    result = sweep(here, text)
    assert result.exit_code == 2, result.output
    assert len(result.stderr.strip().splitlines()) == 1
    for word in words:
        assert word in result.stderr
    assert result.stderr.startswith("naturalmodes: ")
    assert not (here / "results").exists()


def test_options_that_will_not_do(here):
    for options, words in (
        (["--workers", 0], "at least 1"),
        (["--time-one"], "--dry-run"),
        (["--cluster", "tcp://127.0.0.1:9", "--workers", 2], "leave out --workers"),
        (["--out", "my.toml"], "annot write results"),
    ):
        result = sweep(here, GRID, *options)
        assert result.exit_code == 2, result.output
        assert words in result.stderr
    result = CliRunner().invoke(app, ["sweep", "absent.toml"])
    assert result.exit_code == 2
    assert "cannot read absent.toml" in result.stderr


def test_a_polite_kill_is_an_interruption(here):
    (here / "their_training.py").write_text(MODEL.replace("sleep(0.2)", "sleep(100 * (x > 1))"))
    (here / "my.toml").write_text('function = "their_training:slow"\n[grid]\nx = [1, 2, 3, 4, 5]')
    run = subprocess.Popen(
        [sys.executable, "-m", "studies", "sweep", "my.toml", "--workers", "1"],
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    with run:
        end = time.monotonic() + 60
        while not list(here.glob("results/my/cells/[0-9a-f]*.json")):
            assert time.monotonic() < end
            time.sleep(0.05)
        run.send_signal(signal.SIGTERM)
        _, said = run.communicate(timeout=60)
    assert run.returncode == 130, said
    assert "Interrupted; what was finished is in results/my." in said
    assert "Traceback" not in said


def test_names_that_are_no_text(here):
    out = os.fsdecode(b"out\xff")
    (here / "my.toml").write_text(textwrap.dedent(GRID))
    done = subprocess.run(
        [sys.executable, "-m", "studies", "sweep", "my.toml", "--out", out, "--workers", "1"],
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"out\\udcff/report.html" in done.stdout
    assert (here / out / "report.html").exists()
    assert table(here / out)


def test_the_table_holds_no_formulas(here):
    (here / "their_training.py").write_text(
        "def train(x):\n"
        "    return {'=1+1': '=HYPERLINK(1)', 'at': '@x', 'minus': '-1e3', 'n': -2, 'low': '-∞'}\n"
    )
    result = sweep(here, 'function = "their_training:train"\n[grid]\nx = ["+cmd", "plain"]')
    assert result.exit_code == 0, result.output
    first, second = table(here / "results" / "my")
    assert (first["x"], second["x"]) == ("'+cmd", "plain")
    assert first["'=1+1"] == "'=HYPERLINK(1)"
    assert (first["at"], first["minus"], first["n"], first["low"]) == ("'@x", "-1e3", "-2", "-∞")


def test_a_file_with_a_byte_order_mark(here):
    assert sweep(here, "\ufefffunction = 'their_training:one'\n[grid]\nx = [1]").exit_code == 0


def test_a_cell_that_changes_folder_moves_nothing(here):
    (here / "their_training.py").write_text(
        "import os\n\ndef train(x):\n    os.chdir('/')\n    return x\n"
    )
    text = 'function = "their_training:train"\n[grid]\nx = [1, 2]'
    assert sweep(here, text, "--workers", 1, "--out", "relative").exit_code == 0
    assert len(table(here / "relative")) == 2
    assert (here / "relative" / "report.html").exists()


def test_durations():
    assert [duration(s) for s in (0.123, 5.5, 42, 600, 9000)] == [
        "0.12 s",
        "5.5 s",
        "42 s",
        "10 min",
        "2.5 h",
    ]
