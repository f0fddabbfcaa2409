"""The geometry of a layer: where its kernel meets the input."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from cnnbridge import _checks
from cnnbridge._checks import Layer


@dataclass(frozen=True)
class Geometry:
    """The positions of a layer's kernel: one description for every kind of layer.

    Each layer is read as one operation: put ``spread - 1`` zeros between neighbouring pixels, pad,
    and correlate with the kernel at every ``stride``-th place.

    * ``nn.Conv1d``, ``Conv2d``, ``Conv3d`` are that already, with spread 1.
    * ``nn.ConvTranspose1d``, ``2d``, ``3d``: the spread is the layer's stride, the stride is 1,
      the padding is ``dilation * (kernel_size - 1) - padding``, at the far end larger by
      ``output_padding``, and the kernel is the layer's, flipped along every axis. A negative
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
        """The geometry of a layer, whatever its weights are.

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
        """The convolution from a transposed layer's outputs to its inputs, with the same weight."""
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


# Geometry is asked for at every training step, so what follows from a layer's settings is cached.


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


def every(steps: tuple[int, ...]) -> tuple[Any, ...]:
    """Index that steps along the last axes by the given steps."""
    return (..., *(slice(None, None, step) for step in steps))


def _by(size: Any) -> str:
    return " by ".join(map(str, size))


def _of(size: Any) -> str:
    return f"images of {_by(size)}" if len(size) == 2 else f"a size of {_by(size)}"
