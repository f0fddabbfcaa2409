"""``first-step``: a tiny run, and verdicts on made-up steps."""

from studies.chai2020.first_step import STUDY, Cell, Config
from studies.chai2020.first_step.judge import judge, textbook_check
from studies.engine.protocol import Measured
from studies.engine.runner import run
from studies.training.images import Images
from tests.studies.engine.test_report import assert_self_contained

TINY = Config(
    "tiny",
    seeds=1,
    cell=Cell(Images(limit=64, size=8), widths=(3, 3, 4, 4, 4, 4), step_images=6),
)


def test_the_first_steps_are_equal_to_rounding(tmp_path):
    summary = run(STUDY, TINY, tmp_path, device="cpu", workers=1)
    assert summary.status == "complete"
    # one seed judges no median
    assert [check.verdict for check in summary.checks] == ["holds", "holds", "inconclusive"]
    assert all(check.observed < 1e-11 for check in summary.checks[:2])
    assert summary.checks[2].observed > 0.1
    assert summary.answer.verdict == "holds"
    assert any("LMS's" in sentence for sentence in summary.answer.against)
    # one line for each layer with a normalization on that side of it
    assert len(summary.results["the-first-step"]) == 5 + 6
    assert (tmp_path / "steps.png").exists()
    assert_self_contained((tmp_path / "report.html").read_text())


def test_a_step_that_is_off_fails():
    def row(position, difference):
        extra = {"seed": 0, "radial": None, "lms": 0.5, "variation": None, "step_sizes": None}
        return {"position": position, "layer": "conv2", "difference": difference, **extra}

    steps = [row("pre", 1e-12), row("post", 1e-8)]
    found = judge(TINY, [Measured(TINY.cell, {"steps": steps})])
    assert [check.verdict for check in found.checks] == ["holds", "fails", "inconclusive"]
    assert found.verdict == "fails"


def test_without_steps_nothing_is_claimed():
    found = judge(TINY, [Measured(TINY.cell, error="out of memory")])
    assert [check.verdict for check in found.checks] == ["inconclusive"] * 3
    assert (found.verdict, found.against, found.answer) == ("inconclusive", [], None)


def test_the_textbook_check_can_come_out_either_way():
    def verdict(variation):
        rows = [{"seed": k, "variation": variation} for k in range(5)]
        return textbook_check([*rows, {"seed": 0, "variation": None}]).verdict

    assert [verdict(v) for v in (0.1, 0.9)] == ["holds", "fails"]
