"""Exact patch statistics of a layer's input, summed over chunks in float64."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from math import isfinite
from typing import Any, Literal, get_args

import torch
import torch.distributed as dist

from adaptive.checks import choice
from cnnbridge import _checks
from cnnbridge._checks import Layer
from cnnbridge.layers.geometry import Geometry
from cnnbridge.layers.patches import check_input, columns, weight_gradient
from cnnbridge.statistics import lags as _lags

Method = Literal["auto", "lags", "unfold"]
METHODS = get_args(Method)

# A chunk that stays in a core's cache, or nearly, is multiplied fastest. On an accelerator a chunk
# has to fill the device instead.
CHUNK_BYTES = {"cpu": 8 * 2**20, "other": 256 * 2**20}
# inputs below this size are unfolded whole
SMALL_BYTES = 2 * 2**20
# planning is quadratic in the taps of a channel; above this many, unfold
MAX_LAG_TAPS = 400


def patch_autocorrelation(
    x: torch.Tensor | Iterable[Any],
    conv: Layer,
    *,
    bias: bool = False,
    method: Method = "auto",
    chunk_size: int | None = None,
    dtype: torch.dtype | None = None,
    all_reduce: bool = True,
) -> torch.Tensor:
    """R = E[u u'] of the patches u that a layer sees: mean over samples and positions.

    Parameters
    ----------
    x : real floating-point tensor, the layer's input as in ``unfold_patches``, or any iterable of
        such batches; a batch may be a tuple or list whose first item is the tensor, as a
        ``DataLoader`` gives them. Batches may differ in size: every patch weighs the same.
    conv : any convolution, transposed convolution or linear layer; only its geometry is used.
    bias : add the constant tap of the bias as the last.
    method : "unfold" multiplies the unfolded patches with themselves. "lags" never unfolds: one
        product of two shifted views for each distinct lag between taps, less thin strips at the
        borders. Both are exact. "auto" estimates which is faster (``choose_method``).
    chunk_size : images at a time. By default a chunk has some MiB, and at most half of a large
        input, so that the peak stays within twice the input, apart from R.
    dtype : precision of what is multiplied inside a chunk, x's own by default (float32 for half
        precisions, except on CUDA, where their products are exact and fast). The products of half
        precisions are summed in float32, and all sums over chunks in float64. Choose float64 to
        tell a null eigenvalue from one that is merely 1e-6 of the largest.
    all_reduce : where ``torch.distributed`` is initialised, the mean is over the patches of all
        processes; each of them has to make the call, if only with an empty iterable. False for
        this process alone.

    Returns
    -------
    float64 tensor on x's device, units of input power: (L, L) for a layer with one group, else one
    block for each group, (groups, L, L), since the groups share no weights.

    Raises
    ------
    TypeError, ValueError : as ``unfold_patches``; ValueError for no batch at all, or no such
        method.

    Notes
    -----
    The autocorrelation matrix of Haykin, Adaptive Filter Theory, with the patch as regressor.
    Rounding with "lags" is relative to the power of the whole map, not of each window of it.
    On CUDA, torch's global setting for TF32 holds inside float32 products.

    Examples
    --------
    >>> x = torch.ones(2, 1, 4, 4)
    >>> patch_autocorrelation(x, torch.nn.Conv2d(1, 5, (1, 2))).tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    geometry = Geometry.of(conv)
    choice("method", method, METHODS)
    bias = _checks.flag("bias", bias)
    if chunk_size is not None:
        chunk_size = _checks.count("chunk_size", chunk_size)
    if dtype is not None:
        dtype = _checks.precision("dtype", dtype)
    moments: Moments | None = None
    for name, batch in batches(x):
        batch = check_input(name, batch, geometry, finite=False)
        if moments is None:
            moments = Moments.zeros(geometry, bias=bias, device=batch.device)
        moments.add(batch, chunk_size=chunk_size, dtype=dtype, method=method)
        moments.check(name, batch)
    shared = (
        _checks.flag("all_reduce", all_reduce) and dist.is_available() and dist.is_initialized()
    )
    if moments is None and shared:
        # a process without data must still join the reduction
        moments = Moments.zeros(geometry, bias=bias, device=torch.device("cpu"))
    if moments is not None and shared:
        moments.all_reduce()
    if moments is None or not moments.count:
        raise ValueError("x must hold at least one batch; got an empty iterable")
    R = moments.mean()
    return R[0] if geometry.groups == 1 else R


