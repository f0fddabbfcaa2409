"""Learning curves before the run: what theory says E|e(n)|^2, E|w(n)-w_o|^2 and E[w(n)] will be.

In the eigenbasis of R, with Gaussian regressors independent from sample to sample, the powers
k_i(n) = E|v_i(n)|^2 of the modes follow linear recursions of their own, without the off-diagonal
moments, and E|e(n)|^2 = J_min + sum_i l_i k_i(n). ``kappa`` below is 2 for real and 1 for circular
complex data: E[u u^H K u u^H] = kappa R K R + R tr(R K) (Isserlis 1918).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from adaptive import checks as _checks
from adaptive import stability
from adaptive._moments import normalized_moments
from adaptive.checks import Array
from adaptive.modes import NaturalModes
from adaptive.results import LearningCurve
from adaptive.stability import StabilityBounds
from adaptive.wiener import WienerProblem

INDEPENDENCE = (
    "zero-mean {kind} Gaussian regressors, independent from sample to sample; exact for those, "
    "an approximation for a delay line, whose neighbouring regressors share samples: good below "
    "about a tenth of the mean-square bound, which correlated input does not let it reach "
    "(measured in docs/theory.md)"
)


def predict_lms(
    problem: WienerProblem, *, mu: float, steps: int, w0: ArrayLike | None = None
) -> LearningCurve:
    """Learning curve of LMS, from R, P and J_min alone.

    Parameters
    ----------
    problem : the Wiener problem; a complex R means circular complex regressors.
    mu : step size.
    steps : number of updates.
    w0 : initial weights, shape of ``problem.P``; zeros when None.

    Returns
    -------
    LearningCurve. A step size above the bound gives a growing curve and ``stable=False``.

    Raises
    ------
    TypeError, ValueError : mu <= 0, steps < 1, w0 of the wrong shape, R = 0.

    Notes
    -----
    With k_i(n) = E|v_i(n)|^2, real data:
    k_i(n+1) = (1 - 2 mu l_i + 2 mu^2 l_i^2) k_i + mu^2 l_i sum_j l_j k_j + mu^2 J_min l_i,
    circular complex data: the same with mu^2 l_i^2 in place of 2 mu^2 l_i^2
    (Horowitz and Senne 1981; Feuer and Weinstein 1985). MSE(n) = J_min + sum_i l_i k_i(n).

    Examples
    --------
    >>> problem = WienerProblem(R=[[1.0, 0.0], [0.0, 1.0]], P=[1.0, 0.0], d_power=1.01)
    >>> curve = predict_lms(problem, mu=0.1, steps=100)
    >>> round(float(curve.mse[0]), 12), round(curve.misadjustment, 12), curve.stable
    (1.01, 0.125, True)
    """
    return lms_family(problem, mu, steps, w0, "lms")


def predict_block_lms(
    problem: WienerProblem, *, mu: float, block: int, steps: int, w0: ArrayLike | None = None
) -> LearningCurve:
    """Learning curve of block LMS: w <- w + (mu / B) sum over B samples of e u, all at the old w.

    Parameters
    ----------
    problem, mu, w0 : as in :func:`predict_lms`.
    block : B, samples per update. With B = 1 this is LMS.
    steps : number of updates, each of which uses ``block`` samples.

    Returns
    -------
    LearningCurve in units of updates: ``mse[n]`` holds for every sample of block n.

    Raises
    ------
    TypeError, ValueError : as :func:`predict_lms`; block < 1.

    Notes
    -----
    Averaging B independent gradients divides their fluctuation by B:
    k_i(n+1) = (1 - 2 mu l_i + mu^2 l_i^2 (kappa + B - 1) / B) k_i
    + (mu^2 / B) l_i (sum_j l_j k_j + J_min)  (Feuer 1985).

    Examples
    --------
    >>> problem = WienerProblem(R=[[1.0, 0.0], [0.0, 1.0]], P=[1.0, 0.0], d_power=1.01)
    >>> curve = predict_block_lms(problem, mu=0.1, block=4, steps=100)
    >>> round(curve.misadjustment, 12)
    0.027397260274
    """
    size = _checks.count("block", block)
    return lms_family(problem, mu, steps, w0, "block_lms", block=size)


def predict_leaky_lms(
    problem: WienerProblem,
    *,
    mu: float,
    leakage: float,
    steps: int,
    w0: ArrayLike | None = None,
) -> LearningCurve:
    """Learning curve of leaky LMS: w(n+1) = (1 - mu leakage) w(n) + mu e(n) u(n).

    Parameters
    ----------
    problem, mu, steps, w0 : as in :func:`predict_lms`.
    leakage : gamma >= 0, in units of input power. It acts like white noise of that power added
        to the input: R + gamma I, and pulls the weights towards zero.

    Returns
    -------
    LearningCurve. ``emse`` and ``msd_final`` hold the bias as well as the fluctuation.

    Raises
    ------
    TypeError, ValueError : as :func:`predict_lms`; leakage < 0.

    Notes
    -----
    With a = 1 - mu gamma, m_i = E[v_i], o_i the modes of w_o:
    m_i(n+1) = (a - mu l_i) m_i - mu gamma o_i, so m_i tends to -gamma o_i / (l_i + gamma);
    k_i(n+1) = (a^2 - 2 a mu l_i + kappa mu^2 l_i^2) k_i + mu^2 l_i (sum_j l_j k_j + J_min)
    - 2 mu gamma (a - mu l_i) Re(o_i* m_i) + mu^2 gamma^2 |o_i|^2
    (Mayyas and Aboulnasr 1997, real data). Modes without input decay too, by a per step.

    Examples
    --------
    >>> problem = WienerProblem(R=[[1.0]], P=[1.0], d_power=1.0)
    >>> curve = predict_leaky_lms(problem, mu=0.1, leakage=0.25, steps=200)
    >>> round(float(curve.weights[-1, 0]), 9)
    0.8
    """
    start = _Start.of(problem, mu, steps, w0)
    gamma = _checks.nonnegative("leakage", leakage)
    lam, mu, kappa = start.lam, start.mu, start.kappa
    keep = 1 - mu * gamma
    w_o = start.modes.to_modes(problem.w_o)
    w_o[..., lam == 0] = 0  # exactly, not up to the rounding of the basis

    factor = keep - mu * lam
    with np.errstate(divide="ignore", invalid="ignore"):
        limit = np.where(lam + gamma > 0, -gamma * w_o / (lam + gamma), 0.0)
    away = start.v - limit
    n = np.arange(start.steps + 1, dtype=float).reshape(-1, *(1,) * away.ndim)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        growth = np.where(away == 0, 0.0, factor**n * away)
        mean = limit + growth

    def bias(m: Array) -> Array:
        """Part of the recursion that the pull towards zero forces, (..., L)."""
        cross = -2 * mu * gamma * factor * np.real(w_o.conj() * m)
        force: Array = cross + (mu * gamma * np.abs(w_o)) ** 2
        return _sum_outputs(force, lam.size)

    decay = keep**2 - 2 * keep * mu * lam + kappa * (mu * lam) ** 2
    noise = mu**2 * start.J_min * lam

    def advance(n: int, k: Array, excess: float) -> Array:
        following: Array = decay * k + mu**2 * excess * lam + noise + bias(mean[n])
        return following

    excess, msd = _iterate(start, advance)
    bounds = stability.leaky_bounds(problem.R, leakage=gamma)
    return _curve(
        problem, start, "leaky_lms", bounds=_named(bounds, start), mean=mean, excess=excess,
        msd=msd, final=_steady_state(start, 1 - decay, mu**2, noise + bias(limit)),
        assumption=start.independence,
    )  # fmt: skip


def predict_momentum_lms(
    problem: WienerProblem,
    *,
    mu: float,
    momentum: float,
    steps: int,
    w0: ArrayLike | None = None,
) -> LearningCurve:
    """Learning curve of w(n+1) = w(n) + mu e(n) u(n) + momentum (w(n) - w(n-1)), w(-1) = w(0).

    Parameters
    ----------
    problem, mu, steps, w0 : as in :func:`predict_lms`. The same as torch's SGD without dampening:
        the effective step size at low rates is mu / (1 - momentum).
    momentum : beta, 0 <= beta < 1.

    Returns
    -------
    LearningCurve

    Raises
    ------
    TypeError, ValueError : as :func:`predict_lms`; momentum outside [0, 1).

    Notes
    -----
    With a_i = 1 + beta - mu l_i: m_i(n+1) = a_i m_i(n) - beta m_i(n-1), whose roots are
    ``modes.momentum_roots``. The second moments p = E|v(n)|^2, q = Re E[v(n) v*(n-1)],
    r = E|v(n-1)|^2 of each mode follow
    p_i+ = (a_i^2 + (kappa - 1) mu^2 l_i^2) p_i - 2 beta a_i q_i + beta^2 r_i
    + mu^2 l_i (sum_j l_j p_j + J_min);  q_i+ = a_i p_i - beta q_i;  r_i+ = p_i,
    with p, q eliminated in closed form in the steady state. (Roy and Shynk 1990 treat small mu.)

    Examples
    --------
    >>> problem = WienerProblem(R=[[1.0, 0.0], [0.0, 1.0]], P=[1.0, 0.0], d_power=1.01)
    >>> curve = predict_momentum_lms(problem, mu=0.01, momentum=0.9, steps=100)
    >>> round(curve.misadjustment, 3)  # near that of LMS at mu / (1 - beta) = 0.1, 0.125
    0.118
    """
    start = _Start.of(problem, mu, steps, w0)
    beta = _checks.fraction("momentum", momentum)
    lam, mu, kappa = start.lam, start.mu, start.kappa
    a = 1 + beta - mu * lam

    mean = np.empty((start.steps + 1, *start.v.shape), start.v.dtype)
    mean[0] = previous = start.v
    with np.errstate(over="ignore", invalid="ignore"):
        for n in range(start.steps):
            mean[n + 1] = a * mean[n] - beta * previous
            previous = mean[n]
    mean[:, ..., lam == 0] = mean[0][..., lam == 0]
    mean[~np.isfinite(mean)] = np.inf

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

    excess, msd = _iterate(start, advance)
    bounds = stability.momentum_bounds(problem.R, momentum=beta)
    # the steady state of p alone, once q = a p / (1 + beta) and r = p are put in
    x = mu * lam
    loss = (1 - beta) / (1 + beta) * x * (2 * (1 + beta) - x) - (kappa - 1) * x**2
    return _curve(
        problem, start, "momentum_lms", bounds=_named(bounds, start), mean=mean, excess=excess,
        msd=msd, final=_steady_state(start, loss, mu**2, noise),
        assumption=start.independence,
    )  # fmt: skip


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
    eps : regularisation, in units of |u|^2; None is 1e-6 tr(R), as the filter takes it.

    Returns
    -------
    LearningCurve

    Raises
    ------
    TypeError, ValueError : as :func:`predict_lms`; eps < 0; eps = 0 where E[1/|u|^2] is infinite,
        that is with fewer than 3 excited modes of real data, or 2 of complex.

    Notes
    -----
    No small step, no averaging of the denominator: with s = eps + |u|^2, p(t) = exp(-eps t)
    prod_j (1 + 2 l_j t)^(-1/2) and r_i(t) = l_i / (1 + 2 l_i t) for real data,
    p(t) = exp(-eps t) prod_j 1 / (1 + l_j t) and r_i(t) = l_i / (1 + l_i t) for circular complex,
    a_i = E[|u_i|^2 / s] = int p r_i dt, b_i = E[|u_i|^2 / s^2] = int t p r_i dt,
    B_ij = E[|u_i u_j|^2 / s^2] = int t p r_i r_j (1 + kappa [i=j]) dt, over t from 0 to infinity;
    E[v_i] contracts by 1 - mu a_i and k(n+1) = (1 - 2 mu diag(a) + mu^2 B) k + mu^2 J_min b.

    Examples
    --------
    >>> problem = WienerProblem(R=np.eye(4), P=[1.0, 0.0, 0.0, 0.0], d_power=1.01)
    >>> curve = predict_nlms(problem, mu=0.5, steps=100, eps=0.0)
    >>> round(curve.misadjustment, 9)  # white input: mu L / ((2 - mu) (L - 2))
    0.666666667
    """
    start = _Start.of(problem, mu, steps, w0)
    floor = stability.checked_eps(eps, start.modes)
    bounds = stability.nlms_bounds(problem.R, eps=floor)
    mu = start.mu
    a, b, B = normalized_moments(start.lam, floor, circular=start.circular)
    if np.isinf(b).any():
        least, kind = (2, "complex") if start.circular else (3, "real")
        raise ValueError(
            f"eps must be positive for fewer than {least} excited modes of {kind} data, where "
            f"E[1/|u|^2] is infinite; got eps=0 and {start.modes.rank}"
        )
    noise = mu**2 * start.J_min * b

    def advance(n: int, k: Array, excess: float) -> Array:
        following: Array = k + mu * (mu * (B @ k) - 2 * a * k) + noise
        return following

    excess, msd = _iterate(start, advance)
    final = np.where(start.lam > 0, 0.0, start.k)
    live = np.flatnonzero(start.lam > 0)
    if mu < bounds.mean_square:
        loss = (2 * mu * np.diag(a) - mu**2 * B)[np.ix_(live, live)]
        final[live] = np.linalg.solve(loss, noise[live])
    return _curve(
        problem, start, "nlms", mean=_powers(start.v, 1 - mu * a, start.steps),
        bounds={"any_input": 2.0, "mean": bounds.mean, "mean_square": bounds.mean_square},
        excess=excess, msd=msd, final=final, assumption=start.independence,
    )  # fmt: skip


