"""Normalised LMS: update, bounds and learning curve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from adaptive import checks as _checks
from adaptive._moments import normalized_moments
from adaptive.algorithms.base import Regularisation, run, setting
from adaptive.algorithms.gradient import StochasticGradient
from adaptive.bounds import excited
from adaptive.checks import Array
from adaptive.curves import Expected, Start, curve, iterate, powers
from adaptive.modes import NaturalModes
from adaptive.recursion import SecondMoments, eigenbasis, of_modes
from adaptive.regressors import Regressors
from adaptive.results import FilterRun, LearningCurve, NlmsBounds
from adaptive.streaming import Record, StepSize
from adaptive.wiener import WienerProblem

LARGEST_FLOOR = 1e140  # eps over the power of the input; squares of their ratio enter


@dataclass(frozen=True, kw_only=True)
class NLMS(StochasticGradient):
    """Normalised LMS: w(n+1) = w(n) + mu / (eps + |u(n)|^2) u(n) e*(n).

    Parameters
    ----------
    mu : step size, a pure number; stable in the mean square for 0 < mu < 2, whatever the input.
    eps : regularisation, in units of |u|^2. None takes 1e-3 of the mean |u(n)|^2, so that the
        input's scale does not matter; a stream, whose mean is not known, must be given a number,
        1e-3 of the mean |u|^2 to be expected. It keeps the weights in quiet passages, where noise
        would move them most: see "Regularisation" in docs/theory.md. With eps=0 a regressor of
        zeros updates nothing.

    Notes
    -----
    Nagumo and Noda 1967; Haykin, Adaptive Filter Theory, chapter on normalized LMS.

    Learning curve. No small step, no averaging of the denominator: with s = eps + |u|^2,
    p(t) = exp(-eps t) prod_j (1 + 2 l_j t)^(-1/2) and r_i(t) = l_i / (1 + 2 l_i t) for real data,
    p(t) = exp(-eps t) prod_j 1 / (1 + l_j t) and r_i(t) = l_i / (1 + l_i t) for circular complex,
    a_i = E[|u_i|^2 / s] = int p r_i dt, b_i = E[|u_i|^2 / s^2] = int t p r_i dt,
    B_ij = E[|u_i u_j|^2 / s^2] = int t p r_i r_j (1 + kappa [i=j]) dt, over t from 0 to infinity;
    E[v_i] contracts by 1 - mu a_i and k(n+1) = (1 - 2 mu diag(a) + mu^2 B) k + mu^2 J_min b.

    Bounds. ``any_input`` is 2; ``mean`` = 2 / max_i a_i. The map 1 - 2 mu diag(a) + mu^2 B is
    symmetric and nonnegative, so its spectral radius is 1 at the ``mean_square`` bound
    2 / lambda_max(A^-1/2 B A^-1/2) >= 2, with equality for eps = 0. Both are exact for Gaussian
    regressors.

    Examples
    --------
    >>> from adaptive import WienerProblem, predict
    >>> problem = WienerProblem(R=np.eye(4), P=[1.0, 0.0, 0.0, 0.0], d_power=1.01)
    >>> curve = predict(NLMS(mu=0.5, eps=0.0), problem, steps=100)
    >>> round(curve.misadjustment, 9)  # white input: mu L / ((2 - mu) (L - 2))
    0.666666667
    >>> bounds = NLMS(mu=0.5, eps=0.0).bounds([[1.0, 0.0], [0.0, 1.0]])
    >>> round(bounds.mean, 9), round(bounds.mean_square, 9)
    (4.0, 2.0)
    """

    name: ClassVar[str] = "nlms"
    normalized: ClassVar[bool] = True
    has_theory: ClassVar[bool] = True
    regularisation: ClassVar[Regularisation | None] = Regularisation("eps", 1e-3, whole=True)

    eps: float | None = setting("regularisation, in units of |u|^2", None)

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        if self.eps is not None:
            object.__setattr__(self, "eps", _checks.nonnegative("eps", self.eps))

    def power(self, lines: Regressors) -> tuple[Array, float]:
        """|u(n)|^2, and eps."""
        assert self.eps is not None
        return lines.power(), self.eps

    def _floor(self, modes: NaturalModes) -> float:
        """The regularisation for an input with these modes."""
        power = float(modes.eigenvalues.sum())
        eps = self.regularised(power / modes.eigenvalues.size, modes.eigenvalues.size).eps
        assert eps is not None
        return eps

    def _normalized(
        self, lam: Array, modes: NaturalModes, *, circular: bool
    ) -> tuple[Array, Array, Array]:
        """The moments of an input with these modes, of which ``lam`` are looked at.

        Raises
        ------
        ValueError : eps so far above the powers that squares of a step underflow.
        """
        floor = self._floor(modes)
        if floor > LARGEST_FLOOR * float(lam.sum()):
            raise ValueError(
                "eps must not exceed the powers of the input so far that a step vanishes; "
                f"got {_checks.shown(self.eps)}"
            )
        a, b, B = normalized_moments(lam, floor, circular=circular)
        return a, b, B

    def _moments(self, start: Start) -> tuple[Array, Array, Array]:
        """a, b and B of the learning curve.

        Raises
        ------
        ValueError : eps = 0 where b is infinite; eps as in ``_normalized``.
        """
        a, b, B = self._normalized(start.lam, start.modes, circular=start.circular)
        if np.isinf(b).any():
            least, kind = (2, "complex") if start.circular else (3, "real")
            raise ValueError(
                f"eps must be positive for fewer than {least} excited modes of {kind} data, where "
                f"E[1/|u|^2] is infinite; got eps=0 and {start.modes.rank}"
            )
        return a, b, B

    def bounds(self, R: ArrayLike) -> NlmsBounds:
        """Bounds on mu, a pure number; a complex R means circular complex data."""
        modes = excited(R)
        lam = modes.eigenvalues[~modes.stationary].astype(np.float64)
        circular = np.iscomplexobj(modes.eigenvectors)
        a, _, B = self._normalized(lam, modes, circular=circular)
        root = np.sqrt(a)
        return NlmsBounds(
            any_input=2.0,
            mean=2 / float(a.max()),
            mean_square=2 / float(np.linalg.eigvalsh(B / root / root[:, None])[-1]),
        )

    def predict(
        self, problem: WienerProblem, *, steps: int, w0: ArrayLike | None = None
    ) -> LearningCurve:
        """Learning curve, for any mu.

        Raises
        ------
        ValueError : eps = 0 where E[1/|u|^2] is infinite, that is with fewer than 3 excited modes
            of real data, or 2 of complex.
        """
        start = Start.of(problem, self.constant_mu, steps, w0)
        bounds = self.bounds(problem.R).of(complex_data=start.circular)
        mu = start.mu
        a, b, B = self._moments(start)
        noise = mu**2 * start.J_min * b

        def advance(n: int, k: Array, excess: float) -> Array:
            following: Array = k + mu * (mu * (B @ k) - 2 * a * k) + noise
            return following

        excess, msd = iterate(start, advance)
        final = np.where(start.lam > 0, 0.0, start.k)
        live = np.flatnonzero(start.lam > 0)
        if mu < bounds["mean_square"]:
            loss = (2 * mu * np.diag(a) - mu**2 * B)[np.ix_(live, live)]
            final[live] = np.linalg.solve(loss, noise[live])
        expected = Expected(powers(start.v, 1 - mu * a, start.steps), excess, msd, final)
        return curve(problem, start, self.name, expected, bounds, assumption=start.independence)

    def second_moments(
        self, problem: WienerProblem, *, w0: ArrayLike | None = None
    ) -> SecondMoments:
        """The recursion of ``predict``."""
        start = Start.of(problem, 1.0, 1, w0)
        bounds = self.bounds(problem.R).of(complex_data=start.circular)
        a, b, B = self._moments(start)
        return of_modes(
            start,
            bounds,
            lambda mu: (2 * mu * a, mu**2 * start.J_min * b, mu**2 * B),
            to_modes=eigenbasis(start),
        )


def nlms(
    u: ArrayLike,
    d: ArrayLike,
    *,
    mu: StepSize,
    taps: int | None = None,
    eps: float | None = None,
    w0: ArrayLike | None = None,
    record: Record = "last",
    adapt: ArrayLike | None = None,
    delay: int = 0,
) -> FilterRun:
    """Normalised LMS: w(n+1) = w(n) + mu / (eps + |u(n)|^2) u(n) e*(n).

    Parameters
    ----------
    u, d, taps, w0, record, adapt, delay : as in :func:`adaptive.lms`.
    mu, eps : as for :class:`NLMS`.

    Returns
    -------
    FilterRun

    Raises
    ------
    TypeError, ValueError : as :func:`adaptive.lms`; eps < 0, silence without eps.

    Examples
    --------
    >>> u = np.random.default_rng(0).standard_normal(2000)
    >>> d = np.convolve(u, [1.0, -0.5])[:2000]
    >>> nlms(1e6 * u, d, mu=0.5, taps=2).weights.round(12).tolist()
    [1e-06, -5e-07]
    """
    return run(
        NLMS(mu=mu, eps=eps),
        u,
        d,
        taps=taps,
        w0=w0,
        record=record,
        adapt=adapt,
        delay=delay,
    )


def predict_nlms(
    problem: WienerProblem,
    *,
    mu: float,
    steps: int,
    eps: float | None = None,
    w0: ArrayLike | None = None,
) -> LearningCurve:
    """Learning curve of NLMS: w(n+1) = w(n) + mu e(n) u(n) / (eps + |u(n)|^2), for any mu.

    Parameters
    ----------
    problem, steps, w0 : as in :func:`predict_lms`.
    mu : step size, a pure number; stable below 2 whatever the input.
    eps : regularisation, in units of |u|^2; None is 1e-3 tr(R), as the filter takes it.

    Returns
    -------
    LearningCurve

    Raises
    ------
    TypeError, ValueError : as :func:`predict_lms`; eps < 0; eps = 0 where E[1/|u|^2] is infinite,
        that is with fewer than 3 excited modes of real data, or 2 of complex.

    Notes
    -----
    The recursion is that of :class:`NLMS`.

    Examples
    --------
    >>> problem = WienerProblem(R=np.eye(4), P=[1.0, 0.0, 0.0, 0.0], d_power=1.01)
    >>> curve = predict_nlms(problem, mu=0.5, steps=100, eps=0.0)
    >>> round(curve.misadjustment, 9)  # white input: mu L / ((2 - mu) (L - 2))
    0.666666667
    """
    return NLMS(mu=mu, eps=eps).predict(problem, steps=steps, w0=w0)
