"""Levels 3 and 4: all layers of a network together, linearised once or every few steps.

Also what levels 2 to 4 share: their prediction, and the real training that it is about.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import nn

from adaptive.checks import Array
from cnnbridge import _checks
from cnnbridge.layers.isolation import autograd, own_precision
from cnnbridge.learning.objective import Objective, krylov_path, quadratic_path

LEVEL_3 = "3: whole network, linearised at its start"
LEVEL_4 = "4: whole network, re-linearised every {h} steps along the predicted path"
ASSUMPTION_3 = (
    "the network's output is linear in all weights and the loss quadratic in the output, as they "
    "are at the start; each update follows the gradient over all of x"
)
ASSUMPTION_4 = (
    "as level 3, for {h} steps at a time: then loss, gradient and curvature are taken anew at the "
    "weights predicted so far. No observed training enters"
)


class Modes(Protocol):
    """An orthonormal set of directions of a flat weight vector."""

    def to_modes(self, displacement: Array) -> Array:
        """(..., P) to (..., K)."""

    def to_displacement(self, modes: Array) -> Array:
        """(..., K) to (..., P)."""


@dataclass(frozen=True, eq=False)
class DirectionModes:
    """Directions held as vectors.

    Attributes
    ----------
    vectors : (K, P), orthonormal.
    """

    vectors: Array = field(repr=False)

    def to_modes(self, displacement: Array) -> Array:
        """(..., P) to (..., K)."""
        modes: Array = np.asarray(displacement) @ self.vectors.T
        return modes

    def to_displacement(self, modes: Array) -> Array:
        """(..., K) modes back to (..., P)."""
        with np.errstate(over="ignore", invalid="ignore"):
            displacement: Array = np.asarray(modes) @ self.vectors
        return displacement


@dataclass(frozen=True, eq=False)
class NetworkPrediction:
    """How parameters inside a network will move under ``torch.optim.SGD``, full batch.

    P parameters in one flat vector, in the order of ``names``; K modes.

    Attributes
    ----------
    level, assumption : which prediction this is, and what it rests on.
    curvature : which matrix stands for the curvature of the loss.
    learning_rate, momentum, weight_decay : SGD's settings, in torch's units.
    layer : the layer that learns; None for all.
    names : of the parameters, as in ``model.named_parameters()``.
    displacement : (steps + 1, P): w(n) - w(0).
    loss : (steps + 1,): of the quadratic model, without the weight-decay penalty.
    eigenvalues : (K,) curvature along each mode, without weight decay. All P of them, ascending,
        or the Ritz values of the part that the gradient excites; empty at level 4.
    modes : (steps + 1, K): displacement along each mode.
    basis : takes a displacement to its modes.
    left_out : bound on the displacement outside the K modes, relative to the largest.
    """

    level: str
    assumption: str
    curvature: str
    learning_rate: float
    momentum: float
    weight_decay: float
    layer: str | None
    names: tuple[str, ...]
    displacement: Array = field(repr=False)
    loss: Array = field(repr=False)
    eigenvalues: Array = field(repr=False)
    modes: Array = field(repr=False)
    basis: Modes = field(repr=False)
    left_out: float = 0.0

    @property
    def steps(self) -> int:
        """Number of updates."""
        return len(self.loss) - 1

    @property
    def bound(self) -> float:
        """Learning rate below which the linearised training is stable; inf if nothing bounds it.

        lr (lambda_max + weight_decay) < 2 (1 + momentum); nan at level 4, which has no one matrix.
        """
        if not self.eigenvalues.size:
            return float("nan")
        curvature = float(self.eigenvalues.max()) + self.weight_decay
        return 2 * (1 + self.momentum) / curvature if curvature > 0 else float("inf")


@dataclass(frozen=True, eq=False)
class NetworkObservation:
    """What torch did to the parameters that were predicted.

    Attributes
    ----------
    displacement : (steps + 1, P): w(n) - w(0), float64; NaN from ``diverged_at`` on.
    loss : (steps + 1,): as torch computed it; NaN from ``diverged_at`` on.
    diverged_at : first step at which a weight or the loss was not finite, or None.
    learning_rate, momentum, weight_decay : SGD's settings.
    layer, names : what learned, as in the prediction.
    device, dtype : where and in which precision it was trained.
    """

    learning_rate: float
    momentum: float
    weight_decay: float
    layer: str | None
    names: tuple[str, ...]
    device: str
    dtype: str
    diverged_at: int | None
    loss: Array = field(repr=False)
    displacement: Array = field(repr=False)

    @property
    def steps(self) -> int:
        """Number of updates."""
        return len(self.loss) - 1


@dataclass(frozen=True)
class Reading:
    """What a prediction takes the network to be."""

    level: str
    assumption: str
    curvature: str


@dataclass(frozen=True)
class Settings:
    """SGD's settings, checked."""

    lr: float
    steps: int
    momentum: float
    weight_decay: float

    @classmethod
    def check(cls, lr: float, steps: int, momentum: float, weight_decay: float) -> Settings:
        """Refuse what torch's SGD cannot do, or nobody wants it to."""
        return cls(
            _checks.positive("lr", lr),
            _checks.count("steps", steps, least=0),
            _checks.fraction("momentum", momentum),
            _checks.nonnegative("weight_decay", weight_decay),
        )

    @property
    def recursion(self) -> dict[str, float]:
        """Keywords of the recursions."""
        return {"lr": self.lr, "momentum": self.momentum, "weight_decay": self.weight_decay}

    @property
    def fields(self) -> dict[str, float]:
        """Keywords of the results."""
        return {
            "learning_rate": self.lr,
            "momentum": self.momentum,
            "weight_decay": self.weight_decay,
        }


