"""Theory and simulation over the eigenvalue spread, and what the checks notice."""

import dataclasses
import math

import numpy as np
import pytest
import scipy

import adaptive
from studies.engine.protocol import Measured
from studies.engine.runner import configure, run
from studies.related.lms_spread import STUDY, Cell
from studies.related.lms_spread.judge import (
    Outcome,
    Ratio,
    checks_of,
    evidence_against,
    half_width,
)
from studies.related.lms_spread.measure import equal_shares, measure
from tests.studies.engine.test_report import assert_self_contained

TINY = configure(STUDY, "smoke")
MANY = dataclasses.replace(TINY, cell=dataclasses.replace(TINY.cell, groups=100))


def outcome(kind):
    chosen = Cell(1, 10.0, 0.2, kind, seed=5, taps=TINY.cell.taps, groups=TINY.cell.groups)
    return Outcome.of(Measured(chosen, measure(chosen)))


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("spread", [10.0, 1000.0])
def test_processes_have_the_spread_asked_for(order, spread):
    source = adaptive.AutoRegressive.with_spread(spread, taps=8, order=order)
    values = np.linalg.eigvalsh(source.R)
    assert values[-1] / values[0] == pytest.approx(spread, rel=1e-6)
    assert len(source.ar) == order


def test_spread_one_is_white():
    np.testing.assert_allclose(
        adaptive.AutoRegressive.with_spread(1.0, taps=4, order=1).R, np.eye(4)
    )


def test_every_mode_has_its_share():
    R = adaptive.AutoRegressive.with_spread(100.0, taps=5, order=2).R
    values, vectors = np.linalg.eigh(R)
    w = equal_shares(R, np.random.default_rng(0))
    np.testing.assert_allclose(values * (vectors.T @ w) ** 2, 1 / 5)


def test_ratio():
    ratio = Ratio.of(np.array([2.0, 4.0, 6.0]), 2.0)
    assert (ratio.mean, ratio.predicted) == (2.0, 2.0)
    assert ratio.error == pytest.approx(1 / math.sqrt(3))
    assert ratio.z == pytest.approx(math.sqrt(3))
    assert not ratio.settled  # its error is above a quarter of it
    assert Ratio(1.0, 0.2, 1.0).settled
    assert not Ratio(math.inf, math.nan, 1.0).settled
    assert Ratio(math.inf, math.nan, 1.0).z == math.inf
    assert Ratio(0.5, 0.0, 1.0).z == -math.inf


def test_a_cell_is_predicted_as_by_a_loop():
    """Powers of the modes step by step (Feuer and Weinstein 1985), and areas under their sum."""
    cell = outcome("independent")
    R = adaptive.AutoRegressive.with_spread(10.0, taps=TINY.cell.taps, order=1).R
    lam = np.linalg.eigvalsh(R)

    def load(mu):
        return sum(mu * x / (2 * (1 - mu * x)) for x in lam) - 1

    mu = 0.2 * scipy.optimize.brentq(load, 0, (1 - 1e-9) / lam[-1])
    S = sum(mu * x / (2 - 2 * mu * x) for x in lam)
    emse = TINY.cell.noise * S / (1 - S)
    k, curve = [1 / (TINY.cell.taps * x) for x in lam], []
    while not curve or curve[-1] > emse + 0.01:
        curve.append(sum(x * p for x, p in zip(lam, k, strict=True)))
        k = [
            (1 - 2 * mu * x + 2 * mu**2 * x**2) * p + mu**2 * x * (curve[-1] + TINY.cell.noise)
            for x, p in zip(lam, k, strict=True)
        ]
    curve.pop()
    assert cell.misadjustment.predicted == pytest.approx(S / (1 - S))
    assert cell.time.predicted == pytest.approx(sum(c - emse for c in curve), rel=1e-6)
    np.testing.assert_allclose(cell.curves[1], curve, rtol=1e-6)
    assert abs(cell.time.z) < half_width([cell], TINY.cell.groups)
    assert cell.diverged == 0


def test_windows_cover_the_curve():
    cell = outcome("delay line")
    observed, predicted = cell.curves
    assert len(observed) == len(predicted)
    assert predicted[0] > cell.windows[0].predicted > predicted[len(predicted) // 4]
    assert cell.windows[-1].predicted < predicted[len(predicted) // 2]
    assert cell.curve_z == max((w.z for w in cell.windows), key=abs)


def cell(kind="independent", *, time=1.0, misadjustment=1.0, window=1.0, error=0.01, fraction=0.2):
    return Outcome(
        name="AR(1)",
        spread=10.0,
        fraction=fraction,
        kind=kind,
        time=Ratio(time, error, 30.0),
        misadjustment=Ratio(misadjustment, error, 0.1),
        windows=(Ratio(1.0, error, 1.0), Ratio(window, error, 0.5)),
        curves=(np.geomspace(1, 0.01, 40), np.geomspace(1, 0.01, 40)),
        diverged=0,
    )


def verdicts(*cells):
    return [check.verdict for check in checks_of(cells, MANY)]


def test_checks_notice():
    # k is near 4 for a hundred groups: an error of 0.01 makes intervals of 0.04
    line = cell("delay line")
    assert verdicts(cell(), line) == ["holds"] * 5
    assert verdicts(cell(time=1.1), line)[:3] == ["fails", "holds", "holds"]
    assert verdicts(cell(window=0.9), line)[:3] == ["holds", "fails", "holds"]
    assert verdicts(cell(misadjustment=math.inf), line)[:3] == ["holds", "holds", "fails"]
    assert verdicts(cell(), cell("delay line", time=1.2))[3:] == ["fails", "holds"]
    assert verdicts(cell(), cell("delay line", misadjustment=0.92))[3:] == ["holds", "inconclusive"]
    broken = cell("delay line", time=math.inf, error=math.nan)
    assert verdicts(cell(), broken)[3:] == ["fails", "inconclusive"]
    # only the smallest step is judged on the delay line
    assert len(verdicts(cell(), cell("delay line", time=1.2, fraction=0.4))) == 3


def test_evidence_against_says_where_theory_is_left():
    cells = [cell("delay line", time=1.1), cell("delay line", error=0.3, fraction=0.4)]
    small, large = evidence_against(cells, MANY)
    assert "AR(1) of spread 10 (time 1.1 of theory's)" in small
    assert "does not settle: AR(1) of spread 10" in large


def test_a_run(tmp_path):
    summary = run(STUDY, TINY, tmp_path)
    assert summary.status == "complete"
    assert summary.count("fails") == 0
    # three groups give a limit of a hundred standard errors: nothing is decided by it
    assert [c.verdict for c in summary.checks[:3]] == ["inconclusive"] * 3
    assert {"lms-spread.png", "lms-spread.svg"} <= {p.name for p in tmp_path.iterdir()}
    assert_self_contained((tmp_path / "report.html").read_text())
    assert len(summary.results["every-input-and-step-size"]) == 12


def test_a_limit_that_nothing_could_miss_decides_nothing():
    few = dataclasses.replace(TINY, cell=dataclasses.replace(TINY.cell, groups=3))
    assert half_width([outcome("independent")], 3) > 10
    assert {c.verdict for c in checks_of([outcome("independent")], few)} == {"inconclusive"}
