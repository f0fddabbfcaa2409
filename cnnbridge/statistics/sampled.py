"""R of a layer's input from a random part of its images, with its standard error."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from adaptive.checks import choice
from cnnbridge import _checks
from cnnbridge._checks import Layer
from cnnbridge.layers.geometry import Geometry
from cnnbridge.layers.patches import check_input
from cnnbridge.statistics.autocorrelation import METHODS, Method, Moments, batches, summed


@dataclass(frozen=True, eq=False)
class SampledAutocorrelation:
    """R from some of the images, and how far it may be off.

    Attributes
    ----------
    R : float64, as ``patch_autocorrelation`` returns it.
    standard_error : of each entry of R, in the same shape.
    relative_error : root of the summed squares of the standard errors, over the Frobenius norm of
        R: the size of the error of the whole matrix to be expected.
    images, population : images used, and images there were; over all processes.
    seed : that the images were drawn with.
    assumption : what the standard error rests on.
    """

    R: torch.Tensor
    standard_error: torch.Tensor
    relative_error: float
    images: int
    population: int
    seed: int
    assumption: str = (
        "images drawn at random without replacement from each batch; positions within an image "
        "may be correlated in any way; it says nothing about images that x itself does not hold"
    )


@torch.no_grad()
def sampled_autocorrelation(
    x: torch.Tensor | Iterable[Any],
    conv: Layer,
    *,
    fraction: float,
    seed: int = 0,
    bias: bool = False,
    method: Method = "auto",
    dtype: torch.dtype | None = None,
    all_reduce: bool = True,
) -> SampledAutocorrelation:
    """R of a layer's input from a random part of its images, with its standard error.

    Whole images are drawn, since neighbouring patches are nearly alike. The draw of each batch (of
    each of 16 random parts, if x is a tensor) is split into random halves, and the standard error
    comes from the squared difference of the halves, entry by entry.

    Parameters
    ----------
    x, conv, bias, method, dtype, all_reduce : as in ``patch_autocorrelation``.
    fraction : of the images of each batch to draw, 0 < fraction <= 1, but two at least.
    seed : of the draw. In a process group each process draws on its own, by its rank.

    Returns
    -------
    SampledAutocorrelation. With fraction = 1, R is exact and its standard error zero.

    Raises
    ------
    TypeError, ValueError : as ``patch_autocorrelation``; fraction not in (0, 1].

    Notes
    -----
    Stratified sampling with random half-samples: Wolter, Introduction to Variance Estimation
    (2007), chapters 2 and 3.

    Examples
    --------
    >>> x = torch.randn(100, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> sampled = sampled_autocorrelation(x, torch.nn.Conv2d(2, 3, 3), fraction=0.3)
    >>> sampled.images, 0 < sampled.relative_error < 0.2
    (30, True)
    """
    geometry = Geometry.of(conv)
    part = _checks.positive("fraction", fraction)
    if part > 1:
        raise ValueError(f"fraction must be at most 1; got {fraction}")
    start = _checks.seed("seed", seed)
    bias = _checks.flag("bias", bias)
    if dtype is not None:
        dtype = _checks.precision("dtype", dtype)
    choice("method", method, METHODS)
    shared = (
        _checks.flag("all_reduce", all_reduce) and dist.is_available() and dist.is_initialized()
    )
    rank = dist.get_rank() if shared else 0
    generator = torch.Generator().manual_seed(start + 1_000_003 * rank)
    L = geometry.taps + int(bias)
    shape = (geometry.groups, L, L) if geometry.groups > 1 else (L, L)
    # R and its variance, weighted by positions
    sums: torch.Tensor | None = None
    weight, used, population = 0.0, 0, 0
    for name, batch in batches(x):
        batch = check_input(name, batch, geometry)
        size = geometry.output_size(*geometry.channels_first(batch).shape[2:])
        many = len(batch)
        drawn = min(many, max(2, round(part * many)))
        order = torch.randperm(many, generator=generator)[:drawn]
        pieces = min(16, drawn // 2) if isinstance(x, torch.Tensor) and drawn > 1 else 1
        for piece in order.tensor_split(pieces):
            # this piece represents its share of the batch's positions
            share = math.prod(size) * many * len(piece) / drawn
            halves = []
            for half in piece.tensor_split(2):
                if not len(half):
                    continue
                moments = Moments.zeros(geometry, bias=bias, device=batch.device)
                images = batch[half.to(batch.device)]
                moments.add(images, method=method, dtype=dtype)
                moments.check(name, images)
                halves.append((len(half) / len(piece), moments.mean()))
            if sums is None:
                sums = torch.zeros((2, *shape), dtype=torch.float64, device=batch.device)
            for w, mean in halves:
                sums[0] += share * w * mean.reshape(shape)
            if len(halves) == 2:
                (w1, one), (w2, other) = halves
                left = share**2 * (1 - drawn / many) * w1 * w2
                sums[1] += left * (one - other).reshape(shape) ** 2
            weight += share
        used, population = used + drawn, population + many
    if shared:
        sums = summed(torch.zeros((2, *shape), dtype=torch.float64) if sums is None else sums)
        counts = torch.tensor([weight, used, population], dtype=torch.float64)
        weight, used, population = summed(counts).tolist()
    if sums is None or not population:
        raise ValueError("x must hold at least one batch; got an empty iterable")
    R, error = sums[0] / weight, sums[1].sqrt() / weight
    return SampledAutocorrelation(
        R=R,
        standard_error=error,
        relative_error=float(error.norm() / R.norm()) if R.any() else 0.0,
        images=int(used),
        population=int(population),
        seed=start,
    )
