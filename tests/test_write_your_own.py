"""The study that the page "Write your own study" builds, built and run."""

import re
import subprocess
import sys
from pathlib import Path

from studies.engine.summary import Summary

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "write-your-own-study.md"


def test_the_study_of_the_page(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    folder = tmp_path / "rule_of_thumb"
    folder.mkdir()
    for name, text in zip(("__init__", "measure", "judge", "figures"), blocks, strict=True):
        assert f"`rule_of_thumb/{name}.py`" in PAGE.read_text()
        (folder / f"{name}.py").write_text(text)
    assert sum(len(text.splitlines()) for text in blocks) < 230

    def command(*words):
        done = subprocess.run(
            [sys.executable, "-m", "studies", *words], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    printed = command("run", "rule_of_thumb:STUDY", "--preset", "smoke")
    assert "Verdict: holds." in printed
    out = tmp_path / "results" / "rule_of_thumb-STUDY"
    assert {"report.html", "ratio.png", "ratio.svg"} <= {path.name for path in out.iterdir()}
    summary = Summary.read(out / "summary.json")
    assert [check.verdict for check in summary.checks] == ["holds", "holds"]
    assert len(summary.results["every-step-size"]) == 4
    again = command("judge", str(out), "--study", "rule_of_thumb:STUDY")
    assert "Verdict: holds." in again