def predict_power_normalized_lms(
    problem: WienerProblem,
    *,
    mu: float,
    steps: int,
    eps: float | None = None,
    transform: ArrayLike | None = None,
    w0: ArrayLike | None = None,
) -> LearningCurve:
    """Learning curve of LMS whose step is mu / (eps + E|u_k|^2) on tap k, the powers being known.

    Parameters
    ----------
    problem, steps, w0 : as in :func:`predict_lms`.
    mu : step size, a pure number.
    eps : added to each power, in units of it; None is 1e-6 tr(R) / L, as the filter takes it.
    transform : (L, L) orthogonal or unitary T: the powers are those of T u, and the weights of
        T u are what is stepped (transform-domain LMS). None is the identity.

    Returns
    -------
    LearningCurve, with ``weights``, ``modes`` and ``msd`` in the coordinates of ``problem``.

    Raises
    ------
    TypeError, ValueError : as :func:`predict_lms`; eps < 0, eps = 0 with a tap that has no power;
        transform not unitary or of the wrong shape.

    Notes
    -----
    With D = eps I + diag(T R T^H), x = D^-1/2 T u and g = D^1/2 T w, w^H u = g^H x and the update
    is plain LMS: g(n+1) = g(n) + mu e*(n) x(n), on the congruent matrix D^-1/2 T R T^H D^-1/2
    (Narayan, Peterson and Narasimha 1983). Where the powers are estimated while running, this is
    the limit of a slow estimate.

    Examples
    --------
    >>> problem = WienerProblem(R=[[4.0, 0.0], [0.0, 0.01]], P=[4.0, 0.01], d_power=4.02)
    >>> curve = predict_power_normalized_lms(problem, mu=0.1, eps=0.0, steps=100)
    >>> curve.weights[1].round(12).tolist(), round(curve.misadjustment, 9)  # no spread is left
    ([0.1, 0.1], 0.125)
    """
    start = _Start.of(problem, mu, steps, w0)
    L = problem.taps
    T = np.eye(L) if transform is None else _unitary(transform, L)
    floor = stability.checked_eps(eps, start.modes) / (L if eps is None else 1)
    power = np.real(np.diagonal(T @ problem.R @ T.conj().T)) + floor
    if not power.min() > L * np.finfo(power.dtype).eps * power.max():
        raise ValueError(
            "eps must be positive where a tap has no power, since its step is mu / (eps + power); "
            f"got eps={eps} and the power {power.min():.3g} at tap {int(power.argmin())}"
        )
    root = np.sqrt(power)
    forward = root[:, None] * T  # g = forward w
    backward = T.conj().T / root  # w = backward g
    x = T / root[:, None]
    R = x @ problem.R @ x.conj().T
    P = problem.P @ x.T
    inner = WienerProblem(R=(R + R.conj().T) / 2, P=P, d_power=problem.d_power)
    outer = start
    # errors are counted from the w_o of `problem`, which need not be the one of least norm in g
    v = inner.modes.to_modes((problem.modes.to_weights(outer.v)) @ forward.T)
    start = _Start.build(inner.modes, v, problem.J_min, outer.mu, outer.steps)
    mu, kappa, lam = start.mu, start.kappa, start.lam

    # |w - w_o|^2 = v^H M v: the off-diagonal moments enter, and each one only decays
    basis = backward @ inner.modes.eigenvectors
    M = basis.conj().T @ basis
    decay = 1 - 2 * mu * lam + kappa * (mu * lam) ** 2
    noise = mu**2 * start.J_min * lam
    excess, msd = _iterate(
        start,
        lambda n, k, excess: decay * k + mu**2 * excess * lam + noise,
        metric=np.real(np.diagonal(M)),
    )
    cross = start.v.reshape(-1, L)
    moments = np.real(M * (cross.T @ cross.conj()).T)
    np.fill_diagonal(moments, 0)
    pair = 1 - mu * (lam + lam[:, None]) + kappa * mu**2 * lam * lam[:, None]
    with np.errstate(over="ignore", invalid="ignore"):
        for n in range(start.steps + 1):
            if not np.isfinite(msd[n]):
                break
            msd[n] += moments.sum()
            moments *= pair
    still = (lam == 0) & (lam[:, None] == 0)
    bounds = stability.stability_bounds(inner.R)
    final = _steady_state(start, 1 - decay, mu**2, noise)
    path = _powers(start.v, inner.modes.factors(mu), start.steps)
    with np.errstate(over="ignore", invalid="ignore"):
        original = problem.modes.to_modes(inner.modes.to_weights(path) @ backward.T)
    original[~np.isfinite(original)] = np.inf
    return _curve(
        problem, start, "power_normalized_lms", bounds=_named(bounds, start), mean=original,
        excess=excess, msd=msd, final=final,
        msd_final=float(np.real(np.diagonal(M)) @ final + moments[still].sum()),
        assumption=start.independence + "; the powers of the taps are known",
    )  # fmt: skip


