"""BatchNorm is NLMS at the first step: both steps compared, and the departure afterwards.

Before the layer (BN, then conv). The layer meets z = (x - m) / s, so its response is y = g c with
the effective weights g = w / s and c the patch of x - m. A gradient step on w is, in g,

    g(n+1) = g(n) + lr e c' S^-2,

power-normalised NLMS with the error e = -dL/dy. Since s comes from the layer's input and not from
w, no gradient path runs from w through the statistics: the statement is exact for the s of that
batch, with torch's ordinary backward pass. (The path through the statistics is real, but it leads
to the layers before.) The step is also the least change of g in the norm |dg S| that gives each
patch its new, a posteriori, response.

After the layer (conv, then BN). Here s_y^2 = w' R_c w + eps depends on w, so the backward pass
does run through the statistics, and it adds one term. With g = w / s_y, z = g c, e = -dL/dz,

    g(n+1) = g(n) + (lr / s_y^2) (v - (g' v) R_c g),   v = sum of e c over the batch,

at the s_y of that batch: NLMS with the radial part projected out, since for eps = 0 what is left
is orthogonal to w.

From then on g(n+1) = w(n+1) / s(n+1), with a new s. ``nlms_departure`` follows that.

The layer may be any that ``unfold_patches`` reads. Modules that only reorder the numbers, such as
``Flatten`` or a transposition, may lie between the two: the tensors themselves show which channel
of the normalization a channel of the layer belongs to.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from adaptive.checks import Array, items, shown
from cnnbridge import _checks
from cnnbridge.layers.isolation import (
    autograd,
    random_state,
    same_random_state,
    set_random_state,
)
from cnnbridge.normalization.pair import Before, LossFn, Pair, channel_axis


@dataclass(frozen=True, eq=False)
class FirstStep:
    """One step of SGD on a normalized layer and the NLMS step of the same batch.

    Attributes
    ----------
    position : "before" if the normalization feeds the layer, "after" if it takes its output.
    g : (groups, M / groups, L) effective weights before the step.
    g_sgd : after torch's step on w, read with the s of this batch.
    g_nlms : after the NLMS step on the raw patches.
    s : the deviation that divides: (C,) of the normalization's channels before the layer, (M,) of
        the layer's output after it.
    minimum_norm : before the layer: relative distance of the step from the one of least |dg S|
        among all that give every patch of the batch its response after the step. NaN after it.
    radial : after the layer: cosine between torch's step and w, the largest over outputs; zero up
        to eps. NaN before it.
    energy : (groups, patches) |c / s|^2 of every patch before the layer; lr times it is the step
        size mu_bar of the textbook's NLMS for that patch. Empty after the layer.

    All float64.
    """

    position: str
    g: Array = field(repr=False)
    g_sgd: Array = field(repr=False)
    g_nlms: Array = field(repr=False)
    s: Array = field(repr=False)
    minimum_norm: float
    radial: float
    energy: Array = field(repr=False, default_factory=lambda: np.empty((0, 0)))

    @property
    def difference(self) -> float:
        """Largest difference between the two steps, over the largest entry of the NLMS step."""
        step = np.abs(self.g_nlms - self.g).max()
        gap = np.abs(self.g_nlms - self.g_sgd).max()
        return float(gap / step) if step > 0 else float(gap)


@autograd()
def first_step_is_nlms(
    model: nn.Module,
    norm: str,
    conv: str,
    x: torch.Tensor,
    target: Any,
    loss_fn: LossFn,
    lr: float,
) -> FirstStep:
    """Take one step of SGD and the NLMS step of the same batch, in effective weights.

    Parameters
    ----------
    model : any eager model, in training mode for this step; a copy is trained, the model itself
        is left alone. In float64 the two agree to rounding.
    norm : name of the normalization, as in ``model.named_modules()``: ``nn.BatchNorm1d``, ``2d``
        or ``3d``, or a ``SplitBatchNorm`` (any variant before the layer; full with live gradient
        after it).
    conv : name of the convolution, transposed convolution or linear layer directly before or behind
        it: one's output has to be the other's input, untouched, or a view of it, as ``flatten`` and
        ``transpose`` make. Each channel or feature of the layer has to lie in one channel of the
        normalization; after the layer, each to have one for itself.
    x, target : the batch; ``loss_fn(model(x), target)`` is a scalar.
    lr : learning rate of plain ``torch.optim.SGD``. The error is e = -dL/dy at the layer's
        response (its normalized response, after the layer), so lr is the mu of the summed e u'.

    Returns
    -------
    FirstStep. A learned weight gamma takes 1 / s to gamma / s, and a bias shifts the regressor;
    both are held for this comparison, as s is.

    Raises
    ------
    TypeError, ValueError : no such module, or not of the kind wanted; a compiled or scripted model;
        the two are not adjacent, normalize other channels than the layer has, or are used more than
        once; lr is not positive; the loss is not a scalar.

    Notes
    -----
    Haykin, Adaptive Filter Theory, on NLMS as the least disturbance under an a-posteriori
    constraint; the reading of BatchNorm is the paper's that this project tests.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 3)).double()
    >>> x, d = torch.randn(4, 2, 6, 6).double(), torch.randn(4, 3, 4, 4).double()
    >>> step = first_step_is_nlms(model, "0", "1", x, d, nn.MSELoss(), lr=0.1)
    >>> step.position, step.difference < 1e-12, step.minimum_norm < 1e-12
    ('before', True, True)
    """
    lr = _checks.positive("lr", lr)
    pair = Pair(model, norm, conv)
    with same_random_state():
        error = pair.backward(x, target, loss_fn)
    view = pair.view()
    w = pair.weights()
    _checks.representable("lr", lr, pair.conv.weight.dtype)
    torch.optim.SGD([pair.conv.weight], lr=lr).step()
    w_next = pair.weights()
    g = w * view.gain
    minimum, radial = float("nan"), float("nan")
    energy = np.empty((0, 0))
    if isinstance(view, Before):
        energy = _array(view.normalized.square().sum(dim=-2))
        minimum = _minimum_norm_gap(w_next - w, view.normalized)
    else:
        radial = float(torch.cosine_similarity(w_next - w, w, dim=2).abs().max())
    return FirstStep(
        position="before" if isinstance(view, Before) else "after",
        g=_array(g),
        g_sgd=_array(w_next * view.gain),
        g_nlms=_array(g + lr * view.step(w, error)),
        s=_array(view.s),
        minimum_norm=minimum,
        radial=radial,
        energy=energy,
    )


@dataclass(frozen=True, eq=False)
class NlmsDeparture:
    """The departure of training behind a normalization from NLMS, step by step.

    Attributes
    ----------
    scale : (steps, channels) s(n) / s(n+1) - 1: how much a channel's deviation (input channel
        before the layer, output channel after it) was off by the next step's batch.
    step : (steps,) |g(n+1) - g(n) - NLMS step| / |NLMS step|, with g(n+1) = w(n+1) / s(n+1) as the
        next batch sees it: the whole departure at that step, in units of the step. NaN where the
        NLMS step is zero.
    same_batch_scale, same_batch : as scale and step, with s measured on the same batch after the
        whole network has moved: the effect of the weights' change without the change of batch.
    accumulated : (steps,) |g(n+1) - g(0) - sum of NLMS steps| / |g(n+1) - g(0)|.
    loss : (steps + 1,) of each batch before its step.
    lr : the learning rate.
    batch_sizes : (steps + 1,) images of each batch.
    """

    scale: Array = field(repr=False)
    step: Array = field(repr=False)
    same_batch_scale: Array = field(repr=False)
    same_batch: Array = field(repr=False)
    accumulated: Array = field(repr=False)
    loss: Array = field(repr=False)
    lr: float
    batch_sizes: tuple[int, ...] = field(repr=False)


@autograd()
def nlms_departure(
    model: nn.Module,
    norm: str,
    conv: str,
    batches: Iterable[tuple[torch.Tensor, Any]],
    loss_fn: LossFn,
    lr: float,
) -> NlmsDeparture:
    """Train a copy of the model with plain SGD and follow one layer's departure from NLMS.

    Parameters
    ----------
    model, norm, conv, loss_fn, lr : as in ``first_step_is_nlms``; every parameter of the copy
        learns, the normalization's too.
    batches : (x, target) pairs, at least two. One step is taken for each but the last, whose
        statistics close the last step.

    Returns
    -------
    NlmsDeparture. With independent batches ``scale`` holds the sampling noise of s, of order
    (images * positions)^(-1/2) whatever lr is, and ``step`` that noise over the size of a step: it
    grows as lr falls. ``same_batch_scale`` is without noise and of order lr. ``same_batch`` is that
    over the size of a step, hence of order one however small lr is: s moves as fast as the
    weights, those of the layers before (norm before conv) or the layer's own (norm after it).

    Raises
    ------
    TypeError, ValueError : as ``first_step_is_nlms``; fewer than two batches.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Conv2d(2, 1, 3)).double()
    >>> x, d = torch.randn(8, 1, 8, 8).double(), torch.randn(8, 1, 4, 4).double()
    >>> departure = nlms_departure(model, "1", "2", [(x, d)] * 4, nn.MSELoss(), lr=1e-3)
    >>> departure.scale.shape, bool((abs(departure.scale) < 1e-2).all())
    ((3, 2), True)
    """
    lr = _checks.positive("lr", lr)
    pair = Pair(model, norm, conv)
    _checks.representable("lr", lr, pair.conv.weight.dtype)
    optimizer = torch.optim.SGD(pair.model.parameters(), lr=lr)
    path: list[_Point] = []
    same, same_scale, loss, sizes = [], [], [], []
    with same_random_state():
        for i, batch in enumerate(batches):
            x, target = _batch(i, batch)
            random = random_state()
            optimizer.zero_grad()
            error = pair.backward(x, target, loss_fn)
            after = random_state()
            loss.append(pair.loss)
            sizes.append(len(x))
            point = _point(pair, error, lr)
            path.append(point)
            optimizer.step()
            # the same batch through the moved network, with the same dropout
            set_random_state(random)
            with torch.no_grad():
                pair.forward(x)
            set_random_state(after)
            moved = _point(pair, None, lr)
            same_scale.append(_array(point.s / moved.s - 1))
            same.append(_relative(moved.g - point.g - point.step, point.step))
    if len(path) < 2:
        raise ValueError(f"batches must hold at least two; got {len(path)}")
    scale, step, accumulated = [], [], []
    total = torch.zeros_like(path[0].g)
    for now, following in itertools.pairwise(path):
        total = total + now.step
        gone = following.g - path[0].g
        scale.append(_array(now.s / following.s - 1))
        step.append(_relative(following.g - now.g - now.step, now.step))
        accumulated.append(_relative(gone - total, gone))
    return NlmsDeparture(
        scale=np.stack(scale),
        step=np.array(step),
        same_batch_scale=np.stack(same_scale[:-1]),
        same_batch=np.array(same[:-1]),
        accumulated=np.array(accumulated),
        loss=np.array(loss),
        lr=lr,
        batch_sizes=tuple(sizes),
    )


@dataclass(frozen=True, eq=False)
class DepartureGrid:
    """``nlms_departure`` over learning rates and batch sizes.

    Attributes
    ----------
    lrs, batch_sizes : the axes.
    scale, same_batch_scale : (lrs, batch sizes, steps), root mean square over channels of those of
        ``NlmsDeparture``.
    step, same_batch, accumulated : (lrs, batch sizes, steps) as in ``NlmsDeparture``.
    loss : (lrs, batch sizes, steps + 1). A run that diverges goes on as inf or NaN.
    """

    lrs: Array
    batch_sizes: Array
    scale: Array = field(repr=False)
    same_batch_scale: Array = field(repr=False)
    step: Array = field(repr=False)
    same_batch: Array = field(repr=False)
    accumulated: Array = field(repr=False)
    loss: Array = field(repr=False)


def nlms_departures(
    model: nn.Module,
    norm: str,
    conv: str,
    x: torch.Tensor,
    target: torch.Tensor,
    loss_fn: LossFn,
    *,
    lrs: Sequence[float],
    batch_sizes: Sequence[int],
    steps: int,
    seed: int = 0,
) -> DepartureGrid:
    """Departure from NLMS against learning rate and batch size, each cell from the same start.

    Parameters
    ----------
    model, norm, conv, loss_fn : as in ``first_step_is_nlms``.
    x, target : the images and their targets, from which batches are drawn.
    lrs : learning rates.
    batch_sizes : up to the number of images; each batch is drawn without replacement, and two
        cells of one batch size see the same batches.
    steps : of SGD.
    seed : of the draws; torch's global random state is neither read nor changed.

    Returns
    -------
    DepartureGrid.

    Raises
    ------
    TypeError, ValueError : as ``nlms_departure``; a batch size above the number of images.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).double()
    >>> x, d = torch.randn(8, 1, 8, 8).double(), torch.randn(8, 2, 6, 6).double()
    >>> grid = nlms_departures(
    ...     model, "1", "0", x, d, nn.MSELoss(), lrs=[1e-3, 1e-2], batch_sizes=[2, 8], steps=3
    ... )
    >>> grid.step.shape, bool((grid.same_batch_scale[0] < grid.same_batch_scale[1]).all())
    ((2, 2, 3), True)
    """
    rates = [_checks.positive("lrs", lr) for lr in items("lrs", lrs, "rates")]
    sizes = [
        _checks.count("batch_sizes", size) for size in items("batch_sizes", batch_sizes, "sizes")
    ]
    steps = _checks.count("steps", steps)
    if not rates or not sizes:
        raise ValueError(
            f"lrs and batch_sizes must not be empty; got {len(rates)} and {len(sizes)} values"
        )
    for name, value in (("x", x), ("target", target)):
        if not isinstance(value, torch.Tensor) or not value.ndim:
            raise TypeError(
                f"{name} must be a tensor with a row for each image; got {shown(value)}"
            )
    if max(sizes) > len(x):
        raise ValueError(f"batch_sizes must be at most the {len(x)} images of x; got {max(sizes)}")
    if len(target) != len(x):
        raise ValueError(f"target must have one row for each of {len(x)} images; got {len(target)}")

    start = _checks.seed("seed", seed)

    def drawn(size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        generator = torch.Generator().manual_seed(start)
        for _ in range(steps + 1):
            rows = torch.randperm(len(x), generator=generator)[:size].to(x.device)
            yield x[rows], target[rows.to(target.device)]

    cells = [
        [nlms_departure(model, norm, conv, drawn(size), loss_fn, lr) for size in sizes]
        for lr in rates
    ]

    def table(read: Callable[[NlmsDeparture], Array]) -> Array:
        return np.array([[read(cell) for cell in row] for row in cells])

    return DepartureGrid(
        lrs=np.array(rates),
        batch_sizes=np.array(sizes),
        scale=table(lambda cell: np.sqrt((cell.scale**2).mean(axis=1))),
        same_batch_scale=table(lambda cell: np.sqrt((cell.same_batch_scale**2).mean(axis=1))),
        step=table(lambda cell: cell.step),
        same_batch=table(lambda cell: cell.same_batch),
        accumulated=table(lambda cell: cell.accumulated),
        loss=table(lambda cell: cell.loss),
    )


@dataclass
class _Point:
    g: torch.Tensor
    s: torch.Tensor
    step: torch.Tensor


def _point(pair: Pair, error: torch.Tensor | None, lr: float) -> _Point:
    """Effective weights, deviation and NLMS step for the last batch; NaN once it has diverged."""
    w = pair.weights()
    if not pair.finite:
        nan = torch.full_like(w, torch.nan)
        channels = pair.norm_input.shape[channel_axis(pair.norm)]
        return _Point(nan, torch.full((channels,), torch.nan).to(nan), nan)
    view = pair.view()
    step = torch.zeros_like(w) if error is None else lr * view.step(w, error)
    return _Point(w * view.gain, view.s, step)


def _minimum_norm_gap(dw: torch.Tensor, u: torch.Tensor) -> float:
    """Relative distance of dw from the smallest with the same dw u: its part outside u's span."""
    outside = 0.0
    for change, patches in zip(dw, u, strict=True):
        # the triangle of a QR keeps the span to rounding; u u' would keep half the digits
        triangle = torch.linalg.qr(patches.mT, mode="r").R
        _, sigma, V = torch.linalg.svd(triangle, full_matrices=False)
        floor = max(patches.shape) * torch.finfo(sigma.dtype).eps * float(sigma[0])
        span = V[sigma > floor]
        outside += float(((change - change @ span.mT @ span) ** 2).sum())
    return float(outside**0.5 / dw.norm())


def _relative(gap: torch.Tensor, step: torch.Tensor) -> float:
    size = float(step.norm())
    return float(gap.norm()) / size if size > 0 else float("nan")


def _array(x: torch.Tensor) -> Array:
    array: Array = x.cpu().numpy()
    return array


def _batch(index: int, batch: Any) -> tuple[torch.Tensor, Any]:
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise TypeError(
            f"batches must hold pairs (x, target); got {type(batch).__name__} at position {index}"
        )
    x, target = batch
    if not isinstance(x, torch.Tensor):
        raise TypeError(
            f"batches must hold pairs (x, target) with tensors x; got {type(x).__name__} at "
            f"position {index}"
        )
    return x, target
