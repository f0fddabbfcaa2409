"""The same layer, really trained by torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from adaptive.checks import Array
from cnnbridge import _checks
from cnnbridge._checks import Layer
from cnnbridge.layers.geometry import Geometry
from cnnbridge.layers.isolation import own_precision, plain_copy
from cnnbridge.layers.patches import check_input, group_weights
from cnnbridge.learning.layer import LayerPrediction, predict_layer, project

# between looks at the device for numbers that have left the range
STRIDE = 64

EDGE_RULE = (
    "float64, full batch. A run diverges if a weight is no longer finite, or if the part of the "
    "weights that alternates from step to step (their third difference) is larger in the last "
    "quarter of the run than in the quarter before; it converges otherwise, or once that part "
    "is down to rounding."
)


@dataclass(frozen=True, eq=False)
class LayerObservation:
    """What torch did to a layer, in the modes of a prediction.

    Attributes
    ----------
    modes : (steps + 1, M, L): q_k' (w_m(n) - w_star_m) of the trained weights, float64; NaN from
        ``diverged_at`` on.
    loss : (steps + 1,): ``MSELoss()`` as torch computed it; NaN from ``diverged_at`` on.
    diverged_at : first step at which a weight or the loss was not finite, or None.
    learning_rate, momentum, weight_decay : SGD's settings.
    device, dtype : where and in which precision it was trained.
    w_star, eigenvectors : the basis of the modes, as in the prediction.
    """

    learning_rate: float
    momentum: float
    weight_decay: float
    device: str
    dtype: str
    diverged_at: int | None
    loss: Array = field(repr=False)
    modes: Array = field(repr=False)
    w_star: Array = field(repr=False)
    eigenvectors: Array = field(repr=False)

    @property
    def steps(self) -> int:
        """Number of updates."""
        return len(self.loss) - 1


@dataclass(frozen=True)
class EdgeObservation:
    """The learning rate at which real training starts to diverge.

    Attributes
    ----------
    lower : highest learning rate that was seen to converge.
    upper : lowest that was seen to diverge; (upper - lower) / upper is within the tolerance asked.
    momentum, weight_decay : SGD's settings.
    steps : updates of one run.
    runs : trainings that it took.
    rule : when a run counts as diverging.
    """

    lower: float
    upper: float
    momentum: float
    weight_decay: float
    steps: int
    runs: int
    rule: str = EDGE_RULE

    @property
    def lr(self) -> float:
        """The middle of the bracket."""
        return (self.lower + self.upper) / 2


def observe_layer(
    conv: Layer,
    x: torch.Tensor,
    target: torch.Tensor,
    *,
    lr: float,
    steps: int,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    bias: bool | None = None,
    device: str | torch.device | None = None,
    basis: LayerPrediction | None = None,
    progress: Callable[[int], object] | None = None,
) -> LayerObservation:
    """Train a copy of the layer with ``torch.optim.SGD`` on ``MSELoss()`` and watch its modes.

    Each update uses the gradient over the whole of x, in x's dtype. The layer given is not
    changed; hooks on it are not copied. Torch's global settings hold, TF32 among them: on CUDA
    they can cost float32 three of its digits.

    Parameters
    ----------
    conv, x, target, lr, steps, momentum, weight_decay, bias : as in ``predict_layer``.
    device : where to train; x's device by default.
    basis : the prediction whose modes to project on; computed from the same arguments if None.
    progress : called with the step, 0 to steps, as training goes on.

    Returns
    -------
    LayerObservation; it stores steps + 1 times the layer's weights.

    Raises
    ------
    TypeError, ValueError : as ``predict_layer``; ValueError if basis belongs to a layer of another
        shape.

    Notes
    -----
    Divergence is a value, ``diverged_at``, not an exception.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> conv, x = nn.Conv2d(1, 2, 3), torch.randn(4, 1, 8, 8)
    >>> observation = observe_layer(conv, x, torch.randn(4, 2, 6, 6), lr=0.1, steps=20)
    >>> observation.modes.shape, observation.dtype, observation.diverged_at
    ((21, 2, 10), 'float32', None)
    """
    training = _Training.check(
        conv, x, target, momentum=momentum, weight_decay=weight_decay, bias=bias, device=device
    )
    rate = _checks.positive("lr", lr)
    updates = _checks.count("steps", steps, least=0)
    if basis is None:
        basis = predict_layer(
            conv,
            x,
            target,
            lr=rate,
            steps=0,
            momentum=momentum,
            weight_decay=weight_decay,
            bias=bias,
        )
    groups = training.geometry.groups
    shape = (training.geometry.out_channels, training.geometry.taps + int(training.bias))
    if basis.w_star.shape != shape or len(basis.eigenvalues) != groups:
        raise ValueError(
            f"basis must be a prediction for {groups} groups and weights of shape {shape}; "
            f"got {len(basis.eigenvalues)} groups and {basis.w_star.shape}"
        )

    with torch.inference_mode(False):
        weights = training.x.new_full((updates + 1, *shape), torch.nan)
        losses = training.x.new_full((updates + 1,), torch.nan)

    def record(n: int, layer: Layer, loss: torch.Tensor) -> bool:
        weights[n] = group_weights(layer, bias=training.bias).detach().view(shape)
        losses[n] = loss
        if progress is not None:
            progress(n)
        return n % STRIDE != 0 or bool(torch.isfinite(weights[n].sum() + loss))

    training.run(rate, updates, record)
    w = weights.cpu().double().numpy()
    loss = losses.cpu().double().numpy()
    finite = np.isfinite(w).all(axis=(1, 2)) & np.isfinite(loss)
    diverged_at = None if finite.all() else int(np.argmin(finite))
    modes = project(w, basis.w_star, basis.eigenvectors)
    if diverged_at is not None:
        modes[diverged_at:] = np.nan
        loss[diverged_at:] = np.nan
    return LayerObservation(
        learning_rate=rate,
        momentum=training.momentum,
        weight_decay=training.weight_decay,
        device=str(training.x.device),
        dtype=str(training.x.dtype).removeprefix("torch."),
        diverged_at=diverged_at,
        loss=loss,
        modes=modes,
        w_star=basis.w_star,
        eigenvectors=basis.eigenvectors,
    )


def bisect_edge(
    conv: Layer,
    x: torch.Tensor,
    target: torch.Tensor,
    *,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    bias: bool | None = None,
    steps: int = 500,
    tolerance: float = 0.001,
    bracket: tuple[float, float] | None = None,
    device: str | torch.device | None = None,
) -> EdgeObservation:
    """Find by real training the learning rate from which a layer diverges.

    Trains copies of the layer from its present weights, first doubling or halving the rate until
    one converges and one diverges, then bisecting. No prediction enters.

    Decision rule: a run diverges if a weight is no longer finite, or if the norm of the third
    difference of the weights over steps is larger (in rms) over the last quarter of the run than
    over the quarter before. At the edge of stability it is the alternating part of the weights
    that stops shrinking; differences keep it and drop the slow modes, whose decrease would hide
    its growth in the loss. Once that part is down to rounding the run converges.

    Parameters
    ----------
    conv, x, target, momentum, weight_decay, bias : as in ``predict_layer``; trained in float64.
    steps : updates of one run, at least 64; more tell apart eigenvalues that lie closer.
    tolerance : relative width at which bisecting ends, above 0 and below 1.
    bracket : where to look first, (lower, upper), if there is a guess; widened if it is wrong.
    device : where to train; x's device by default.

    Returns
    -------
    EdgeObservation.

    Raises
    ------
    TypeError, ValueError : as ``predict_layer``; steps, tolerance or bracket out of range.
    RuntimeError : no rate within 2^60 of the start converges, or none diverges: silent input, or
        a start that has nothing left to learn.

    Examples
    --------
    >>> x = torch.ones(1, 1, 2, 2)
    >>> edge = bisect_edge(nn.Conv2d(1, 1, 1, bias=False), x, torch.zeros(1, 1, 2, 2), steps=64)
    >>> edge.lower <= 1.0 <= edge.upper, round(edge.lr, 2)
    (True, 1.0)
    """
    training = _Training.check(
        conv,
        x,
        target,
        momentum=momentum,
        weight_decay=weight_decay,
        bias=bias,
        device=device,
        dtype=torch.float64,
    )
    updates = _checks.count("steps", steps, least=64)
    width = _checks.positive("tolerance", tolerance)
    if width >= 1:
        raise ValueError(f"tolerance must be less than 1; got {tolerance}")
    low, high = (0.01, 0.02) if bracket is None else bracket
    if not _checks.positive("bracket", low) < _checks.positive("bracket", high):
        raise ValueError(f"bracket must be (lower, upper) with lower < upper; got {bracket}")

    runs = 0

    def diverges(lr: float, length: int = updates) -> bool:
        nonlocal runs
        runs += 1
        return training.diverges(lr, length)

    # far from the edge a short run decides, and an error near it stays as small as the bracket's
    coarse = min(updates, 2 * STRIDE)
    ratio = max(2.0, high / low)
    for _ in range(60):
        if not diverges(low, coarse):
            break
        low, high = low / ratio, low
    else:
        raise RuntimeError(f"no learning rate down to {low:.3g} converges")
    for _ in range(60):
        if diverges(high, coarse):
            break
        low, high = high, high * ratio
    else:
        raise RuntimeError(
            f"no learning rate up to {high:.3g} diverges: the input is silent, or the start has "
            f"nothing left to learn"
        )
    while high - low > width * high:
        middle = (low + high) / 2
        if diverges(middle):
            high = middle
        else:
            low = middle
    return EdgeObservation(
        low, high, training.momentum, training.weight_decay, steps=updates, runs=runs
    )


@dataclass(frozen=True)
class _Training:
    """A checked layer with its data where and in the precision in which it will be trained."""

    conv: Layer
    geometry: Geometry
    x: torch.Tensor
    target: torch.Tensor
    momentum: float
    weight_decay: float
    bias: bool

    @classmethod
    def check(
        cls,
        conv: Layer,
        x: torch.Tensor,
        target: torch.Tensor,
        *,
        momentum: float,
        weight_decay: float,
        bias: bool | None,
        device: str | torch.device | None,
        dtype: torch.dtype | None = None,
    ) -> _Training:
        geometry = Geometry.of(conv)
        with_bias = _checks.bias_flag(conv, bias, trained=True)
        x = check_input("x", x, geometry)
        target = _checks.target_like(target, geometry.output_shape(tuple(x.shape)))
        place = x.device if device is None else torch.device(device)
        # autograd cannot keep tensors that were made in inference mode
        with torch.inference_mode(False):
            x, target = (
                (t.clone() if t.is_inference() else t.detach()).to(place, dtype or x.dtype)
                for t in (x, target)
            )
        return cls(
            conv,
            geometry,
            x,
            target,
            _checks.fraction("momentum", momentum),
            _checks.nonnegative("weight_decay", weight_decay),
            with_bias,
        )

    def run(self, lr: float, steps: int, look: Callable[[int, Layer, torch.Tensor], bool]) -> None:
        """Train; ``look(n, layer, loss)`` sees the weights of each step and may end it."""
        # the caller may be inside no_grad, inference_mode or autocast: training must not notice
        with own_precision():
            layer = plain_copy(self.conv, self.x)
            learned = [layer.weight]
            if layer.bias is not None:
                layer.bias.requires_grad_(self.bias)
                learned += [layer.bias] if self.bias else []
            optimizer = torch.optim.SGD(
                learned, lr=lr, momentum=self.momentum, weight_decay=self.weight_decay
            )
            criterion = nn.MSELoss()
            for n in range(steps + 1):
                loss = criterion(layer(self.x), self.target)
                if not look(n, layer, loss.detach()) or n == steps:
                    return
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    def diverges(self, lr: float, steps: int) -> bool:
        """``EDGE_RULE``, on one run."""
        differences: list[torch.Tensor] = []
        recent: list[torch.Tensor] = []
        scale = 0.0

        def look(n: int, layer: Layer, loss: torch.Tensor) -> bool:
            nonlocal scale
            recent.append(group_weights(layer, bias=self.bias).detach().flatten().clone())
            if len(recent) == 4:
                a, b, c, d = recent
                differences.append(torch.linalg.vector_norm(d - a + 3 * (b - c)))
                del recent[0]
            if n % STRIDE or n == 0:
                return True
            scale = float(torch.linalg.vector_norm(recent[-1]))
            # six orders of growth need no more steps to be believed, nor does overflow
            return bool(differences[-1] <= 1e6 * max(differences[:8]))

        self.run(lr, steps, look)
        norms = torch.stack(differences).cpu()
        if len(norms) < steps - 2 or not torch.isfinite(norms).all():
            return True
        quarter = len(norms) // 4
        before, last = norms[-2 * quarter : -quarter], norms[-quarter:]
        floor = 1e3 * torch.finfo(torch.float64).eps * scale
        return bool(last.square().mean() > before.square().mean().clamp(min=floor**2))
