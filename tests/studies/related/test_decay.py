"""The study ``decay``: theory against a plain random walk, measurements and rules."""

import math

import numpy as np
import pytest

from studies.engine.protocol import Measured
from studies.related.decay import (
    PRESETS,
    Cell,
    Config,
    Images,
    cells,
    predicted_rotation,
    predicted_time,
)
from studies.related.decay.judge import blocks, judge
from studies.related.decay.measure import measure
from studies.related.decay.relaxation import fitted_time, relaxation_time


def walk(lr, decay, momentum, steps, start, seed=0, size=400):
    """SGD on gradients that are orthogonal to w, of norm 1 / |w|, and otherwise random."""
    rng = np.random.default_rng(seed)
    w = np.full(size, start / math.sqrt(size))
    memory, lengths, angles = np.zeros(size), [], []
    for _ in range(steps):
        g = rng.standard_normal(size)
        g -= w * (g @ w) / (w @ w)
        g /= np.linalg.norm(g) * np.linalg.norm(w)
        memory = momentum * memory + g + decay * w
        new = w - lr * memory
        cosine = new @ w / np.linalg.norm(new) / np.linalg.norm(w)
        angles.append(math.acos(min(1.0, cosine)))
        w = new
        lengths.append(float(w @ w) ** 2)
    return np.array(lengths), np.array(angles)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_the_theory_is_that_of_a_random_walk_with_decay(momentum):
    lr, decay = 0.02, 0.1
    constant = predicted_time(lr, decay, momentum)
    settled = (lr / (2 * decay)) ** 0.25  # |w|^4 = lr |w|^2 |g|^2 / (2 wd), without momentum
    lengths, angles = walk(lr, decay, momentum, round(40 * constant), settled)
    late = angles[len(angles) // 2 :]
    turn = predicted_rotation(lr, decay, momentum)
    assert math.sqrt(np.mean(late**2)) == pytest.approx(turn, rel=0.02)
    if not momentum:
        assert lengths[-1000:].mean() == pytest.approx(settled**4, rel=0.02)
        longer, _ = walk(lr, decay, 0.0, round(2 * constant), 1.3 * settled)
        gap = (longer - settled**4) / (longer[0] - settled**4)
        assert fitted_time(gap) == pytest.approx(constant, rel=0.05)


def test_a_difference_that_does_not_fall_has_no_time():
    assert math.isnan(fitted_time(np.exp(np.arange(20) / 10)))
    assert math.isnan(fitted_time(np.array([1.0])))


def test_a_network_is_measured(tmp_path):
    cell = Cell(
        lr=0.4, decay=0.05, images=Images(limit=100, size=8), width=4, settle=1.0, watch=0.5
    )
    found = measure(cell)
    assert found["steps"] == [50, 25, 25]
    assert set(found["layers"]) == {"conv1", "conv2", "conv3"}
    for layer in found["layers"].values():
        # BatchNorm's eps is all that keeps the gradient from being orthogonal
        assert layer["radial"] < 1e-2
        assert layer["difference"][0] == 1
        assert 0.5 < layer["rotation"] / predicted_rotation(0.4, 0.05) < 1.5


def layer(ratio_rotation, ratio_time, cell, exponent=0.0):
    turn = predicted_rotation(cell.lr, cell.decay, cell.momentum)
    time = predicted_time(cell.lr, cell.decay, cell.momentum)
    return {
        "rotation": ratio_rotation * turn, "time": ratio_time * time, "length": 1.0,
        "expected_length": 1.0, "radial": 0.0, "drift": 0.0, "difference": np.ones(3), "every": 1,
        "exponent": exponent,
    }  # fmt: skip


def made_up(rotation=1.0, time=1.0, seeds=4, exponent=0.0):
    plan = cells(Config("x", seeds=seeds), "cpu")
    return [Measured(c, {"layers": {"conv1": layer(rotation, time, c, exponent)}}) for c in plan]


def test_the_worst_convolution_decides():
    assert judge(Config("x"), made_up()).verdict == "holds"
    assert judge(Config("x"), made_up(rotation=1.06)).verdict == "fails"
    assert judge(Config("x"), made_up(time=0.79)).verdict == "fails"
    assert judge(Config("x"), made_up(time=math.nan)).verdict == "fails"
    assert judge(Config("x"), made_up(seeds=3)).verdict == "inconclusive"


@pytest.mark.parametrize("exponent", [-0.5, 1.0, 2.0])
@pytest.mark.parametrize("factor", [1.02, 1.3])
def test_stronger_gradients_of_shorter_weights_shorten_the_time(exponent, factor):
    """Update by update: |w|^2 |g|^2 is the effective rate to the power p, and g is orthogonal."""
    lr, decay = 0.02, 0.1

    def after(power, updates):
        powers = [power]
        for _ in range(updates):
            slope = (lr / powers[-1]) ** exponent / powers[-1]
            powers.append((1 - lr * decay) ** 2 * powers[-1] + lr**2 * slope)
        return np.array(powers)

    settled = after(1.0, 5000)[-1]
    gap = after(factor**2 * settled, 1000) ** 2 - settled**2
    predicted = relaxation_time(exponent, factor) * predicted_time(lr, decay)
    assert fitted_time(gap / gap[0]) == pytest.approx(predicted, rel=0.02)


def test_a_length_that_is_not_stable_has_no_time():
    assert math.isnan(relaxation_time(-2.0, 1.3))


def test_the_correction_is_told_without_deciding():
    measured = made_up(time=relaxation_time(1.5, 1.3), exponent=1.5)
    findings = judge(Config("x"), measured)
    assert findings.verdict == "fails"
    assert [c.verdict for c in findings.checks] == ["holds"] * 2 + ["fails"] * 2 + ["holds"] * 2
    assert findings.reason.startswith("The rotation holds, the time constant")


def test_every_setting_and_the_control_are_in_the_plan():
    plan = cells(PRESETS["laptop"], "cpu")
    assert len(plan) == 4 * (9 + 3 + 1)
    assert sum(not c.batch_norm for c in plan) == 4
    assert sorted({c.lr for c in plan if c.momentum}) == pytest.approx([0.01, 0.02, 0.04])
    assert len(blocks(made_up())) == 13
