"""Exact patch statistics of a layer's input, summed over chunks in float64."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
import torch.distributed as dist

from cnnbridge import _checks, _lags
from cnnbridge._checks import Layer
from cnnbridge.patches import Geometry, check_input, windows

Method = Literal["auto", "lags", "unfold"]

# A chunk that stays in a core's cache, or nearly, is multiplied fastest. On an accelerator a chunk
# has to fill the device instead.
CHUNK_BYTES = {"cpu": 4 * 2**20, "other": 256 * 2**20}
# pairs of taps are planned one by one
MOST_TAPS = 400


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
    chunk_size : images at a time. By default as many as give a chunk of some MiB, but never more
        than about the input itself.
    dtype : precision of the products inside a chunk, x's own by default (float32 for half
        precisions). The sums over chunks are float64 in any case. Choose float64 to tell a null
        eigenvalue from one that is merely 1e-6 of the largest.
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
    if method not in get_args(Method):
        raise ValueError(f"method must be 'auto', 'lags' or 'unfold'; got {method!r}")
    if chunk_size is not None:
        chunk_size = _checks.count("chunk_size", chunk_size)
    moments: Moments | None = None
    for name, batch in batches(x):
        batch = check_input(name, batch, geometry)
        if moments is None:
            moments = Moments.zeros(geometry, bias=bias, device=batch.device)
        moments.add(batch, chunk_size=chunk_size, dtype=dtype, method=method)
    shared = all_reduce and dist.is_available() and dist.is_initialized()
    if moments is None and shared:
        # this process has nothing to add, but the others wait for it
        moments = Moments.zeros(geometry, bias=bias, device=_meeting_place())
    if moments is not None and shared:
        moments.all_reduce()
    if moments is None or not moments.count:
        raise ValueError("x must hold at least one batch; got an empty iterable")
    R = moments.mean()
    return R[0] if geometry.groups == 1 else R


def choose_method(conv: Layer, shape: tuple[int, ...]) -> str:
    """Which method ``patch_autocorrelation`` takes for input of this shape: "lags" or "unfold".

    A rule of cost, fitted to measured times: multiply-adds of all products, with a surcharge for
    thin ones; plus a fixed cost for each small call; plus one for each value that is unfolded or
    stored. The smaller sum wins.

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
    device = torch.device("cpu")
    return _chosen(geometry, tuple(x.shape), x.element_size(), None, device)


@dataclass
class Moments:
    """Running sums of u u', d u' and d d' over patches, by group."""

    geometry: Geometry
    bias: bool
    P: torch.Tensor
    d_power: torch.Tensor
    count: int = 0
    _R: torch.Tensor | None = field(default=None, repr=False)
    _lags: _lags.LagSums | None = field(default=None, repr=False)

    @classmethod
    def zeros(cls, conv: Layer | Geometry, *, bias: bool, device: torch.device) -> Moments:
        """Nothing summed yet."""
        geometry = conv if isinstance(conv, Geometry) else Geometry.of(conv)
        groups, L = geometry.groups, geometry.taps + int(bias)

        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        outputs = geometry.out_channels // groups
        return cls(geometry, bias, zeros(groups, outputs, L), zeros(groups))

    @property
    def R(self) -> torch.Tensor:
        """(groups, L, L): the sum of u u'."""
        self._settle()
        if self._R is None:
            L = self.P.shape[-1]
            self._R = self.P.new_zeros((self.geometry.groups, L, L))
        return self._R

    def mean(self) -> torch.Tensor:
        """E[u u'] of all that was added, after which nothing more can be."""
        if self._R is None and self._lags is not None:
            return self._lags.patches(1 / self.count)
        return self.R.div_(self.count)

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
            # half precisions round each product to three digits; float32 is as fast here
            dtype = x.dtype if x.dtype in (torch.float32, torch.float64) else torch.float32
        geometry = self.geometry
        x = geometry.channels_first(x)
        if target is not None:
            # the patches are needed anyway
            method, target = "unfold", geometry.channels_first(target)
        shape, value = tuple(x.shape), dtype.itemsize
        if method == "auto":
            method = _chosen(geometry, shape, value, chunk_size, x.device)
        if method == "lags":
            self._add_lags(x, chunk_size, dtype)
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
        place = _meeting_place()
        R = self.R.to(place)
        count = torch.tensor(self.count, dtype=torch.int64, device=place)
        dist.all_reduce(R)
        dist.all_reduce(count)
        self._R = R.to(self.P.device)
        self.count = int(count)

    def _add_lags(self, x: torch.Tensor, chunk_size: int | None, dtype: torch.dtype) -> None:
        plan = _lags.plan(self.geometry, tuple(x.shape[2:]), x.device)
        if self._lags is None or self._lags.plan is not plan:
            self._settle()
            self._lags = _lags.LagSums(plan, bias=self.bias, device=x.device)
        chunk = _lag_chunk(plan, tuple(x.shape), dtype.itemsize, chunk_size, x.device)
        self._lags.add(x, chunk, dtype)
        self.count += len(x) * plan.positions

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


