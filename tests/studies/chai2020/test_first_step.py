"""The study end to end on a tiny preset."""

import dataclasses
import json

import pytest

from studies.chai2020.first_step import judge as first_step
from studies.engine.errors import UserError
from tests.studies.engine.test_report import assert_self_contained

TINY = first_step.Config(
    "tiny", images=64, image_size=8, seeds=1, widths=(3, 3, 4, 4, 4, 4), step_images=6
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("tiny")
    return out, first_step.run(TINY, out, device="cpu", workers=1)


def test_everything_is_there(finished):
    out, summary = finished
    assert summary.status == "complete"
    names = {path.name for path in out.iterdir()}
    drawn = {f"{name}.{kind}" for name in first_step.drawing.FIGURES for kind in ("png", "svg")}
    assert drawn | {"summary.json", "report.html"} <= names
    assert_self_contained((out / "report.html").read_text())
    # one line for each layer with a normalization on that side of it
    assert len(summary.results["steps"]) == 5 + 6


def test_the_first_steps_are_equal_to_rounding(finished):
    out, summary = finished
    assert [check.verdict for check in summary.checks] == ["holds", "holds"]
    assert all(check.observed < 1e-11 for check in summary.checks)
    written = json.loads((out / "summary.json").read_text())
    assert written["answer"]["verdict"] == "holds"
    assert written["answer"]["rule"] == first_step.RULE
    assert any("LMS's" in sentence for sentence in written["answer"]["against"])


def test_a_step_that_is_off_fails():
    rows = [
        {"position": p, "layer": "conv2", "difference": difference}
        for p, difference in (("pre", 1e-12), ("post", 1e-8))
    ]
    before, after = first_step.equality_checks(rows)
    assert (before.verdict, after.verdict) == ("holds", "fails")
    assert [c.verdict for c in first_step.equality_checks([])] == ["inconclusive"] * 2
    assert first_step.evidence_against([]) == []


def test_what_is_refused(tmp_path):
    with pytest.raises(UserError, match="unknown preset"):
        first_step.configure("huge")
    with pytest.raises(UserError, match="no folder"):
        first_step.run(
            dataclasses.replace(TINY, data=f"folder:{tmp_path / 'absent'}"), tmp_path / "out"
        )
