"""BatchNorm is NLMS at the first step: the two steps side by side, and how they part afterwards.

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
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from adaptive._checks import Array
from cnnbridge import _checks
from cnnbridge.normalization import SplitBatchNorm, channel_divisor
from cnnbridge.patches import group_weights, unfold_patches

LossFn = Callable[[torch.Tensor, Any], torch.Tensor]


@dataclass(frozen=True, eq=False)
class FirstStep:
    """One step of SGD on a normalized layer and the NLMS step of the same batch.

    Attributes
    ----------
    position : "before" if the normalization feeds the layer, "after" if it takes its output.
    g : (groups, M / groups, L) effective weights before the step.
    g_sgd : after torch's step on w, read with the s of this batch.
    g_nlms : after the NLMS step on the raw patches.
    s : the deviation that divides: (C,) of the input's channels before the layer, (M,) of the
        output's after it.
    minimum_norm : before the layer: relative distance of the step from the one of least |dg S|
        among all that give every patch of the batch its response after the step. NaN after it.
    radial : after the layer: cosine between torch's step and w, the largest over outputs; zero up
        to eps. NaN before it.

    All float64.
    """

    position: str
    g: Array = field(repr=False)
    g_sgd: Array = field(repr=False)
    g_nlms: Array = field(repr=False)
    s: Array = field(repr=False)
    minimum_norm: float
    radial: float

    @property
    def difference(self) -> float:
        """Largest difference between the two steps, over the largest entry of the NLMS step."""
        step = np.abs(self.g_nlms - self.g).max()
        gap = np.abs(self.g_nlms - self.g_sgd).max()
        return float(gap / step) if step > 0 else float(gap)


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
    norm : name of the normalization, as in ``model.named_modules()``: ``nn.BatchNorm2d``, or a
        ``SplitBatchNorm`` (any variant before the layer; full with live gradient after it).
    conv : name of the ``nn.Conv2d`` directly before or behind it: one's output has to be the
        other's input, untouched.
    x, target : the batch; ``loss_fn(model(x), target)`` is a scalar.
    lr : learning rate of plain ``torch.optim.SGD``. The error is e = -dL/dy at the layer's
        response (its normalized response, after the layer), so lr is the mu of the summed e u'.

    Returns
    -------
    FirstStep. A learned weight gamma takes 1 / s to gamma / s, and a bias shifts the regressor;
    both are held for this comparison, as s is.

    Raises
    ------
    TypeError, ValueError : no such module, or not of the kind wanted; the two are not adjacent, or
        used more than once; lr is not positive; the loss is not a scalar.

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
    pair = _Pair(model, norm, conv)
    with torch.random.fork_rng(devices=_devices()):
        error = pair.backward(x, target, loss_fn)
    view = pair.view()
    w = pair.weights()
    torch.optim.SGD([pair.conv.weight], lr=lr).step()
    w_next = pair.weights()
    g = w * view.gain
    minimum, radial = float("nan"), float("nan")
    if isinstance(view, _Before):
        minimum = _minimum_norm_gap(w_next - w, view.normalized)
    else:
        radial = float(torch.cosine_similarity(w_next - w, w, dim=2).abs().max())
    return FirstStep(
        position="before" if isinstance(view, _Before) else "after",
        g=_array(g),
        g_sgd=_array(w_next * view.gain),
        g_nlms=_array(g + lr * view.step(w, error)),
        s=_array(view.s),
        minimum_norm=minimum,
        radial=radial,
    )


@dataclass(frozen=True, eq=False)
class NlmsDeparture:
    """How training behind a normalization departs from NLMS, step by step.

    Attributes
    ----------
    scale : (steps, channels) s(n) / s(n+1) - 1: how much a channel's deviation (input channel
        before the layer, output channel after it) was off by the next step's batch.
    step : (steps,) |g(n+1) - g(n) - NLMS step| / |NLMS step|, with g(n+1) = w(n+1) / s(n+1) as the
        next batch sees it: the whole departure at that step, in units of the step. NaN where the
        NLMS step is zero.
    same_batch_scale, same_batch : as scale and step, with s taken anew on the same batch after the
        whole network has moved: what the weights' change does, without the change of batch.
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
    pair = _Pair(model, norm, conv)
    optimizer = torch.optim.SGD(pair.model.parameters(), lr=lr)
    path: list[_Point] = []
    same, same_scale, loss, sizes = [], [], [], []
    with torch.random.fork_rng(devices=_devices()):
        for i, batch in enumerate(batches):
            x, target = _batch(i, batch)
            random = _random_state()
            optimizer.zero_grad()
            error = pair.backward(x, target, loss_fn)
            after = _random_state()
            loss.append(pair.loss)
            sizes.append(len(x))
            point = _point(pair, error, lr)
            path.append(point)
            optimizer.step()
            # the same batch through the moved network, with the same dropout
            _set_random_state(random)
            with torch.no_grad():
                pair.forward(x)
            _set_random_state(after)
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
    rates = [_checks.positive("lrs", lr) for lr in lrs]
    sizes = [_checks.count("batch_sizes", size) for size in batch_sizes]
    steps = _checks.count("steps", steps)
    if not rates or not sizes:
        raise ValueError(
            f"lrs and batch_sizes must not be empty; got {len(rates)} and {len(sizes)} values"
        )
    if max(sizes) > len(x):
        raise ValueError(f"batch_sizes must be at most the {len(x)} images of x; got {max(sizes)}")
    if len(target) != len(x):
        raise ValueError(f"target must have one row for each of {len(x)} images; got {len(target)}")

    def drawn(size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        generator = torch.Generator().manual_seed(seed)
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
class _Before:
    """The layer behind a normalization, as one batch sees it."""

    gain: torch.Tensor
    s: torch.Tensor
    # patches of x - m, of an image of ones, and the shift of the normalized channels
    c: torch.Tensor
    b: torch.Tensor
    shift: torch.Tensor

    @classmethod
    def of(cls, pair: _Pair) -> _Before:
        x = pair.norm_input
        mean, divisor = _statistics(pair.norm, x)
        scale = pair.norm.weight.detach().double() if pair.norm.affine else torch.ones_like(mean)
        shift = pair.norm.bias.detach().double() if pair.norm.affine else torch.zeros_like(mean)
        gain = scale / divisor
        if isinstance(pair.norm, SplitBatchNorm) and not pair.norm.center:
            shift = shift + gain * mean
        x = x - mean[:, None, None]

        def per_tap(values: torch.Tensor) -> torch.Tensor:
            taps = pair.conv.weight[0, 0].numel()
            return values.repeat_interleave(taps).reshape(pair.conv.groups, 1, -1)

        return cls(
            gain=per_tap(gain),
            s=divisor,
            c=_columns(x, pair.conv),
            b=_columns(torch.ones_like(x), pair.conv),
            shift=per_tap(shift),
        )

    @property
    def normalized(self) -> torch.Tensor:
        """What the layer's taps meet, (groups, L, patches)."""
        return self.gain.mT * self.c + self.shift.mT * self.b

    def step(self, w: torch.Tensor, error: torch.Tensor) -> torch.Tensor:
        """NLMS in g, for learning rate 1: e c' S^-2, and what a learned bias adds to it."""
        step = (error @ self.c.mT) * self.gain**2
        if self.shift.any():
            step = step + (error @ self.b.mT) * (self.gain * self.shift)
        return step


@dataclass
class _After:
    """The layer in front of a normalization, as one batch sees it."""

    gain: torch.Tensor
    s: torch.Tensor
    c: torch.Tensor
    R_c: torch.Tensor
    g: torch.Tensor

    @classmethod
    def of(cls, pair: _Pair) -> _After:
        c = _columns(pair.conv_input, pair.conv)
        c = c - c.mean(dim=2, keepdim=True)
        R_c = c @ c.mT / c.shape[2]
        w = pair.weights()
        s = ((w @ R_c * w).sum(dim=2, keepdim=True) + pair.norm.eps).sqrt()
        gain = 1 / s
        if pair.norm.affine:
            gain = gain * pair.norm.weight.detach().double().reshape(s.shape)
        return cls(gain=gain, s=s.flatten(), c=c, R_c=R_c, g=w / s)

    def step(self, w: torch.Tensor, error: torch.Tensor) -> torch.Tensor:
        """NLMS in g, for learning rate 1, less what the statistics feed back: the radial part."""
        v = error @ self.c.mT
        return self.gain**2 * (v - (self.g * v).sum(dim=2, keepdim=True) * (self.g @ self.R_c))


class _Pair:
    """A normalization and the layer beside it, in a copy of a model, and what passed through."""

    def __init__(self, model: nn.Module, norm: str, conv: str) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module; got {type(model).__name__}")
        self.model = copy.deepcopy(model).train()
        modules = dict(self.model.named_modules())
        for argument, name in (("norm", norm), ("conv", conv)):
            if name not in modules:
                raise ValueError(f"{argument} must name a module of the model; got {name!r}")
        self.norm: Any = modules[norm]
        if not isinstance(self.norm, nn.BatchNorm2d | SplitBatchNorm):
            raise TypeError(
                "norm must name a torch.nn.BatchNorm2d or a SplitBatchNorm; "
                f"got {type(self.norm).__name__}"
            )
        self.conv = _checks.conv_layer("conv", modules[conv])
        if not isinstance(self.conv.weight, nn.Parameter) or not self.conv.weight.requires_grad:
            raise ValueError(
                "conv must have a weight that learns, and that no parametrization computes; "
                f"got {conv!r}, which has not"
            )
        self.names = (norm, conv)
        self.loss = float("nan")
        self._calls: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self._watched: torch.Tensor | None = None
        self.norm.register_forward_hook(self._hook("norm", "conv"), prepend=True)
        self.conv.register_forward_hook(self._hook("conv", "norm"), prepend=True)

    def _hook(self, own: str, other: str) -> Callable[..., torch.Tensor | None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> Any:
            if own in self._calls:
                name = self.names[("norm", "conv").index(own)]
                raise ValueError(f"{own} must be used once in a forward pass; got {name!r} again")
            self._calls[own] = (args[0], output)
            if other not in self._calls or self._calls[other][1] is not args[0]:
                return None
            self._watched = output
            # downstream gets a copy: an in-place ReLU must not overwrite what we differentiate by
            return output.clone()

        return hook

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The model's output; the pair's tensors are kept."""
        self._calls, self._watched = {}, None
        y: torch.Tensor = self.model(x)
        if self._watched is None:
            raise ValueError(
                "norm and conv must be adjacent, the output of one the input of the other and "
                f"nothing between; got {self.names[0]!r} and {self.names[1]!r}"
            )
        if self.after and isinstance(self.norm, SplitBatchNorm):
            kind = (self.norm.center, self.norm.scale, self.norm.per, self.norm.statistics)
            plain = kind == (True, "full", "channel", "batch")
            if not plain or not self.norm.grad_through_statistics:
                raise ValueError(
                    "norm must be the full normalization with live statistics where it comes "
                    f"after the layer; got {self.norm}"
                )
        return y

    def backward(self, x: torch.Tensor, target: Any, loss_fn: LossFn) -> torch.Tensor:
        """Gradients of the copy, and the error (groups, M / groups, patches) = -dL/d(response)."""
        with torch.enable_grad():
            loss = loss_fn(self.forward(x), target)
            if not isinstance(loss, torch.Tensor) or loss.ndim:
                got = tuple(loss.shape) if isinstance(loss, torch.Tensor) else type(loss).__name__
                raise ValueError(f"loss_fn must return a scalar tensor; got {got}")
            assert self._watched is not None
            self._watched.retain_grad()
            loss.backward()
        self.loss = float(loss.detach())
        gradient = self._watched.grad
        if gradient is None:
            raise ValueError(f"the loss must depend on {self.names[1]!r}; got one that does not")
        e = -gradient.double().flatten(2).transpose(0, 1)
        return e.reshape(self.conv.groups, e.shape[0] // self.conv.groups, -1)

    @property
    def after(self) -> bool:
        """Whether the normalization takes the layer's output."""
        return self._watched is self._calls["norm"][1]

    @property
    def norm_input(self) -> torch.Tensor:
        return self._calls["norm"][0].detach().double()

    @property
    def conv_input(self) -> torch.Tensor:
        return self._calls["conv"][0].detach().double()

    @property
    def finite(self) -> bool:
        """Whether the batch came through: a diverged network has no statistics."""
        seen = self.conv_input if self.after else self.norm_input
        return bool(torch.isfinite(seen).all())

    def view(self) -> _Before | _After:
        """The layer in effective weights, for the last batch."""
        return _After.of(self) if self.after else _Before.of(self)

    def weights(self) -> torch.Tensor:
        """w, (groups, M / groups, L), a float64 copy."""
        return group_weights(self.conv).detach().double().clone()


@dataclass
class _Point:
    g: torch.Tensor
    s: torch.Tensor
    step: torch.Tensor


def _point(pair: _Pair, error: torch.Tensor | None, lr: float) -> _Point:
    """Effective weights, deviation and NLMS step for the last batch; NaN once it has diverged."""
    w = pair.weights()
    if not pair.finite:
        nan = torch.full_like(w, torch.nan)
        channels = pair.conv.out_channels if pair.after else pair.conv.in_channels
        return _Point(nan, torch.full((channels,), torch.nan).to(nan), nan)
    view = pair.view()
    step = torch.zeros_like(w) if error is None else lr * view.step(w, error)
    return _Point(w * view.gain, view.s, step)


def _statistics(norm: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and divisor of each channel, in float64, as the module has just used them."""
    var, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
    if not isinstance(norm, SplitBatchNorm):
        return mean, (var + norm.eps).sqrt()
    if norm.statistics == "frozen":
        assert norm.running_mean is not None
        assert norm.running_var is not None
        mean, var = norm.running_mean.double(), norm.running_var.double()
    return mean, channel_divisor(var, scale=norm.scale, per=norm.per, eps=norm.eps)


def _columns(x: torch.Tensor, conv: nn.Conv2d) -> torch.Tensor:
    """All patches of a batch, (groups, L, images * positions), image by image."""
    return unfold_patches(x, conv).permute(1, 2, 0, 3).flatten(2)


def _minimum_norm_gap(dw: torch.Tensor, u: torch.Tensor) -> float:
    """How far dw is from the least |dw| with the same dw u: its part outside the span of u."""
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


def _devices() -> list[int]:
    """The accelerators whose random state a forward pass may change."""
    return list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []


def _random_state() -> tuple[torch.Tensor, list[torch.Tensor]]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return torch.get_rng_state(), cuda


def _set_random_state(state: tuple[torch.Tensor, list[torch.Tensor]]) -> None:
    torch.set_rng_state(state[0])
    if state[1]:
        torch.cuda.set_rng_state_all(state[1])
