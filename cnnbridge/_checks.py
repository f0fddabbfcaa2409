"""The one gate for tensors and layers; numbers go through the gate of ``adaptive``."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from adaptive._checks import count, nonnegative, positive

__all__ = ["bias_flag", "conv_layer", "count", "images", "momentum", "nonnegative", "positive"]
__all__ += ["finite", "out_channels", "target_like"]


def conv_layer(name: str, conv: Any) -> nn.Conv2d:
    """An ``nn.Conv2d`` whose shape is known."""
    if not isinstance(conv, nn.Conv2d):
        raise TypeError(f"{name} must be a torch.nn.Conv2d; got {type(conv).__name__}")
    if torch.nn.parameter.is_lazy(conv.weight):
        raise ValueError(
            f"{name} must know its shape; got a lazy layer that has seen no input yet: run it once"
        )
    return conv


def images(name: str, x: Any) -> torch.Tensor:
    """A finite, non-empty floating-point tensor (N, C, H, W)."""
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"{name} must be a torch.Tensor; got {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(
            f"{name} must be a real floating-point tensor; got {x.dtype}: "
            f"convert it first, for example with .float()"
        )
    if x.ndim != 4:
        raise ValueError(
            f"{name} must be 4-D (images, channels, height, width); got shape {tuple(x.shape)}"
        )
    if x.numel() == 0:
        raise ValueError(f"{name} must not be empty; got shape {tuple(x.shape)}")
    finite(name, x)
    return x


def finite(name: str, x: torch.Tensor) -> None:
    """Refuse NaN and inf, naming the first one."""
    # a finite sum proves every entry finite; only a non-finite one needs the slow look
    if torch.isfinite(x.detach().sum()):
        return
    bad = ~torch.isfinite(x.detach())
    if bad.any():
        where = tuple(int(i) for i in bad.nonzero()[0])
        raise ValueError(f"{name} must be finite; got {float(x[where])} at index {where}")


def target_like(target: Any, shape: tuple[int, ...]) -> torch.Tensor:
    """A desired response of the shape of the layer's output."""
    d = images("target", target)
    if tuple(d.shape) != shape:
        raise ValueError(
            f"target must have the shape of the layer's output, {shape}; got {tuple(d.shape)}"
        )
    return d


def bias_flag(conv: nn.Conv2d, bias: bool | None, *, trained: bool = False) -> bool:
    """Whether the bias is a tap; by default if the layer has one. Training it needs one."""
    if bias is None:
        return conv.bias is not None
    if not isinstance(bias, bool):
        raise TypeError(f"bias must be True, False or None; got {bias!r}")
    if trained and bias and conv.bias is None:
        raise ValueError("bias must be False or None for a layer without a bias; got True")
    return bias


def momentum(value: float) -> float:
    """A heavy-ball coefficient, 0 <= beta < 1."""
    beta = nonnegative("momentum", value)
    if beta >= 1:
        raise ValueError(f"momentum must be less than 1; got {value}")
    return beta


def out_channels(value: int) -> int:
    """M, the number of output channels over which MSELoss averages."""
    return count("out_channels", value)
