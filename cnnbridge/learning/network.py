"""Levels 3 and 4: all layers of a network together, linearised once or every few steps.

Also the real training that levels 2 to 4 predict.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from adaptive.checks import Array
from cnnbridge.learning.objective import Objective
from cnnbridge.learning.paths import finite_or_inf, krylov_path, quadratic_path
from cnnbridge.learning.records import DirectionModes, Modes, Observation, Prediction
from cnnbridge.learning.sgd import SGD

LEVEL_3 = "3: whole network, linearised at its start"
LEVEL_4 = "4: whole network, re-linearised every {h} steps along the predicted path"
ASSUMPTION_3 = (
    "the network's output is linear in all weights and the loss quadratic in the output, as they "
    "are at the start; each update follows the gradient over all of the data"
)
ASSUMPTION_4 = (
    "as level 3, for {h} steps at a time: then loss, gradient and curvature are computed again at "
    "the weights predicted so far. No observed training enters"
)


@dataclass(frozen=True)
class Reading:
    """Level, assumption and curvature that label a prediction."""

    level: str
    assumption: str
    curvature: str


WHOLE = Reading(LEVEL_3, ASSUMPTION_3, "gauss_newton")


def linearised(objective: Objective, sgd: SGD, steps: int, reading: Reading = WHOLE) -> Prediction:
    """One linearisation, followed in the Krylov space of its curvature and gradient."""
    value, gradient = objective.gradient()
    seed = gradient + sgd.weight_decay * objective.start
    eigenvalues, vectors, modes, left_out = krylov_path(objective.product(), seed, sgd, steps=steps)
    basis = DirectionModes(vectors.cpu().numpy())
    slope = basis.to_modes(gradient.cpu().numpy())
    return from_modes(objective, sgd, reading, basis, eigenvalues, modes, (value, slope), left_out)


def relinearised(objective: Objective, sgd: SGD, steps: int, every: int) -> Prediction:
    """Linearised every so many steps, at the weights predicted so far."""
    product = objective.product()
    start = objective.start
    path, losses = [torch.zeros_like(start)[None]], []
    moved, velocity = torch.zeros_like(start), torch.zeros_like(start)
    for first in range(0, steps + 1, every):
        span = min(every, steps - first)
        last = first + span == steps
        value, gradient = objective.gradient()
        piece, change, velocity = quadratic_path(
            product,
            gradient,
            sgd,
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
    return Prediction(
        level=LEVEL_4.format(h=every),
        assumption=ASSUMPTION_4.format(h=every),
        curvature="gauss_newton",
        sgd=sgd,
        layer=objective.layer,
        names=objective.names,
        displacement=finite_or_inf(torch.cat(path).cpu().numpy()),
        loss=finite_or_inf(torch.cat(losses).cpu().numpy()),
        eigenvalues=np.zeros(0),
        modes=np.zeros((steps + 1, 0)),
        basis=DirectionModes(np.zeros((0, objective.size))),
    )


def from_modes(
    objective: Objective,
    sgd: SGD,
    reading: Reading,
    basis: Modes,
    eigenvalues: Array,
    modes: Array,
    at_start: tuple[float, Array],
    left_out: float = 0.0,
) -> Prediction:
    """Build a Prediction from a path in modes; at_start holds the loss and its slope by mode."""
    value, slope = at_start
    with np.errstate(over="ignore", invalid="ignore"):
        loss = value + (modes @ slope + (modes**2) @ eigenvalues / 2)
    return Prediction(
        level=reading.level,
        assumption=reading.assumption,
        curvature=reading.curvature,
        sgd=sgd,
        layer=objective.layer,
        names=objective.names,
        displacement=finite_or_inf(basis.to_displacement(modes)),
        loss=finite_or_inf(loss),
        eigenvalues=eigenvalues,
        modes=modes,
        basis=basis,
        left_out=left_out,
    )


def observe(
    objective: Objective,
    sgd: SGD,
    steps: int,
    progress: Callable[[int], object] | None = None,
) -> Observation:
    """Train the objective's parameters and keep the weights of every step."""
    path = torch.full(
        (steps + 1, objective.size),
        torch.nan,
        dtype=torch.float64,
        device=objective.start.device,
    )
    losses = path.new_full((steps + 1,), torch.nan)

    def record(n: int, weights: torch.Tensor, value: torch.Tensor) -> bool:
        path[n], losses[n] = weights - objective.start, value
        if progress is not None:
            progress(n)
        # a look at the device now and then is enough to stop a run that has left the range
        return n % 64 != 0 or bool(torch.isfinite(path[n].sum() + losses[n]))

    train(objective, sgd, steps, record)
    displacement, trained_loss = path.cpu().numpy(), losses.cpu().numpy()
    finite = np.isfinite(displacement).all(axis=1) & np.isfinite(trained_loss)
    diverged_at = None if finite.all() else int(np.argmin(finite))
    if diverged_at is not None:
        displacement[diverged_at:] = np.nan
        trained_loss[diverged_at:] = np.nan
    return Observation(
        sgd=sgd,
        layer=objective.layer,
        names=objective.names,
        device=str(objective.start.device),
        dtype=str(objective.dtype).removeprefix("torch."),
        diverged_at=diverged_at,
        loss=trained_loss,
        displacement=displacement,
    )


def train(
    objective: Objective,
    sgd: SGD,
    steps: int,
    look: Callable[[int, torch.Tensor, torch.Tensor], bool],
) -> None:
    """torch's own training of the objective's parameters; ``look`` may end it."""
    optimizer = sgd.optimizer(objective.parameters)
    for other in objective.others.values():
        other.requires_grad_(False)
    for n in range(steps + 1):
        value = objective.value()
        if not look(n, objective.weights(), value.detach()) or n == steps:
            return
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
