"""Record what passes through one layer of a model, and leave no trace."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from cnnbridge.layers.isolation import find_module, host_copy, unchanged


class Tape:
    """What ``capture`` recorded; made by it, filled by ``run`` and readable after the block.

    Attributes
    ----------
    layer : the layer itself.
    batch_sizes : images of each batch that ``run`` has put through.
    """

    def __init__(self, model: nn.Module, layer: nn.Module, layer_name: str) -> None:
        self.layer = layer
        self.batch_sizes: tuple[int, ...] = ()
        self._model = model
        self._name = layer_name
        self._active = True
        self._inputs: list[torch.Tensor] = []
        self._outputs: list[torch.Tensor] = []
        self._gradients: list[torch.Tensor] = []
        self._live: list[torch.Tensor] | None = None

    @property
    def inputs(self) -> torch.Tensor:
        """The layer's inputs, (images, ...), on the CPU, in the order in which they came."""
        return self._joined(self._inputs, "inputs")

    @property
    def outputs(self) -> torch.Tensor:
        """The layer's own outputs, (images, ...), on the CPU, row by row as ``inputs``."""
        return self._joined(self._outputs, "outputs")

    @property
    def output_gradients(self) -> torch.Tensor:
        """dloss/doutput, (images, ...), on the CPU, row by row as ``inputs``.

        In the units of the loss_fn given to ``run``, applied to one batch at a time. With
        reduction="mean" each row carries 1 / B of its image's own gradient, B the size of its
        batch (``batch_sizes``; the last may be smaller); with reduction="sum" all rows weigh alike.
        """
        if len(self._gradients) < len(self._inputs):
            raise RuntimeError(
                f"output gradients were recorded for {len(self._gradients)} of "
                f"{len(self._inputs)} passes: they need run with a loss_fn"
            )
        return self._joined(self._gradients, "output gradients")

    def run(
        self,
        loader: Iterable[Any],
        loss_fn: Callable[..., torch.Tensor] | None = None,
        *,
        device: str | torch.device | None = None,
    ) -> None:
        """Put every batch through the model, in its present train or eval mode.

        Parameters
        ----------
        loader : iterable of batches, tensors or tuples (input, target, ...). Later runs append.
        loss_fn : called as ``loss_fn(model_output, target, ...)`` with the rest of the batch, to
            return a scalar. Without it no gradients are recorded, and none computed.
        device : where the batches go; that of the model's parameters by default.

        Raises
        ------
        RuntimeError : outside the ``with`` block, or the model does not use the layer, or the
            loss does not depend on it.
        TypeError : a batch holds no tensor.
        ValueError : loader is empty, or the loss is not a scalar.
        """
        if not self._active:
            raise RuntimeError("run needs the capture block to be open; it has been left")
        if device is None:
            first = next(iter(self._model.parameters()), None)
            device = None if first is None else first.device
        empty = True
        for batch in loader:
            empty = False
            items = list(batch) if isinstance(batch, tuple | list) else [batch]
            if not items or not isinstance(items[0], torch.Tensor):
                got = type(items[0]).__name__ if items else "an empty batch"
                raise TypeError(
                    f"loader must give tensors, or tuples that start with one; got {got}"
                )
            items = [t.to(device) if isinstance(t, torch.Tensor) else t for t in items]
            seen = len(self._inputs)
            try:
                if loss_fn is None:
                    with torch.no_grad():
                        self._model(items[0])
                else:
                    self._backward(items, loss_fn)
            except BaseException:
                # a batch that failed half way leaves no rows behind, or they would not line up
                del self._inputs[seen:], self._outputs[seen:]
                raise
            if len(self._inputs) == seen:
                raise RuntimeError(f"layer {self._name!r} was not used in the model's forward pass")
            self.batch_sizes += (len(items[0]),)
        if empty:
            raise ValueError("loader must give at least one batch; got none")

    def _backward(self, items: list[Any], loss_fn: Callable[..., torch.Tensor]) -> None:
        self._live = []
        try:
            with torch.enable_grad():
                loss = loss_fn(self._model(items[0]), *items[1:])
                if not isinstance(loss, torch.Tensor) or loss.ndim:
                    got = tuple(loss.shape) if isinstance(loss, torch.Tensor) else type(loss)
                    raise ValueError(f"loss_fn must return a scalar tensor; got {got}")
                if not self._live:
                    return
                if not loss.requires_grad:
                    raise RuntimeError(f"the loss does not depend on layer {self._name!r}")
                # towards the layer's output only: no parameter's .grad is touched
                gradients = torch.autograd.grad(loss, self._live, allow_unused=True)
        finally:
            self._live = None
        if any(g is None for g in gradients):
            raise RuntimeError(f"the loss does not depend on layer {self._name!r}")
        self._gradients += [host_copy(g) for g in gradients]

    def _hook(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        entered = args[0] if args else kwargs.get("input")
        if not isinstance(entered, torch.Tensor) or not isinstance(output, torch.Tensor):
            raise TypeError(
                f"layer {self._name!r} must take and return a tensor; got "
                f"{type(entered).__name__} and {type(output).__name__}"
            )
        self._inputs.append(host_copy(entered))
        self._outputs.append(host_copy(output))
        if self._live is None:
            return None
        # a model frozen up to here still has a gradient to give from here on
        watched = output if output.requires_grad else output.detach().requires_grad_()
        self._live.append(watched)
        # downstream gets a copy: an in-place ReLU must not overwrite what we differentiate by
        return watched.clone()

    def _joined(self, parts: list[torch.Tensor], what: str) -> torch.Tensor:
        if not parts:
            raise RuntimeError(f"no {what} were recorded: call run(loader) or the model first")
        shapes = {tuple(p.shape[1:]) for p in parts}
        if len(shapes) > 1:
            raise RuntimeError(
                f"the {what} differ in shape and cannot be joined: {sorted(shapes)}; "
                f"capture images of one size at a time"
            )
        return torch.cat(parts)


@contextmanager
def capture(model: nn.Module, layer_name: str) -> Iterator[Tape]:
    """Record inputs, outputs and output gradients of one layer, leaving the model as it was.

    On leaving the block, by an exception too, the model has its former train and eval flags,
    buffers (BatchNorm's running statistics and ``num_batches_tracked`` among them), ``.grad`` and
    ``requires_grad`` of every parameter, and hooks; torch's random state is put back as well.
    Inside, call ``model.train()`` or ``model.eval()`` to choose the mode; that is undone too. The
    values of parameters are never written.

    Parameters
    ----------
    model : any module that runs in eager mode.
    layer_name : as in ``model.named_modules()``, such as "features.0"; usually a conv layer. A
        layer used more than once in a forward pass is recorded each time, in order.

    Yields
    ------
    Tape. ``tape.run(loader, loss_fn)`` fills it; direct calls of the model are recorded too, but
    without gradients. Everything is kept on the CPU, in the precision in which it was computed.

    Raises
    ------
    TypeError : model is not a module, or is compiled or scripted, where hooks are skipped.
    ValueError : the model has no such layer; the message lists its conv and linear layers.

    Notes
    -----
    The layer's update in a network is LMS with -dloss/doutput as error: what the tape holds is
    that layer's stream of regressors and errors.

    Examples
    --------
    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten())
    >>> loader = [(torch.randn(4, 1, 5, 5), torch.randn(4, 18)) for _ in range(3)]
    >>> with capture(model, "0") as tape:
    ...     tape.run(loader, nn.MSELoss())
    >>> tuple(tape.inputs.shape), tuple(tape.output_gradients.shape)
    ((12, 1, 5, 5), (12, 2, 3, 3))
    >>> int(model[1].num_batches_tracked)
    0
    """
    layer = find_module(model, layer_name)
    tape = Tape(model, layer, layer_name)
    with unchanged(model):
        # first in line, so that it sees what the layer itself returned
        handle = layer.register_forward_hook(tape._hook, prepend=True, with_kwargs=True)
        try:
            yield tape
        finally:
            handle.remove()
            tape._active = False
