"""Runs gradient descent on least squares, plain and with BatchNorm, at every rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import adaptive
from studies.related.bn_any_rate import Cell
from studies.training.pixels import grey, prediction_problem

__all__ = ["Descent", "batch_norm_descent", "descent", "measure", "run_both"]

Array = np.ndarray


def measure(cell: Cell) -> dict[str, Any]:
    """Both descents, on a cell's images; see ``run_both``."""
    return run_both(grey(cell.images), cell)


def run_both(images: Array, cell: Cell) -> dict[str, Any]:
    """Both descents, from (N, H, W) images; the fields of ``judge.Descents``."""
    rng = np.random.default_rng(cell.seed)
    u, d = prediction_problem(images, cell.patch)
    flat, wanted = u.reshape(-1, u.shape[2]), d.ravel()
    flat, wanted = flat - flat.mean(0), wanted - wanted.mean()
    R, P = flat.T @ flat / len(flat), wanted @ flat / len(flat)
    power = float(wanted @ wanted / len(wanted))
    bound = 2 / float(np.linalg.eigvalsh(R)[-1])
    # half a step off the bound, which then lies between two rates
    exponents = np.arange(-cell.decades * cell.per_decade, cell.decades * cell.per_decade)
    rates = bound * 10 ** ((exponents + 0.5) / cell.per_decade)
    w = rng.standard_normal(len(P)) / np.sqrt(len(P))
    plain = descent(R, P, power, rates, w, cell.steps)
    norm = batch_norm_descent(R, P, power, rates, w, cell.steps)
    problem = adaptive.WienerProblem(R=R, P=P[None], d_power=power)
    return {
        "bound": bound,
        "floor": float(problem.J_min / plain.loss[0, 0]),
        "rates": rates,
        "plain": plain.loss[[0, -1]],
        "norm": norm.loss[[0, -1]],
        "effective": norm.effective,
    }


@dataclass(frozen=True)
class Descent:
    """Gradient descent at several rates: the loss after each update and the weights' size.

    Attributes
    ----------
    rates : (K,) learning rates.
    loss : (steps + 1, K), E(d - y)^2.
    effective : (K,) rate over |w|^2 at the end; the rate itself for plain descent.
    """

    rates: Array
    loss: Array
    effective: Array


def descent(R: Array, P: Array, power: float, rates: Array, w: Array, steps: int) -> Descent:
    """Descend by w <- w + mu (P - R w), at every rate at once; ``w`` (L,) is the start."""
    W = np.repeat(w[:, None], len(rates), axis=1)
    loss = np.empty((steps + 1, len(rates)))
    with np.errstate(over="ignore", invalid="ignore"):
        for n in range(steps + 1):
            RW = R @ W
            loss[n] = power - 2 * P @ W + (W * RW).sum(0)
            W = W + rates * (P[:, None] - RW)
    return Descent(rates, loss, rates.copy())


def batch_norm_descent(
    R: Array, P: Array, power: float, rates: Array, w: Array, steps: int
) -> Descent:
    """Descend with BatchNorm: y = a w'u / s, s^2 = w'Rw; the scale a learns at rate 1.

    Parameters
    ----------
    R, P, power : E[u u'], E[d u] and E[d^2], of centred u and d.
    rates : (K,) of the weights.
    w : (L,) start; a starts where it is best for it.
    steps : updates.

    Notes
    -----
    Cai, Li and Shen 2019, the updates of their section 3, without the regularising epsilon.
    """
    W = np.repeat(w[:, None], len(rates), axis=1)
    loss = np.empty((steps + 1, len(rates)))
    a = (P @ W) / np.sqrt((W * (R @ W)).sum(0))
    for n in range(steps + 1):
        RW = R @ W
        s = np.sqrt((W * RW).sum(0))
        match = P @ W / s
        loss[n] = power - 2 * a * match + a * a
        W = W + rates * a / s * (P[:, None] - match / s * RW)
        a = match  # a + 1 (match - a)
    return Descent(rates, loss, rates / (W * W).sum(0))
