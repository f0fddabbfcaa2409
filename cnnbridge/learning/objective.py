"""The full-batch loss of a network as a function of one flat vector, with its curvature.

What levels 2 to 4, the audit and the sharpness share. Everything works on a copy of the model.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import nn

from adaptive.checks import Array
from cnnbridge import _checks
from cnnbridge.layers.isolation import autograd, detached_copy, find_module
from cnnbridge.learning.layer import heavy_ball

Product = Callable[[torch.Tensor], torch.Tensor]

# a Krylov space is large enough once what it leaves out moves the weights by less than this part
KRYLOV_TOLERANCE = 1e-8
# and from here on it is worth asking again
KRYLOV_STRIDE = 8


class Objective:
    """loss(model(x), y) of a copy of the model, over the parameters of a layer or over all.

    Vectors are flat, in the order of ``names``, float64 on the device of the parameters; the
    network computes in its own precision.
    """

    def __init__(
        self, model: nn.Module, x: Any, y: torch.Tensor, loss: nn.Module, layer: str | None = None
    ) -> None:
        part = find_module(model, "" if layer is None else layer)
        if not isinstance(loss, nn.Module) or getattr(loss, "reduction", None) not in (
            "mean",
            "sum",
        ):
            raise TypeError(
                f"loss must be a torch loss with reduction 'mean' or 'sum', such as "
                f"nn.CrossEntropyLoss(); got {loss!r}"
            )
        for name, data in (("x", x), ("y", y)):
            if not isinstance(data, torch.Tensor):
                raise TypeError(f"{name} must be a torch.Tensor; got {type(data).__name__}")
            if data.ndim == 0 or len(data) == 0:
                raise ValueError(f"{name} must not be empty; got shape {tuple(data.shape)}")
            if data.is_floating_point():
                _checks.finite(name, data)
        if len(x) != len(y):
            raise ValueError(f"y must have one row for each of x, {len(x)}; got {len(y)}")
        inside = {id(p) for p in part.parameters()}
        chosen = [
            name for name, p in model.named_parameters() if id(p) in inside and p.requires_grad
        ]
        if not chosen:
            raise ValueError(
                f"{'model' if layer is None else 'layer'} must have parameters that learn; "
                f"got none with requires_grad in {layer or type(model).__name__!r}"
            )
        # the caller may be inside inference_mode, and autograd must not notice
        with autograd():
            self.model = detached_copy(model)
            parameters = dict(self.model.named_parameters())
            self.names = tuple(chosen)
            self.parameters = [parameters[name] for name in chosen]
            self.others = {n: p for n, p in parameters.items() if n not in set(chosen)}
            place = self.parameters[0].device
            self.x, self.y = (
                (t.clone() if t.is_inference() else t.detach()).to(place) for t in (x, y)
            )
        self.layer = layer
        self.loss_module = loss
        self.sizes = [p.numel() for p in self.parameters]
        self.start = self.weights()
        first, again = self.loss(), self.loss()
        if first != again:
            raise ValueError(
                f"model must give the same loss twice, or there is nothing to predict; got {first} "
                f"and {again}: switch dropout off, for example with model.eval()"
            )
        if not np.isfinite(first):
            raise ValueError(f"loss must be finite at the start; got {first}")
        self._gauss_newton: Any = None

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

    @torch.no_grad()
    def loss(self) -> float:
        """The loss at the present parameters."""
        return float(self.loss_module(self.model(self.x), self.y))

    def gradient(self) -> tuple[float, torch.Tensor]:
        """Loss and gradient at the present parameters."""
        with autograd():
            value = self.loss_module(self.model(self.x), self.y)
            parts = torch.autograd.grad(value, self.parameters, allow_unused=True)
        if all(part is None for part in parts):
            raise ValueError(f"the loss must depend on layer {self.layer!r}; it does not")
        return float(value.detach()), self.flat(parts)

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
        if kind == "hessian":
            return self._hessian_product
        if self._gauss_newton is None:
            self._gauss_newton = load_curvlinops().GGNLinearOperator(
                self.model,
                self.loss_module,
                self.parameters,
                [(self.x, self.y)],
                check_deterministic=False,
            )
        operator = self._gauss_newton

        def multiply(v: torch.Tensor) -> torch.Tensor:
            with torch.inference_mode(False):
                result: torch.Tensor = (operator @ v.to(self.dtype)).double()
            return result

        return multiply

    def _hessian_product(self, v: torch.Tensor) -> torch.Tensor:
        # curvlinops differentiates forward over a vmapped reverse, and torch (2.15) gets that
        # wrong for BatchNorm in train mode, by percents: twice reverse is right
        with autograd():
            value = self.loss_module(self.model(self.x), self.y)
            slope = torch.autograd.grad(value, self.parameters, create_graph=True)
            along = [
                torch.autograd.grad(
                    slope,
                    self.parameters,
                    [p.view_as(g) for p, g in zip(c.split(self.sizes), slope, strict=True)],
                    retain_graph=True,
                    allow_unused=True,
                )
                for c in v.to(self.dtype).reshape(self.size, -1).T
            ]
        return torch.stack([self.flat(parts) for parts in along], dim=1).view_as(v)

    def matrix(self, kind: str = "gauss_newton") -> Array:
        """The whole curvature matrix, (P, P), symmetrised against rounding."""
        product = self.product(kind)
        identity = torch.eye(self.size, dtype=torch.float64, device=self.start.device)
        # some columns at a time: all at once would hold P activations
        columns = [product(part) for part in identity.split(32, dim=1)]
        G = torch.cat(columns, dim=1).cpu().numpy()
        symmetric: Array = (G + G.T) / 2
        return symmetric


@cache
def load_curvlinops() -> Any:
    """Import it when it is first needed, and let torch load its forward mode.

    Both warn, of their own use of torch.jit, and nobody here can do anything about it.
    """
    load_forward_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        import curvlinops
    return curvlinops


@cache
def load_forward_mode() -> None:
    """Let torch load what its forward mode needs, without the warning that comes with it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.func.jvp(torch.sin, (torch.zeros(1),), (torch.zeros(1),))


