"""Prediction beside observation: how far apart, for how long, and against which baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from adaptive._checks import Array
from cnnbridge import _checks
from cnnbridge.observe import LayerObservation
from cnnbridge.predict import LayerPrediction


@dataclass(frozen=True, eq=False)
class LayerComparison:
    """Errors of a prediction against the run it predicted.

    Steps at or after the observation's ``diverged_at`` are NaN, and are left out of maxima.

    Attributes
    ----------
    mode_error : (M, L): largest departure of a mode over the run, relative to the norm
        |W(0) - W_star| of the initial weight error of the whole layer.
    max_mode_error : the largest of them.
    loss_error : (steps + 1,): |predicted - observed| / observed loss.
    displacement_error : (steps + 1,): |predicted - observed| / |observed| of W(n) - W(0).
    line_error : (steps + 1,): the same for the straight line n (W(1) - W(0)) of the predicted
        first step, the baseline that costs nothing.
    skill : (steps + 1,): 1 - displacement_error / line_error; 1 is perfect, 0 no better than the
        line, as at steps 0 and 1, where they agree.
    horizon : for each tolerance the first step at which displacement_error exceeds it; None if it
        never does.
    steps_compared : steps with finite observation, n = 0 included.
    """

    max_mode_error: float
    horizon: dict[float, int | None]
    steps_compared: int
    mode_error: Array = field(repr=False)
    loss_error: Array = field(repr=False)
    displacement_error: Array = field(repr=False)
    line_error: Array = field(repr=False)
    skill: Array = field(repr=False)


def compare(
    prediction: LayerPrediction,
    observation: LayerObservation,
    tolerances: Sequence[float] = (0.1, 0.5),
) -> LayerComparison:
    """Lay a prediction beside the training that it predicted.

    Parameters
    ----------
    prediction, observation : of the same layer, settings and number of steps; the observation
        made with ``basis=prediction``, or from the same arguments.
    tolerances : of ``displacement_error``, for the horizon.

    Returns
    -------
    LayerComparison.

    Raises
    ------
    ValueError : prediction and observation differ in steps, shape, SGD's settings or basis; a
        tolerance is not positive.

    Examples
    --------
    >>> import torch
    >>> from cnnbridge import observe_layer, predict_layer
    >>> _ = torch.manual_seed(0)
    >>> conv, x = torch.nn.Conv2d(1, 2, 3).double(), torch.randn(4, 1, 8, 8).double()
    >>> target = torch.randn(4, 2, 6, 6).double()
    >>> prediction = predict_layer(conv, x, target, lr=0.1, steps=20)
    >>> result = compare(prediction, observe_layer(conv, x, target, lr=0.1, steps=20))
    >>> result.max_mode_error < 1e-12, result.horizon
    (True, {0.1: None, 0.5: None})
    """
    _same(prediction, observation)
    limits = [_checks.positive("tolerances", t) for t in tolerances]
    end = observation.steps + 1 if observation.diverged_at is None else observation.diverged_at
    p, o = prediction.modes[:end], observation.modes[:end]
    axes = (1, 2)
    # near the overflow of a diverging run the errors may overflow too: inf is the right answer
    with np.errstate(over="ignore", invalid="ignore"):
        gap = np.abs(p - o)
        start = float(np.linalg.norm(p[:1]))
        mode_error = _ratio(gap.max(axis=0, initial=0.0), start)
        moved = np.linalg.norm(o - o[:1], axis=axes)
        error = np.linalg.norm((p - p[:1]) - (o - o[:1]), axis=axes)
        line = np.arange(end)[:, None, None] * (prediction.modes[1:2] - prediction.modes[:1])
        missed = np.linalg.norm(line - (o - o[:1]), axis=axes) if line.size else error
        loss = np.abs(prediction.loss[:end] - observation.loss[:end])
        displacement_error = _ratio(error, moved)
        # the line is the prediction at its first two steps: no better and no worse
        skill = np.where(np.arange(end) < 2, 0.0, 1 - _ratio(error, missed))
        loss_error = _ratio(loss, observation.loss[:end])
    exceeded = {t: np.flatnonzero(~(displacement_error <= t)) for t in limits}
    rows = observation.steps + 1
    return LayerComparison(
        max_mode_error=float(mode_error.max()),
        horizon={t: int(n[0]) if n.size else None for t, n in exceeded.items()},
        steps_compared=end,
        mode_error=mode_error,
        loss_error=_padded(loss_error, rows),
        displacement_error=_padded(displacement_error, rows),
        line_error=_padded(_ratio(missed, moved), rows),
        skill=_padded(skill, rows),
    )


def _same(prediction: LayerPrediction, observation: LayerObservation) -> None:
    if prediction.modes.shape != observation.modes.shape:
        raise ValueError(
            f"observation must have the prediction's steps and weights, modes of shape "
            f"{prediction.modes.shape}; got {observation.modes.shape}"
        )
    for name in ("learning_rate", "momentum", "weight_decay"):
        wanted, got = getattr(prediction, name), getattr(observation, name)
        if wanted != got:
            raise ValueError(f"observation must have the prediction's {name}, {wanted}; got {got}")
    if not (
        np.array_equal(prediction.w_star, observation.w_star)
        and np.array_equal(prediction.eigenvectors, observation.eigenvectors)
    ):
        raise ValueError(
            "observation must be in the modes of the prediction; got another basis: "
            "make it with basis=prediction"
        )


def _ratio(a: Array, b: Array | float) -> Array:
    """a / b where nothing missed of nothing is no error, and something of nothing is inf."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.where(np.equal(a, 0), 0.0, np.divide(a, b))


def _padded(a: Array, rows: int) -> Array:
    return np.concatenate([a, np.full(rows - len(a), np.nan)])
