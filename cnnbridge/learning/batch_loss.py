"""How a model, its data and a loss meet: the one way in for every level."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import torch
from torch import nn

from adaptive.checks import items, shown
from cnnbridge import _checks

Batch: TypeAlias = tuple[Any, ...] | dict[str, Any]
# a tuple or dict is one batch; anything else is an iterable of batches
Data: TypeAlias = Batch | Iterable[Any]
# a torch loss, f(output, target), f(model, batch), or None where the model returns its own loss
Loss: TypeAlias = nn.Module | Callable[..., torch.Tensor] | None


class BatchLoss:
    """Runs a model on a batch and returns its outputs with the loss.

    Parameters
    ----------
    loss : how they meet.

        * A module or a function ``f(output, target)``: the last item of a batch is the target, and
          all before it enter the model in order; a dict as first item enters as keywords.
        * A function whose first parameter is called ``model``: ``f(model, batch)`` does as it
          likes.
        * None: the batch enters the model, which returns its own loss as ``output.loss`` or
          ``output["loss"]``.

    Raises
    ------
    TypeError : loss is none of these, or does not average or sum.
    """

    def __init__(self, loss: Loss) -> None:
        if loss is not None and not callable(loss):
            raise TypeError(
                f"loss must be a torch loss, a function of (output, target) or of (model, batch), "
                f"or None; got {shown(loss)}"
            )
        if getattr(loss, "reduction", "mean") not in ("mean", "sum"):
            raise TypeError(
                f"loss must be a torch loss with reduction 'mean' or 'sum', such as "
                f"nn.CrossEntropyLoss(); got {shown(loss)}"
            )
        self.loss = loss
        self.sums = getattr(loss, "reduction", "mean") == "sum"
        self.takes_model = not isinstance(loss, nn.Module) and _first_parameter(loss) == "model"

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[list[torch.Tensor], torch.Tensor]:
        """The outputs that can be differentiated, and the scalar loss made of them."""
        if self.loss is None:
            output = enter(model, batch)
            value = _own_loss(output)
        elif self.takes_model:
            seen: list[Any] = []
            handle = model.register_forward_hook(lambda module, args, out: seen.append(out))
            try:
                output, value = seen, self.loss(model, batch)
            finally:
                handle.remove()
        else:
            if not isinstance(batch, tuple) or len(batch) < 2:
                raise TypeError(
                    f"data must hold batches (input, ..., target) for a loss of (output, target); "
                    f"got {_described(batch)}: pass a function of (model, batch) instead"
                )
            output = enter(model, batch[:-1])
            value = self._of_output(output, batch[-1])
        if not isinstance(value, torch.Tensor) or value.numel() != 1:
            got = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
            raise TypeError(f"loss must return a scalar tensor; got {got}")
        outputs = [
            t
            for t in tensors(output)
            if t.is_floating_point() and t.ndim and t.requires_grad and t is not value
        ]
        return outputs, value

    def _of_output(self, output: Any, target: Any) -> torch.Tensor:
        assert self.loss is not None
        try:
            return self.loss(output, target)
        except (TypeError, AttributeError) as error:
            if isinstance(self.loss, nn.Module):
                raise
            raise TypeError(
                f"loss must take (output, target), or (model, batch) with a first parameter called "
                f"'model'; called with the output and target of the first batch it failed: {error}"
            ) from error


def listed(data: Any) -> list[Batch]:
    """The batches of ``data``, in its order: listed once, so that shuffling cannot change them.

    Raises
    ------
    TypeError : data is neither a batch nor an iterable of batches.
    ValueError : there is no batch, or one without rows or with NaN or inf.
    """
    if isinstance(data, tuple | dict):
        batches: list[Any] = [data]
    elif isinstance(data, Mapping):
        batches = [dict(data)]
    elif isinstance(data, Iterable) and not isinstance(data, torch.Tensor | str):
        batches = items("data", data, "batches")
    else:
        raise TypeError(
            f"data must be one batch, a tuple or dict, or an iterable of batches; "
            f"got {_described(data)}: write (x, y)"
        )
    if not batches:
        raise ValueError("data must give at least one batch; got none")
    return [as_batch(batch) for batch in batches]


def as_batch(batch: Any, name: str = "data") -> Batch:
    """One batch as a tuple or a dict, checked.

    Raises
    ------
    TypeError, ValueError : as ``listed``.
    """
    items = tuple(batch) if isinstance(batch, list) else batch
    if isinstance(items, Mapping):
        items = dict(items)
    if not isinstance(items, tuple | dict):
        raise TypeError(
            f"{name} must hold batches that are tuples or dicts; got {_described(items)}: "
            f"write one batch as a tuple, (x, y)"
        )
    _check(items, name)
    return items


def _check(batch: Batch, whole: str) -> None:
    sizes = []
    parts = batch.items() if isinstance(batch, dict) else enumerate(batch)
    for key, part in parts:
        name = f"{whole}[{key!r}]"
        if isinstance(batch, tuple) and not isinstance(part, torch.Tensor | Mapping | list | tuple):
            raise TypeError(f"{name} must be a torch.Tensor; got {type(part).__name__}")
        for t in tensors(part):
            if t.ndim and not len(t):
                raise ValueError(f"{name} must not be empty; got shape {tuple(t.shape)}")
            if t.is_floating_point():
                _checks.finite(name, t)
            if t.ndim:
                sizes.append(len(t))
    if not sizes:
        raise TypeError(f"{whole} must hold batches with tensors; got one without")
    if isinstance(batch, tuple) and len(batch) == 2 and sizes[0] != sizes[-1]:
        raise ValueError(
            f"{whole} must have one row of the target for each of the input, {sizes[0]}; "
            f"got {sizes[-1]}"
        )


def rows(batch: Batch) -> int:
    """Length of the first tensor with an axis: what the batch's loss is a mean over."""
    return next(len(t) for t in tensors(batch) if t.ndim)


def placed(value: Any, device: torch.device) -> Any:
    """The same batch on a device, detached, in tensors that autograd can keep."""
    if isinstance(value, torch.Tensor):
        return (value.clone() if value.is_inference() else value.detach()).to(device)
    if isinstance(value, dict):
        return {k: placed(v, device) for k, v in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(placed(v, device) for v in value))
    if isinstance(value, list | tuple):
        return type(value)(placed(v, device) for v in value)
    return value


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """Every tensor in nested tuples, lists, dicts and dataclasses."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from tensors(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from tensors(part)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from tensors(getattr(value, field.name))


def enter(model: nn.Module, inputs: Batch) -> Any:
    """Call the model: a tuple in order, a dict, alone or as the first item, as keywords."""
    if isinstance(inputs, dict):
        return model(**inputs)
    if inputs and isinstance(inputs[0], dict):
        return model(*inputs[1:], **inputs[0])
    return model(*inputs)


def _own_loss(output: Any) -> Any:
    if isinstance(output, torch.Tensor) and output.numel() == 1:
        return output
    if isinstance(output, Mapping) and "loss" in output:
        return output["loss"]
    if hasattr(output, "loss"):
        return output.loss
    raise TypeError(
        f"model must return its own loss, as output.loss or output['loss'], when loss is None; "
        f"got {_described(output)}"
    )


def _first_parameter(function: Any) -> str | None:
    if function is None:
        return None
    try:
        return next(iter(inspect.signature(function).parameters), None)
    except ValueError:
        return None  # built in


def _described(value: Any) -> str:
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    return f"a {type(value).__name__}"
