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
from cnnbridge.learning.network import train
from cnnbridge.learning.objective import Objective
from cnnbridge.learning.sgd import SGD

Kind = Literal["hessian", "gauss_newton"]
KINDS: tuple[Kind, ...] = ("hessian", "gauss_newton")

# below this many parameters the whole matrix is as cheap as Lanczos, and exact
DENSE = 64


@dataclass(frozen=True, eq=False)
class SharpnessTrack:
    """Sharpness along a full-batch training, in units of 1 / learning rate.

    A quadratic loss is stable where its sharpness is below 2 (1 + momentum) / lr, ``edge``.

    Attributes
    ----------
    sgd : the settings of SGD.
    steps : (K,) steps at which it was measured.
    hessian, gauss_newton : (K,) largest eigenvalue of each over all parameters.
    layers : for each layer asked for, (K,) largest eigenvalue of its own Gauss-Newton block; its
        bound on the learning rate, with the rest frozen, is 2 / that.
    loss : (steps + 1,), at every step.
    edge : 2 (1 + momentum) / lr - weight_decay.
    """

    sgd: SGD
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


def largest_curvatures(
    objective: Objective, kind: str, tolerance: float, *, top: int = 1, guess: Array | None = None
) -> tuple[Array, Array | None]:
    """The ``top`` largest eigenvalues, descending, and the vector of the first."""
    P = objective.size
    if max(DENSE, 2 * top) >= P:
        return np.linalg.eigvalsh(objective.matrix(kind))[::-1][:top], None
    product = objective.product(kind)
    place = objective.start.device

    def multiply(v: Array) -> Array:
        result: Array = product(torch.as_tensor(v.ravel(), device=place)).cpu().numpy()
        return result

    found = largest_eigenvalues(multiply, P, tolerance, top=top, guess=guess)
    objective.release()
    return found


def largest_eigenvalues(
    multiply: Callable[[Array], Array],
    size: int,
    tolerance: float,
    *,
    top: int = 1,
    guess: Array | None = None,
    basis: int = 20,
    restarts: int | None = None,
) -> tuple[Array, Array | None]:
    """The largest eigenvalues of a symmetric matrix by Lanczos on products with it.

    Parameters
    ----------
    multiply : the product of the matrix with a vector.
    size : rows of the matrix.
    tolerance : relative, at which Lanczos stops.
    top : how many eigenvalues, fewer than ``size``.
    guess : of the first eigenvector.
    basis : vectors that Lanczos keeps at least.
    restarts : after which it gives up; None for ten times the size.

    Returns
    -------
    (top,) eigenvalues, descending, and the vector of the first; zeros and None for a matrix that
    is zero.

    Raises
    ------
    scipy.sparse.linalg.ArpackNoConvergence : not converged after ``restarts``.
    """
    # a start that is random but fixed: it must not be orthogonal to the top eigenvector
    start = np.random.default_rng(0).standard_normal(size)
    if not multiply(start).any():
        # ARPACK refuses a matrix that is zero
        return np.zeros(top), None
    operator = scipy.sparse.linalg.LinearOperator((size, size), matvec=multiply, dtype=np.float64)
    if guess is not None:
        start = guess + 0.01 * start / np.linalg.norm(start)
    values, vectors = scipy.sparse.linalg.eigsh(
        operator,
        k=top,
        which="LA",
        v0=start,
        tol=tolerance,
        ncv=min(size, max(basis, 2 * top + 1)),
        maxiter=restarts,
    )
    order = np.argsort(-values)
    return values[order], vectors[:, order[0]]


def track_sharpness(
    objective: Objective,
    sgd: SGD,
    steps: int,
    *,
    every: int,
    layers: Sequence[str],
    tolerance: float,
    watch: Callable[[int, nn.Module], object] | None,
) -> SharpnessTrack:
    """Train and measure the sharpness on the way."""
    parts = {name: objective.of_layer(name) for name in layers}
    rows: dict[str, list[float]] = {"hessian": [], "gauss_newton": [], **{n: [] for n in parts}}
    at: list[int] = []
    losses = objective.start.new_full((steps + 1,), torch.nan, dtype=torch.float64)
    finite = torch.zeros(steps + 1, dtype=torch.bool, device=losses.device)
    guesses: dict[str, Array | None] = dict.fromkeys(rows)

    def look(n: int, weights: torch.Tensor, value: torch.Tensor) -> bool:
        losses[n] = value
        finite[n] = torch.isfinite(weights).all() & torch.isfinite(value)
        if n % every == 0:
            # the device is asked only where it is measured: what has left the range stays there
            if not bool(finite[n]):
                return False
            at.append(n)
            for name, row in rows.items():
                kind = "hessian" if name == "hessian" else "gauss_newton"
                # the top eigenvector moves slowly: the last one is a good start
                values, guesses[name] = largest_curvatures(
                    parts.get(name, objective), kind, tolerance, guess=guesses[name]
                )
                row.append(float(values[0]))
            if watch is not None:
                watch(n, objective.model)
        return True

    train(objective, sgd, steps, look)
    loss = losses.cpu().numpy()
    alive = finite.cpu().numpy()
    if not alive.all():
        loss[int(np.argmin(alive)) + 1 :] = np.nan
    return SharpnessTrack(
        sgd=sgd,
        edge=2 * (1 + sgd.momentum) / sgd.lr - sgd.weight_decay,
        steps=np.array(at),
        hessian=np.array(rows["hessian"]),
        gauss_newton=np.array(rows["gauss_newton"]),
        layers={name: np.array(rows[name]) for name in parts},
        loss=loss,
    )