def quadratic_path(
    product: Product,
    gradient: torch.Tensor,
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    steps: int,
    start: torch.Tensor,
    velocity: torch.Tensor,
    last: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """torch's SGD on the quadratic model of the loss about ``start``.

    Returns displacements (steps + 1, P), the model's change of loss, and the velocity after the
    last step, so that another model can take over. The change has shape (steps + 1,) if this model
    is the ``last``; otherwise (steps,), for its last entry costs a product that moves nothing.
    """
    path = gradient.new_zeros((steps + 1, len(gradient)))
    change = gradient.new_zeros(steps + last)
    moved, b = torch.zeros_like(gradient), velocity
    for n in range(steps + last):
        curved = product(moved) if n else torch.zeros_like(moved)
        path[n] = moved
        change[n] = moved @ (gradient + curved / 2)
        if n < steps:
            b = momentum * b + gradient + curved + weight_decay * (start + moved)
            moved = moved - lr * b
    path[steps] = moved
    return path, change, b


def krylov_path(
    product: Product,
    seed: torch.Tensor,
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    steps: int,
) -> tuple[Array, torch.Tensor, Array, float]:
    """The same path in the Ritz modes of the Krylov space of the curvature and the gradient.

    The displacement after n updates is a polynomial of degree n - 1 in the curvature, applied to
    ``seed`` (gradient + weight_decay * start): Lanczos needs no more than ``steps`` products to
    hold it exactly, and mostly far fewer.

    Returns Ritz values (K,) of the curvature, Ritz vectors (K, P), modes (steps + 1, K), and a
    bound on what the space leaves out, as a part of the largest displacement.
    """
    norm = float(torch.linalg.vector_norm(seed))
    P = len(seed)
    if norm == 0 or steps == 0:
        return np.zeros(0), seed.new_zeros((0, P)), np.zeros((steps + 1, 0)), 0.0
    limit = min(steps, P)
    vectors = seed.new_empty((limit, P))
    vectors[0] = seed / norm
    # they stay on the device until a look at them is due
    alphas, betas = seed.new_zeros((2, limit))
    for m in range(limit):
        v = product(vectors[m])
        alphas[m] = v @ vectors[m]
        # twice is enough (Parlett): the recurrence alone loses orthogonality as it converges
        for _ in range(2):
            v = v - vectors[: m + 1].T @ (vectors[: m + 1] @ v)
        betas[m] = torch.linalg.vector_norm(v)
        last = m + 1 == limit
        if last or (m + 1) % KRYLOV_STRIDE == 0:
            alpha, beta = torch.stack([alphas[: m + 1], betas[: m + 1]]).cpu().numpy()
            # a space that closed on the way is all there is; what came after it is rounding
            scale = np.maximum.accumulate(np.abs(alpha)) + np.maximum.accumulate(beta)
            small = beta <= 1e2 * np.finfo(float).eps * scale
            closed = bool(small.any())
            K = int(np.argmax(small)) + 1 if closed else m + 1
            off = beta[: K - 1]
            theta, S = np.linalg.eigh(np.diag(alpha[:K]) + np.diag(off, 1) + np.diag(off, -1))
            modes = heavy_ball(np.zeros(K), theta + weight_decay, -norm * S[0], lr, momentum, steps)
            left_out = 0.0
            if not closed and m + 1 < min(steps, P):
                with np.errstate(over="ignore", invalid="ignore"):
                    missed = lr * beta[m] * np.abs(modes[:-1] @ S[-1]).sum() / (1 - momentum)
                    left_out = float(missed / np.linalg.norm(modes, axis=1).max())
            if last or closed or left_out < KRYLOV_TOLERANCE:
                ritz = torch.as_tensor(S.T, device=seed.device) @ vectors[:K]
                return theta, ritz, modes, left_out
        vectors[m + 1] = v / betas[m]
    raise AssertionError("unreachable: the loop returns at its last step")
