"""The one gate for tensors and layers; numbers go through the gate of ``adaptive``."""

from __future__ import annotations

from typing import Any, TypeAlias, get_args

import torch
from torch import nn

from adaptive.checks import count, fraction, nonnegative, positive, seed

__all__ = ["bias_flag", "count", "fraction", "nonnegative", "positive", "seed"]
__all__ += ["Layer", "batch", "finite", "layer", "out_channels", "scalar_loss", "target_like"]


Layer: TypeAlias = (
    nn.Conv1d
    | nn.Conv2d
    | nn.Conv3d
    | nn.ConvTranspose1d
    | nn.ConvTranspose2d
    | nn.ConvTranspose3d
    | nn.Linear
)
PLAIN = frozenset(get_args(Layer))


def layer(name: str, value: Any) -> Layer:
    """A layer of torch.nn whose geometry is known and that computes what its class computes."""
    if type(value) in PLAIN:
        # neither lazy nor parametrized: those are classes of their own
        return value  # type: ignore[no-any-return]
    base = next((kind for kind in get_args(Layer) if isinstance(value, kind)), None)
    if base is None:
        raise TypeError(
            f"{name} must be a torch.nn.Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, "
            f"ConvTranspose3d or Linear; got {type(value).__name__}"
        )
    if any(nn.parameter.is_lazy(p) for p in value.parameters(recurse=False)):
        raise ValueError(
            f"{name} must know its shape; got a lazy layer that has seen no input yet: run it once"
        )
    # a parametrized layer is a subclass too, but forward stays torch's
    for method in ("forward", "_conv_forward"):
        if getattr(type(value), method, None) is not getattr(base, method, None):
            raise TypeError(
                f"{name} must compute what torch.nn.{base.__name__} computes; got "
                f"{type(value).__name__}, which has a {method} of its own: pass a plain layer of "
                f"the same geometry and the input that its kernel really meets"
            )
    return value  # type: ignore[no-any-return]


LAYOUTS = {
    1: "3-D (sequences, channels, length)",
    2: "4-D (images, channels, height, width)",
    3: "5-D (volumes, channels, depth, height, width)",
    None: "at least 2-D (samples, ..., features)",
}


def batch(name: str, x: Any, axes: int | None, *, look: bool = True) -> torch.Tensor:
    """A non-empty floating-point tensor (N, C, *size), or (N, ..., C) with axes None.

    Finite too, unless ``look`` is False for a caller who will see that by itself.
    """
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"{name} must be a torch.Tensor; got {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(
            f"{name} must be a real floating-point tensor; got {x.dtype}: "
            f"convert it first, for example with .float()"
        )
    if x.ndim < 2 if axes is None else x.ndim != axes + 2:
        raise ValueError(f"{name} must be {LAYOUTS[axes]}; got shape {tuple(x.shape)}")
    if x.numel() == 0:
        raise ValueError(f"{name} must not be empty; got shape {tuple(x.shape)}")
    if look:
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
    d = batch("target", target, len(shape) - 2 if 3 <= len(shape) <= 5 else None)
    if tuple(d.shape) != shape:
        raise ValueError(
            f"target must have the shape of the layer's output, {shape}; got {tuple(d.shape)}"
        )
    return d


def bias_flag(conv: Layer, bias: bool | None, *, trained: bool = False) -> bool:
    """Whether the bias is a tap; by default if the layer has one. Training it needs one."""
    if bias is None:
        return conv.bias is not None
    if not isinstance(bias, bool):
        raise TypeError(f"bias must be True, False or None; got {bias!r}")
    if trained and bias and conv.bias is None:
        raise ValueError("bias must be False or None for a layer without a bias; got True")
    return bias


def scalar_loss(loss_fn: Any, output: Any, *rest: Any) -> torch.Tensor:
    """``loss_fn(output, *rest)``, which must be a scalar tensor."""
    try:
        loss = loss_fn(output, *rest)
    except (TypeError, AttributeError) as error:
        if isinstance(output, torch.Tensor):
            raise
        kind = type(output).__name__
        raise TypeError(
            f"loss_fn must take what the model returns; got {kind}, which it refuses ({error}): "
            f"pass a function that picks the tensor, such as lambda output, target: ..."
        ) from error
    if not isinstance(loss, torch.Tensor) or loss.ndim:
        got = tuple(loss.shape) if isinstance(loss, torch.Tensor) else type(loss).__name__
        raise ValueError(f"loss_fn must return a scalar tensor; got {got}")
    return loss


def out_channels(value: int) -> int:
    """M, the number of output channels over which MSELoss averages."""
    return count("out_channels", value)
