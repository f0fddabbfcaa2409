"""Patch autocorrelation from lag products, without unfolding.

The entry of R for taps a and b depends on the lag between them, but for the borders: it is the
sum of x(q) x(q + lag)' over the window of places q that tap a meets. Two facts make that cheap.

* Put the pixels in channels-last rows with as many zeros after each row and image as the largest
  lag. A shift by a lag then never carries a pixel onto another row's, so the sum over *all* places
  is one plain matrix product of two offset views of the same memory.
* Per axis, the window of a tap is the whole axis less a few places at either end. Over several
  axes the inclusion-exclusion of these is a product of one factor per axis: 1 for the whole axis,
  -1 for each place left out. So thin strips, and their crossings, are subtracted. Zero padding
  needs no memory, and hardly any strips.

A stride splits each axis into phases; the pixels of all phases that a kernel of that stride meets
lie side by side, as channels, on the coarser grid.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeAlias

import torch

from cnnbridge.layers.geometry import Geometry


@dataclass(frozen=True)
class _Axis:
    """One spatial axis on the coarse grid, cells of ``stride`` padded pixels each."""

    outputs: int
    stride: int
    start: int  # pixels cut off before the first that any tap meets
    stop: int  # and after the last
    lead: int  # places in the first cell before the first pixel
    cells: int
    phases: tuple[int, ...]  # of the cell, those that some tap meets
    phase_of: tuple[int, ...]  # for each tap, as an index of phases
    first: tuple[int, ...]  # for each tap, the first cell of its window
    gutter: int

    @classmethod
    def of(cls, geometry: Geometry, axis: int, size: int, near: int, far: int) -> _Axis:
        """For data of this size, with zeros before and after that are not stored."""
        stride, dilation = geometry.stride[axis], geometry.dilation[axis]
        span, kernel = geometry.spans[axis], geometry.kernel[axis]
        outputs = (near + size + far - span) // stride + 1
        start = max(0, -near)
        stop = max(start, min(size, span + (outputs - 1) * stride - near))
        near = max(0, near)
        offsets = [dilation * i for i in range(kernel)]
        phases = tuple(sorted({o % stride for o in offsets}))
        return cls(
            outputs=outputs,
            stride=stride,
            start=start,
            stop=stop,
            lead=near % stride,
            cells=-(-(near % stride + stop - start) // stride),
            phases=phases,
            phase_of=tuple(phases.index(o % stride) for o in offsets),
            first=tuple(o // stride - near // stride for o in offsets),
            gutter=offsets[-1] // stride,
        )

    def left_out(self, tap: int, lag: int | None) -> list[int]:
        """Cells that meet their partner at this lag but lie outside the window of the tap."""
        low, high = max(0, -(lag or 0)), self.cells - max(0, lag or 0)
        window = range(self.first[tap], self.first[tap] + self.outputs)
        return [q for q in range(low, high) if q not in window]

    def fill(self, phase: int) -> tuple[slice, slice]:
        """Where the pixels of a phase lie in the data, and where they go on the grid."""
        skip = (self.phases[phase] - self.lead) % self.stride
        count = len(range(self.start + skip, self.stop, self.stride))
        cell = (self.lead + skip) // self.stride
        return slice(self.start + skip, self.stop, self.stride), slice(cell, cell + count)


@dataclass(frozen=True, eq=False)
class _Lag:
    """All pairs of taps at one lag; ``lag`` is None for single taps, against the constant one."""

    lag: tuple[int, ...] | None
    borders: tuple[tuple[int, ...], ...]  # for each axis, cells that some tap leaves out
    left: tuple[int, int]  # range of joint phases that the first taps meet
    right: tuple[int, int]
    # for each pair of joint phases: first taps, second taps, factors (pairs, states)
    pairs: tuple[tuple[int, int, torch.Tensor, torch.Tensor, torch.Tensor], ...] = field(repr=False)

    @property
    def states(self) -> tuple[int, ...]:
        """For each axis: the whole of it, and each border cell."""
        return tuple(1 + len(cells) for cells in self.borders)


@dataclass(frozen=True, eq=False)
class Plan:
    """The products to make, for one geometry and size of input."""

    geometry: Geometry
    axes: tuple[_Axis, ...]
    lags: tuple[_Lag, ...]
    means: _Lag
    taps: int  # of one channel
    phases: int  # joint, over the axes
    channels: int  # of one group

    @property
    def grid(self) -> tuple[int, ...]:
        """Size of the grid that one image needs, with its gutters."""
        return tuple(axis.cells + axis.gutter for axis in self.axes)

    @property
    def positions(self) -> int:
        """Places of the kernel on one image."""
        return math.prod(axis.outputs for axis in self.axes)

    @property
    def width(self) -> int:
        """Values in a cell of one group."""
        return self.phases * self.channels

    def values(self) -> int:
        """Numbers on the grid of one image."""
        return math.prod(self.grid) * self.width * self.geometry.groups

    def cost(self, images: int, chunk: int) -> float:
        """Time for one batch on the CPU, in multiply-adds at full rate; see ``choose_method``."""
        groups, c = self.geometry.groups, self.channels
        chunks = -(-images // chunk)
        total = images * self.values() * FILL + groups * (self.taps * c) ** 2 * SCATTER
        calls, strips = 0, {}
        for lag in self.lags:
            a, b = (c * (end - begin) for begin, end in (lag.left, lag.right))
            kinds = list(itertools.product(*([0, 1] if s > 1 else [0] for s in lag.states)))
            for kind in kinds:
                cells = math.prod(
                    s - 1 if border else n
                    for border, s, n in zip(kind, lag.states, self.grid, strict=True)
                )
                total += images * groups * cells * product_cost(a, b)
            total += chunks * groups * math.prod(lag.states) * a * b * ADD
            total += groups * c**2 * sum(pair[-1].numel() for pair in lag.pairs) * WEIGH
            calls += chunks * (3 * len(kinds) - 1) + 8 + 9 * len(lag.pairs)
            for borders, _ in _kinds(lag):
                for end in (0, 1):
                    held = _held(lag, borders, end)
                    strips[borders, held] = math.prod(map(len, held))
        calls += chunks * sum(strips.values())
        return total + calls * CALL


def unfold_cost(geometry: Geometry, images: int, places: tuple[int, ...]) -> float:
    """Time to unfold and multiply the patches, of which each image has ``places``."""
    L, groups, columns = geometry.taps, geometry.groups, images * math.prod(places)
    columns_met = L if L <= 2 * TILE else (L + TILE) // 2
    total = groups * (columns * product_cost(L, columns_met) + L * L * PLACE)
    # tokens, and the pixels of one image, lie as they are wanted
    if geometry.kind != "linear" and (images > 1 or math.prod(geometry.kernel) > 1):
        total += gather_cost(geometry, images, places)
    return total + 10 * CALL


def gather_cost(geometry: Geometry, images: int, places: tuple[int, ...]) -> float:
    """The part of ``unfold_cost`` that lays out the patches: a cost per value and per row."""
    rows = images * geometry.groups * geometry.taps * math.prod(places[:-1])
    return rows * (places[-1] * GATHER + ROW)


def device_seconds(
    plan: Plan, images: int, value: int, *, chunk: int, pieces: int
) -> tuple[float, float]:
    """About how long an accelerator takes by lags, in chunks of images, and by unfolded pieces."""
    geometry, c = plan.geometry, plan.channels
    L, groups = geometry.taps, geometry.groups
    rate = HALVES_RATE if value == 2 else DEVICE_RATE
    places = images * groups * math.prod(plan.grid)
    terms, calls = 0.0, 0
    for lag in plan.lags:
        a, b = (c * (end - begin) for begin, end in (lag.left, lag.right))
        terms += places * _whole_tiles(a) * _whole_tiles(b)
        kinds = 2 ** sum(states > 1 for states in lag.states)
        # halves go by spans, which are added up
        calls += -(-images // chunk) * ((6 if value == 2 else 3) * kinds - 1) + 8
    by_lags = terms / rate + calls * DEVICE_CALL + images * plan.values() * value * DEVICE_MOVE
    columns = images * groups * plan.positions
    met = L if L <= 2 * DEVICE_TILE or value == 2 else (L + DEVICE_TILE) // 2
    unfolded = columns * _whole_tiles(L) * _whole_tiles(met) / rate
    return by_lags, unfolded + pieces * 12 * DEVICE_CALL + columns * L * value * DEVICE_MOVE


def _whole_tiles(n: int) -> int:
    """A side of a matrix product as a GPU works on it, in tiles of 64."""
    return -(-n // 64) * 64


def product_cost(a: int, b: int) -> float:
    """Cost of one term of an (a, b) matrix product; thin ones run below the full rate."""
    return a * b + 6.3 * (a + b) + 40.0


# Fitted to the times of both methods for 60 layers and inputs, on one core of an AVX-512 server
# CPU, in units of one multiply-add at full rate (17 ps there): to put one value on the grid, to add
# one to the sums, to weigh one of them, to put one of R where it belongs; to gather one value of a
# patch, to begin a row of them, to keep and average one of R; to make a small call. Only their
# ratios matter, and those only near a tie.
FILL, ADD, WEIGH, SCATTER = 70.0, 190.0, 70.0, 120.0
GATHER, ROW, PLACE = 24.0, 470.0, 200.0
CALL = 2.2e5
# Measured on an H200: multiply-adds a second in float32 and on the tensor cores, seconds for a
# small call, and seconds to read and write a byte.
DEVICE_RATE, HALVES_RATE = 2.5e13, 3e14
DEVICE_CALL, DEVICE_MOVE = 1.5e-5, 6e-13
# Side of the tiles of a symmetric product: smaller ones save more of it, but run slower, on an
# accelerator by far.
TILE, DEVICE_TILE = 128, 512
# Tensor cores add the exact products of half precisions up in float32, and cut off what falls below
# its last digit. Over so many terms that stays below 1e-5 of the sum, and spans are added apart.
SPAN = 2048
HALVES = (torch.float16, torch.bfloat16)
# whether torch's products of halves can be had in float32
WIDER_OUTPUT = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 8)
# Of rows that are multiplied with all lags before the next.
BLOCK_BYTES = 2**20
# From this many channels on, R is put together block by block
LARGE = 32


@lru_cache(maxsize=256)
def plan(geometry: Geometry, size: tuple[int, ...], device: torch.device) -> Plan:
    """The plan for input (N, C, *size); its small tables are kept on the device."""
    stuffed = [(n - 1) * s + 1 for n, s in zip(size, geometry.spread, strict=True)]
    pads = list(geometry.pads)
    if geometry.padding_mode != "zeros":
        # what is not zero has to be stored
        stuffed = [n + sum(pad) for n, pad in zip(stuffed, pads, strict=True)]
        pads = [(0, 0)] * len(stuffed)
    axes = tuple(
        _Axis.of(geometry, i, n, *pad) for i, (n, pad) in enumerate(zip(stuffed, pads, strict=True))
    )
    taps = list(itertools.product(*(range(k) for k in geometry.kernel)))
    channels = geometry.in_channels // geometry.groups
    groups: dict[tuple[int, ...], list[tuple[int, int]]] = defaultdict(list)
    zero = (0,) * len(axes)
    for a, first in enumerate(taps):
        for b, second in enumerate(taps):
            lag = tuple(
                axis.first[j] - axis.first[i]
                for axis, i, j in zip(axes, first, second, strict=True)
            )
            # R is symmetric: half of the lags will do
            if lag > zero or (lag == zero and a <= b):
                groups[lag].append((a, b))
    return Plan(
        geometry=geometry,
        axes=axes,
        lags=tuple(_lag(axes, taps, lag, pairs, device) for lag, pairs in groups.items()),
        means=_lag(axes, taps, None, [(a, a) for a in range(len(taps))], device),
        taps=len(taps),
        phases=math.prod(len(axis.phases) for axis in axes),
        channels=channels,
    )


def _joint(axes: tuple[_Axis, ...], tap: tuple[int, ...]) -> int:
    """The joint phase of a tap, counted as the grid stores them."""
    index = 0
    for axis, i in zip(axes, tap, strict=True):
        index = index * len(axis.phases) + axis.phase_of[i]
    return index


def _lag(
    axes: tuple[_Axis, ...],
    taps: list[tuple[int, ...]],
    lag: tuple[int, ...] | None,
    pairs: list[tuple[int, int]],
    device: torch.device,
) -> _Lag:
    along: tuple[Any, ...] = (None,) * len(axes) if lag is None else lag
    borders, factors = [], []
    for i, (axis, step) in enumerate(zip(axes, along, strict=True)):
        left_out = {tap: axis.left_out(tap, step) for tap in {taps[a][i] for a, _ in pairs}}
        cells = tuple(sorted(set().union(*left_out.values())))
        borders.append(cells)
        factors.append(
            {tap: [1.0, *(-1.0 * (q in out) for q in cells)] for tap, out in left_out.items()}
        )

    by_phase = defaultdict(list)
    for a, b in pairs:
        by_phase[_joint(axes, taps[a]), _joint(axes, taps[b])].append((a, b))
    left, right = ({phases[i] for phases in by_phase} for i in (0, 1))
    table = []
    for (fa, fb), some in by_phase.items():
        rows = [
            [
                math.prod(state)
                for state in itertools.product(
                    *(f[i] for f, i in zip(factors, taps[a], strict=True))
                )
            ]
            for a, _ in some
        ]
        weights = torch.tensor(rows, dtype=torch.float64, device=device)
        first, second = (torch.tensor([pair[i] for pair in some], device=device) for i in (0, 1))
        table.append((fa, fb, first, second, weights))
    return _Lag(
        lag=lag,
        borders=tuple(borders),
        left=(min(left), max(left) + 1),
        right=(min(right), max(right) + 1),
        pairs=tuple(table),
    )


class LagSums:
    """Sums of lag products over images of one size, in float64."""

    def __init__(self, plan: Plan, *, bias: bool, device: torch.device) -> None:
        self.plan = plan
        self.images = 0
        groups, c = plan.geometry.groups, plan.channels

        def zeros(lag: _Lag, *shape: int) -> torch.Tensor:
            return torch.zeros((groups, *lag.states, *shape), dtype=torch.float64, device=device)

        self.products = [
            zeros(lag, *(c * (end - begin) for begin, end in (lag.left, lag.right)))
            for lag in plan.lags
        ]
        self.means = zeros(plan.means, plan.width) if bias else None

    def add(self, x: torch.Tensor, chunk: int, dtype: torch.dtype) -> None:
        """Add images (N, C, *size), a chunk at a time; products in dtype."""
        self.images += len(x)
        plan = self.plan
        groups = plan.geometry.groups
        shape = (min(chunk, len(x)), *plan.grid, plan.phases, plan.channels)
        # a group's rows together, so that its pixels are a matrix
        grid = x.new_zeros((groups, *shape), dtype=dtype)
        for begin in range(0, len(x), shape[0]):
            images = x[begin : begin + shape[0]]
            if plan.geometry.padding_mode == "zeros":
                images = plan.geometry.stuffed(images)
            else:
                images = plan.geometry.padded(images)
            some = grid[:, : len(images)]
            self._fill(some, images)
            cells = some.flatten(-2)
            self._whole(cells.flatten(1, -2))
            strips: Strips = {}
            for lag, total in zip(plan.lags, self.products, strict=True):
                self._borders(cells, strips, lag, total)
            if self.means is not None:
                self._means(cells, strips, self.means)

    def _fill(self, grid: torch.Tensor, images: torch.Tensor) -> None:
        axes = self.plan.axes
        images = images.unflatten(1, (self.plan.geometry.groups, -1))
        images = images.permute(1, 0, *range(3, images.ndim), 2)
        every = itertools.product(*(range(len(axis.phases)) for axis in axes))
        for joint, phases in enumerate(every):
            places = [axis.fill(phase) for axis, phase in zip(axes, phases, strict=True)]
            here: tuple[Any, ...] = (
                slice(None),
                slice(None),
                *(there for _, there in places),
                joint,
            )
            source: tuple[Any, ...] = (slice(None), slice(None), *(data for data, _ in places))
            grid[here] = images[source]

    def _whole(self, rows: torch.Tensor) -> None:
        """Every lag over all places, rows (groups, T, width)."""
        T, c = rows.shape[1], self.plan.channels
        span = T
        if rows.device.type == "cpu":
            # a block of rows stays in cache until every lag has met it
            span = max(BLOCK_BYTES // (rows.shape[2] * rows.itemsize), 16 * c)
        for begin in range(0, T, span):
            for lag, total in zip(self.plan.lags, self.products, strict=True):
                offset = self._offset(lag, ())
                end = min(begin + span, T - offset)
                if end <= begin:
                    continue
                a = rows[:, begin:end, c * lag.left[0] : c * lag.left[1]]
                b = rows[:, begin + offset : end + offset, c * lag.right[0] : c * lag.right[1]]
                total[(slice(None), *(0 for _ in lag.states))] += product(a, b)  # type: ignore[index]

    def _offset(self, lag: _Lag, borders: tuple[int, ...]) -> int:
        """Rows from one end of the lag to the other, along the axes that are not held."""
        assert lag.lag is not None
        offset = 0
        for i, (step, size) in enumerate(zip(lag.lag, self.plan.grid, strict=True)):
            if i not in borders:
                offset = offset * size + step
        return offset

    def _borders(self, cells: torch.Tensor, strips: Strips, lag: _Lag, total: torch.Tensor) -> None:
        c = self.plan.channels
        left, right = (slice(c * begin, c * end) for begin, end in (lag.left, lag.right))
        for borders, here in _kinds(lag):
            a = _strips(cells, strips, lag, borders, 0)
            b = _strips(cells, strips, lag, borders, 1)
            offset = self._offset(lag, borders)
            kept = max(0, a.shape[1] - abs(offset))
            a = a[:, max(0, -offset) :, left][:, :kept]
            b = b[:, max(0, offset) :, right][:, :kept]
            total[here] += product(a, b).reshape(total[here].shape)

    def _means(self, cells: torch.Tensor, strips: Strips, total: torch.Tensor) -> None:
        whole: tuple[Any, ...] = (slice(None), *(0 for _ in self.plan.means.states))
        total[whole] += cells.flatten(1, -2).sum(1, dtype=summed_in(cells))
        for borders, here in _kinds(self.plan.means):
            sums = _strips(cells, strips, self.plan.means, borders, 0).sum(
                1, dtype=summed_in(cells)
            )
            total[here] += sums.reshape(total[here].shape)

    def patches(self, scale: float = 1.0) -> torch.Tensor:
        """The sums where they belong: (groups, L, L), channel by channel, bias last."""
        plan = self.plan
        groups, c, taps = plan.geometry.groups, plan.channels, plan.taps
        L = c * taps
        windows = []
        for lag, total in zip(plan.lags, self.products, strict=True):
            (l0, _), (r0, _) = lag.left, lag.right
            sums = total.flatten(1, -3)
            for fa, fb, a, b, weights in lag.pairs:
                rows, columns = (slice(c * i, c * (i + 1)) for i in (fa - l0, fb - r0))
                block = sums[..., rows, columns] * scale
                if not any(lag.lag or ()) and fa == fb:
                    # symmetric but for the last digit of the product
                    block = (block + block.mT) / 2
                if block.shape[1] == 1:
                    window = block[:, 0].expand(len(a), -1, -1, -1)
                else:
                    window = (weights @ block.flatten(2)).unflatten(2, (c, c)).transpose(0, 1)
                windows.append((a, b, window))
        R = self.products[0].new_empty((groups, L, L))
        by_tap = R.unflatten(2, (c, taps)).unflatten(1, (c, taps))
        if c < LARGE:
            # tap by tap first: there each block of R is a block of memory
            blocks = R.new_empty((taps, taps, groups, c, c))
            for a, b, window in windows:
                blocks[b, a] = window.mT
                blocks[a, b] = window
            by_tap.copy_(blocks.permute(2, 3, 0, 4, 1))
        else:
            # for large blocks one row of them at a time, which stays in cache
            source = {}
            for a, b, window in windows:
                for n, (i, j) in enumerate(zip(a.tolist(), b.tolist(), strict=True)):
                    source[j, i] = window[n].mT
                    source[i, j] = window[n]
            row = R.new_empty((taps, groups, c, c))
            for i in range(taps):
                for j in range(taps):
                    row[j] = source[i, j]
                by_tap[:, :, i] = row.permute(1, 2, 3, 0)
        if self.means is None:
            return R
        with_bias = R.new_empty((groups, L + 1, L + 1))
        with_bias[:, :L, :L] = R
        sums = self.means.flatten(1, -2) * scale
        for f, _, a, _, weights in plan.means.pairs:
            mean = weights @ sums[..., c * f : c * (f + 1)]
            with_bias[:, :L, -1].unflatten(1, (c, taps))[..., a] = mean.mT
            with_bias[:, -1, :L].unflatten(1, (c, taps))[..., a] = mean.mT
        with_bias[:, -1, -1] = self.images * plan.positions * scale
        return with_bias


def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Sums of a b' over rows, by group: (groups, T, p), (groups, T, q) -> (groups, p, q)."""
    if a.shape[2] == b.shape[2] == 1:
        # one dot product over all rows would round along the way
        return (a.to(summed_in(a)) * b).sum(1, keepdim=True)
    return times(a.mT, b)