# --- what the predictions share -------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Start:
    """Checked arguments in modal coordinates: where every recursion begins."""

    modes: NaturalModes
    v: Array  # (..., L) modes of w(0) - w_o
    k: Array  # (L,) their squares, summed over outputs
    lam: Array  # (L,) eigenvalues in double precision, exactly zero where stationary
    J_min: float
    mu: float
    steps: int

    @classmethod
    def of(cls, problem: WienerProblem, mu: float, steps: int, w0: ArrayLike | None) -> _Start:
        """From the arguments of a prediction."""
        mu, steps = _checks.positive("mu", mu), _checks.count("steps", steps)
        v = problem.modes.to_modes(initial_error(problem, w0))
        return cls.build(problem.modes, v, problem.J_min, mu, steps)

    @classmethod
    def build(cls, modes: NaturalModes, v: Array, J_min: float, mu: float, steps: int) -> _Start:
        """From modes that the caller has made."""
        lam = np.where(modes.stationary, 0.0, modes.eigenvalues.astype(np.float64))
        return cls(modes, v, _sum_outputs(np.abs(v) ** 2, lam.size), lam, J_min, mu, steps)

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
    start = _Start.of(problem, mu, steps, w0)
    mu, lam = start.mu, start.lam
    decay = 1 - 2 * mu * lam + (mu * lam) ** 2 * (start.kappa + block - 1) / block
    gain = mu**2 / block
    force = gain * start.J_min * lam + walk
    excess, msd = _iterate(start, lambda n, k, excess: decay * k + gain * excess * lam + force)
    final = _steady_state(start, 1 - decay, gain, force)
    final[(lam == 0) & (force > 0)] = np.inf
    bounds = stability.block_bounds(problem.R, block=block)
    return _curve(
        problem, start, algorithm, bounds=_named(bounds, start), excess=excess, msd=msd,
        mean=_powers(start.v, start.modes.factors(mu), start.steps), final=final,
        assumption=start.independence + premise,
    )  # fmt: skip


