"""Record what passes through one layer of a model, and leave no trace."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from cnnbridge._checks import scalar_loss
from cnnbridge.layers.isolation import (
    Watch,
    autograd,
    differentiable,
    find_module,
    host_copy,
    unchanged,
)


class Tape:
    """The recording of one layer: made by ``capture``, filled by ``run``, readable afterwards.

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
        self._without_gradient = 0
        self._recording = True

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
        RuntimeError : outside the ``with`` block, or the layer was not called, or no gradient of
            the loss reaches it.
        TypeError : a batch holds no tensor; loss_fn cannot take what the model returns.
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
                    with autograd():
                        self._backward([differentiable(item) for item in items], loss_fn)
                if len(self._inputs) == seen:
                    raise RuntimeError(
                        f"layer {self._name!r} was not called in the model's forward pass: it is "
                        f"unused, or a module such as attention reads its weight without calling it"
                    )
            except BaseException:
                # drop the rows of a batch that failed half way, or later ones would not line up
                del self._inputs[seen:], self._outputs[seen:]
                raise
            self.batch_sizes += (len(items[0]),)
        if empty:
            raise ValueError("loader must give at least one batch; got none")

    def _backward(self, items: list[Any], loss_fn: Callable[..., torch.Tensor]) -> None:
        self._live, self._without_gradient = [], 0
        try:
            loss = scalar_loss(loss_fn, self._model(items[0]), *items[1:])
            live = self._live
        finally:
            # checkpointed layers run again in the backward pass, and must not be recorded again
            self._live = None
        if not live:
            return
        gradients: tuple[torch.Tensor | None, ...] = (None,) * len(live)
        if loss.requires_grad:
            self._recording = False
            try:
                # towards the layer's output only: no parameter's .grad is touched
                gradients = torch.autograd.grad(loss, live, allow_unused=True)
            finally:
                self._recording = True
        if all(g is None for g in gradients):
            if self._without_gradient == len(live):
                raise RuntimeError(
                    f"layer {self._name!r} was called without gradients only, as under no_grad or "
                    f"in a checkpoint with use_reentrant=True: use_reentrant=False works"
                )
            raise RuntimeError(f"the loss does not depend on layer {self._name!r}")
        # a use that the loss does not depend on, or that was made under no_grad, has gradient zero
        self._gradients += [
            host_copy(torch.zeros_like(z) if g is None else g)
            for z, g in zip(live, gradients, strict=True)
        ]

    def _see(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        if module is not self.layer:
            raise TypeError(
                f"layer {self._name!r} must be called itself; got a replica of it: pass the model "
                f"inside DataParallel, its .module"
            )
        if not self._recording:
            # checkpointing needs the same graph as in the forward pass
            return output.clone() if torch.is_grad_enabled() else None
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
        self._without_gradient += not torch.is_grad_enabled()
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

    On leaving the block, by an exception too, the model is the one that entered it, bit for bit:
    parameters, buffers (BatchNorm's running statistics among them), ``.grad``, ``requires_grad``,
    train and eval flags and other attributes of its modules, and hooks. The random state of torch,
    NumPy and Python is put back as well. Inside, call ``model.train()`` or ``model.eval()`` to
    choose the mode; that is undone too. A deep copy or a saved file of the model records nothing.
    The block holds a copy of all parameters and buffers.

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
    ValueError : the model has no such layer (the message lists its conv and linear layers), or has
        a lazy layer that has seen no input yet.

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
        handle = Watch(layer, tape._see).after()
        try:
            yield tape
        finally:
            handle.remove()
            tape._active = False
