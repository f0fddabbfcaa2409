"""Leaky NLMS: NLMS whose weights decay a little at every step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from adaptive import checks as _checks
from adaptive.algorithms.base import run, setting
from adaptive.algorithms.leaky import check_pull, leaky_moments
from adaptive.algorithms.nlms import NLMS
from adaptive.bounds import excited
from adaptive.checks import Array
from adaptive.curves import Expected, Start, curve, iterate, sum_outputs
from adaptive.recursion import SecondMoments
from adaptive.results import FilterRun, LearningCurve, NlmsBounds
from adaptive.streaming import Record, StepSize
from adaptive.wiener import WienerProblem


@dataclass(frozen=True, kw_only=True)
class LeakyNLMS(NLMS):
    """Leaky NLMS: w(n+1) = (1 - mu leakage) w(n) + mu / (eps + |u(n)|^2) u(n) e*(n).

    Weights that the input does not excite decay to zero instead of drifting, as in leaky LMS; both
    mu and leakage are pure numbers, so the input's level does not matter.

    Parameters
    ----------
    mu : step size, a pure number; stable for 0 < mu < 2 / (1 + leakage), whatever the input.
    leakage : gamma >= 0, a pure number: weights shrink by 1 - mu leakage at every sample, silent
        ones included.
    eps : as for :class:`NLMS`.

    Notes
    -----
    The leakage of Sayed, Fundamentals of Adaptive Filtering, leaky LMS, with the step of NLMS.

    Learning curve. With A = diag(a), b and B of :class:`NLMS`, r = 1 - mu gamma, o_i the modes of
    w_o and m_i = E[v_i]: m_i(n+1) = (r - mu a_i) m_i - mu gamma o_i and k(n+1) =
    (r^2 - 2 r mu A + mu^2 B) k + mu^2 J_min b - 2 mu gamma (r - mu a_i) Re(o_i* m_i)
    + mu^2 gamma^2 |o_i|^2. Exact for independent Gaussian regressors.

    Bounds. ``any_input`` is 2 / (1 + gamma): the update scales an error of the weights by 1 - mu
    (gamma + p) along the regressor, p in [0, 1]. ``mean`` is 2 / (gamma + max_i a_i). With
    A' = A + gamma and B' = B + 2 gamma A + gamma^2 the map of k is 1 - 2 mu A' + mu^2 B', so
    ``mean_square`` is 2 / lambda_max(A'^-1/2 B' A'^-1/2), as in NLMS.

    Examples
    --------
    >>> LeakyNLMS(mu=0.5, leakage=0.25, eps=0.0).bounds([[1.0, 0.0], [0.0, 1.0]]).any_input
    1.6
    """

    name: ClassVar[str] = "leaky_nlms"

    leakage: float = setting("weight decay, a pure number")

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        object.__setattr__(self, "leakage", _checks.nonnegative("leakage", self.leakage))

    def keep(self, mu: Array) -> Array:
        """1 - mu leakage."""
        keep: Array = 1 - mu * mu.dtype.type(self.leakage)
        return keep

    def bounds(self, R: ArrayLike) -> NlmsBounds:
        """Bounds on mu, a pure number; a complex R means circular complex data."""
        modes, g = excited(R), self.leakage
        lam = modes.eigenvalues[~modes.stationary].astype(np.float64)
        circular = np.iscomplexobj(modes.eigenvectors)
        a, _, B = self._normalized(lam, modes, circular=circular)
        scale = 1 + g  # of which no square may overflow
        root = np.sqrt((a + g) / scale)
        square = B / scale / scale + np.diag(2 * (g / scale) * (a / scale) + (g / scale) ** 2)
        largest = float(np.linalg.eigvalsh(square / root / root[:, None])[-1])
        return NlmsBounds(
            any_input=2 / (1 + g),
            mean=2 / float(a.max() + g),
            mean_square=2 / scale / largest,
        )

    def predict(
        self, problem: WienerProblem, *, steps: int, w0: ArrayLike | None = None
    ) -> LearningCurve:
        """Learning curve, for any mu.

        Raises
        ------
        ValueError : eps = 0 where E[1/|u|^2] is infinite, as for :class:`NLMS`; mu leakage so
            large that its powers overflow.
        """
        start = Start.of(problem, self.constant_mu, steps, w0)
        mu, gamma, lam = start.mu, self.leakage, start.lam
        check_pull(mu, gamma)
        bounds = self.bounds(problem.R).of(complex_data=start.circular)
        a, b, B = self._moments(start)
        keep = 1 - mu * gamma
        factor = keep - mu * a
        w_o = start.modes.to_modes(problem.w_o)
        w_o[..., lam == 0] = 0  # exactly, not up to the rounding of the basis
        with np.errstate(divide="ignore", invalid="ignore"):
            limit = np.where(a + gamma > 0, -w_o * (gamma / (a + gamma)), 0.0)
        away = start.v - limit
        n = np.arange(start.steps + 1, dtype=float).reshape(-1, *(1,) * away.ndim)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            mean = limit + np.where(away == 0, 0.0, factor**n * away)
        noise = mu**2 * start.J_min * b

        def bias(m: Array) -> Array:
            """Part of the recursion that the pull towards zero forces, over mu, (L,)."""
            cross = -2 * gamma * factor * np.real(w_o.conj() * m)
            return sum_outputs(cross + mu * (gamma * np.abs(w_o)) ** 2, lam.size)

        diagonal = keep**2 - 2 * keep * mu * a

        def advance(n: int, k: Array, excess: float) -> Array:
            following: Array = diagonal * k + mu**2 * (B @ k) + noise + mu * bias(mean[n])
            return following

        excess, msd = iterate(start, advance)
        final = np.where(lam + gamma > 0, 0.0, start.k)
        live = np.flatnonzero(lam > 0)
        if mu < bounds["mean_square"]:
            # both over mu, of which a small one would round 1 - diagonal to 0
            loss = np.diag(gamma * (1 + keep) + 2 * keep * a) - mu * B
            force = mu * start.J_min * b + bias(limit)
            final[live] = np.linalg.solve(loss[np.ix_(live, live)], force[live])
        expected = Expected(mean, excess, msd, final)
        return curve(problem, start, self.name, expected, bounds, assumption=start.independence)

    def second_moments(
        self, problem: WienerProblem, *, w0: ArrayLike | None = None
    ) -> SecondMoments:
        """The recursion of ``predict``, over the powers of the modes and Re(o_i* m_i)."""
        start = Start.of(problem, 1.0, 1, w0)
        bounds = self.bounds(problem.R).of(complex_data=start.circular)
        a, b, B = self._moments(start)

        def build(mu: float) -> tuple[Array, Array, Array]:
            return mu * a, mu**2 * B, mu**2 * start.J_min * b

        w_o = start.modes.to_modes(problem.w_o)
        return leaky_moments(start, bounds, w_o, self.leakage, build)


def leaky_nlms(
    u: ArrayLike,
    d: ArrayLike,
    *,
    mu: StepSize,
    leakage: float,
    taps: int | None = None,
    eps: float | None = None,
    w0: ArrayLike | None = None,
    record: Record = "last",
    adapt: ArrayLike | None = None,
    delay: int = 0,
) -> FilterRun:
    """Leaky NLMS: w(n+1) = (1 - mu leakage) w(n) + mu / (eps + |u(n)|^2) u(n) e*(n).

    Parameters
    ----------
    u, d, taps, w0, record, adapt, delay : as in :func:`adaptive.lms`.
    mu, leakage, eps : as for :class:`LeakyNLMS`.

    Returns
    -------
    FilterRun

    Raises
    ------
    TypeError, ValueError : as :func:`adaptive.lms`; leakage or eps < 0, silence without eps.

    Examples
    --------
    >>> u = 1e3 * np.random.default_rng(0).standard_normal(20000)
    >>> leaky_nlms(u, u, mu=0.01, leakage=1.0, eps=0.0, taps=1).weights.round(6).tolist()
    [0.5]
    """
    algorithm = LeakyNLMS(mu=mu, leakage=leakage, eps=eps)
    return run(algorithm, u, d, taps=taps, w0=w0, record=record, adapt=adapt, delay=delay)
