"""The README's Python blocks run in order, and its first shell command succeeds."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


def test_python_blocks_run(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    assert len(blocks) == 4
    names: dict = {}
    for block in blocks:
        exec(block, names)
    assert names["run"].diverged_at is None
    assert names["ensemble"].mse.shape == names["curve"].mse.shape
    assert {path.name for path in (tmp_path / "results" / "mine").iterdir()} >= {
        "report.html",
        "layers.csv",
        "inspection.json",
        "arrays.npz",
    }


def test_the_shell_example_writes_what_it_says(tmp_path):
    (text,) = re.findall(r"```sh\n(python -m adaptive .*?)```", README.read_text(), re.S)
    words = shlex.split(text.replace("\\\n", " "))
    done = subprocess.run(
        [sys.executable, *words[1:]], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(README.parent)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "The prediction holds" in done.stdout
    written = {path.name for path in (tmp_path / "results" / "lms").iterdir()}
    assert {"summary.json", "curves.csv"} <= written
