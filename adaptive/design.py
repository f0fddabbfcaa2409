"""The step size that grants a wish, and what it costs: the inverse of ``predict``."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy
from numpy.typing import ArrayLike

from adaptive import checks as _checks
from adaptive.algorithms import Algorithm, without_step
from adaptive.recursion import Recursion, SecondMoments
from adaptive.results import StepDesign, TradeOff
from adaptive.search import bisect
from adaptive.tracking import step_covariance
from adaptive.wiener import WienerProblem

RATIO = 2**0.5  # of neighbouring step sizes where a wish is looked for from the bound down
SMALLEST = 2.0**-40  # step size looked at, as a part of the bound
POINTS = 24  # of a trade-off curve


def design_step(
    problem: WienerProblem | tuple[ArrayLike, ArrayLike],
    algorithm: Algorithm | str,
    *,
    misadjustment: float | None = None,
    samples: int | None = None,
    within_dB: float = 1.0,
    tracking: ArrayLike | None = None,
    taps: int | None = None,
    **options: Any,
) -> StepDesign:
    """Find the step size for a misadjustment, for a time to converge, or for a moving system.

    Parameters
    ----------
    problem : the Wiener problem, or signals (u, d) whose sample statistics are taken.
    algorithm : a name, with its other settings as options, or a value, whose mu is not looked at.
    misadjustment : excess error in the steady state over J_min, at most. Alone, it gives the
        largest step that keeps it.
    samples : after so many, at most, the error is to stay within ``within_dB`` of its steady state.
        Alone, it gives the smallest step that does so; together with ``misadjustment``, the middle
        (geometric) of the steps that grant both.
    within_dB : what ``samples`` counts to, here and in the answer.
    tracking : (L, L) covariance Q of the steps of a system that walks at random,
        w_o(n+1) = w_o(n) + q(n). Alone, it gives the step of least excess error.
    taps : of the delay line, for signals; None where u holds regressors.
    options : settings of an algorithm given by name, such as ``leakage=0.1``.

    Returns
    -------
    StepDesign. Where two wishes cannot both be granted, ``met`` is False, ``text`` says so, and mu
    is the largest step that keeps the misadjustment.

    Raises
    ------
    TypeError, ValueError : no wish, or tracking with another; a wish that is out of range, that no
        step grants, or that every step does; J_min = 0, where a misadjustment says nothing.
    NotImplementedError : no theory is at hand for the algorithm.

    Notes
    -----
    The inverse of :func:`adaptive.predict`, by the same recursion and under its assumption. Its
    eigenvalues give the curve at any sample, so that slow filters take no longer than fast ones.

    Examples
    --------
    >>> import adaptive
    >>> problem = adaptive.WienerProblem(R=np.eye(2), P=[1.0, 0.5], d_power=1.26)
    >>> found = design_step(problem, "lms", misadjustment=0.1)
    >>> round(found.mu, 9), found.samples
    (0.083333333, 41)
    >>> both = design_step(problem, "lms", misadjustment=0.1, samples=20)
    >>> both.met, round(both.mu, 9)
    (False, 0.083333333)
    >>> round(design_step(problem, adaptive.NLMS(mu=1.0, eps=1.0), samples=100).mu, 3)
    0.115
    """
    chosen = without_step(algorithm, options)
    if not chosen.has_step_size():
        raise ValueError(f"algorithm must have a step size; {chosen.name} has none")
    problem = _described(problem, taps)
    dB = _checks.positive("within_dB", within_dB)
    if tracking is None and misadjustment is None and samples is None:
        raise TypeError("misadjustment, samples or tracking must be given: what the step is to do")
    if tracking is not None and (misadjustment is not None or samples is not None):
        raise TypeError("tracking must be given alone: it asks for the least excess error")
    block = chosen.samples_per_update
    moments = chosen.second_moments(problem)
    if tracking is not None:
        moments = moments.following(step_covariance("tracking", problem, tracking))
        mu = _least_excess(moments)
        text = f"mu = {mu:.4g} follows the moving system with the least excess error"
        return _answer(chosen, moments, mu, dB, text)
    if not problem.J_min > 0:
        raise ValueError(
            "problem must leave an error, since the wishes are relative to it; got J_min = 0"
        )
    time = None if samples is None else _checks.count("samples", samples)
    if misadjustment is None:
        assert time is not None
        mu = _slowest(moments, dB, time, block)
        text = f"mu = {mu:.4g} is the smallest step within {dB:g} dB of its floor after {time}"
        return _answer(chosen, moments, mu, dB, f"{text} samples")
    most = _checks.positive("misadjustment", misadjustment)
    high = largest_step(moments, most)
    if time is None:
        text = f"mu = {high:.4g} is the largest step with a misadjustment of {most:.3g}"
        return _answer(chosen, moments, high, dB, text)
    return _both(chosen, moments, high, most, time, dB)


def _both(
    chosen: Algorithm, moments: SecondMoments, high: float, most: float, time: int, dB: float
) -> StepDesign:
    """The answer to two wishes, given the largest step that grants the first."""
    block = chosen.samples_per_update
    curve = _trade_off(moments, dB, block)
    needed = _time(moments.at(high), dB, block)
    wish = f"a misadjustment of {most:.3g} and {dB:g} dB after {time} samples"
    if needed is not None and needed <= time:
        low = _slowest(moments, dB, time, block)
        mu = float(np.sqrt(low * high))
        text = f"mu from {low:.4g} to {high:.4g} grants {wish}"
        return _answer(chosen, moments, mu, dB, text, curve=curve)
    try:
        fast = _slowest(moments, dB, time, block)
        cost = f"the smallest step fast enough, {fast:.4g}, costs {_ratio(moments.at(fast)):.3g}"
    except ValueError as error:
        cost = str(error)
    late = "never" if needed is None else f"only after {needed} samples"
    text = (
        f"No step grants {wish}: the largest that keeps the misadjustment, mu = {high:.4g}, "
        f"comes so near {late}; {cost}"
    )
    return _answer(chosen, moments, high, dB, text, met=False, curve=curve)


def _answer(
    chosen: Algorithm,
    moments: SecondMoments,
    mu: float,
    dB: float,
    text: str,
    *,
    met: bool = True,
    curve: TradeOff | None = None,
) -> StepDesign:
    """The record of a step size and its costs."""
    there = moments.at(mu)
    return StepDesign(
        algorithm=chosen.name,
        mu=mu,
        met=met,
        misadjustment=_ratio(there),
        emse=there.emse,
        mse_final=there.floor,
        samples=_time(there, dB, chosen.samples_per_update),
        within_dB=dB,
        bounds=dict(moments.bounds),
        trade_off=curve,
        text=f"{text}.",
    )


def _described(problem: object, taps: int | None) -> WienerProblem:
    """The problem given, or that of the signals given."""
    if isinstance(problem, WienerProblem):
        if taps is not None:
            raise TypeError("taps must be left out where a problem is given, which has its own")
        return problem
    if isinstance(problem, tuple) and len(problem) == 2:
        u, d = problem
        return WienerProblem.from_data(u, d, taps=taps)
    raise TypeError(
        f"problem must be a WienerProblem or signals (u, d); got {_checks.shown(problem)}"
    )


def _ratio(there: Recursion) -> float:
    return there.emse / there.J_min if there.J_min > 0 else float("nan")


def _time(there: Recursion, dB: float, block: int) -> int | None:
    updates = there.updates_to_within(dB)
    return None if updates is None else updates * block


def largest_step(moments: SecondMoments, most: float) -> float:
    """The largest step below the bound whose misadjustment is at most ``most``.

    Raises
    ------
    ValueError : a leakage's bias alone costs more.
    """

    def excess(log_mu: float) -> float:
        ratio = _ratio(moments.at(float(np.exp(log_mu)))) / most
        return float(np.log(ratio)) if 0 < ratio < np.inf else 700.0

    top = np.log(moments.edge)
    high, low = top, top - np.log(RATIO)
    while excess(low) > 0:
        high, low = low, low - 2 * np.log(RATIO)
        if low < top + np.log(SMALLEST):
            least = _ratio(moments.at(float(np.exp(low))))
            raise ValueError(
                f"misadjustment must be above {least:.3g}, which a leakage's bias costs at any "
                f"step; got {most:.3g}"
            )
    return float(np.exp(scipy.optimize.brentq(excess, low, high, xtol=1e-13, rtol=1e-14)))


def _slowest(moments: SecondMoments, dB: float, time: int, block: int) -> float:
    """The smallest step within dB of its floor after a time."""

    def late(mu: float) -> bool:
        needed = _time(moments.at(mu), dB, block)
        return needed is None or needed > time

    grid = moments.edge / RATIO ** np.arange(1, 80)
    good: float | None = None
    for mu in grid:
        if not late(mu):
            good = float(mu)
        elif good is not None:
            return bisect(lambda mu: not late(mu), float(mu), good, width=1e-6, geometric=True)[1]
    times = [_time(moments.at(mu), dB, block) for mu in grid[:12]]
    if good is not None:
        raise ValueError(
            f"within_dB must be less than what there is to learn; got {dB:g}, from which "
            "even the smallest steps start"
        )
    known = [t for t in times if t is not None]
    best = f"the fastest takes {min(known)} samples" if known else "no step converges to it"
    raise ValueError(f"samples must be such that a step can be so fast; got {time}, and {best}")


def _least_excess(moments: SecondMoments) -> float:
    """The step of least excess error on a walking target."""
    if moments.walk is None or not moments.walk.any():
        raise ValueError(
            "tracking must move a mode that the input excites; got none: on a system that does not "
            "move every smaller step is better"
        )
    top = float(np.log(moments.edge))

    def log_emse(log_mu: float) -> float:
        emse = moments.at(float(np.exp(log_mu))).emse
        return float(np.log(emse)) if 0 < emse < np.inf else 1e3 + log_mu

    grid = np.linspace(top - 30.0, top, 61)
    values = [log_emse(x) for x in grid]
    k = int(np.argmin(values))
    found = scipy.optimize.minimize_scalar(
        log_emse,
        bounds=(grid[max(k - 1, 0)], grid[min(k + 1, 60)]),
        method="bounded",
        options={"xatol": 1e-10},
    )
    return float(np.exp(found.x))


def _trade_off(moments: SecondMoments, dB: float, block: int) -> TradeOff:
    """Misadjustment and time over step sizes from the bound down by factors of 2^(1/2)."""
    mus = moments.edge / RATIO ** np.arange(POINTS, 0, -1)
    there = [moments.at(float(mu)) for mu in mus]
    times = [_time(one, dB, block) for one in there]
    return TradeOff(
        mu=mus,
        misadjustment=np.array([_ratio(one) for one in there]),
        samples=np.array([np.nan if t is None else float(t) for t in times]),
    )