def _meeting_place() -> torch.device:
    """Where this backend can reduce."""
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")


def _budget(
    geometry: Geometry, shape: tuple[int, ...], value: int, device: torch.device, least: int = 0
) -> int:
    """Bytes of a chunk: at most about those of the input, or of R where that is larger."""
    most = max(least, CHUNK_BYTES["cpu" if device.type == "cpu" else "other"])
    return min(most, max(math.prod(shape) * value, 8 * geometry.groups * geometry.taps**2))


def _lag_chunk(
    plan: _lags.Plan,
    shape: tuple[int, ...],
    value: int,
    chunk_size: int | None,
    device: torch.device,
) -> int:
    if chunk_size is not None:
        return chunk_size
    return max(1, _budget(plan.geometry, shape, value, device) // (plan.values() * value))


def _chosen(
    geometry: Geometry,
    shape: tuple[int, ...],
    value: int,
    chunk_size: int | None,
    device: torch.device,
) -> str:
    """The cheaper method for input (N, C, *size)."""
    if math.prod(geometry.kernel) > MOST_TAPS:
        return "unfold"
    plan = _lags.plan(geometry, shape[2:], device)
    lags = plan.cost(shape[0], _lag_chunk(plan, shape, value, chunk_size, device))
    return "lags" if lags < _lags.unfold_cost(geometry, shape[0] * plan.positions) else "unfold"


def _chunks(
    x: torch.Tensor,
    geometry: Geometry,
    bias: bool,
    chunk_size: int | None,
    dtype: torch.dtype,
) -> Iterator[tuple[slice, slice, torch.Tensor]]:
    """Images, output rows and their regressors (groups, L, columns), columns by image and row."""
    height, *rest = geometry.output_size(*x.shape[2:])
    L = geometry.taps + int(bias)
    row_bytes = geometry.groups * L * math.prod(rest) * dtype.itemsize
    # fewer columns than rows would make R the bottleneck
    budget = _budget(geometry, tuple(x.shape), dtype.itemsize, x.device, L * L * dtype.itemsize)
    rows = height
    if chunk_size is None:
        # one large image can exceed the budget by itself: then it goes by bands of rows
        rows = min(height, max(1, budget // row_bytes))
        chunk_size = max(1, budget // (row_bytes * height))
    axes = len(geometry.kernel)
    for first in range(0, x.shape[0], chunk_size):
        images = slice(first, first + chunk_size)
        view = windows(x[images].to(dtype), geometry).unflatten(1, (geometry.groups, -1))
        for top in range(0, height, rows):
            band = view.narrow(3 + axes, top, min(rows, height - top))
            band = band.permute(1, *range(2, 3 + axes), 0, *range(3 + axes, band.ndim))
            u = band.new_empty((geometry.groups, L, band.shape[2 + axes :].numel()))
            # written in place, so that the unfolded chunk exists once, constant tap included
            u[:, : L - int(bias)].view(band.shape).copy_(band)
            if bias:
                u[:, -1] = 1
            yield images, slice(top, top + rows), u
