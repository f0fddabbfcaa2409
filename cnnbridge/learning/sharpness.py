"""How sharp the loss is, and how far a learning rate is from the edge, over a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import scipy.sparse.linalg
import torch
from torch import nn

from adaptive.checks import Array
from adaptive.checks import choice as _choice
from cnnbridge import _checks
from cnnbridge.layers.isolation import own_precision
from cnnbridge.learning.network import Settings, train
from cnnbridge.learning.objective import Objective

Kind = Literal["hessian", "gauss_newton"]

# below this many parameters the whole matrix is as cheap as Lanczos, and exact
DENSE = 64


@dataclass(frozen=True, eq=False)
class SharpnessTrack:
    """Sharpness along a full-batch training, in units of 1 / learning rate.

    A quadratic loss is stable where its sharpness is below 2 (1 + momentum) / lr, ``edge``.

    Attributes
    ----------
    learning_rate, momentum, weight_decay : SGD's settings.
    steps : (K,) steps at which it was measured.
    hessian, gauss_newton : (K,) largest eigenvalue of each over all parameters.
    layers : for each layer asked for, (K,) largest eigenvalue of its own Gauss-Newton block; its
        bound on the learning rate, with the rest frozen, is 2 / that.
    loss : (steps + 1,), at every step.
    edge : 2 (1 + momentum) / lr - weight_decay.
    """

    learning_rate: float
    momentum: float
    weight_decay: float
    edge: float
    steps: Array = field(repr=False)
    hessian: Array = field(repr=False)
    gauss_newton: Array = field(repr=False)
    layers: dict[str, Array] = field(repr=False)
    loss: Array = field(repr=False)

    @property
    def reached_at(self) -> int | None:
        """First measured step at which the Hessian's sharpness is at the edge or above, or None."""
        at = np.flatnonzero(self.hessian >= self.edge)
        return int(self.steps[at[0]]) if at.size else None

    def __str__(self) -> str:
        rows = [f"{'step':>6} {'loss':>9} {'Hessian/edge':>13} {'Gauss-Newton/edge':>18}"]
        rows += [
            f"{n:>6} {self.loss[n]:>9.4f} {h / self.edge:>13.3f} {g / self.edge:>18.3f}"
            for n, h, g in zip(self.steps, self.hessian, self.gauss_newton, strict=True)
        ]
        return "\n".join(rows)


@own_precision()
def sharpness(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    loss: nn.Module,
    *,
    kind: Kind = "hessian",
    layer: str | None = None,
    tolerance: float = 1e-3,
) -> float:
    """Largest eigenvalue of the loss's curvature, by Lanczos on products with it.

    Parameters
    ----------
    model, x, y, loss : as in ``predict_network``.
    kind : "hessian", or "gauss_newton", which is never negative.
    layer : of this layer's parameters alone; None for all.
    tolerance : relative, at which Lanczos stops.

    Returns
    -------
    The eigenvalue of largest value (not modulus), in units of 1 / learning rate.

    Raises
    ------
    TypeError, ValueError : as ``predict_network``; an unknown kind, tolerance not positive.

    Examples
    --------
    >>> x, y = torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [0.0]])
    >>> model = nn.Linear(1, 1, bias=False)
    >>> round(sharpness(model, x, y, nn.MSELoss()), 4)  # 2 E[x^2]
    10.0
    """
    which: str = _choice("kind", kind, ("hessian", "gauss_newton"))
    width = _checks.positive("tolerance", tolerance)
    return largest_curvature(Objective(model, x, y, loss, layer), which, width)[0]


def largest_curvature(
    objective: Objective, kind: str, tolerance: float, guess: Array | None = None
) -> tuple[float, Array | None]:
    """Largest eigenvalue at the objective's present parameters, and its vector."""
    P = objective.size
    if P <= DENSE:
        return float(np.linalg.eigvalsh(objective.matrix(kind))[-1]), None
    product = objective.product(kind)
    place = objective.start.device

    def multiply(v: Array) -> Array:
        result: Array = product(torch.as_tensor(v.ravel(), device=place)).cpu().numpy()
        return result

    operator = scipy.sparse.linalg.LinearOperator((P, P), matvec=multiply, dtype=np.float64)
    # a start that is random but fixed: it must not stand at right angles to the top eigenvector
    start = np.random.default_rng(0).standard_normal(P)
    if guess is not None:
        start = guess + 0.01 * start / np.linalg.norm(start)
    values, vectors = scipy.sparse.linalg.eigsh(
        operator, k=1, which="LA", v0=start, tol=tolerance, ncv=min(P, 20)
    )
    return float(values[0]), vectors[:, 0]


