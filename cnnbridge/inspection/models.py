"""Models as people have them, made ready to be looked at; and how a batch enters them."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from cnnbridge.layers.isolation import check_eager, same_random_state
from cnnbridge.learning.batch_loss import BatchLoss, Loss, as_batch, enter, tensors

__all__ = ["Pass", "batches_of", "built", "eager", "run_eagerly"]

QUANTIZED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized")


def eager(model: Any) -> tuple[nn.Module, tuple[str, ...]]:
    """The plain module inside a compiled or parallel one, and a sentence about each removal.

    Raises
    ------
    TypeError : no module, or a scripted or quantized one, which cannot be looked into.
    """
    notes = []
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module; got {type(model).__name__}")
    while True:
        if _is_compiled(model):
            model = model._orig_mod
            notes.append("The model is compiled; the eager original was read.")
        elif isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            notes.append(
                f"The model is inside {type(model).__name__}; its module was read, on one device."
            )
            model = model.module
        else:
            break
    inner = [m for m in model.modules() if _is_compiled(m) or m._compiled_call_impl is not None]
    if inner and not notes:
        notes.append("Parts of the model are compiled; their eager originals were read.")
    for name, module in model.named_modules():
        if type(module).__module__.startswith(QUANTIZED):
            raise TypeError(
                f"model must have floating-point weights; got the quantized layer {name!r}: pass "
                f"the model from before quantization"
            )
        if isinstance(module, torch.jit.ScriptModule):
            check_eager(model)
    return model, tuple(notes)


@contextmanager
def run_eagerly(model: nn.Module) -> Iterator[None]:
    """Inside, hooks on every module fire: nothing runs compiled, or by attention's fast path."""
    fast = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        if any(_is_compiled(m) or m._compiled_call_impl is not None for m in model.modules()):
            stack.enter_context(torch.compiler.set_stance("force_eager"))  # type: ignore[no-untyped-call]
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        torch.backends.mha.set_fastpath_enabled(False)
        yield


def built(model: nn.Module, batch: Any, run: Pass) -> tuple[nn.Module, tuple[str, ...]]:
    """The model; or, if it has lazy layers, a copy whose layers this batch gave their shape."""
    held = [*model.parameters(), *model.buffers()]
    if not any(nn.parameter.is_lazy(tensor) for tensor in held):
        return model, ()
    with same_random_state(), torch.no_grad():
        # no values yet, that a copy could take along from a graph
        model = copy.deepcopy(model)
        run(model, batch)
    return model, ("The model was lazy; a copy was read, whose first batch gave it its weights.",)


class Pass:
    """One forward pass of a model on a batch, with its loss if there is one.

    Parameters
    ----------
    loss : as in ``NetworkTask``. With None, dicts enter the model as keywords, and of a tuple all
        items but the last, which is taken to be the target; the loss is then the model's own, if
        it returns one.
    """

    def __init__(self, loss: Loss) -> None:
        self.loss = BatchLoss(loss)

    def __call__(self, model: nn.Module, batch: Any) -> float:
        """Run it, and return the loss, or NaN if there is none."""
        if self.loss.loss is not None:
            return float(self.loss(model, batch)[1])
        inputs = batch[:-1] if isinstance(batch, tuple) and len(batch) > 1 else batch
        output = enter(model, inputs)
        own = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
        return float(own) if isinstance(own, torch.Tensor) and own.numel() == 1 else math.nan

    def explained(self, model: nn.Module, batch: Any, index: int) -> float:
        """The same, with a failure of the model explained in one sentence.

        Raises
        ------
        ValueError : the model or the loss cannot take the batch.
        MemoryError : there is not enough memory for it.
        """
        try:
            return self(model, batch)
        except torch.OutOfMemoryError as error:
            raise MemoryError(
                f"the device has not enough memory for batch {index}: pass smaller batches"
            ) from error
        except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            shapes = ", ".join(str(tuple(t.shape)) for t in tensors(batch))
            raise ValueError(
                f"loader must give batches that model and loss take; batch {index}, of shapes "
                f"{shapes}, failed: {first}"
            ) from error


def batches_of(loader: Any) -> Iterator[Any]:
    """The batches of a loader one by one, each checked; a tuple or dict is one batch.

    Raises
    ------
    TypeError : it is no iterable of batches.
    ValueError : it is empty, or a batch has no rows, or NaN or inf.
    """
    if isinstance(loader, tuple | Mapping | torch.Tensor):
        loader = [loader]
    if not isinstance(loader, Iterable) or isinstance(loader, str):
        raise TypeError(
            f"loader must be an iterable of batches, or one batch; got {type(loader).__name__}"
        )
    empty = True
    for index, item in enumerate(loader):
        empty = False
        yield as_batch((item,) if isinstance(item, torch.Tensor) else item, f"loader[{index}]")
    if empty:
        raise ValueError("loader must give at least one batch; got none")


def _is_compiled(module: nn.Module) -> bool:
    # nothing can be compiled unless dynamo is loaded already, and loading it takes seconds
    dynamo = sys.modules.get("torch._dynamo.eval_frame")
    return dynamo is not None and isinstance(module, dynamo.OptimizedModule)