def _iterate(
    start: _Start, advance: Callable[[int, Array, float], Array], metric: Array | None = None
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


def _steady_state(start: _Start, loss: Array, gain: float, force: Array) -> Array:
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


def _powers(v: Array, factors: Array, steps: int) -> Array:
    """factors^n v for n = 0..steps: (steps + 1, ..., L), overflowing to inf."""
    n = np.arange(steps + 1, dtype=float).reshape(-1, *(1,) * v.ndim)
    with np.errstate(over="ignore", under="ignore"):
        growth = factors**n
        # 0 * inf is NaN in IEEE arithmetic; a mode that starts at zero stays at zero
        path: Array = np.where(v == 0, np.zeros_like(v), growth * np.where(v == 0, 1, v))
    return path


def _named(bounds: StabilityBounds, start: _Start) -> dict[str, float]:
    """The bounds that concern this kind of data."""
    edge = bounds.mean_square(complex_data=start.circular)
    return {"trace": bounds.trace, "mean": bounds.mean, "mean_square": edge}


def _curve(
    problem: WienerProblem,
    start: _Start,
    algorithm: str,
    *,
    mean: Array,
    excess: Array,
    msd: Array,
    final: Array,
    bounds: dict[str, float],
    assumption: str,
    msd_final: float | None = None,
) -> LearningCurve:
    """Wrap; ``final`` holds the steady-state k where there is one."""
    stable = start.mu < bounds["mean_square"]
    live = start.lam > 0
    emse = float(start.lam[live] @ final[live]) if stable else np.inf
    deviation = float(final.sum()) if msd_final is None else msd_final
    return LearningCurve(
        algorithm=algorithm,
        mu=start.mu,
        excess=excess,
        msd=msd,
        weights=mean_weights(problem, mean),
        modes=mean,
        J_min=problem.J_min,
        emse=emse,
        misadjustment=misadjustment(emse, problem.J_min),
        msd_final=deviation if stable else np.inf,
        stable=stable,
        mean_stable=start.mu < bounds["mean"],
        bounds=bounds,
        assumption=assumption,
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


def _sum_outputs(a: Array, L: int) -> Array:
    """(..., L) to (L,), in double precision."""
    total: Array = a.reshape(-1, L).sum(axis=0, dtype=np.float64)
    return total


def _unitary(transform: ArrayLike, L: int) -> Array:
    """An (L, L) matrix with T T^H = I."""
    T = _checks.array("transform", transform, ndim=(2,))
    if T.shape != (L, L):
        raise ValueError(f"transform must have shape {(L, L)}, one row per tap; got {T.shape}")
    defect = float(np.abs(T @ T.conj().T - np.eye(L)).max())
    if defect > 100 * L * np.finfo(T.dtype).eps:
        raise ValueError(
            f"transform must be orthogonal (unitary if complex); got T T^H off I by {defect:.3g}"
        )
    return T