@own_precision()
def track_sharpness(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    loss: nn.Module,
    *,
    lr: float,
    steps: int,
    every: int = 10,
    layers: Sequence[str] = (),
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    tolerance: float = 1e-2,
    watch: Callable[[int, nn.Module], object] | None = None,
) -> SharpnessTrack:
    """Train a copy of a network, full batch, and measure its sharpness on the way.

    Parameters
    ----------
    model, x, y, loss, lr, steps, momentum, weight_decay : as in ``predict_network``.
    every : steps between measurements, from step 0 on.
    layers : names of layers whose own bounds are wanted too.
    tolerance : relative, of each measurement.
    watch : called at each measurement with the step and the copy that is trained, to measure what
        else is wanted of it; it must leave the copy as it is.

    Returns
    -------
    SharpnessTrack, which prints as a table; it ends early where the training diverges.

    Raises
    ------
    TypeError, ValueError : as ``predict_network``; no such layer.

    Notes
    -----
    Cohen, Kaur, Li, Kolter, Talwalkar 2021: full-batch training drives the sharpness up to
    2 / lr, and hovers there.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    >>> x, y = torch.randn(8, 3).double(), torch.randn(8, 2).double()
    >>> track = track_sharpness(model, x, y, nn.MSELoss(), lr=0.1, steps=20, layers=["2"])
    >>> track.steps.tolist(), track.edge, track.layers["2"].shape
    ([0, 10, 20], 20.0, (3,))
    """
    settings = Settings.check(lr, steps, momentum, weight_decay)
    stride = _checks.count("every", every)
    width = _checks.positive("tolerance", tolerance)
    whole = Objective(model, x, y, loss)
    parts = {name: Objective(model, x, y, loss, name) for name in layers}
    for part in parts.values():  # the same parameters, watched in the network that trains
        part.model = whole.model
        named = dict(whole.model.named_parameters())
        part.parameters = [named[n] for n in part.names]
    rows: dict[str, list[float]] = {"hessian": [], "gauss_newton": [], **{n: [] for n in parts}}
    at: list[int] = []
    losses = whole.start.new_full((settings.steps + 1,), torch.nan, dtype=torch.float64)
    finite = torch.zeros(settings.steps + 1, dtype=torch.bool, device=losses.device)
    guesses: dict[str, Array | None] = dict.fromkeys(rows)

    def look(n: int, weights: torch.Tensor, value: torch.Tensor) -> bool:
        losses[n] = value
        finite[n] = torch.isfinite(weights).all() & torch.isfinite(value)
        if n % stride == 0:
            # the device is asked only where it is measured: what has left the range stays there
            if not bool(finite[n]):
                return False
            at.append(n)
            for name, row in rows.items():
                objective = parts.get(name, whole)
                kind = "hessian" if name == "hessian" else "gauss_newton"
                # the top eigenvector moves slowly: the last one is a good start
                eigenvalue, guesses[name] = largest_curvature(objective, kind, width, guesses[name])
                row.append(eigenvalue)
            if watch is not None:
                watch(n, whole.model)
        return True

    train(whole, settings, look)
    loss_of = losses.cpu().numpy()
    alive = finite.cpu().numpy()
    if not alive.all():
        loss_of[int(np.argmin(alive)) + 1 :] = np.nan
    return SharpnessTrack(
        learning_rate=settings.lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        edge=2 * (1 + settings.momentum) / settings.lr - settings.weight_decay,
        steps=np.array(at),
        hessian=np.array(rows["hessian"]),
        gauss_newton=np.array(rows["gauss_newton"]),
        layers={name: np.array(rows[name]) for name in parts},
        loss=loss_of,
    )
