"""A-priori bounds on the spectrum of R behind a normalization.

Ostrowski, Cauchy's interlacing, van der Sluis, and the trace: all follow from the congruence of
``cnnbridge.normalization.spectra`` and the layer's geometry.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike

from adaptive import checks as numbers
from adaptive.checks import Array
from cnnbridge import _checks
from cnnbridge._checks import Layer
from cnnbridge.layers.geometry import Geometry
from cnnbridge.layers.isolation import autograd
from cnnbridge.layers.patches import unfold_patches


def ostrowski_interval(eigenvalues: ArrayLike, gain: ArrayLike) -> tuple[Array, Array]:
    """Bounds on the eigenvalues of T A T', from A's eigenvalues and T's singular values.

    Parameters
    ----------
    eigenvalues : (L,) of a positive semidefinite A, ascending.
    gain : singular values of T in any number; for a diagonal T its entries, such as 1 / s of
        the channels.

    Returns
    -------
    (low, high), each (L,): lambda_i(A) min(gain)^2 <= lambda_i(T A T') <= lambda_i(A) max(gain)^2.

    Raises
    ------
    TypeError, ValueError : not finite floating-point numbers; eigenvalues not ascending.

    Notes
    -----
    Ostrowski 1959; Horn and Johnson, Matrix Analysis, theorem 4.5.9.

    Examples
    --------
    >>> low, high = ostrowski_interval([1.0, 4.0], gain=[0.5, 1.0])
    >>> low.tolist(), high.tolist()
    ([0.25, 1.0], [1.0, 4.0])
    """
    values = numbers.array("eigenvalues", eigenvalues, ndim=(1,))
    if (np.diff(values) < 0).any():
        raise ValueError(f"eigenvalues must be ascending; got {values}")
    squared = numbers.array("gain", gain, ndim=(1,)) ** 2
    # rounding may leave an eigenvalue below zero, where the ends change places
    ends = np.sort(np.stack([values * squared.min(), values * squared.max()]), axis=0)
    return ends[0], ends[1]


def interlacing_bounds(R: ArrayLike, channels: int) -> tuple[float, float, float]:
    """Bounds on the extreme eigenvalues of R from the channels' own spectra (Cauchy interlacing).

    With A_c the diagonal block of channel c: lambda_min(R) <= min_c lambda_min(A_c), and
    max_c lambda_max(A_c) <= lambda_max(R) <= sum_c lambda_max(A_c).

    Parameters
    ----------
    R : (L, L) symmetric, positive semidefinite, channel by channel.
    channels : number of blocks; divides L.

    Returns
    -------
    (highest possible lambda_min, lowest possible lambda_max, highest possible lambda_max).

    Raises
    ------
    TypeError, ValueError : R is not square and symmetric; channels does not divide L.

    Notes
    -----
    Horn and Johnson, Matrix Analysis, theorem 4.3.28; the ceiling holds for semidefinite R.

    Examples
    --------
    >>> interlacing_bounds([[1.0, 0.5], [0.5, 3.0]], channels=2)
    (1.0, 3.0, 4.0)
    """
    matrix = numbers.autocorrelation("R", R)
    count = _checks.count("channels", channels)
    if len(matrix) % count:
        raise ValueError(f"channels must divide the {len(matrix)} taps of R; got {channels}")
    size = len(matrix) // count
    blocks = [matrix[i : i + size, i : i + size] for i in range(0, len(matrix), size)]
    ends = np.linalg.eigvalsh(np.stack(blocks))[:, [0, -1]]
    return float(ends[:, 0].min()), float(ends[:, 1].max()), float(ends[:, 1].sum())


def pixel_weights(conv: Layer, *size: int) -> torch.Tensor:
    """The mean number of taps on each pixel of a channel, with exact borders and padding.

    Parameters
    ----------
    conv : any layer that ``unfold_patches`` takes; only its geometry is used.
    size : of its input, such as height and width; what lies between the first axis and the features
        of a linear layer.

    Returns
    -------
    Tensor of that size, float64: the mean number of taps on that pixel. tr(R) of a group is the sum
    over its channels and all pixels of pixel_weights * E[x^2]; the sum of all is the number of taps
    of a channel, k^2, less what falls on zero padding, or between the pixels of a transposed layer.

    Raises
    ------
    TypeError, ValueError : conv is no such layer, or the input too small for it.

    Examples
    --------
    >>> (pixel_weights(torch.nn.Conv2d(1, 1, (1, 2)), 1, 3) * 2).tolist()
    [[1.0, 2.0, 1.0]]
    """
    geometry = Geometry.of(conv)
    linear = geometry.kind == "linear"
    shape = (1, *size, geometry.in_channels) if linear else (1, geometry.in_channels, *size)
    # the derivative by a pixel counts the taps that copy it
    with autograd():
        ones = torch.ones(shape, dtype=torch.float64, requires_grad=True)
        patches = unfold_patches(ones, conv)
        (counts,) = torch.autograd.grad(patches.sum(), ones)
    return (counts[0, ..., 0] if linear else counts[0, 0]) / patches.shape[-1]


@dataclass(frozen=True)
class TraceCeiling:
    """Ceilings for tr(R) of a group behind full normalization, and so for lambda_max.

    Attributes
    ----------
    nominal : C k^2, the taps of one output, with C the channels of the group.
    uniform : the trace if every pixel of a channel has power 1: nominal, less what zero padding
        takes away, or the zeros between the pixels of a transposed layer.
    guaranteed : the ceiling whatever the data, which is reached when all the power sits on the
        pixels that most patches see. With stride 1 and padding "same", equal to nominal.
    """

    nominal: float
    uniform: float
    guaranteed: float


def trace_ceiling(conv: Layer, *size: int) -> TraceCeiling:
    """Ceiling of tr(R), and so of lambda_max, behind BatchNorm: no measurement needed.

    Each channel's power is at most 1 in the mean over pixels; patches weigh the pixels by
    ``pixel_weights``, which takes the same arguments. Without learned weight and bias.

    Raises
    ------
    TypeError, ValueError : as ``pixel_weights``.

    Examples
    --------
    >>> trace_ceiling(torch.nn.Conv2d(4, 8, 3, padding=1), 16, 16)
    TraceCeiling(nominal=36.0, uniform=33.0625, guaranteed=36.0)
    >>> round(trace_ceiling(torch.nn.Conv2d(4, 8, 3), 12, 12).guaranteed, 2)
    51.84
    """
    weights, geometry = pixel_weights(conv, *size), Geometry.of(conv)
    channels = geometry.in_channels // geometry.groups
    return TraceCeiling(
        nominal=float(geometry.taps),
        uniform=channels * float(weights.sum()),
        guaranteed=channels * weights.numel() * float(weights.max()),
    )


def van_der_sluis_factor(R: ArrayLike) -> float:
    """The factor by which the spread of R may exceed the smallest of any diagonal scaling.

    Parameters
    ----------
    R : (L, L) symmetric, positive definite.

    Returns
    -------
    L max_i R_ii / min_i R_ii: spread(R) <= factor * min over diagonal D of spread(D R D). It is
    L where all taps have equal power, as after BatchNorm, borders apart.

    Raises
    ------
    TypeError, ValueError : R is not square and symmetric; a tap without power.

    Notes
    -----
    van der Sluis 1969, theorem 4.1, for equal diagonal entries; scaling back to the given ones
    costs at most their ratio.

    Examples
    --------
    >>> van_der_sluis_factor([[1.0, 0.5], [0.5, 2.0]])
    4.0
    """
    matrix = numbers.autocorrelation("R", R)
    power = np.diag(matrix)
    if not power.min() > 0:
        raise ValueError(f"R must have positive diagonal entries; got {power.min()}")
    return float(len(matrix) * power.max() / power.min())
