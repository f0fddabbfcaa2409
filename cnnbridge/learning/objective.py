"""The full-batch loss of a network as a function of one flat vector, with its curvature.

What levels 2 to 4, the audit and the sharpness share. Everything works on a copy of the model.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils import checkpoint

from adaptive.checks import Array
from cnnbridge.layers.isolation import (
    autograd,
    detached_copy,
    find_module,
    own_precision,
    unchanged,
)
from cnnbridge.learning.batch_loss import Batch, BatchLoss, Data, Loss, listed, placed, rows
from cnnbridge.learning.paths import Product

# the product of a curvature with one tensor for each parameter; None counts as zero
ByParameter = Callable[[Sequence[torch.Tensor]], Sequence[torch.Tensor | None]]


class Objective:
    """The loss of a copy of the model over its data, by the parameters of a layer or by all.

    Vectors are flat, in the order of ``names``, float64 on the device of the parameters; the
    network computes in its own precision. The loss over several batches is their mean, weighted
    by rows, or their sum for a loss that sums.

    Parameters
    ----------
    model : any module in eager mode. It is copied, and not changed.
    data, loss : as in ``NetworkTask``.
    layer : whose parameters learn; None for all that require gradients.

    Attributes
    ----------
    model, batches : the copy, and its data on its device.
    batch_weights : of each batch in the loss.
    layer, names : what learns.
    parameters : of the copy, those that learn; ``others`` by name, the rest.
    start : (P,) present parameters.
    """

    def __init__(self, model: nn.Module, data: Data, loss: Loss, layer: str | None = None) -> None:
        find_module(model, "" if layer is None else layer)
        self.batch_loss = BatchLoss(loss)
        batches = listed(data)
        # the caller may be inside inference_mode, and autograd must not notice
        with autograd():
            self.model = detached_copy(model)
            self._choose(layer)
            self.batches: list[Batch] = placed(batches, self.parameters[0].device)
        sizes = [rows(batch) for batch in self.batches]
        self.batch_weights = [1.0 if self.batch_loss.sums else n / sum(sizes) for n in sizes]
        self._graphs: dict[str, tuple[Any, ByParameter]] = {}

    def of_layer(self, layer: str | None) -> Objective:
        """The same loss by the parameters of another layer; copy and data are shared."""
        find_module(self.model, "" if layer is None else layer)
        other = copy.copy(self)
        other._choose(layer)
        other._graphs = {}
        return other

    def twin(self) -> Objective:
        """The same loss on a copy of its own, for what must not see this one train."""
        other = copy.copy(self)
        other.model = detached_copy(self.model)
        other._choose(self.layer)
        other._graphs = {}
        return other

    def _choose(self, layer: str | None) -> None:
        part = find_module(self.model, "" if layer is None else layer)
        inside = {id(p) for p in part.parameters()}
        parameters = dict(self.model.named_parameters())
        self.names = tuple(
            name for name, p in parameters.items() if id(p) in inside and p.requires_grad
        )
        if not self.names:
            raise ValueError(
                f"{'model' if layer is None else 'layer'} must have parameters that learn; "
                f"got none with requires_grad in {layer or type(self.model).__name__!r}"
            )
        self.layer = layer
        self.parameters = [parameters[name] for name in self.names]
        self.others = {n: p for n, p in parameters.items() if n not in set(self.names)}
        self.sizes = [p.numel() for p in self.parameters]
        self.start = self.weights()

    def check_start(self) -> None:
        """Refuse a model whose loss is not finite, or changes from pass to pass.

        Raises
        ------
        ValueError : NaN or inf, or the same weights give two losses.
        """
        buffers = {name: b.clone() for name, b in self.model.named_buffers()}
        first, again = self.loss(), self.loss()
        if not np.isfinite(first):
            raise ValueError(f"loss must be finite at the start; got {first}")
        if first == again:
            return
        now = dict(self.model.named_buffers())
        moved = [n for n, b in buffers.items() if not torch.equal(b, now[n])]
        why = (
            f"its buffer {moved[0]!r} changes at each pass, which model.eval() prevents"
            if moved
            else "switch dropout off, for example with model.eval()"
        )
        raise ValueError(
            f"model must give the same loss twice, or there is nothing to predict; got {first} "
            f"and {again}: {why}"
        )

    def release(self) -> None:
        """Drop the graph that products keep, and its activations."""
        self._graphs.clear()

    @contextmanager
    def kept(self, *, autocast: bool = False) -> Iterator[None]:
        """Leave the copy as it was, parameters included, by exception too.

        Inside, gradients are on, the caller's autocast is off unless it is wanted, and attention
        takes the path that can be differentiated twice.
        """
        around = autograd() if autocast else own_precision()
        values = [p.detach().clone() for p in self.model.parameters()]
        try:
            with (
                around,
                _plain_attention(),
                _no_reentrant_checkpoints(),
                unchanged(self.model),
                _explained(),
            ):
                yield
        finally:
            self.release()
            with torch.no_grad():
                for p, value in zip(self.model.parameters(), values, strict=True):
                    p.copy_(value)

    @property
    def size(self) -> int:
        """P, the number of parameters."""
        return sum(self.sizes)

    @property
    def dtype(self) -> torch.dtype:
        """Precision in which the network computes."""
        return self.parameters[0].dtype

    @torch.no_grad()
    def weights(self) -> torch.Tensor:
        """The present parameters as one vector."""
        return torch.cat([p.flatten() for p in self.parameters]).double()

    @torch.no_grad()
    def set(self, weights: torch.Tensor) -> None:
        """Write a vector into the copy."""
        for p, part in zip(self.parameters, weights.split(self.sizes), strict=True):
            p.copy_(part.view_as(p))

    def run(self, batch: Batch) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Outputs of the copy for one batch, and the loss of that batch."""
        return self.batch_loss(self.model, batch)

    def value(self) -> torch.Tensor:
        """The loss over all batches at the present parameters, differentiable."""
        return self._mean([self.run(batch)[1] for batch in self.batches])

    def loss(self) -> float:
        """The loss at the present parameters."""
        with torch.no_grad():
            return float(self.value())

    def gradient(self) -> tuple[float, torch.Tensor]:
        """Loss and gradient at the present parameters."""
        value = self.value()
        if not value.requires_grad:
            raise ValueError(self._independent())
        parts = torch.autograd.grad(value, self.parameters, allow_unused=True)
        if all(part is None for part in parts):
            raise ValueError(self._independent())
        return float(value.detach()), self.flat(parts)

    def _independent(self) -> str:
        return f"the loss must depend on layer {self.layer!r}; it does not"

    def flat(self, parts: Any) -> torch.Tensor:
        """One vector of a tensor for each parameter; None counts as zero."""
        return torch.cat(
            [
                (torch.zeros_like(p) if part is None else part).detach().flatten().double()
                for p, part in zip(self.parameters, parts, strict=True)
            ]
        )

    def product(self, kind: str = "gauss_newton") -> Product:
        """v -> curvature v, or of the columns of v, at the parameters of when it is called."""

        def multiply(v: torch.Tensor) -> torch.Tensor:
            columns = [
                [
                    part.view_as(p).to(p.dtype)
                    for p, part in zip(self.parameters, c.split(self.sizes), strict=True)
                ]
                for c in v.reshape(self.size, -1).T
            ]
            with autograd():
                parts = []
                for i in range(len(self.batches)):
                    curvature = self._curvature(kind, i)
                    parts.append(torch.stack([self.flat(curvature(c)) for c in columns], dim=1))
            return self._mean(parts).view_as(v)

        return multiply

    def _curvature(self, kind: str, i: int) -> ByParameter:
        # a kept graph holds its activations, so one is kept, and only where there is one batch
        state = [p._version for p in self.model.parameters()]
        if kind in self._graphs and self._graphs[kind][0] == state:
            return self._graphs[kind][1]
        outputs, value = self.run(self.batches[i])
        if not value.requires_grad:
            raise ValueError(self._independent())
        if kind == "hessian":
            curvature = hessian(value, self.parameters)
        elif outputs:
            curvature = gauss_newton(outputs, value, self.parameters)
        else:
            raise ValueError(
                "model must be called by the loss and return the outputs that the loss is made of, "
                "for a Gauss-Newton matrix; got no such output: kind='hessian' needs none"
            )
        if len(self.batches) == 1:
            self._graphs = {kind: (state, curvature)}
        return curvature

    def _mean(self, parts: list[torch.Tensor]) -> torch.Tensor:
        if len(parts) == 1:
            return parts[0]
        return torch.stack([w * p for w, p in zip(self.batch_weights, parts, strict=True)]).sum(
            dim=0
        )

    def matrix(self, kind: str = "gauss_newton") -> Array:
        """The whole curvature matrix, (P, P), symmetrised against rounding."""
        identity = torch.eye(self.size, dtype=torch.float64, device=self.start.device)
        G = self.product(kind)(identity).cpu().numpy()
        symmetric: Array = (G + G.T) / 2
        return symmetric


