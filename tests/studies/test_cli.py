"""The command line: what works leaves results, what cannot work is one sentence."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from studies.cli import app

ROOT = Path(__file__).parents[2]


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
    assert_refused(result, "There is no folder /no/such.")
    assert (tmp_path / "summary.json").read_text() == "older"


def test_cifar10_without_root(tmp_path):
    result = call("run", "conv-modes", "--data", "cifar10", "--out", tmp_path)
    assert_refused(result, "--data-root")


def test_out_is_a_file(tmp_path):
    (tmp_path / "taken").write_text("")
    result = call("run", "conv-modes", "--out", tmp_path / "taken")
    assert_refused(result, "Cannot write results", "taken")


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
    assert "pip install 'naturalmodes[studies]'" in done.stderr


def test_listing_studies_needs_no_torch():
    code = "import sys; sys.modules['torch'] = None; from studies.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "list"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "conv-modes" in done.stdout