def choose_method(
    conv: Layer,
    shape: tuple[int, ...],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> str:
    """Which method ``patch_autocorrelation`` takes for such input: "lags" or "unfold".

    A rule of cost, fitted to measured times: multiply-adds of all products, with a surcharge for
    thin ones; plus a fixed cost for each small call; plus one for each value that is unfolded or
    stored. The smaller sum wins, near a tie unfolding. (A desired response, as ``layer_problem``
    has one, makes unfolding a little more likely.)

    Raises
    ------
    TypeError, ValueError : as ``Geometry.of``; ValueError for a shape that the layer cannot take.

    Examples
    --------
    >>> choose_method(torch.nn.Conv2d(64, 64, 3, padding=1), (64, 64, 32, 32))
    'lags'
    >>> choose_method(torch.nn.Conv2d(64, 64, 3, padding=1), (1, 64, 2, 2))
    'unfold'
    """
    geometry = Geometry.of(conv)
    x = torch.empty(shape, device="meta")
    geometry.output_shape(tuple(x.shape))
    x = geometry.channels_first(x)
    return _chosen(geometry, tuple(x.shape), dtype.itemsize, None, torch.device(device))


@dataclass
class Moments:
    """Running sums of u u', d u' and d d' over patches, by group."""

    geometry: Geometry
    bias: bool
    device: torch.device
    count: int = 0
    _R: torch.Tensor | None = field(default=None, repr=False)
    _lags: _lags.LagSums | None = field(default=None, repr=False)
    _shared: bool = field(default=False, repr=False)

    @classmethod
    def zeros(cls, conv: Layer | Geometry, *, bias: bool, device: torch.device) -> Moments:
        """Empty sums."""
        geometry = conv if isinstance(conv, Geometry) else Geometry.of(conv)
        return cls(geometry, bias, device)

    @cached_property
    def P(self) -> torch.Tensor:
        """(groups, M / groups, L): the sum of d u'."""
        groups, L = self.geometry.groups, self.geometry.taps + int(self.bias)
        outputs = self.geometry.out_channels // groups
        return torch.zeros((groups, outputs, L), dtype=torch.float64, device=self.device)

    @cached_property
    def d_power(self) -> torch.Tensor:
        """(groups,): the sum of d d'."""
        return torch.zeros(self.geometry.groups, dtype=torch.float64, device=self.device)

    @property
    def R(self) -> torch.Tensor:
        """(groups, L, L): the sum of u u'."""
        self._settle()
        if self._R is None:
            groups, L = self.geometry.groups, self.geometry.taps + int(self.bias)
            self._R = torch.zeros((groups, L, L), dtype=torch.float64, device=self.device)
        return self._R

    def check(self, name: str, x: torch.Tensor) -> None:
        """Refuse a batch that was just added if it, or its products, are not finite."""
        # what is not finite shows in the sums; only then is x itself gone through
        if not self._finite():
            _checks.finite(name, x)
            raise ValueError(
                f"{name} must have products that its precision can hold; got {x.dtype} values up "
                f"to {float(x.abs().max()):.3g}, whose squares overflow: scale it, or pass a wider "
                f"dtype"
            )

    def _finite(self) -> bool:
        """Whether powers are finite: then so is every value that a tap has met."""
        powers = [] if self._lags is None else [self._lags.products[0]]
        powers += [] if self._R is None else [self._R]
        # one number to fetch; NaN, or inf less inf, stays in the sum
        return all(isfinite(power.diagonal(dim1=-2, dim2=-1).sum().item()) for power in powers)

    def mean(self) -> torch.Tensor:
        """E[u u'] of all that was added, after which nothing more can be."""
        if self._R is None and self._lags is not None:
            return self._lags.patches(1 / self.count)
        # on other devices tiles differ with the input's precision
        return _lags.mean(
            self.R, self.count, symmetric=self.device.type == "cpu" and not self._shared
        )

    @torch.no_grad()
    def add(
        self,
        x: torch.Tensor,
        target: torch.Tensor | None = None,
        *,
        chunk_size: int | None = None,
        dtype: torch.dtype | None = None,
        method: str = "auto",
    ) -> None:
        """Add a checked batch, and its target, of the shape of the output, if P is wanted."""
        if dtype is None:
            dtype = _precision(self.geometry, x, target)
        geometry = self.geometry
        x = geometry.channels_first(x)
        if target is not None:
            target = geometry.channels_first(target)
        shape, value = tuple(x.shape), dtype.itemsize
        if method == "auto":
            method = _chosen(geometry, shape, value, chunk_size, x.device, target is not None)
        if method == "lags":
            self._add_lags(x, chunk_size, dtype)
            if target is not None:
                self._add_target(x, target, chunk_size, dtype)
            return
        for images, rows, u in _chunks(x, geometry, self.bias, chunk_size, dtype):
            self._R = _lags.gram(u, self._R)
            self.count += u.shape[-1]
            if target is not None:
                d = target[images, :, rows].to(u).transpose(0, 1)
                d = d.reshape(geometry.groups, -1, u.shape[-1])
                self.P += d @ u.mT
                self.d_power += (d * d).sum(dim=(1, 2))

    def all_reduce(self) -> None:
        """Add up the sums of u u' of all processes."""
        # the order of a sum over processes may differ from entry to entry
        self._R, self._shared = summed(self.R), True
        self.count = int(summed(torch.tensor(self.count)))

    def _add_lags(self, x: torch.Tensor, chunk_size: int | None, dtype: torch.dtype) -> None:
        plan = _lags.plan(self.geometry, tuple(x.shape[2:]), x.device)
        if self._lags is None or self._lags.plan is not plan:
            self._settle()
            self._lags = _lags.LagSums(plan, bias=self.bias, device=x.device)
        chunk = _lag_chunk(plan, tuple(x.shape), dtype.itemsize, chunk_size, x.device)
        self._lags.add(x, chunk, dtype)
        self.count += len(x) * plan.positions

    def _add_target(
        self, x: torch.Tensor, target: torch.Tensor, chunk_size: int | None, dtype: torch.dtype
    ) -> None:
        """Sums of d u' and d d', a chunk at a time, without the patches."""
        geometry, (u, d) = self.geometry, (x, target)
        if geometry.kind == "transposed":
            # its weight is that of the way back
            geometry, (u, d) = geometry.way_back, (target, x)
        some, rows = _unfolded_at_once(
            geometry, tuple(u.shape), False, dtype.itemsize, chunk_size, x.device
        )
        for first in range(0, x.shape[0], some):
            part = slice(first, first + some)
            weight = weight_gradient(u[part].to(dtype), d[part].to(dtype), geometry, rows)
            self.P[..., : self.geometry.taps] += self.geometry.by_group(weight)
            wanted = target[part].to(dtype).unflatten(1, (geometry.groups, -1)).flatten(3)
            if self.bias:
                self.P[..., -1] += wanted.sum(dim=(0, 3))
            self.d_power += (wanted * wanted).sum(dim=(0, 2, 3))

    def _settle(self) -> None:
        """Work the lag sums into R; they stay apart while batches are of one size."""
        if self._lags is None:
            return
        sums = self._lags.patches()
        self._R = sums if self._R is None else self._R.add_(sums)
        self._lags = None


def batches(x: torch.Tensor | Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """Each batch with the name by which an error speaks of it."""
    if isinstance(x, torch.Tensor):
        yield "x", x
        return
    # a NumPy array is iterable too, but its items are images, not batches
    if not isinstance(x, Iterable) or hasattr(x, "__array__"):
        raise TypeError(
            f"x must be a torch.Tensor or an iterable of batches; got {type(x).__name__}"
        )
    for i, batch in enumerate(x):
        first = batch[0] if isinstance(batch, tuple | list) and batch else batch
        yield f"batch {i} of x", first


def summed(values: torch.Tensor) -> torch.Tensor:
    """The sum over all processes, on the device of values."""
    # NCCL reduces on the GPU only, Gloo everywhere
    place = "cuda" if dist.get_backend() == "nccl" else values.device
    total = values.to(place, copy=True)
    dist.all_reduce(total)
    return total.to(values.device)


def _precision(geometry: Geometry, x: torch.Tensor, target: torch.Tensor | None) -> torch.dtype:
    """The precision of products: that of the input, but float32 where halves are no faster."""
    # tensor cores multiply halves exactly and many times as fast as float32; P is a gradient of
    # torch's, which rounds to its own precision
    if x.dtype in _lags.HALVES and (not x.is_cuda or geometry.groups > 1 or target is not None):
        return torch.float32
    return x.dtype


def _budget(
    geometry: Geometry, shape: tuple[int, ...], value: int, device: torch.device, least: int = 0
) -> int:
    """Bytes of a chunk: at most half of a large input, or the size of R if that is larger."""
    most = max(least, CHUNK_BYTES["cpu" if device.type == "cpu" else "other"])
    return min(
        most,
        max(math.prod(shape) * value // 2, 8 * geometry.groups * geometry.taps**2, SMALL_BYTES),
    )


def _lag_chunk(
    plan: _lags.Plan,
    shape: tuple[int, ...],
    value: int,
    chunk_size: int | None,
    device: torch.device,
) -> int:
    if chunk_size is not None:
        return chunk_size
    # no pixel at all is stored where every tap meets padding only
    values = max(1, plan.values())
    return max(1, _budget(plan.geometry, shape, value, device) // (values * value))


@lru_cache(maxsize=256)
def _chosen(
    geometry: Geometry,
    shape: tuple[int, ...],
    value: int,
    chunk_size: int | None,
    device: torch.device,
    target: bool = False,
) -> str:
    """The cheaper method for input (N, C, *size)."""
    if math.prod(geometry.kernel) > MAX_LAG_TAPS:
        return "unfold"
    images, size = shape[0], shape[2:]
    # what has to be done is the same anywhere
    plan = _lags.plan(geometry, size, torch.device("cpu"))
    chunk = _lag_chunk(plan, shape, value, chunk_size, device)
    if device.type != "cpu":
        some, rows = _unfolded_at_once(geometry, shape, False, value, chunk_size, device)
        pieces = -(-images // some) * -(-plan.axes[0].outputs // rows)
        by_lags, unfolded = _lags.device_seconds(plan, images, value, chunk=chunk, pieces=pieces)
        return "lags" if by_lags < unfolded else "unfold"
    lags = plan.cost(images, chunk)
    places = geometry.output_size(*size)
    if target:
        # torch gathers the patches for the target's sums then
        lags += _lags.gather_cost(geometry, images, places)
    # near a tie unfolding, which rounds less
    return "lags" if lags < 0.95 * _lags.unfold_cost(geometry, images, places) else "unfold"


def _chunks(
    x: torch.Tensor,
    geometry: Geometry,
    bias: bool,
    chunk_size: int | None,
    dtype: torch.dtype,
) -> Iterator[tuple[slice, slice, torch.Tensor]]:
    """Images, output rows and their regressors (groups, L, columns), columns by image and row.

    The regressors are overwritten by the next ones.
    """
    axes = len(geometry.kernel)
    device, L = x.device, geometry.taps + int(bias)
    some, rows = _unfolded_at_once(
        geometry, tuple(x.shape), bias, dtype.itemsize, chunk_size, device
    )
    space = None
    for first in range(0, x.shape[0], some):
        images = slice(first, first + some)
        part = x if some >= x.shape[0] else x[images]
        view = columns(part.to(dtype), geometry)
        height = view.shape[3 + axes]
        whole = part is x and rows >= height
        for top in range(0, height, rows):
            band = view if rows >= height else view.narrow(3 + axes, top, min(rows, height - top))
            shape = (geometry.groups, L, math.prod(band.shape[2 + axes :]))
            if not bias and (whole or _in_place(band, 2 + axes)):
                # copies only what does not lie in memory as wanted
                u = band.reshape(shape)
            else:
                if space is None:
                    # the first is the largest
                    space = band.new_empty(math.prod(shape))
                u = space[: math.prod(shape)].view(shape)
                # written in place, so that the unfolded chunk exists once, constant tap included
                u[:, : geometry.taps].view(band.shape).copy_(band)
                if bias:
                    u[:, -1] = 1
            yield images, slice(top, top + rows), u


@lru_cache(maxsize=256)
def _unfolded_at_once(
    geometry: Geometry,
    shape: tuple[int, ...],
    bias: bool,
    value: int,
    chunk_size: int | None,
    device: torch.device,
) -> tuple[int, int]:
    """Images of a chunk, and output rows of each band of it."""
    height, *rest = geometry.output_size(*shape[2:])
    L = geometry.taps + int(bias)
    row_bytes = geometry.groups * L * math.prod(rest) * value
    # fewer columns than rows would make R the bottleneck
    budget = _budget(geometry, shape, value, device, L * L * value)
    if chunk_size is not None:
        return chunk_size, height
    # one large image can exceed the budget by itself: then it goes by bands of rows
    return max(1, budget // (row_bytes * height)), min(height, max(1, budget // row_bytes))


def _in_place(view: torch.Tensor, axis: int) -> bool:
    """Whether the patches lie in memory as wanted: tokens, or the pixels of one image."""
    if math.prod(view.shape[2:axis]) > 1:
        return False
    ahead = None
    for n, step in zip(reversed(view.shape[axis:]), reversed(view.stride()[axis:]), strict=True):
        if n == 1:
            continue
        if ahead is not None and step != ahead:
            return False
        ahead = n * step
    return True
