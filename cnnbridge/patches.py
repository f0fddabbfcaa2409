"""Conv geometry to regressors: the patch under the kernel, as the layer itself sees it."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from cnnbridge import _checks


def taps_per_output(conv: nn.Conv2d, *, bias: bool = False) -> int:
    """L, the number of weights of one output channel: (C / groups) * kh * kw, one more with bias.

    Raises
    ------
    TypeError, ValueError : conv is not an ``nn.Conv2d`` with a known shape.

    Examples
    --------
    >>> taps_per_output(nn.Conv2d(4, 6, 3, groups=2), bias=True)
    19
    """
    conv = _checks.conv_layer("conv", conv)
    return conv.weight[0].numel() + int(bias)


def group_weights(conv: nn.Conv2d, *, bias: bool = False) -> torch.Tensor:
    """The weights by group: (groups, M / groups, L), taps in the order of ``unfold_patches``.

    Without bias it is a view of ``conv.weight``. With bias the last tap is ``conv.bias``, zero for
    a layer that has none.

    Raises
    ------
    TypeError, ValueError : conv is not an ``nn.Conv2d`` with a known shape.

    Examples
    --------
    >>> tuple(group_weights(nn.Conv2d(4, 6, 3, groups=2)).shape)
    (2, 3, 18)
    """
    conv = _checks.conv_layer("conv", conv)
    weights = conv.weight.reshape(conv.groups, conv.out_channels // conv.groups, -1)
    if not bias:
        return weights
    last = conv.bias if conv.bias is not None else conv.weight.new_zeros(conv.out_channels)
    return torch.cat([weights, last.reshape(*weights.shape[:2], 1)], dim=2)


def output_size(conv: nn.Conv2d, height: int, width: int) -> tuple[int, int]:
    """Height and width of the layer's output for an input of this size.

    Raises
    ------
    TypeError, ValueError : conv is not an ``nn.Conv2d`` with a known shape, or the input is too
        small for its kernel or padding.

    Examples
    --------
    >>> output_size(nn.Conv2d(1, 1, 3, stride=2, padding=1), 9, 12)
    (5, 6)
    """
    conv = _checks.conv_layer("conv", conv)
    left, right, top, bottom = padding_amounts(conv)
    # torch refuses these too, but without naming the layer's setting
    room = {"reflect": 1, "circular": 0}.get(conv.padding_mode)
    if room is not None and (max(left, right) > width - room or max(top, bottom) > height - room):
        raise ValueError(
            f"x must be larger than the layer's {conv.padding_mode} padding, "
            f"{max(top, bottom)} by {max(left, right)}; got images of {height} by {width}"
        )
    spans = [d * (k - 1) + 1 for k, d in zip(conv.kernel_size, conv.dilation, strict=True)]
    sizes = [height + top + bottom - spans[0], width + left + right - spans[1]]
    if min(sizes) < 0:
        raise ValueError(
            f"x must be at least as large as the layer's kernel, {spans[0]} by {spans[1]} with "
            f"its dilation; got images of {height + top + bottom} by {width + left + right} "
            f"after padding"
        )
    return sizes[0] // conv.stride[0] + 1, sizes[1] // conv.stride[1] + 1


def unfold_patches(x: torch.Tensor, conv: nn.Conv2d, *, bias: bool = False) -> torch.Tensor:
    """The regressors of a conv layer: every patch that its kernel is laid on.

    Parameters
    ----------
    x : (N, C, H, W) real floating-point tensor, the layer's input.
    conv : any ``nn.Conv2d``. Its stride, dilation, padding (a number, "same" or "valid"), padding
        mode and groups are followed; its weights are not used.
    bias : append a constant tap, always 1, as the last.

    Returns
    -------
    (N, groups, L, positions) tensor in x's dtype and on x's device, L = (C / groups) * kh * kw
    (+ 1 with bias), taps ordered as ``conv.weight.reshape(M, L)``, positions row by row. The
    layer's output is ``group_weights(conv) @ unfold_patches(x, conv)`` plus its bias.
    Differentiable in x.

    Raises
    ------
    TypeError : conv is not an ``nn.Conv2d``, or x not a real floating-point tensor.
    ValueError : x is not 4-D, is empty, not finite, of another number of channels than the layer
        takes, or too small for its kernel or padding.

    Notes
    -----
    The definition of ``torch.nn.Conv2d`` read as a linear combiner.

    Examples
    --------
    >>> x = torch.arange(9.0).reshape(1, 1, 3, 3)
    >>> unfold_patches(x, nn.Conv2d(1, 1, 2))[0, 0, :, 0].tolist()
    [0.0, 1.0, 3.0, 4.0]
    """
    conv = _checks.conv_layer("conv", conv)
    x = check_input("x", x, conv)
    patches = windows(x, conv).reshape(x.shape[0], conv.groups, taps_per_output(conv), -1)
    if not bias:
        return patches
    return torch.cat([patches, torch.ones_like(patches[:, :, :1])], dim=2)


def check_input(name: str, x: torch.Tensor, conv: nn.Conv2d) -> torch.Tensor:
    """Refuse what the layer could not take."""
    x = _checks.images(name, x)
    if x.shape[1] != conv.in_channels:
        raise ValueError(
            f"{name} must have the layer's {conv.in_channels} input channels on axis 1; "
            f"got shape {tuple(x.shape)}"
        )
    output_size(conv, *x.shape[2:])
    return x


def windows(x: torch.Tensor, conv: nn.Conv2d) -> torch.Tensor:
    """A view (N, C, kh, kw, rows, columns) of the padded x: nothing but the padding is copied."""
    pads = padding_amounts(conv)
    if any(pads):
        mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
        x = F.pad(x, pads, mode=mode)
    for axis in (0, 1):
        span = conv.dilation[axis] * (conv.kernel_size[axis] - 1) + 1
        x = x.unfold(2 + axis, span, conv.stride[axis])
    return x[..., :: conv.dilation[0], :: conv.dilation[1]].permute(0, 1, 4, 5, 2, 3)


def padding_amounts(conv: nn.Conv2d) -> tuple[int, int, int, int]:
    """Padding at the left, right, top and bottom."""
    if conv.padding == "valid":
        return (0, 0, 0, 0)
    if conv.padding == "same":
        # an even kernel cannot be centred: torch puts the odd row and column at the far end
        total = [d * (k - 1) for k, d in zip(conv.kernel_size, conv.dilation, strict=True)]
        near = [t // 2 for t in total]
        return (near[1], total[1] - near[1], near[0], total[0] - near[0])
    vertical, horizontal = cast("tuple[int, int]", conv.padding)
    return (horizontal, horizontal, vertical, vertical)