def hessian(value: torch.Tensor, parameters: Sequence[torch.Tensor]) -> ByParameter:
    """Products with the Hessian of a loss, by differentiating its gradient.

    Twice reverse: forward mode over a vmapped reverse is wrong for BatchNorm in train mode, by
    percents (torch 2.15).
    """
    slope = torch.autograd.grad(value, parameters, create_graph=True, allow_unused=True)
    if all(part is None for part in slope):
        raise ValueError("the loss must depend on the parameters that learn; it does not")

    def multiply(v: Sequence[torch.Tensor]) -> Sequence[torch.Tensor | None]:
        return _pulled(slope, parameters, v)

    return multiply


def gauss_newton(
    outputs: Sequence[torch.Tensor], value: torch.Tensor, parameters: Sequence[torch.Tensor]
) -> ByParameter:
    """Products J' H J v, J the outputs by the parameters, H the loss by the outputs.

    Reverse mode only (Schraudolph 2002 with the double-backward trick): J'u for a dummy u is
    linear in u, so that its derivative along v is J v.
    """
    dummy = [torch.zeros_like(z, requires_grad=True) for z in outputs]
    back = torch.autograd.grad(outputs, parameters, dummy, create_graph=True, allow_unused=True)
    slope = torch.autograd.grad(value, outputs, create_graph=True, allow_unused=True)
    if all(part is None for part in back):
        raise ValueError("the loss must depend on the parameters that learn; it does not")

    def multiply(v: Sequence[torch.Tensor]) -> Sequence[torch.Tensor | None]:
        forward = _pulled(back, dummy, v)
        bent = _pulled(slope, outputs, forward)
        return _pulled(outputs, parameters, bent)

    return multiply


