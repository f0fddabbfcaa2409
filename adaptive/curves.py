"""Predicted learning curves, E|e(n)|^2, E|w(n)-w_o|^2 and E[w(n)]: what all algorithms share.

Each algorithm's own recursion is in its file in ``adaptive.algorithms``.

In the eigenbasis of R, with Gaussian regressors independent from sample to sample, the powers
k_i(n) = E|v_i(n)|^2 of the modes follow linear recursions of their own, without the off-diagonal
moments, and E|e(n)|^2 = J_min + sum_i l_i k_i(n). ``kappa`` below is 2 for real and 1 for circular
complex data: E[u u^H K u u^H] = kappa R K R + R tr(R K) (Isserlis 1918).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from adaptive import checks as _checks
from adaptive.bounds import block_bounds
from adaptive.checks import Array
from adaptive.modes import NaturalModes
from adaptive.results import LearningCurve
from adaptive.wiener import WienerProblem

LARGEST_STEP = 1e150  # mu and mu R, whose squares enter
INDEPENDENCE = (
    "zero-mean {kind} Gaussian regressors, independent from sample to sample; exact for those, "
    "an approximation for a delay line, whose neighbouring regressors share samples: good below "
    "about a tenth of the mean-square bound, which correlated input does not let it reach "
    "(measured in docs/theory.md)"
)


@dataclass(frozen=True, eq=False)
class Start:
    """Checked arguments in modal coordinates: where every recursion begins."""

    modes: NaturalModes
    v: Array  # (..., L) modes of w(0) - w_o
    k: Array  # (L,) their squares, summed over outputs
    lam: Array  # (L,) eigenvalues in double precision, exactly zero where stationary
    J_min: float
    mu: float
    steps: int

    @classmethod
    def of(cls, problem: WienerProblem, mu: float, steps: int, w0: ArrayLike | None) -> Start:
        """Start of a prediction, from its arguments."""
        _checks.instance("problem", problem, WienerProblem)
        mu, steps = _checks.positive("mu", mu), _checks.count("steps", steps)
        if not mu * max(1.0, float(problem.modes.eigenvalues[-1])) <= LARGEST_STEP:
            raise ValueError(f"mu must be such that mu^2 R does not overflow; got {mu:.3g}")
        v = problem.modes.to_modes(initial_error(problem, w0))
        return cls.build(problem.modes, v, problem.J_min, mu, steps)

    @classmethod
    def build(cls, modes: NaturalModes, v: Array, J_min: float, mu: float, steps: int) -> Start:
        """Start in given modes, with v (..., L) the modes of w(0) - w_o."""
        lam = np.where(modes.stationary, 0.0, modes.eigenvalues.astype(np.float64))
        return cls(modes, v, sum_outputs(np.abs(v) ** 2, lam.size), lam, J_min, mu, steps)

    @property
    def circular(self) -> bool:
        """Whether the regressors are circular complex."""
        return np.iscomplexobj(self.modes.eigenvectors)

    @property
    def kappa(self) -> int:
        """E[u u^H K u u^H] = kappa R K R + R tr(R K)."""
        return 1 if self.circular else 2

    @property
    def independence(self) -> str:
        """The assumption, in words."""
        return INDEPENDENCE.format(kind="circular complex" if self.circular else "real")


def lms_family(
    problem: WienerProblem,
    mu: float,
    steps: int,
    w0: ArrayLike | None,
    algorithm: str,
    *,
    block: int = 1,
    walk: Array | float = 0.0,
    premise: str = "",
) -> LearningCurve:
    """LMS with ``block`` gradients averaged, on a target whose modes take steps of power ``walk``.

    ``premise`` is what the assumption says besides independence.
    """
    start = Start.of(problem, mu, steps, w0)
    mu, lam = start.mu, start.lam
    decay = 1 - 2 * mu * lam + (mu * lam) ** 2 * (start.kappa + block - 1) / block
    gain = mu**2 / block
    force = gain * start.J_min * lam + walk
    excess, msd = iterate(start, lambda n, k, excess: decay * k + gain * excess * lam + force)
    final = steady_state(start, 1 - decay, gain, force)
    final[(lam == 0) & (force > 0)] = np.inf
    bounds = block_bounds(problem.R, block=block).of(complex_data=start.circular)
    mean = powers(start.v, start.modes.factors(mu), start.steps)
    return curve(
        problem, start, algorithm, Expected(mean, excess, msd, final), bounds,
        assumption=start.independence + premise, samples_per_update=block,
    )  # fmt: skip


def iterate(
    start: Start, advance: Callable[[int, Array, float], Array], metric: Array | None = None
) -> tuple[Array, Array]:
    """Run k(n+1) = advance(n, k(n), lambda' k(n)); return lambda' k(n) and sum_i metric_i k_i(n).

    From the first number that is not finite on, both are inf: the recursion is linear and
    unstable there, and inf - inf would say nothing.
    """
    excess, msd = np.full(start.steps, np.inf), np.full(start.steps + 1, np.inf)
    k, lam = start.k, start.lam
    weight = np.ones(lam.size) if metric is None else metric
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for n in range(start.steps + 1):
            power, deviation = float(lam @ k), float(weight @ k)
            if not (np.isfinite(power) and np.isfinite(deviation)):
                break
            msd[n] = deviation
            if n < start.steps:
                excess[n] = power
                k = advance(n, k, power)
    return excess, msd


def steady_state(start: Start, loss: Array, gain: float, force: Array) -> Array:
    """k with loss k = gain lambda (lambda' k) + force; modes without loss stay where they start.

    Diagonal plus rank one, hence closed (Sherman and Morrison 1950). Meaningless if not stable.
    """
    lam = start.lam
    live = loss != 0
    safe = np.where(live, loss, 1.0)
    own, shared = np.where(live, force / safe, 0.0), np.where(live, gain * lam / safe, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        k: Array = own + shared * (lam @ own) / (1 - lam @ shared)
    return np.where(live, k, start.k)


def powers(v: Array, factors: Array, steps: int) -> Array:
    """factors^n v for n = 0..steps: (steps + 1, ..., L), overflowing to inf."""
    n = np.arange(steps + 1, dtype=float).reshape(-1, *(1,) * v.ndim)
    with np.errstate(over="ignore", under="ignore"):
        growth = factors**n
        # 0 * inf is NaN in IEEE arithmetic; a mode that starts at zero stays at zero
        path: Array = np.where(v == 0, np.zeros_like(v), growth * np.where(v == 0, 1, v))
    return path


class Expected(NamedTuple):
    """What a recursion gives: ``mean`` (steps + 1, ..., L) modes, ``excess`` and ``msd`` per step.

    ``final`` holds the steady-state powers of the modes, where there is one, and ``msd_final``
    their MSD where that is not their sum.
    """

    mean: Array
    excess: Array
    msd: Array
    final: Array
    msd_final: float | None = None


def curve(
    problem: WienerProblem,
    start: Start,
    algorithm: str,
    expected: Expected,
    bounds: dict[str, float],
    *,
    assumption: str,
    samples_per_update: int = 1,
) -> LearningCurve:
    """The record of a prediction; ``bounds`` has "mean" and "mean_square"."""
    final = expected.final
    stable = start.mu < bounds["mean_square"]
    live = start.lam > 0
    emse = float(start.lam[live] @ final[live]) if stable else np.inf
    deviation = float(final.sum()) if expected.msd_final is None else expected.msd_final
    return LearningCurve(
        algorithm=algorithm,
        mu=start.mu,
        excess=expected.excess,
        msd=expected.msd,
        weights=mean_weights(problem, expected.mean),
        modes=expected.mean,
        J_min=problem.J_min,
        emse=emse,
        misadjustment=misadjustment(emse, problem.J_min),
        msd_final=deviation if stable else np.inf,
        stable=stable,
        mean_stable=start.mu < bounds["mean"],
        bounds=bounds,
        assumption=assumption,
        samples_per_update=samples_per_update,
    )


def initial_error(problem: WienerProblem, w0: ArrayLike | None) -> Array:
    """w(0) - w_o, shape of P."""
    if w0 is None:
        return -problem.w_o
    start = _checks.array("w0", w0, ndim=(problem.P.ndim,))
    if start.shape != problem.P.shape:
        raise ValueError(f"w0 must have the shape of P, {problem.P.shape}; got {start.shape}")
    error: Array = start - problem.w_o
    return error


def mean_weights(problem: WienerProblem, mean: Array) -> Array:
    """E[w(n)] from the mean modes; inf where a mode has overflowed, whatever the sign."""
    with np.errstate(over="ignore", invalid="ignore"):
        weights: Array = problem.w_o + problem.modes.to_weights(mean)
    weights[~np.isfinite(weights)] = np.inf
    return weights


def misadjustment(emse: float, J_min: float) -> float:
    """EMSE over J_min; NaN where J_min is zero."""
    return emse / J_min if J_min > 0 else float("nan")


def sum_outputs(a: Array, L: int) -> Array:
    """(..., L) to (L,), in double precision."""
    total: Array = a.reshape(-1, L).sum(axis=0, dtype=np.float64)
    return total