@own_precision()
def predict_network(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    loss: nn.Module,
    *,
    lr: float,
    steps: int,
    relinearize: int | None = None,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
) -> NetworkPrediction:
    """Predict full-batch training of a whole network from its linearisation.

    Level 3, without ``relinearize``: the Gauss-Newton matrix at the present weights, all layers
    together. In function space this is e(n+1) = (I - lr H Theta) e(n), e the derivative of the
    loss by the network's outputs, H its Hessian by them and Theta = J J' the tangent kernel.
    Level 4, with it: the same for so many steps at a time, from the predicted weights.

    Parameters
    ----------
    model : any module in eager mode; its present weights are the start, its train and eval flags
        hold (BatchNorm in train mode uses the statistics of x). It is not changed. Parameters
        without ``requires_grad`` stay fixed. It computes in the precision of its parameters, inside
        ``torch.autocast`` too.
    x, y : inputs and targets, all of them one batch.
    loss : a torch loss with reduction "mean" or "sum", such as ``nn.CrossEntropyLoss()``.
    lr, momentum, weight_decay : as given to ``torch.optim.SGD``.
    steps : number of updates.
    relinearize : steps for which one linearisation serves; None for all of them. 1 is training.

    Returns
    -------
    NetworkPrediction; it stores steps + 1 times the parameters in float64. At level 3 its modes
    are Ritz modes: as many as it takes to hold the path to 1e-8.

    Raises
    ------
    TypeError : model is compiled or no module, loss no torch loss, x or y no tensor.
    ValueError : a number out of range; nothing to learn; a loss that is random or not finite.

    Notes
    -----
    Jacot, Gabriel, Hongler 2018 for the tangent kernel; Schraudolph 2002 for products with the
    Gauss-Newton matrix.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    >>> x, y = torch.randn(8, 3).double(), torch.randn(8, 2).double()
    >>> prediction = predict_network(model, x, y, nn.MSELoss(), lr=0.1, steps=20)
    >>> prediction.displacement.shape, prediction.level
    ((21, 26), '3: whole network, linearised at its start')
    """
    settings = Settings.check(lr, steps, momentum, weight_decay)
    every = None if relinearize is None else _checks.count("relinearize", relinearize)
    objective = Objective(model, x, y, loss)
    if every is None:
        return linearised(
            objective,
            settings,
            Reading(LEVEL_3, ASSUMPTION_3, "gauss_newton"),
        )
    product = objective.product()
    start = objective.start
    path, losses = [torch.zeros_like(start)[None]], []
    moved, velocity = torch.zeros_like(start), torch.zeros_like(start)
    for first in range(0, settings.steps + 1, every):
        span = min(every, settings.steps - first)
        last = first + span == settings.steps
        value, gradient = objective.gradient()
        piece, change, velocity = quadratic_path(
            product,
            gradient,
            **settings.recursion,
            steps=span,
            start=start + moved,
            velocity=velocity,
            last=last,
        )
        path.append(moved + piece[1:])
        losses.append(value + change)
        moved = moved + piece[-1]
        objective.set(start + moved)
        if last:
            break
    displacement = torch.cat(path).cpu().numpy()
    return NetworkPrediction(
        level=LEVEL_4.format(h=every),
        assumption=ASSUMPTION_4.format(h=every),
        curvature="gauss_newton",
        **settings.fields,
        layer=None,
        names=objective.names,
        displacement=finite_or_inf(displacement),
        loss=finite_or_inf(torch.cat(losses).cpu().numpy()),
        eigenvalues=np.zeros(0),
        modes=np.zeros((settings.steps + 1, 0)),
        basis=DirectionModes(np.zeros((0, objective.size))),
    )


