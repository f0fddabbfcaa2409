"""The one gate for tensors and layers; numbers go through the gate of ``adaptive``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias, get_args

import torch
from torch import nn

from adaptive.checks import count, flag, fraction, nonnegative, positive, shown
from adaptive.checks import seed as any_seed

__all__ = ["bias_flag", "count", "flag", "fraction", "nonnegative", "positive", "seed"]
__all__ += ["Layer", "batch", "below_one", "finite", "layer", "out_channels", "precision"]
__all__ += ["scalar_loss", "target_like"]


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
# the methods that say what a layer computes
METHODS = frozenset({"forward", "_conv_forward"})
PRECISIONS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def layer(name: str, value: Any) -> Layer:
    """A layer of torch.nn whose geometry is known and that computes what its class computes."""
    if type(value) in PLAIN and METHODS.isdisjoint(vars(value)):
        # neither lazy nor parametrized: those are classes of their own
        return value  # type: ignore[no-any-return]
    base = next((kind for kind in get_args(Layer) if isinstance(value, kind)), None)
    if base is None:
        raise TypeError(
            f"{name} must be a torch.nn.Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, "
            f"ConvTranspose3d or Linear; got {_class_name(value)}"
        )
    if any(nn.parameter.is_lazy(p) for p in value.parameters(recurse=False)):
        raise ValueError(
            f"{name} must know its shape; got a lazy layer that has seen no input yet: run it once"
        )
    changed = own_method(value, base, METHODS)
    if changed is not None:
        raise TypeError(
            f"{name} must compute what torch.nn.{base.__name__} computes; got "
            f"{_class_name(value)}, which has a {changed} of its own: pass a plain layer of the "
            f"same geometry and the input that its kernel really meets"
        )
    return value  # type: ignore[no-any-return]


def own_method(value: nn.Module, base: type, methods: Iterable[str]) -> str | None:
    """The first of these methods that a module does not share with its base class, if any.

    A parametrized layer is a subclass too, but shares them.
    """
    for method in sorted(methods):
        inherited = getattr(type(value), method, None) is getattr(base, method, None)
        # a wrapper may put its method on the instance
        if not inherited or method in vars(value):
            return method
    return None


def _class_name(value: Any) -> str:
    """The class of a value; with its module where torch.nn has a class of the same name."""
    kind = type(value)
    ambiguous = kind not in PLAIN and kind.__name__ in {plain.__name__ for plain in PLAIN}
    return f"{kind.__module__}.{kind.__name__}" if ambiguous else kind.__name__


def precision(name: str, value: Any) -> torch.dtype:
    """A floating-point dtype that torch can multiply in."""
    if not isinstance(value, torch.dtype) or value not in PRECISIONS:
        raise TypeError(
            f"{name} must be torch.float64, float32, float16, bfloat16 or None; got {shown(value)}"
        )
    return value


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
    dense(name, x)
    if x.ndim < 2 if axes is None else x.ndim != axes + 2:
        raise ValueError(f"{name} must be {LAYOUTS[axes]}; got shape {tuple(x.shape)}")
    if x.numel() == 0:
        raise ValueError(f"{name} must not be empty; got shape {tuple(x.shape)}")
    if look:
        finite(name, x)
    return x


def dense(name: str, x: torch.Tensor) -> None:
    """Refuse tensors without real numbers, or in a form that torch cannot slice and multiply."""
    if x.is_nested:
        raise TypeError(
            f"{name} must be one dense tensor; got a nested one: pad it, or pass its parts"
        )
    if x.layout is not torch.strided:
        raise TypeError(
            f"{name} must be a dense tensor; got layout {x.layout}: convert it with .to_dense()"
        )
    if not x.is_floating_point() or x.dtype not in PRECISIONS:
        raise TypeError(
            f"{name} must be a real floating-point tensor of 16 to 64 bits; got {x.dtype}: "
            f"convert it first, for example with .float()"
        )
    if x.is_meta:
        raise TypeError(f"{name} must hold values; got a meta tensor, which has a shape only")


def below_one(name: str, value: float) -> float:
    """A relative width: above 0 and below 1."""
    width: float = positive(name, value)
    if width >= 1:
        raise ValueError(f"{name} must be less than 1; got {value}")
    return width


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
        raise TypeError(f"bias must be True, False or None; got {shown(bias)}")
    if trained and bias and conv.bias is None:
        raise ValueError("bias must be False or None for a layer without a bias; got True")
    return bias


def seed(name: str, value: int) -> int:
    """A seed of the size that torch's generators take."""
    n = any_seed(name, value)
    if n >= 2**63:
        raise ValueError(f"{name} must be less than 2^63; got {shown(n)}")
    return n


def representable(name: str, value: float, dtype: torch.dtype) -> None:
    """Refuse a number that a floating-point type cannot hold."""
    largest = torch.finfo(dtype).max
    if value >= largest:
        raise ValueError(
            f"{name} must be a number that {dtype} holds, below {largest:.3g}; got {value:.3g}"
        )


def function(name: str, value: Any) -> Any:
    """Something that can be called."""
    if not callable(value):
        raise TypeError(f"{name} must be a function; got {shown(value)}")
    return value


def place(name: str, value: Any) -> torch.device:
    """A device that torch knows."""
    try:
        found = torch.device(value)
    except (TypeError, RuntimeError, ValueError, OverflowError):
        raise TypeError(
            f"{name} must be a device, such as 'cpu' or 'cuda:0'; got {shown(value)}"
        ) from None
    try:
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"{name} must be a device of this machine; got {found}: {reason}"
        ) from None
    if found.type == "meta":
        raise ValueError(f"{name} must be a device that holds values; got {found}")
    return found


def scalar_loss(loss_fn: Any, output: Any, *rest: Any) -> torch.Tensor:
    """``loss_fn(output, *rest)``, which must be a scalar tensor."""
    function("loss_fn", loss_fn)
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
