"""LMS with momentum (heavy ball): update, bounds and learning curve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from adaptive import _kernels
from adaptive import checks as _checks
from adaptive.algorithms.base import Algorithm, run, setting
from adaptive.bounds import excited, linear_bounds, linear_edge
from adaptive.checks import Array
from adaptive.curves import Expected, Start, curve, iterate, steady_state
from adaptive.recursion import SecondMoments, eigenbasis
from adaptive.regressors import Regressors
from adaptive.results import FilterRun, LearningCurve, StabilityBounds
from adaptive.streaming import Block, Memory, Record, StepSize
from adaptive.wiener import WienerProblem


@dataclass(frozen=True, kw_only=True)
class MomentumLMS(Algorithm):
    """LMS with momentum: w(n+1) = w(n) + mu u(n) e*(n) + momentum (w(n) - w(n-1)).

    What torch.optim.SGD(momentum=) does with one sample at a time; no dampening, w(-1) = w(0).
    Slow modes learn 1 / (1 - momentum) times as fast: at low rates the effective step size is
    mu / (1 - momentum).

    Parameters
    ----------
    mu : as for :class:`LMS`. A varying mu scales the new gradient only.
    momentum : beta, in [0, 1).

    Notes
    -----
    Polyak 1964; Roy and Shynk 1990 for LMS.

    Bounds. Mean: both roots of z^2 - (1 + beta - mu l) z + beta lie inside the unit circle iff
    mu l < 2 (1 + beta) (Polyak 1964). Mean square, with x_k = mu l_k and kappa = 2 for real, 1
    for circular complex data, from the steady state of the second moments of (v(n), v(n-1)):
    sum_k x_k / ((1 - beta) (2 - x_k / (1 + beta)) - (kappa - 1) x_k) = 1
    (Roy and Shynk 1990 give the small-step form). Momentum raises ``mean`` and lowers the
    mean-square bounds.

    Learning curve. With a_i = 1 + beta - mu l_i: m_i(n+1) = a_i m_i(n) - beta m_i(n-1), whose
    roots are ``modes.momentum_roots``. The second moments p = E|v(n)|^2, q = Re E[v(n) v*(n-1)],
    r = E|v(n-1)|^2 of each mode follow
    p_i+ = (a_i^2 + (kappa - 1) mu^2 l_i^2) p_i - 2 beta a_i q_i + beta^2 r_i
    + mu^2 l_i (sum_j l_j p_j + J_min);  q_i+ = a_i p_i - beta q_i;  r_i+ = p_i,
    with p, q eliminated in closed form in the steady state. (Roy and Shynk 1990 treat small mu.)

    Examples
    --------
    >>> from adaptive import WienerProblem, predict
    >>> problem = WienerProblem(R=[[1.0, 0.0], [0.0, 1.0]], P=[1.0, 0.0], d_power=1.01)
    >>> curve = predict(MomentumLMS(mu=0.01, momentum=0.9), problem, steps=100)
    >>> round(curve.misadjustment, 3)  # near that of LMS at mu / (1 - beta) = 0.1, 0.125
    0.118
    >>> bounds = MomentumLMS(mu=0.01, momentum=0.5).bounds([[1.0]])
    >>> bounds.mean, round(bounds.mean_square_real, 9)
    (3.0, 0.428571429)
    """

    name: ClassVar[str] = "momentum_lms"
    has_theory: ClassVar[bool] = True

    mu: StepSize = setting("step size")
    momentum: float = setting("heavy ball, in [0, 1)")

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        object.__setattr__(self, "momentum", _checks.fraction("momentum", self.momentum))

    def allocate(self, memory: Memory, lines: Regressors, dtype: np.dtype) -> None:
        """The velocity, w(n) - w(n-1)."""
        memory["velocity"] = np.zeros_like(memory["w"])

    def advance(self, memory: Memory, block: Block) -> int:
        """Run the compiled loop."""
        w, v, lines = memory["w"], memory["velocity"], block.lines
        beta = block.mu.dtype.type(self.momentum)
        return block.per_output(
            lambda m, d, error: _kernels.momentum(
                lines.buffer, lines.hop, d, block.mu, beta, w[m], v[m], error, m, *block.record
            )
        )

    def bounds(self, R: ArrayLike) -> StabilityBounds:
        """Bounds on mu, in units of mu."""
        modes, beta = excited(R), self.momentum

        def edge(kappa: int) -> float:
            share = (1 - beta) / (1 + beta) + kappa - 1
            pole = 2 * (1 - beta) / share
            return linear_edge(modes, lambda x: x / (2 * (1 - beta) - share * x), pole)

        return linear_bounds(modes, 2 * (1 + beta), edge)

    def predict(
        self, problem: WienerProblem, *, steps: int, w0: ArrayLike | None = None
    ) -> LearningCurve:
        """Learning curve; exact for independent Gaussian regressors."""
        start = Start.of(problem, self.constant_mu, steps, w0)
        beta, lam, mu, kappa = self.momentum, start.lam, start.mu, start.kappa
        a = 1 + beta - mu * lam
        square = a**2 + (kappa - 1) * (mu * lam) ** 2
        noise = mu**2 * start.J_min * lam
        q, r = start.k.copy(), start.k.copy()

        def advance(n: int, p: Array, excess: float) -> Array:
            nonlocal q, r
            following: Array = square * p - 2 * beta * a * q + beta**2 * r
            following += mu**2 * excess * lam + noise
            q, r = a * p - beta * q, p
            following[lam == 0] = p[lam == 0]
            return following

        excess, msd = iterate(start, advance)
        # the steady state of p alone, once q = a p / (1 + beta) and r = p are put in
        x = mu * lam
        loss = (1 - beta) / (1 + beta) * x * (2 * (1 + beta) - x) - (kappa - 1) * x**2
        final = steady_state(start, loss, mu**2, noise)
        bounds = self.bounds(problem.R).of(complex_data=start.circular)
        expected = Expected(_mean_modes(start, a, beta), excess, msd, final)
        return curve(problem, start, self.name, expected, bounds, assumption=start.independence)

    def second_moments(
        self, problem: WienerProblem, *, w0: ArrayLike | None = None
    ) -> SecondMoments:
        """The recursion of ``predict``, over p, q and r."""
        start = Start.of(problem, 1.0, 1, w0)
        bounds = self.bounds(problem.R).of(complex_data=start.circular)
        live, beta = np.flatnonzero(start.lam > 0), self.momentum
        lam, one, none = start.lam[live], np.eye(live.size), np.zeros((live.size, live.size))

        def build(mu: float) -> tuple[Array, Array]:
            x = mu * lam
            a = 1 + beta - x
            own = np.diag((x - beta) * (2 + beta - x) - (start.kappa - 1) * x**2) - np.outer(x, x)
            loss = np.block([
                [own, np.diag(2 * beta * a), -(beta**2) * one],
                [np.diag(-a), (1 + beta) * one, none],
                [-one, none, one],
            ])  # fmt: skip
            return loss, np.concatenate([mu * start.J_min * x, 0 * x, 0 * x])

        k = start.k[live]
        return SecondMoments(
            bounds=bounds,
            build=build,
            start=np.concatenate([k, k, k]),
            power=np.concatenate([lam, 0 * lam, 0 * lam]),
            J_min=start.J_min,
            to_modes=eigenbasis(start)[live],
            # w(n) and w(n-1) are both at another distance once the target has moved
            entry=np.concatenate([one, one, one]),
        )


def _mean_modes(start: Start, a: Array, beta: float) -> Array:
    """(steps + 1, ..., L) E[v(n)], by its second-order recursion."""
    lam = start.lam
    mean = np.empty((start.steps + 1, *start.v.shape), start.v.dtype)
    mean[0] = previous = start.v
    with np.errstate(over="ignore", invalid="ignore"):
        for n in range(start.steps):
            mean[n + 1] = a * mean[n] - beta * previous
            previous = mean[n]
    mean[:, ..., lam == 0] = mean[0][..., lam == 0]
    mean[~np.isfinite(mean)] = np.inf
    return mean


def momentum_lms(
    u: ArrayLike,
    d: ArrayLike,
    *,
    mu: StepSize,
    momentum: float,
    taps: int | None = None,
    w0: ArrayLike | None = None,
    record: Record = "last",
    adapt: ArrayLike | None = None,
    delay: int = 0,
) -> FilterRun:
    """LMS with momentum: w(n+1) = w(n) + mu u(n) e*(n) + momentum (w(n) - w(n-1)).

    Parameters
    ----------
    u, d, taps, w0, record, adapt, delay : as in :func:`adaptive.lms`.
    mu, momentum : as for :class:`MomentumLMS`.

    Returns
    -------
    FilterRun

    Raises
    ------
    TypeError, ValueError : as :func:`adaptive.lms`; momentum outside [0, 1).

    Examples
    --------
    >>> u = np.random.default_rng(0).standard_normal(2000)
    >>> d = np.convolve(u, [1.0, -0.5])[:2000]
    >>> momentum_lms(u, d, mu=0.01, momentum=0.8, taps=2).weights.round(6).tolist()
    [1.0, -0.5]
    """
    return run(
        MomentumLMS(mu=mu, momentum=momentum),
        u,
        d,
        taps=taps,
        w0=w0,
        record=record,
        adapt=adapt,
        delay=delay,
    )
