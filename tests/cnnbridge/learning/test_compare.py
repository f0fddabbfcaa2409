import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from cnnbridge import compare, observe_layer, predict_layer


def pair(steps=20, lr=0.2, **sgd):
    torch.manual_seed(1)
    conv, x = nn.Conv2d(1, 2, 2).double(), torch.rand(3, 1, 5, 5).double()
    target = torch.randn(3, 2, 4, 4).double()
    prediction = predict_layer(conv, x, target, lr=lr, steps=steps, **sgd)
    return prediction, observe_layer(conv, x, target, lr=lr, steps=steps, **sgd)


PREDICTION, OBSERVATION = pair()


def test_every_measure_from_its_definition():
    """A prediction made wrong on purpose, so that each number is far from zero."""
    rng = np.random.default_rng(0)
    wrong = PREDICTION.modes + 0.1 * np.arange(21)[:, None, None] * rng.standard_normal(
        PREDICTION.modes.shape
    )
    moved = PREDICTION.basis.to_displacement(wrong - wrong[:1])
    prediction = replace(PREDICTION, modes=wrong, displacement=moved, loss=PREDICTION.loss * 1.5)
    result = compare(prediction, OBSERVATION, tolerances=(0.2, 0.6, 1e9))
    o = PREDICTION.project(OBSERVATION)
    for n in range(1, 21):
        moved = np.sqrt(((o[n] - o[0]) ** 2).sum())
        error = np.sqrt((((wrong[n] - wrong[0]) - (o[n] - o[0])) ** 2).sum()) / moved
        line = np.sqrt(((n * (wrong[1] - wrong[0]) - (o[n] - o[0])) ** 2).sum()) / moved
        assert result.displacement_error[n] == pytest.approx(error)
        assert result.line_error[n] == pytest.approx(line)
        assert result.skill[n] == pytest.approx(1 - error / line)
    start = np.sqrt((wrong[0] ** 2).sum())
    for m in range(2):
        for k in range(5):
            largest = max(abs(wrong[n, m, k] - o[n, m, k]) for n in range(21))
            assert result.mode_error[m, k] == pytest.approx(largest / start)
    assert result.max_mode_error == result.mode_error.max()
    np.testing.assert_allclose(result.loss_error, 0.5)
    for limit in (0.2, 0.6):
        exceeding = [n for n in range(21) if result.displacement_error[n] > limit]
        assert result.horizon[limit] == exceeding[0]
    assert result.horizon[1e9] is None
    assert result.steps_compared == 21


def test_a_good_prediction_beats_the_line():
    result = compare(PREDICTION, OBSERVATION)
    assert (result.skill[2:] > 0.999).all()
    assert (result.skill[:2] == 0).all()
    assert (np.diff(result.line_error[1:]) > 0).all()


def test_nothing_learned_is_no_error():
    nothing = np.zeros_like(OBSERVATION.displacement)
    still = replace(OBSERVATION, displacement=nothing)
    same = replace(PREDICTION, displacement=nothing)
    result = compare(same, still)
    assert result.displacement_error.max() == 0
    assert compare(PREDICTION, still).displacement_error[1] == np.inf


@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        (pair(steps=10)[0], "observation must have the prediction's steps and weights"),
        (pair(lr=0.1)[0], r"have the prediction's settings, SGD\(lr=0.1, .*; got SGD\(lr=0.2"),
        (pair(momentum=0.5)[0], r"settings, SGD.*momentum=0.5, .*; got SGD.*momentum=0.0"),
        (pair(weight_decay=0.5)[0], r"settings, SGD.*weight_decay=0.5.*; got .*weight_decay=0.0"),
        (replace(PREDICTION, names=("w", "b")), "parameters, w, b; got weight, bias"),
    ],
    ids=lambda value: value[-40:] if isinstance(value, str) else "",
)
def test_what_does_not_belong_together_is_refused(prediction, message):
    with pytest.raises(ValueError, match=message):
        compare(prediction, OBSERVATION)


def test_tolerances_are_positive():
    with pytest.raises(ValueError, match="tolerances must be positive; got 0"):
        compare(PREDICTION, OBSERVATION, tolerances=(0,))


def test_paths_longer_than_a_block_come_out_the_same(monkeypatch):
    whole = compare(PREDICTION, OBSERVATION)
    # ten weights a row: three rows at a time, and none that fits whole
    for block in (30, 7):
        monkeypatch.setattr(sys.modules["cnnbridge.learning.compare"], "BLOCK", block)
        parts = compare(PREDICTION, OBSERVATION)
        np.testing.assert_array_equal(parts.displacement_error, whole.displacement_error)
        np.testing.assert_array_equal(parts.skill, whole.skill)
