"""Leaky LMS, or LMS with weight decay: update, bounds and learning curve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from adaptive import checks as _checks
from adaptive.algorithms.base import run, setting
from adaptive.algorithms.gradient import StochasticGradient
from adaptive.bounds import excited, linear_edge, load_root
from adaptive.checks import Array
from adaptive.curves import Expected, Start, curve, iterate, steady_state, sum_outputs
from adaptive.recursion import SecondMoments
from adaptive.results import FilterRun, LearningCurve, StabilityBounds
from adaptive.streaming import Record, StepSize
from adaptive.wiener import WienerProblem

LARGEST_PULL = 1e100  # mu leakage, of which squares enter and which more than 2 lets diverge


def check_pull(mu: float, leakage: float) -> None:
    """Refuse mu leakage whose powers overflow.

    Raises
    ------
    ValueError : it is above 1e100.
    """
    if mu * leakage > LARGEST_PULL:
        raise ValueError(
            f"leakage must be such that mu leakage is at most {LARGEST_PULL:g}, since its powers "
            f"overflow; got leakage={leakage:.3g} with mu={mu:.3g}"
        )


@dataclass(frozen=True, kw_only=True)
class LeakyLMS(StochasticGradient):
    """Leaky LMS: w(n+1) = (1 - mu leakage) w(n) + mu u(n) e*(n).

    LMS on R + leakage I: the weights settle at (R + leakage I)^-1 P, and directions without input
    decay to zero instead of drifting. In a network: weight decay.

    Parameters
    ----------
    mu : as for :class:`LMS`.
    leakage : gamma >= 0, in units of input power. It acts like white noise of that power added to
        the input.

    Notes
    -----
    Sayed, Fundamentals of Adaptive Filtering, leaky LMS.

    Bounds. Mean: |1 - mu (gamma + l_k)| < 1. Mean square, kappa = 2 real, 1 circular complex:
    sum_k mu l_k^2 / (2 (gamma + l_k) - mu (gamma^2 + 2 gamma l_k + kappa l_k^2)) = 1.

    Learning curve. With a = 1 - mu gamma, m_i = E[v_i], o_i the modes of w_o:
    m_i(n+1) = (a - mu l_i) m_i - mu gamma o_i, so m_i tends to -gamma o_i / (l_i + gamma);
    k_i(n+1) = (a^2 - 2 a mu l_i + kappa mu^2 l_i^2) k_i + mu^2 l_i (sum_j l_j k_j + J_min)
    - 2 mu gamma (a - mu l_i) Re(o_i* m_i) + mu^2 gamma^2 |o_i|^2
    (Mayyas and Aboulnasr 1997, real data). Modes without input decay too, by a per step. ``emse``
    and ``msd_final`` hold the bias as well as the fluctuation.

    Examples
    --------
    >>> from adaptive import WienerProblem, predict
    >>> problem = WienerProblem(R=[[1.0]], P=[1.0], d_power=1.0)
    >>> curve = predict(LeakyLMS(mu=0.1, leakage=0.25), problem, steps=200)
    >>> round(float(curve.weights[-1, 0]), 9)
    0.8
    >>> LeakyLMS(mu=0.1, leakage=1.0).bounds([[1.0]]).mean
    1.0
    """

    name: ClassVar[str] = "leaky_lms"
    has_theory: ClassVar[bool] = True

    leakage: float = setting("weight decay, in units of input power")

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        object.__setattr__(self, "leakage", _checks.nonnegative("leakage", self.leakage))

    def keep(self, mu: Array) -> Array:
        """1 - mu leakage."""
        keep: Array = 1 - mu * mu.dtype.type(self.leakage)
        return keep

    def bounds(self, R: ArrayLike) -> StabilityBounds:
        """Bounds on mu, in units of mu."""
        modes = excited(R)
        top, trace = float(modes.eigenvalues[-1]), float(modes.eigenvalues.sum())
        scale = top + self.leakage  # of which no square may overflow
        g = self.leakage / scale

        def edge(kappa: int) -> float:
            lam = modes.eigenvalues / scale
            square = g * g + 2 * g * lam + kappa * lam * lam
            live = modes.eigenvalues > 0
            pole = np.min(2 * (g + lam[live]) / square[live])

            def terms(mu: float) -> Array:
                load: Array = mu * lam**2 / (2 * (g + lam) - mu * square)
                return load

            # with no leakage a mode without power is 0 / 0: it carries no load
            if g == 0:
                return linear_edge(modes, lambda x: x / (2 - kappa * x), 2 / kappa)
            return load_root(terms, float(pole)) / scale

        return StabilityBounds(
            trace=2 / (trace + self.leakage),
            mean=2 / scale,
            mean_square_real=edge(2),
            mean_square_complex=edge(1),
        )

    def predict(
        self, problem: WienerProblem, *, steps: int, w0: ArrayLike | None = None
    ) -> LearningCurve:
        """Learning curve; exact for independent Gaussian regressors.

        Raises
        ------
        ValueError : mu leakage so large that its powers overflow.
        """
        start = Start.of(problem, self.constant_mu, steps, w0)
        gamma, lam, mu, kappa = self.leakage, start.lam, start.mu, start.kappa
        check_pull(mu, gamma)
        keep = 1 - mu * gamma
        w_o = start.modes.to_modes(problem.w_o)
        w_o[..., lam == 0] = 0  # exactly, not up to the rounding of the basis

        factor = keep - mu * lam
        with np.errstate(divide="ignore", invalid="ignore"):
            limit = np.where(lam + gamma > 0, -w_o * (gamma / (lam + gamma)), 0.0)
        away = start.v - limit
        n = np.arange(start.steps + 1, dtype=float).reshape(-1, *(1,) * away.ndim)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            growth = np.where(away == 0, 0.0, factor**n * away)
            mean = limit + growth

        def bias(m: Array) -> Array:
            """Part of the recursion that the pull towards zero forces, (..., L)."""
            cross = -2 * mu * gamma * factor * np.real(w_o.conj() * m)
            force: Array = cross + (mu * gamma * np.abs(w_o)) ** 2
            return sum_outputs(force, lam.size)

        decay = keep**2 - 2 * keep * mu * lam + kappa * (mu * lam) ** 2
        noise = mu**2 * start.J_min * lam

        def advance(n: int, k: Array, excess: float) -> Array:
            following: Array = decay * k + mu**2 * excess * lam + noise + bias(mean[n])
            return following

        excess, msd = iterate(start, advance)
        final = steady_state(start, 1 - decay, mu**2, noise + bias(limit))
        bounds = self.bounds(problem.R).of(complex_data=start.circular)
        expected = Expected(mean, excess, msd, final)
        return curve(problem, start, self.name, expected, bounds, assumption=start.independence)

    def second_moments(
        self, problem: WienerProblem, *, w0: ArrayLike | None = None
    ) -> SecondMoments:
        """The recursion of ``predict``, over the powers of the modes and Re(o_i* m_i)."""
        start = Start.of(problem, 1.0, 1, w0)
        bounds = self.bounds(problem.R).of(complex_data=start.circular)
        lam, kappa = start.lam, start.kappa

        def build(mu: float) -> tuple[Array, Array, Array]:
            mixing = kappa * np.diag((mu * lam) ** 2) + mu**2 * np.outer(lam, lam)
            return mu * lam, mixing, mu**2 * start.J_min * lam

        w_o = start.modes.to_modes(problem.w_o)
        return leaky_moments(start, bounds, w_o, self.leakage, build)


def leaky_moments(
    start: Start,
    bounds: dict[str, float],
    w_o: Array,
    leakage: float,
    build: Callable[[float], tuple[Array, Array, Array]],
) -> SecondMoments:
    """Recursions of an algorithm that leaks, from those of the one that does not.

    Parameters
    ----------
    start, bounds : as for :func:`adaptive.recursion.of_modes`.
    w_o : (..., L) modes of the Wiener solution.
    leakage : gamma.
    build : at a step size, what contracts E[v_i] by 1 less it (L,), what mixes the powers (L, L),
        and the noise (L,).
    """
    live = np.flatnonzero(start.lam > 0)
    w_o, v = w_o[..., live], start.v[..., live]
    square = sum_outputs(np.abs(w_o) ** 2, live.size)
    overlap = sum_outputs(np.real(w_o.conj() * v), live.size)

    def augmented(mu: float) -> tuple[Array, Array]:
        step, mixing, noise = (x[..., live] for x in build(mu))
        keep, pull = 1 - mu * leakage, mu * leakage
        factor = keep - step
        own = np.diag(pull * (2 - pull) + 2 * keep * step) - mixing[live]
        loss = np.block([
            [own, np.diag(2 * pull * factor)],
            [np.zeros_like(own), np.diag(pull + step)],
        ])  # fmt: skip
        return loss, np.concatenate([noise + pull**2 * square, -pull * square])

    return SecondMoments(
        bounds=bounds,
        build=augmented,
        start=np.concatenate([start.k[live], overlap]),
        power=np.concatenate([start.lam[live], np.zeros(live.size)]),
        J_min=start.J_min,
    )


def leaky_lms(
    u: ArrayLike,
    d: ArrayLike,
    *,
    mu: StepSize,
    leakage: float,
    taps: int | None = None,
    w0: ArrayLike | None = None,
    record: Record = "last",
    adapt: ArrayLike | None = None,
    delay: int = 0,
) -> FilterRun:
    """Leaky LMS: w(n+1) = (1 - mu leakage) w(n) + mu u(n) e*(n).

    Parameters
    ----------
    u, d, taps, w0, record, adapt, delay : as in :func:`adaptive.lms`.
    mu, leakage : as for :class:`LeakyLMS`.

    Returns
    -------
    FilterRun

    Raises
    ------
    TypeError, ValueError : as :func:`adaptive.lms`; leakage < 0.

    Examples
    --------
    >>> u = np.random.default_rng(0).standard_normal(20000)
    >>> leaky_lms(u, u, mu=0.01, leakage=1.0, taps=1).weights.round(1).tolist()
    [0.5]
    """
    return run(
        LeakyLMS(mu=mu, leakage=leakage),
        u,
        d,
        taps=taps,
        w0=w0,
        record=record,
        adapt=adapt,
        delay=delay,
    )