def linearised(
    objective: Objective,
    settings: Settings,
    reading: Reading,
) -> NetworkPrediction:
    """One linearisation, followed in the Krylov space of its curvature and gradient."""
    value, gradient = objective.gradient()
    seed = gradient + settings.weight_decay * objective.start
    eigenvalues, vectors, modes, left_out = krylov_path(
        objective.product(), seed, **settings.recursion, steps=settings.steps
    )
    basis = DirectionModes(vectors.cpu().numpy())
    slope = basis.to_modes(gradient.cpu().numpy())
    return from_modes(
        objective,
        settings,
        reading,
        basis,
        eigenvalues,
        modes,
        value + quadratic_loss(modes, slope, eigenvalues),
        basis.to_displacement(modes),
        left_out,
    )


def from_modes(
    objective: Objective,
    settings: Settings,
    reading: Reading,
    basis: Modes,
    eigenvalues: Array,
    modes: Array,
    loss: Array,
    displacement: Array,
    left_out: float = 0.0,
) -> NetworkPrediction:
    """Wrap what was computed in modes."""
    return NetworkPrediction(
        level=reading.level,
        assumption=reading.assumption,
        curvature=reading.curvature,
        **settings.fields,
        layer=objective.layer,
        names=objective.names,
        displacement=finite_or_inf(displacement),
        loss=finite_or_inf(loss),
        eigenvalues=eigenvalues,
        modes=modes,
        basis=basis,
        left_out=left_out,
    )


def quadratic_loss(modes: Array, slope: Array, eigenvalues: Array) -> Array:
    """(steps + 1,) change of a quadratic loss; slope and curvature along each mode."""
    with np.errstate(over="ignore", invalid="ignore"):
        change: Array = modes @ slope + (modes**2) @ eigenvalues / 2
    return change


def finite_or_inf(a: Array) -> Array:
    """Past overflow increments cancel, inf - inf: the answer is inf."""
    a[np.isnan(a)] = np.inf
    return a


@own_precision()
def observe_network(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    loss: nn.Module,
    *,
    lr: float,
    steps: int,
    layer: str | None = None,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    progress: Callable[[int], object] | None = None,
) -> NetworkObservation:
    """Train a copy of the network with ``torch.optim.SGD``, all of it or one layer, full batch.

    Parameters
    ----------
    model, x, y, loss, lr, steps, momentum, weight_decay : as in ``predict_network``.
    layer : train this layer only, as ``predict_in_place`` assumes; None trains all.
    progress : called with the step, 0 to steps, as training goes on.

    Returns
    -------
    NetworkObservation; divergence is a value in it, not an exception.

    Raises
    ------
    TypeError, ValueError : as ``predict_network``; the model has no such layer.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    >>> x, y = torch.randn(8, 3).double(), torch.randn(8, 2).double()
    >>> run = observe_network(model, x, y, nn.MSELoss(), lr=0.1, steps=20, layer="2")
    >>> run.names, run.displacement.shape, bool(run.loss[-1] < run.loss[0])
    (('2.weight', '2.bias'), (21, 10), True)
    """
    settings = Settings.check(lr, steps, momentum, weight_decay)
    objective = Objective(model, x, y, loss, layer)
    path = torch.full(
        (settings.steps + 1, objective.size),
        torch.nan,
        dtype=torch.float64,
        device=objective.start.device,
    )
    losses = path.new_full((settings.steps + 1,), torch.nan)

    def record(n: int, weights: torch.Tensor, value: torch.Tensor) -> bool:
        path[n], losses[n] = weights - objective.start, value
        if progress is not None:
            progress(n)
        # a look at the device now and then is enough to stop a run that has left the range
        return n % 64 != 0 or bool(torch.isfinite(path[n].sum() + losses[n]))

    train(objective, settings, record)
    displacement, trained_loss = path.cpu().numpy(), losses.cpu().numpy()
    finite = np.isfinite(displacement).all(axis=1) & np.isfinite(trained_loss)
    diverged_at = None if finite.all() else int(np.argmin(finite))
    if diverged_at is not None:
        displacement[diverged_at:] = np.nan
        trained_loss[diverged_at:] = np.nan
    return NetworkObservation(
        **settings.fields,
        layer=layer,
        names=objective.names,
        device=str(objective.start.device),
        dtype=str(objective.dtype).removeprefix("torch."),
        diverged_at=diverged_at,
        loss=trained_loss,
        displacement=displacement,
    )


def train(
    objective: Objective,
    settings: Settings,
    look: Callable[[int, torch.Tensor, torch.Tensor], bool],
) -> None:
    """torch's own training of the objective's parameters; ``look`` may end it."""
    with autograd():
        optimizer = torch.optim.SGD(
            objective.parameters,
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )
        for other in objective.others.values():
            other.requires_grad_(False)
        for n in range(settings.steps + 1):
            value = objective.loss_module(objective.model(objective.x), objective.y)
            if not look(n, objective.weights(), value.detach()) or n == settings.steps:
                return
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
