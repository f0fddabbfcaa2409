"""Layer geometry to regressors: the patch under the kernel, as the layer itself sees it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from operator import mul
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.grad import conv1d_weight, conv2d_weight, conv3d_weight

from cnnbridge import _checks
from cnnbridge._checks import Layer


@dataclass(frozen=True)
class Geometry:
    """Where a layer lays its kernel: one description for every kind of layer.

    Each layer is read as one operation: put ``spread - 1`` zeros between neighbouring pixels, pad,
    and correlate with the kernel at every ``stride``-th place.

    * ``nn.Conv1d``, ``Conv2d``, ``Conv3d`` are that already, with spread 1.
    * ``nn.ConvTranspose1d``, ``2d``, ``3d``: the spread is the layer's stride, the stride is 1,
      the padding is ``dilation * (kernel_size - 1) - padding``, at the far end larger by
      ``output_padding``, and the kernel is the layer's, turned round along every axis. A negative
      padding cuts off. (The layer as called without ``output_size``.)
    * ``nn.Linear`` is a convolution with a kernel of one along the axes between first and last.

    Attributes
    ----------
    kind : "conv", "transposed" or "linear".
    in_channels, out_channels, groups : as in torch; the features of a linear layer, and 1.
    kernel, stride, dilation, spread : one number for each spatial axis.
    pads : (near, far) for each spatial axis.
    padding_mode : "zeros", "reflect", "replicate" or "circular".

    Examples
    --------
    >>> Geometry.of(nn.ConvTranspose2d(2, 3, 4, stride=2, padding=1)).pads
    ((2, 2), (2, 2))
    """

    kind: str
    in_channels: int
    out_channels: int
    groups: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    spread: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    padding_mode: str

    @classmethod
    def of(cls, layer: Layer) -> Geometry:
        """The geometry of a layer; its weights are not looked at.

        Raises
        ------
        TypeError : not a convolution, transposed convolution or linear layer of ``torch.nn``, or a
            subclass that computes something else.
        ValueError : a lazy layer that has seen no input yet.
        """
        layer = _checks.layer("conv", layer)
        if isinstance(layer, nn.Linear):
            return _of_linear(layer.in_features, layer.out_features)
        padding = layer.padding if isinstance(layer.padding, str) else tuple(layer.padding)
        return _of_convolution(
            layer.transposed,
            (layer.in_channels, layer.out_channels, layer.groups),
            tuple(layer.kernel_size),
            tuple(layer.stride),
            tuple(layer.dilation),
            padding,
            tuple(layer.output_padding),
            layer.padding_mode,
        )

    @cached_property
    def taps(self) -> int:
        """L, the number of weights of one output channel, without its bias."""
        return self.in_channels // self.groups * math.prod(self.kernel)

    @cached_property
    def spans(self) -> tuple[int, ...]:
        """Extent of the kernel along each axis, with its dilation."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    @property
    def way_back(self) -> Geometry:
        """Of a transposed layer: the convolution from its outputs to its inputs, same weight."""
        pads = tuple(
            (span - 1 - near, span - 1 - far)
            for span, (near, far) in zip(self.spans, self.pads, strict=True)
        )
        channels = (self.out_channels, self.in_channels, self.groups)
        steps = (self.kernel, self.spread, self.dilation, self.stride)
        return Geometry("conv", *channels, *steps, pads, "zeros")

    def output_size(self, *size: int) -> tuple[int, ...]:
        """Spatial size of the layer's output for an input of this size; see ``output_size``."""
        return _output_size(self, size)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the layer's output for an input of this shape."""
        if self.kind == "linear":
            return (*shape[:-1], self.out_channels)
        return (shape[0], self.out_channels, *self.output_size(*shape[2:]))

    def channels_first(self, x: torch.Tensor) -> torch.Tensor:
        """A view (N, channels, *places) of an input or output; a linear layer's axes in a row."""
        if self.kind != "linear":
            return x
        return x.reshape(x.shape[0], -1, x.shape[-1]).transpose(1, 2)

    def by_group(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """``group_weights`` of any tensors of the shapes of a layer's weight and bias."""
        if self.kind == "transposed":
            turned = weight.flip(list(range(2, weight.ndim)))
            weights = turned.unflatten(0, (self.groups, -1)).transpose(1, 2).flatten(2)
        else:
            weights = weight.reshape(self.groups, -1, self.taps)
        if bias is None:
            return weights
        return torch.cat([weights, bias.reshape(*weights.shape[:2], 1)], dim=2)

    def stuffed(self, x: torch.Tensor) -> torch.Tensor:
        """x (N, C, *size) with the zeros between its pixels."""
        if max(self.spread) == 1:
            return x
        size = [(n - 1) * s + 1 for n, s in zip(x.shape[2:], self.spread, strict=True)]
        wide = x.new_zeros((*x.shape[:2], *size))
        wide[every(self.spread)] = x
        return wide

    def padded(self, x: torch.Tensor) -> torch.Tensor:
        """x (N, C, *size) with zeros between and padding around, where the layer has them."""
        x = self.stuffed(x)
        if not self._padding:
            return x
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        return F.pad(x, self._padding, mode=mode)

    @cached_property
    def _padding(self) -> list[int]:
        # torch counts axes from the last
        pads = [p for pad in reversed(self.pads) for p in pad]
        return pads if any(pads) else []


# Layers are looked at again and again, in a training loop at every step: their settings are read
# each time, what follows from those is kept.


@lru_cache(maxsize=1024)
def _of_linear(inputs: int, outputs: int) -> Geometry:
    return Geometry("linear", inputs, outputs, 1, (1,), (1,), (1,), (1,), ((0, 0),), "zeros")


@lru_cache(maxsize=1024)
def _of_convolution(
    transposed: bool,
    channels: tuple[int, int, int],
    kernel: tuple[int, ...],
    step: tuple[int, ...],
    dilation: tuple[int, ...],
    padding: str | tuple[int, ...],
    output_padding: tuple[int, ...],
    padding_mode: str,
) -> Geometry:
    """From a layer's own settings; channels are those in, those out, and groups."""
    ones = (1,) * len(kernel)
    # an even kernel cannot be centred: torch puts the odd row and column at the far end
    reach = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    if padding == "valid":
        pads = tuple((0, 0) for _ in kernel)
    elif padding == "same":
        pads = tuple((r // 2, r - r // 2) for r in reach)
    else:
        pads = tuple((p, p) for p in cast("tuple[int, ...]", padding))
    kind, stride, spread = "conv", step, ones
    if transposed:
        kind, stride, spread = "transposed", ones, step
        pads = tuple(
            (r - p, r - p + extra)
            for r, (p, _), extra in zip(reach, pads, output_padding, strict=True)
        )
    return Geometry(kind, *channels, kernel, stride, dilation, spread, pads, padding_mode)


@lru_cache(maxsize=4096)
def _output_size(geometry: Geometry, size: tuple[int, ...]) -> tuple[int, ...]:
    if geometry.kind == "linear":
        return size
    if len(size) != len(geometry.kernel):
        raise ValueError(
            f"size must have one number for each of the layer's {len(geometry.kernel)} spatial "
            f"axes; got {size}"
        )
    # torch refuses these too, but without naming the layer's setting
    room = {"reflect": 1, "circular": 0}.get(geometry.padding_mode)
    most = [max(pad) for pad in geometry.pads]
    if room is not None and any(p > n - room for p, n in zip(most, size, strict=True)):
        raise ValueError(
            f"x must be larger than the layer's {geometry.padding_mode} padding, {_by(most)}; "
            f"got {_of(size)}"
        )
    padded = [
        (n - 1) * s + 1 + sum(pad)
        for n, s, pad in zip(size, geometry.spread, geometry.pads, strict=True)
    ]
    if any(n < span for n, span in zip(padded, geometry.spans, strict=True)):
        raise ValueError(
            f"x must be at least as large as the layer's kernel, {_by(geometry.spans)} with its "
            f"dilation; got {_of(padded)} after padding"
        )
    return tuple(
        (n - span) // s + 1
        for n, span, s in zip(padded, geometry.spans, geometry.stride, strict=True)
    )


def taps_per_output(conv: Layer, *, bias: bool = False) -> int:
    """L, the number of weights of one output channel: (C / groups) * taps, one more with bias.

    Raises
    ------
    TypeError, ValueError : as ``Geometry.of``.

    Examples
    --------
    >>> taps_per_output(nn.Conv2d(4, 6, 3, groups=2), bias=True)
    19
    >>> taps_per_output(nn.Linear(5, 2))
    5
    """
    return Geometry.of(conv).taps + int(bias)


def group_weights(conv: Layer, *, bias: bool = False) -> torch.Tensor:
    """The weights by group: (groups, M / groups, L), taps in the order of ``unfold_patches``.

    Without bias it is a view of ``conv.weight``, but for transposed layers: theirs, (C, M /
    groups, *kernel), is turned round along its spatial axes, which copies. With bias the last tap
    is ``conv.bias``, zero for a layer that has none.

    Raises
    ------
    TypeError, ValueError : as ``Geometry.of``.

    Examples
    --------
    >>> tuple(group_weights(nn.Conv2d(4, 6, 3, groups=2)).shape)
    (2, 3, 18)
    """
    geometry = Geometry.of(conv)
    weight: torch.Tensor = conv.weight
    if not bias:
        return geometry.by_group(weight)
    last = conv.bias if conv.bias is not None else weight.new_zeros(geometry.out_channels)
    return geometry.by_group(weight, last)


def output_size(conv: Layer, *size: int) -> tuple[int, ...]:
    """Spatial size of the layer's output for an input of this size, such as height and width.

    A linear layer keeps whatever axes it is given.

    Raises
    ------
    TypeError, ValueError : as ``Geometry.of``; ValueError also if the input is too small for the
        layer's kernel or padding, or of another number of axes.

    Examples
    --------
    >>> output_size(nn.Conv2d(1, 1, 3, stride=2, padding=1), 9, 12)
    (5, 6)
    """
    return Geometry.of(conv).output_size(*size)


def unfold_patches(x: torch.Tensor, conv: Layer, *, bias: bool = False) -> torch.Tensor:
    """The regressors of a layer: every patch that its kernel is laid on.

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
    >>> unfold_patches(x, nn.Conv2d(1, 1, 2))[0, 0, :, 0].tolist()
    [0.0, 1.0, 3.0, 4.0]
    """
    geometry = Geometry.of(conv)
    x = geometry.channels_first(check_input("x", x, geometry))
    patches = windows(x, geometry).reshape(x.shape[0], geometry.groups, geometry.taps, -1)
    if not bias:
        return patches
    return torch.cat([patches, torch.ones_like(patches[:, :, :1])], dim=2)


def check_input(name: str, x: Any, conv: Layer | Geometry, *, finite: bool = True) -> torch.Tensor:
    """Refuse what the layer could not take."""
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
    """The same by group: (groups, C / groups, *kernel, N, *positions), in one step."""
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


def every(steps: tuple[int, ...]) -> tuple[Any, ...]:
    """Index of every so-manyth place along the last axes."""
    return (..., *(slice(None, None, step) for step in steps))


def _by(size: Any) -> str:
    return " by ".join(map(str, size))


def _of(size: Any) -> str:
    return f"images of {_by(size)}" if len(size) == 2 else f"a size of {_by(size)}"
