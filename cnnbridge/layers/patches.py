"""Patches: the input of a layer laid out as the regressors that its kernel meets."""

from __future__ import annotations

from operator import mul
from typing import Any

import torch
from torch.nn.grad import conv1d_weight, conv2d_weight, conv3d_weight

from cnnbridge import _checks
from cnnbridge._checks import Layer
from cnnbridge.layers.geometry import Geometry, every


def taps_per_output(conv: Layer, *, bias: bool = False) -> int:
    """L, the number of weights of one output channel: (C / groups) * taps, one more with bias.

    Raises
    ------
    TypeError, ValueError : as ``Geometry.of``; bias is not a flag.

    Examples
    --------
    >>> taps_per_output(torch.nn.Conv2d(4, 6, 3, groups=2), bias=True)
    19
    >>> taps_per_output(torch.nn.Linear(5, 2))
    5
    """
    return Geometry.of(conv).taps + _checks.flag("bias", bias)


def group_weights(conv: Layer, *, bias: bool = False) -> torch.Tensor:
    """The weights by group: (groups, M / groups, L), taps in the order of ``unfold_patches``.

    Without bias it is a view of ``conv.weight``, but for transposed layers: theirs, (C, M /
    groups, *kernel), is flipped along its spatial axes, which copies. With bias the last tap
    is ``conv.bias``, zero for a layer that has none.

    Raises
    ------
    TypeError, ValueError : as ``Geometry.of``.

    Examples
    --------
    >>> tuple(group_weights(torch.nn.Conv2d(4, 6, 3, groups=2)).shape)
    (2, 3, 18)
    """
    geometry = Geometry.of(conv)
    weight: torch.Tensor = conv.weight
    if not _checks.flag("bias", bias):
        return geometry.by_group(weight)
    last = conv.bias if conv.bias is not None else weight.new_zeros(geometry.out_channels)
    return geometry.by_group(weight, last)


def unfold_patches(x: torch.Tensor, conv: Layer, *, bias: bool = False) -> torch.Tensor:
    """The regressors of a layer: every patch that its kernel meets.

    Parameters
    ----------
    x : real floating-point tensor, the layer's input: (N, C, L), (N, C, H, W) or (N, C, D, H, W)
        for a convolution, (N, ..., features) for a linear layer.
    conv : any convolution, transposed convolution or linear layer of ``torch.nn``. Its stride,
        dilation, padding (a number, "same" or "valid"), padding mode and groups are followed; its
        weights are not used.
    bias : append a constant tap, always 1, as the last.

    Returns
    -------
    (N, groups, L, positions) tensor in x's dtype and on x's device, L = (C / groups) * taps of the
    kernel (+ 1 with bias), ordered by channel and then as the kernel (``conv.weight.reshape(M,
    L)``, but for the transposed layers: see ``group_weights``); positions row by row. The layer's
    output is ``group_weights(conv) @ unfold_patches(x, conv)`` plus its bias. Differentiable in x.

    Raises
    ------
    TypeError : conv is no such layer, or x not a real floating-point tensor.
    ValueError : x has the wrong number of axes, is empty, not finite, of another number of
        channels than the layer takes, or too small for its kernel or padding.

    Notes
    -----
    The definition of torch's layers read as a linear combiner; see ``Geometry``.

    Examples
    --------
    >>> x = torch.arange(9.0).reshape(1, 1, 3, 3)
    >>> unfold_patches(x, torch.nn.Conv2d(1, 1, 2))[0, 0, :, 0].tolist()
    [0.0, 1.0, 3.0, 4.0]
    """
    geometry = Geometry.of(conv)
    bias = _checks.flag("bias", bias)
    x = geometry.channels_first(check_input("x", x, geometry))
    patches = windows(x, geometry).reshape(x.shape[0], geometry.groups, geometry.taps, -1)
    if not bias:
        return patches
    return torch.cat([patches, torch.ones_like(patches[:, :, :1])], dim=2)


def check_input(name: str, x: Any, conv: Layer | Geometry, *, finite: bool = True) -> torch.Tensor:
    """Return x if the layer can take it, and otherwise say why not."""
    geometry = conv if isinstance(conv, Geometry) else Geometry.of(conv)
    linear = geometry.kind == "linear"
    x = _checks.batch(name, x, None if linear else len(geometry.kernel), look=finite)
    if linear and x.shape[-1] != geometry.in_channels:
        raise ValueError(
            f"{name} must have the layer's {geometry.in_channels} input features on its last "
            f"axis; got shape {tuple(x.shape)}"
        )
    if not linear and x.shape[1] != geometry.in_channels:
        raise ValueError(
            f"{name} must have the layer's {geometry.in_channels} input channels on axis 1; "
            f"got shape {tuple(x.shape)}"
        )
    geometry.output_shape(tuple(x.shape))
    return x


def windows(x: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """A view (N, C, *kernel, *positions) of the padded x (N, C, *size): only padding is copied."""
    x, axes = geometry.padded(x), len(geometry.kernel)
    for axis in range(axes):
        x = x.unfold(2 + axis, geometry.spans[axis], geometry.stride[axis])
    x = x[every(geometry.dilation)]
    return x.permute(0, 1, *range(2 + axes, 2 + 2 * axes), *range(2, 2 + axes))


def columns(x: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """``windows`` by group: (groups, C / groups, *kernel, N, *positions), in one step."""
    places = geometry.output_size(*x.shape[2:])
    x = geometry.padded(x)
    own = geometry.in_channels // geometry.groups
    image, channel, *pixel = x.stride()
    taps = map(mul, pixel, geometry.dilation)
    steps = map(mul, pixel, geometry.stride)
    return x.as_strided(
        (geometry.groups, own, *geometry.kernel, x.shape[0], *places),
        (own * channel, channel, *taps, image, *steps),
    )


def weight_gradient(
    x: torch.Tensor, d: torch.Tensor, geometry: Geometry, rows: int
) -> torch.Tensor:
    """Sum over images and positions of d u', in the shape of a convolution's weight, float64.

    It is what torch takes for the weight's gradient where d is that of the output; ``rows`` of the
    output at a time, since its routine may unfold them.
    """
    gradient: Any = (conv1d_weight, conv2d_weight, conv3d_weight)[len(geometry.kernel) - 1]
    shape = (d.shape[1], x.shape[1] // geometry.groups, *geometry.kernel)
    x, step, span = geometry.padded(x), geometry.stride[0], geometry.spans[0]
    total = x.new_zeros(shape, dtype=torch.float64)
    for top in range(0, d.shape[2], rows):
        part = d[:, :, top : top + rows]
        under = x[:, :, top * step : (top + part.shape[2] - 1) * step + span]
        total += gradient(
            under, shape, part, geometry.stride, 0, geometry.dilation, geometry.groups
        )
    return total
