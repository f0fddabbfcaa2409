"""Descent with and without BatchNorm on small problems, and what the checks notice."""

import dataclasses

import numpy as np
import pytest

from studies.engine.runner import run
from studies.related.bn_any_rate import STUDY, Cell, Config
from studies.related.bn_any_rate import measure as bn_any_rate
from studies.related.bn_any_rate.judge import Descents, checks, worse
from studies.training.images import Images
from tests.studies.engine.test_report import assert_self_contained

TINY = Cell(Images(limit=12, size=8), patch=2, steps=300, decades=2, per_decade=2)


def test_batch_norm_descent_is_the_gradient_of_its_loss():
    rng = np.random.default_rng(1)
    u = rng.standard_normal((200, 4)) * [1, 2, 3, 4]
    d = u @ [1.0, 0.5, 0, 0] + rng.standard_normal(200)
    R, P, power = u.T @ u / 200, d @ u / 200, d @ d / 200
    w, rate, a = rng.standard_normal(4), 0.1, None
    run = bn_any_rate.batch_norm_descent(R, P, power, np.array([rate]), w, 3)

    def loss(a, w):
        return np.mean((d - a * u @ w / np.sqrt(w @ R @ w)) ** 2)

    a = P @ w / np.sqrt(w @ R @ w)
    for n in range(3):
        assert run.loss[n, 0] == pytest.approx(loss(a, w), rel=1e-7)
        # half the mean squared error, whose gradient has no factor of 2
        h = 1e-6
        slope = [(loss(a, w + h * e) - loss(a, w - h * e)) / (4 * h) for e in np.eye(4)]
        slope_a = (loss(a + h, w) - loss(a - h, w)) / (4 * h)
        a, w = a - slope_a, w - rate * np.array(slope)


def test_plain_descent_is_that_of_a_loop():
    R, P = np.diag([1.0, 0.1]), np.array([1.0, 1.0])
    run = bn_any_rate.descent(R, P, 20.0, np.array([0.5, 2.5]), np.zeros(2), 50)
    w = np.zeros(2)
    for n in range(50):
        assert run.loss[n, 0] == pytest.approx(20 - 2 * P @ w + w @ R @ w)
        w = w + 0.5 * (P - R @ w)
    assert worse(run.loss).tolist() == [False, True]


def test_checks_notice():
    images = np.random.default_rng(0).standard_normal((10, 9, 9))
    found = Descents(**bn_any_rate.run_both(images, TINY))
    assert [c.verdict for c in checks(found)] == ["holds"] * 2
    grown = np.vstack([found.norm[:-1], found.norm[0] * 2])
    bad = dataclasses.replace(found, bound=found.bound * 10, norm=grown)
    assert [c.verdict for c in checks(bad)] == ["fails"] * 2
    assert worse(np.full_like(grown, np.nan)).all()


def test_a_run(tmp_path):
    summary = run(STUDY, Config("tiny", cell=TINY), tmp_path)
    assert (summary.status, summary.answer.verdict) == ("complete", "holds")
    assert {"bn-any-rate.png", "bn-any-rate.svg"} <= {p.name for p in tmp_path.iterdir()}
    assert_self_contained((tmp_path / "report.html").read_text())
    assert len(summary.results["every-rate"]) == 8
