"""How far a prediction is from the training it predicted, and for how long it holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from adaptive.checks import Array, items
from cnnbridge import _checks
from cnnbridge.learning.records import Observation, Prediction

# numbers handled at once: small enough to stay in the processor's caches
BLOCK = 1 << 20


@dataclass(frozen=True, eq=False)
class Comparison:
    """Errors of a prediction, of any level, against the run it predicted.

    Steps at or after the observation's ``diverged_at`` are NaN, and are left out of maxima.

    Attributes
    ----------
    prediction, observation : what was compared.
    mode_error : shape of one step's modes: largest departure of a mode over the run. At level 1
        relative to the norm |W(0) - W_star| of the initial weight error of the whole layer; at
        levels 2 to 4, where the end of training may be infinitely far, to the largest
        |W(n) - W(0)| observed.
    max_mode_error : the largest of them; NaN for a prediction without modes (level 4).
    loss_error : (steps + 1,): |predicted - observed| / |observed| loss.
    displacement_error : (steps + 1,): |predicted - observed| / |observed| of W(n) - W(0).
    line_error : (steps + 1,): the same for straight-line extrapolation, the baseline that costs
        nothing: SGD that keeps the gradient of step 0, n (W(1) - W(0)) without momentum.
    skill : (steps + 1,): 1 - displacement_error / line_error; 1 is perfect, 0 no better than the
        line, as at steps 0 and 1, where they agree.
    horizon : for each tolerance the first step at which displacement_error exceeds it; None if it
        never does.
    steps_compared : steps with finite observation, n = 0 included.
    """

    prediction: Prediction = field(repr=False)
    observation: Observation = field(repr=False)
    max_mode_error: float
    horizon: dict[float, int | None]
    steps_compared: int
    mode_error: Array = field(repr=False)
    loss_error: Array = field(repr=False)
    displacement_error: Array = field(repr=False)
    line_error: Array = field(repr=False)
    skill: Array = field(repr=False)


def compare(
    prediction: Prediction,
    observation: Observation,
    tolerances: Sequence[float] = (0.1, 0.5),
) -> Comparison:
    """Compare a prediction, of any level, with the training that it predicted.

    Parameters
    ----------
    prediction, observation : of the same layer or network, settings and number of steps.
    tolerances : of ``displacement_error``, for the horizon.

    Returns
    -------
    Comparison.

    Raises
    ------
    TypeError : prediction or observation is not one.
    ValueError : prediction and observation differ in steps, parameters or SGD's settings; a
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
    limits = [_checks.positive("tolerances", t) for t in items("tolerances", tolerances, "numbers")]
    _belong_together(prediction, observation)
    rows = observation.steps + 1
    end = rows if observation.diverged_at is None else observation.diverged_at
    p, o = prediction.displacement[:end], observation.displacement[:end]
    # near the overflow of a diverging run the errors may overflow too: inf is the right answer
    with np.errstate(over="ignore", invalid="ignore"):
        moved = _distances(o)
        gap = np.abs(prediction.modes[:end] - prediction.project(observation)[:end])
        mode_error = _ratio(gap.max(axis=0, initial=0.0), prediction.mode_scale(moved))
        error = _distances(p, o)
        reach = _reach(prediction.sgd.momentum, end)
        missed = _distances(p[1:2], o, reach) if len(p) > 1 else error
        loss = np.abs(prediction.loss[:end] - observation.loss[:end])
        displacement_error = _ratio(error, moved)
        # the line is the prediction at its first two steps: no better and no worse
        skill = np.where(np.arange(end) < 2, 0.0, 1 - _ratio(error, missed))
        loss_error = _ratio(loss, np.abs(observation.loss[:end]))
    exceeded = {t: np.flatnonzero(~(displacement_error <= t)) for t in limits}
    return Comparison(
        prediction=prediction,
        observation=observation,
        max_mode_error=float(mode_error.max()) if mode_error.size else float("nan"),
        horizon={t: int(n[0]) if n.size else None for t, n in exceeded.items()},
        steps_compared=end,
        mode_error=mode_error,
        loss_error=_padded(loss_error, rows),
        displacement_error=_padded(displacement_error, rows),
        line_error=_padded(_ratio(missed, moved), rows),
        skill=_padded(skill, rows),
    )


def _belong_together(prediction: Prediction, observation: Observation) -> None:
    for name, value, kind in (
        ("prediction", prediction, Prediction),
        ("observation", observation, Observation),
    ):
        if not isinstance(value, kind):
            raise TypeError(
                f"{name} must be one of cnnbridge, {kind.__name__}; got {type(value).__name__}"
            )
    wanted, shape = prediction.displacement.shape, observation.displacement.shape
    if wanted != shape:
        raise ValueError(
            f"observation must have the prediction's steps and weights, displacement of shape "
            f"{wanted}; got {shape}"
        )
    if prediction.sgd != observation.sgd:
        raise ValueError(
            f"observation must have the prediction's settings, {prediction.sgd}; "
            f"got {observation.sgd}"
        )
    if prediction.names != observation.names:
        raise ValueError(
            f"observation must be of the prediction's parameters, "
            f"{', '.join(prediction.names)}; got {', '.join(observation.names)}"
        )


def _distances(p: Array, o: Array | None = None, reach: Array | None = None) -> Array:
    """(rows,) norms of p - o, or of p alone, or of reach times the one row of p less o.

    Some rows at a time: the paths of a wide network are gigabytes, and need no copy.
    """
    rows, size = p.shape if o is None else o.shape
    distances = np.empty(rows)
    stride = max(1, BLOCK // max(1, size))
    for first in range(0, rows, stride):
        part = slice(first, first + stride)
        row = p[part] if reach is None else reach[part, None] * p
        distances[part] = np.linalg.norm(row if o is None else row - o[part], axis=1)
    return distances


def _reach(momentum: float, rows: int) -> Array:
    """How far n updates with one and the same gradient go, in units of the first."""
    step, reach = 0.0, np.zeros(rows)
    for n in range(1, rows):
        step = 1 + momentum * step
        reach[n] = reach[n - 1] + step
    return reach


def _ratio(a: Array, b: Array | float) -> Array:
    """a / b, where 0 / 0 is no error and anything else over 0 is inf."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.where(np.equal(a, 0), 0.0, np.divide(a, b))


def _padded(a: Array, rows: int) -> Array:
    return np.concatenate([a, np.full(rows - len(a), np.nan)])
