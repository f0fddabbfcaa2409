"""Why a prediction of one layer stops holding: its error, split by cause."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import nn

from adaptive.checks import Array
from cnnbridge import _checks
from cnnbridge.layers.isolation import find_module
from cnnbridge.learning.network import train
from cnnbridge.learning.objective import Objective, gauss_newton
from cnnbridge.learning.one_layer import ASSUMPTIONS, LEVEL, Curvature, kronecker_modes
from cnnbridge.learning.paths import Product
from cnnbridge.learning.sgd import SGD

PARTS = {
    "approximation": "the curvature was not the layer's own Gauss-Newton matrix",
    "regressors": "the layer's input statistics R drifted",
    "curvature": "the loss and the frozen layers after it are not quadratic along the way",
    "desired response": "the implied desired response drifted",
    "other layers": "the other layers changed the curvature at the layer's output",
}


@dataclass(frozen=True, eq=False)
class Audit:
    """The error of a level-2 prediction, split into parts that add up at every step.

    Attributes
    ----------
    layer, curvature : what was predicted, and with which curvature.
    trained : "all" layers learned, or the "layer" alone.
    level, assumption : of the prediction.
    sgd : the settings of SGD.
    parts : names of the J parts; ``PARTS`` says what each means.
    error : (steps + 1,): |observed - predicted| / |observed| of the displacement.
    contributions : (steps + 1, J, P): what each part adds to observed - predicted; their sum over
        J is the whole, up to ``residue``.
    shares : (steps + 1, J): projection of each part on their sum, as a fraction of it: they add up
        to 1. Negative where a part offsets others. Zero where there is no error.
    sizes : (steps + 1, J): norm of each part over |observed| displacement.
    drift : (steps + 1,): |R(n) - R(0)| / |R(0)|, Frobenius, of second moments of the layer's
        input channels.
    residue : largest departure of the sum of the parts from observed - predicted, relative to the
        largest displacement: rounding.
    observed, predicted : (steps + 1, P): displacements.

    Arrays are NaN from the step on at which the training is no longer finite.
    """

    layer: str
    curvature: str
    trained: str
    level: str
    assumption: str
    sgd: SGD
    residue: float
    parts: tuple[str, ...] = field(repr=False)
    error: Array = field(repr=False)
    contributions: Array = field(repr=False)
    shares: Array = field(repr=False)
    sizes: Array = field(repr=False)
    drift: Array = field(repr=False)
    observed: Array = field(repr=False)
    predicted: Array = field(repr=False)

    @property
    def steps(self) -> int:
        """Number of updates."""
        return len(self.error) - 1

    def sentence(self, step: int | None = None, tolerance: float = 0.1) -> str:
        """What broke, in words, at a step (the last finite one by default)."""
        finite = np.flatnonzero(np.isfinite(self.error))
        n = int(finite[-1]) if step is None else step
        if not 0 <= n <= self.steps or not np.isfinite(self.error[n]):
            raise ValueError(f"step must be one with a finite error, 0 to {finite[-1]}; got {step}")
        if self.error[n] == 0:
            return f"Layer {self.layer!r}: at step {n} the prediction is exact."
        order = np.argsort(-self.shares[n])
        words = [
            f"{PARTS[self.parts[j]]} ({self.shares[n, j]:.0%})"
            for j in order
            if self.shares[n, j] >= 0.05
        ]
        against = [
            f"{PARTS[self.parts[j]]} ({self.shares[n, j]:.0%})"
            for j in order
            if self.shares[n, j] <= -0.05
        ]
        beyond = np.flatnonzero(self.error > tolerance)
        text = (
            f"Layer {self.layer!r}, {self.curvature} curvature, "
            f"{'all layers learning' if self.trained == 'all' else 'the rest frozen'}: at step {n} "
            f"the prediction is off by {self.error[n]:.1%} of the distance moved, because "
            f"{'; '.join(words)}"
        )
        text += f"; offset in part because {'; '.join(against)}. " if against else ". "
        return text + (
            f"It left {tolerance:.0%} at step {beyond[0]}."
            if beyond.size
            else f"It never left {tolerance:.0%}."
        )


def audit_layer(
    objective: Objective, sgd: SGD, steps: int, curvature: Curvature, trained: str
) -> Audit:
    """Train, predict one layer, and split the error of the prediction by cause at every step.

    With u the layer's regressors, y its outputs, delta = dL/dy, and 0 for the start, gradients of
    the layer are replaced one assumption at a time, always in this order:

    1. what the prediction uses: g(0) + C (w(n) - w(0));
    2. the layer's exact Gauss-Newton matrix instead of C (-> "approximation");
    3. the present regressors u(n) instead of u(0), in outputs and products alike, with the errors
       still linear in the outputs, delta(0) + H(0) (y(n) - y(0)) (-> "regressors");
    4. the true errors of the layers after it as they were, at the outputs y(n) (-> "curvature");
    5. those errors, shifted as the present other layers shift them at the outputs y(0): another
       desired response at the same curvature (-> "desired response");
    6. the true errors: the true gradient (-> "other layers").

    The differences add up to the true gradient minus the predicted one. Each is then carried
    through the prediction's own recursion, which is linear, so the parts of the weights add up too.
    Another order would divide the same error differently.
    """
    layer = objective.layer
    if layer is None or len(objective.batches) > 1:
        got = "all layers" if layer is None else f"{len(objective.batches)} batches"
        raise ValueError(
            f"audit must be asked of one layer and one batch, such as "
            f"NetworkTask(model, (x, y), loss).layer('conv1').audit(...); got {got}"
        )
    part = _checks.layer(f"layer {layer!r}", find_module(objective.model, layer))
    run = objective.of_layer(None) if trained == "all" else objective
    frozen = objective.twin()
    with _Split(frozen) as still, _Split(run, layer, objective.names) as now:
        course = _Course(still, now, sgd, steps, _product(frozen, curvature), part)
        train(run, sgd, steps, course.look)
    return course.audit(layer, curvature, trained)


class _Course:
    """Follows a training and carries each part of the error through the recursion.

    Column 0 of ``state`` is the prediction, the others what each part adds to observed - predicted.
    """

    def __init__(
        self,
        still: _Split,
        now: _Split,
        sgd: SGD,
        steps: int,
        product: Product,
        part: nn.Module,
    ) -> None:
        self.still, self.now, self.sgd = still, now, sgd
        self.product, self.part = product, part
        self.u0, self.y0, self.delta0 = still.stream()
        self.g0 = still.gradient(self.u0, self.delta0)
        self.start = still.objective.start
        P, J = len(self.start), len(PARTS)
        self.state = self.start.new_zeros((P, 1 + J))
        self.velocity = torch.zeros_like(self.state)
        self.path = self.start.new_full((steps + 1, P, 1 + J), torch.nan)
        self.seen = self.start.new_full((steps + 1, P), torch.nan)
        self.drift = self.start.new_full((steps + 1,), torch.nan)
        self.moment0 = _moment(self.u0, part)

    def look(self, n: int, _: torch.Tensor, value: torch.Tensor) -> bool:
        """Record step n and move on to the next."""
        weights = self.now.weights()
        if not (torch.isfinite(value) and torch.isfinite(weights).all()):
            return False
        moved = weights - self.start
        self.path[n], self.seen[n] = self.state, moved
        u, out, delta = self.now.stream()
        change = _moment(u, self.part) - self.moment0
        self.drift[n] = torch.linalg.norm(change) / torch.linalg.norm(self.moment0)
        curved = self.product(torch.cat([moved[:, None], self.state], dim=1))
        forces = self._forces(curved[:, 0], weights, u, out, delta)
        push = torch.stack([self.g0 + self.sgd.weight_decay * self.start, *forces], dim=1)
        self.velocity = self.sgd.momentum * self.velocity + push + curved[:, 1:]
        self.velocity = self.velocity + self.sgd.weight_decay * self.state
        self.state = self.state - self.sgd.lr * self.velocity
        return True

    def _forces(
        self,
        curved: torch.Tensor,
        weights: torch.Tensor,
        u: torch.Tensor,
        out: torch.Tensor,
        delta: torch.Tensor,
    ) -> list[torch.Tensor]:
        """What each assumption, replaced in turn, adds to the gradient."""
        still, u0, y0, delta0 = self.still, self.u0, self.y0, self.delta0
        stages = [
            self.g0 + curved,
            still.gradient(u0, delta0 + still.bend(y0, still.output(u0, weights) - y0)),
            still.gradient(u, delta0 + still.bend(y0, out - y0)),
            still.gradient(u, still.errors(out)),
        ]
        stages.append(stages[-1] + still.gradient(u, self.now.errors(y0) - delta0))
        stages.append(still.gradient(u, delta))
        return [after - before for before, after in pairwise(stages)]

    def audit(self, layer: str, curvature: str, trained: str) -> Audit:
        """Sizes and shares of what was recorded."""
        whole = self.path.cpu().numpy()
        predicted, parts = whole[:, :, 0], whole[:, :, 1:].transpose(0, 2, 1)
        observed = self.seen.cpu().numpy()
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            total = parts.sum(axis=1)
            moved = np.linalg.norm(observed, axis=1)
            power = (total**2).sum(axis=1)
            missed = np.sqrt(power)
            gap = np.abs(total - (observed - predicted))
            unit = np.nanmax(moved, initial=0.0)
            return Audit(
                layer=layer,
                curvature=curvature,
                trained=trained,
                level=LEVEL.format(curvature=curvature),
                assumption=ASSUMPTIONS[curvature],
                sgd=self.sgd,
                residue=float(np.nanmax(gap) / unit) if unit else 0.0,
                parts=tuple(PARTS),
                error=np.where(missed == 0, 0.0, missed / moved),
                contributions=parts,
                shares=np.where(
                    (power == 0)[:, None],
                    0.0,
                    np.einsum("njp,np->nj", parts, total) / power[:, None],
                ),
                sizes=np.where(
                    (moved == 0)[:, None], 0.0, np.linalg.norm(parts, axis=2) / moved[:, None]
                ),
                drift=self.drift.cpu().numpy(),
                observed=observed,
                predicted=predicted,
            )


class _Split:
    """A network cut at one layer: what enters it, and what the rest makes of its output."""

    def __init__(
        self, objective: Objective, layer: str | None = None, names: tuple[str, ...] = ()
    ) -> None:
        self.objective = objective
        self.part = find_module(objective.model, layer or objective.layer or "")
        parameters = dict(objective.model.named_parameters())
        self.parameters = [parameters[n] for n in names or objective.names]
        self._instead: torch.Tensor | None = None
        self._passed: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._watch = False

    def __enter__(self) -> _Split:
        self._handle = self.part.register_forward_hook(self._hook, prepend=True, with_kwargs=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._handle.remove()

    def _hook(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.Tensor
    ) -> Any:
        # downstream gets a copy: an in-place ReLU must not overwrite what we differentiate by
        if self._instead is not None:
            return self._instead.clone()
        if not self._watch:
            return None
        watched = out if out.requires_grad else out.detach().requires_grad_()
        self._passed.append(((args[0] if args else kwargs["input"]).detach(), watched))
        return watched.clone()

    @torch.no_grad()
    def weights(self) -> torch.Tensor:
        return torch.cat([p.flatten() for p in self.parameters]).double()

    def stream(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Input, output and dL/dy of the layer as the network is now."""
        self._passed, self._watch = [], True
        try:
            value = self._loss()
        finally:
            self._watch = False
        if len(self._passed) != 1:
            raise ValueError(
                f"the layer must be used once in a forward pass; got {len(self._passed)} uses"
            )
        u, out = self._passed[0]
        delta = torch.autograd.grad(value, out, allow_unused=True)[0]
        if delta is None:
            raise ValueError("the loss must depend on the layer; it does not")
        return u, out.detach(), delta

    def errors(self, out: torch.Tensor) -> torch.Tensor:
        """dL/dy of the present other layers at a given output of this one."""
        leaf = out.detach().requires_grad_()
        self._instead = leaf
        try:
            (delta,) = torch.autograd.grad(self._loss(), leaf)
        finally:
            self._instead = None
        return delta

    def bend(self, out: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
        """H change: the Gauss-Newton curvature of the loss at the layer's output."""
        leaf = out.detach().requires_grad_()
        self._instead = leaf
        try:
            z, value = self.objective.run(self.objective.batches[0])
        finally:
            self._instead = None
        (bent,) = gauss_newton(z, value, [leaf])([change])
        return torch.zeros_like(change) if bent is None else bent

    def output(self, u: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """The layer by itself, with given weights."""
        before = self.weights()
        self._write(weights)
        with torch.no_grad():
            out: torch.Tensor = self.part(u)
        self._write(before)
        return out

    def gradient(self, u: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
        """Sum of delta u': what regressors and errors make of the layer's weights."""
        parts = torch.autograd.grad(self.part(u), self.parameters, delta)
        return torch.cat([p.flatten() for p in parts]).double()

    @torch.no_grad()
    def _write(self, weights: torch.Tensor) -> None:
        sizes = [p.numel() for p in self.parameters]
        for p, value in zip(self.parameters, weights.split(sizes), strict=True):
            p.copy_(value.view_as(p))

    def _loss(self) -> torch.Tensor:
        return self.objective.value()


def _product(objective: Objective, kind: str) -> Product:
    """The prediction's curvature on the columns of a matrix."""
    if kind == "gauss_newton":
        return objective.product()
    eigenvalues, basis = kronecker_modes(objective, scalar=kind == "scalar")

    def multiply(v: torch.Tensor) -> torch.Tensor:
        modes = basis.to_modes(v.T.cpu().numpy())
        return torch.as_tensor(basis.to_displacement(modes * eigenvalues).T).to(v)

    return multiply


def _moment(u: torch.Tensor, part: nn.Module) -> torch.Tensor:
    """E[x x'] of the channels (conv) or features (linear) that enter the layer."""
    last = u if isinstance(part, nn.Linear) else u.movedim(1, -1)
    rows = last.flatten(0, -2).double()
    return rows.T @ rows / len(rows)
