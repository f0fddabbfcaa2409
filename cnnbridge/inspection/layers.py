"""From what a reader summed up or kept to the record of one layer."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import torch

from adaptive.checks import Array
from cnnbridge.inspection.record import LayerInspection
from cnnbridge.inspection.watching import Watched
from cnnbridge.layers.geometry import Geometry
from cnnbridge.learning.sgd import SGD
from cnnbridge.statistics.reader import LayerReader

__all__ = ["layer_record"]

# modes shown from either end of the spectrum
MODES = 4
# a channel whose variance is below this part of its power is constant, up to rounding
CONSTANT = 1e-6
# steps of the power method for the first mode of half a sample
POWER_STEPS = 30


def layer_record(watched: Watched, sgd: SGD | None, *, modes: int = MODES) -> LayerInspection:
    """Decompose R of one layer, and look at what its input is like.

    Raises
    ------
    ValueError : its input was not finite.
    """
    begin = time.perf_counter()
    reader, layer = watched.reader, watched.layer
    assert reader is not None
    if not reader.finite:
        raise ValueError("its input holds NaN or inf")
    geometry, bias = reader.geometry, layer.bias is not None
    sides = min(geometry.taps + bias, reader.used)
    strongest = min(modes, (sides + 1) // 2)
    weakest = min(modes, sides - strongest)
    spectrum = reader.spectrum(bias=bias, strongest=strongest, weakest=weakest)
    first, first_bias = _pictures(spectrum.strongest, geometry, bias)
    last, last_bias = _pictures(spectrum.weakest, geometry, bias)
    mean, power = _per_tap(reader)
    total = float(power.sum())
    dead, constant, unseen = _quiet_channels(mean, power, geometry)
    return LayerInspection(
        name=watched.name,
        kind=watched.kind,
        in_channels=geometry.in_channels,
        out_channels=geometry.out_channels,
        groups=geometry.groups,
        kernel=geometry.kernel,
        stride=geometry.spread if geometry.kind == "transposed" else geometry.stride,
        bias=bias,
        taps=geometry.taps,
        calls=watched.calls,
        seen=reader.seen,
        patches=reader.used,
        exact=reader.exact,
        sgd=sgd,
        eigenvalues=spectrum.values,
        rounding=spectrum.rounding,
        strongest=first,
        weakest=last,
        strongest_bias=first_bias,
        weakest_bias=last_bias,
        largest_low=math.nan if reader.exact else _low_reading(reader, bias),
        mean_share=float((mean**2).sum()) / total if total else 0.0,
        dead_channels=dead,
        constant_channels=constant,
        unseen_taps=unseen,
        seconds=time.perf_counter() - begin,
    )


def _pictures(modes: Array, geometry: Geometry, bias: bool) -> tuple[Array, Array]:
    """Modes (groups, k, L) as (groups, k, channels, *kernel), with their entries for the bias."""
    taps = modes[..., : geometry.taps]
    shape = (*modes.shape[:2], geometry.in_channels // geometry.groups, *geometry.kernel)
    return taps.reshape(shape), modes[..., geometry.taps] if bias else modes[..., 0][..., :0]


def _per_tap(reader: LayerReader) -> tuple[Array, Array]:
    """Mean and mean square of each tap, (groups, L)."""
    if reader.sums:
        R = reader.R(bias=True)
        mean, power = R[:, :-1, -1], R.diagonal(dim1=1, dim2=2)[:, :-1]
    else:
        u = reader.patches()
        mean = u.mean(dim=-1, dtype=torch.float64)
        power = torch.linalg.vector_norm(u, dim=-1, dtype=torch.float64) ** 2 / u.shape[-1]
    return mean.cpu().numpy(), power.cpu().numpy()


def _quiet_channels(mean: Array, power: Array, geometry: Geometry) -> Any:
    """Dead and constant input channels, and taps that are zero in channels that are not."""
    shape = (geometry.in_channels, math.prod(geometry.kernel))
    mean, power = mean.reshape(shape), power.reshape(shape)
    dead = ~power.any(axis=1)
    # the tap of most power is the one that meets padding least, where a constant is constant
    rows, best = np.arange(len(power)), power.argmax(axis=1)
    variance = power[rows, best] - mean[rows, best] ** 2
    constant = ~dead & (variance <= CONSTANT * power[rows, best])
    unseen = int(np.count_nonzero(power[~dead] == 0))
    return _indices(dead), _indices(constant), unseen


def _indices(chosen: Any) -> tuple[int, ...]:
    return tuple(int(i) for i in np.flatnonzero(chosen))


def _low_reading(reader: LayerReader, bias: bool) -> float:
    """Power that one half of the sample has along the first mode of the other half.

    The two halves come from different images, so that the mode does not know the noise of the
    half that it is tried on: on average this is at most the largest eigenvalue.
    """
    u = reader.patches(bias=bias)
    half = u.shape[-1] // 2
    if not half:
        return math.nan
    one, other = u[..., :half], u[..., half:]
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(len(u), u.shape[1], 1, generator=generator).to(u)
    for _ in range(POWER_STEPS):
        v = one @ (one.mT @ v)
        v = v / v.norm(dim=1, keepdim=True).clamp(min=torch.finfo(v.dtype).tiny)
    return float(((v.mT @ other) ** 2).mean(dim=-1).max())