def _pulled(
    values: Sequence[torch.Tensor | None],
    by: Sequence[torch.Tensor],
    along: Sequence[torch.Tensor | None],
) -> Sequence[torch.Tensor | None]:
    """Gradient of sum(values * along); None counts as zero, on either side."""
    pairs = [
        (a, b)
        for a, b in zip(values, along, strict=True)
        if a is not None and b is not None and a.requires_grad
    ]
    if not pairs:
        return [None] * len(by)
    tops, vectors = zip(*pairs, strict=True)
    found: Sequence[torch.Tensor | None] = torch.autograd.grad(
        tops, by, vectors, retain_graph=True, allow_unused=True
    )
    return found


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Attention by its formula: the fused kernels cannot be differentiated twice."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


class _Direct:
    """Replaces a reentrant checkpoint by the function itself, called once."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve: bool, *args: Any) -> Any:
        return function(*args)


@contextmanager
def _no_reentrant_checkpoints() -> Iterator[None]:
    """Reentrant checkpoints hide their parameters from ``torch.autograd.grad``: call through."""
    before = checkpoint.CheckpointFunction
    checkpoint.CheckpointFunction = _Direct  # type: ignore[misc,assignment]
    try:
        yield
    finally:
        checkpoint.CheckpointFunction = before  # type: ignore[misc]


@contextmanager
def _explained() -> Iterator[None]:
    """One sentence where autograd cannot do what curvature needs."""
    try:
        yield
    except RuntimeError as error:
        if "derivative for" in str(error) and "is not implemented" in str(error):
            raise ValueError(
                f"model must be made of operations that can be differentiated twice; got one that "
                f"cannot: {str(error).splitlines()[0]}"
            ) from error
        raise


@cache
def load_forward_mode() -> None:
    """Let torch load what its forward mode needs, without the warning that comes with it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.func.jvp(torch.sin, (torch.zeros(1),), (torch.zeros(1),))