def times(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(groups, p, T), (groups, T, q) -> (groups, p, q), in float32 if the factors have less."""
    single = a.shape[0] == 1
    if a.dtype not in HALVES:
        # a plain product costs less than a batch of one, and takes views as they are
        return (a[0] @ b[0])[None] if single else torch.bmm(a, b)
    # the last span takes what is left over
    spans = a.shape[2] // SPAN - 1 if single else 0
    if spans < 1:
        return _times_halves(a, b)
    # spans at a time, such that their products take no more memory than half of the factors
    some = max(1, spans * SPAN * (a.shape[1] + b.shape[2]) // (8 * a.shape[1] * b.shape[2]))
    total = _times_halves(a[:, :, spans * SPAN :], b[:, spans * SPAN :])
    for begin in range(0, spans, some):
        terms = slice(begin * SPAN, min(begin + some, spans) * SPAN)
        left = a[0, :, terms].unflatten(1, (-1, SPAN)).transpose(0, 1)
        total += _times_halves(left, b[0, terms].unflatten(0, (-1, SPAN))).sum(0)
    return total


def _times_halves(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """A batch of products in float32. The product of two halves has no more digits than that."""
    if a.is_cuda and WIDER_OUTPUT:
        return torch.bmm(a, b, out_dtype=torch.float32)
    return torch.bmm(a.float(), b.float())


def summed_in(x: torch.Tensor) -> torch.dtype:
    """The precision in which values of x are added up."""
    return torch.promote_types(x.dtype, torch.float32)


def gram(u: torch.Tensor, total: torch.Tensor | None) -> torch.Tensor:
    """Add u u' (groups, L, columns) to a float64 total, which is made if there is none.

    By tiles on and above the diagonal, which saves nearly half of the work for large L.
    """
    L = u.shape[1]
    tile = _tile(L, u.dtype, u.device)
    if tile >= L:
        square = times(u, u.mT)
        return square.to(torch.float64) if total is None else total.add_(square)
    first = total is None
    if total is None:
        total = u.new_empty((len(u), L, L), dtype=torch.float64)
    for i in range(0, L, tile):
        rows = slice(i, i + tile)
        strip = times(u[:, rows], u[:, i:].mT)
        if first:
            total[:, rows, i:] = strip
            total[:, i + tile :, rows] = strip[:, :, tile:].mT
        else:
            total[:, rows, i:] += strip
            total[:, i + tile :, rows] += strip[:, :, tile:].mT
    return total


def _tile(L: int, dtype: torch.dtype, device: torch.device) -> int:
    """Side of the tiles by which a symmetric product is made; L itself for none."""
    tile = TILE if device.type == "cpu" else DEVICE_TILE
    # on tensor cores the whole product costs less than the calls for its tiles
    whole = 2 * tile >= L or (dtype in HALVES and device.type != "cpu")
    return L if whole else tile


def mean(R: torch.Tensor, count: int, *, symmetric: bool = True) -> torch.Tensor:
    """R / count, exactly symmetric; overwrites R, unless it is small.

    A plain product u u' need not be symmetric to the last digit: it depends on the library. So
    entries (i, j), (j, i) are replaced by their mean: those of the tiles on the diagonal, where
    ``gram`` made both, or all of them if R need not be symmetric elsewhere.
    """
    L, half = R.shape[1], 0.5 / count
    if L <= 2 * TILE:
        return (R + R.mT).mul_(half)
    step = 2 * DEVICE_TILE
    if symmetric:
        R.mul_(1 / count)
        step, half = TILE, 0.5
    for i in range(0, L, step):
        rows, rest = slice(i, i + step), slice(i, i + step if symmetric else None)
        both = (R[:, rows, rest] + R[:, rest, rows].mT).mul_(half)
        R[:, rows, rest] = both
        if not symmetric:
            R[:, rest, rows] = both.mT
    return R


# Pixels with some axes held at border cells, by those axes and cells: (groups * cells, T, width).
# Lags that differ only along the other axes share them.
Strips: TypeAlias = dict[tuple[tuple[int, ...], tuple[tuple[int, ...], ...]], torch.Tensor]


def _kinds(lag: _Lag) -> list[tuple[tuple[int, ...], tuple[Any, ...]]]:
    """Sets of axes held at border cells, each with its place among the states."""
    axes = [i for i, states in enumerate(lag.states) if states > 1]
    kinds = []
    for size in range(1, len(axes) + 1):
        for borders in itertools.combinations(axes, size):
            here = [slice(1, None) if i in borders else 0 for i in range(len(lag.states))]
            kinds.append((borders, (slice(None), *here)))
    return kinds


def _held(lag: _Lag, borders: tuple[int, ...], end: int) -> tuple[tuple[int, ...], ...]:
    """The border cells of one end of the lag, along each axis that is held."""
    steps = lag.lag if end and lag.lag is not None else (0,) * len(lag.states)
    return tuple(tuple(q + steps[i] for q in lag.borders[i]) for i in borders)


def _strips(
    cells: torch.Tensor, known: Strips, lag: _Lag, borders: tuple[int, ...], end: int
) -> torch.Tensor:
    """One end of the lag, (groups * border cells, T, width); gutters as on the whole grid."""
    held = _held(lag, borders, end)
    if (borders, held) not in known:
        some = []
        for place in itertools.product(*held):
            index: list[Any] = [slice(None)] * (cells.ndim - 1)
            for i, q in zip(borders, place, strict=True):
                index[2 + i] = q
            some.append(cells[tuple(index)])
        known[borders, held] = torch.stack(some, dim=1).flatten(2, -2).flatten(0, 1)
    return known[borders, held]
