"""Edges of stability: measured by running filters, and mapped over step size and spread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy
from numpy.typing import ArrayLike

from adaptive import checks as _checks
from adaptive import search
from adaptive.algorithms import LMS, Algorithm, without_step
from adaptive.checks import Array
from adaptive.regressors import Regressors, regressors
from adaptive.results import ObservedEdge, StabilityMap
from adaptive.signals import AutoRegressive, Scenario
from adaptive.streaming import AdaptiveFilter
from adaptive.wiener import WienerProblem

STRIDE = 1.1  # ratio of the step sizes tried on the way up
FARTHEST = 1e6  # times the starting step size, down and up


def observed_edge(
    scenario: Scenario | tuple[ArrayLike, ArrayLike],
    algorithm: Algorithm | str = "lms",
    *,
    steps: int | None = None,
    runs: int = 16,
    seed: int = 0,
    taps: int | None = None,
    resolution: float = 1e-3,
    **options: Any,
) -> ObservedEdge:
    """Step size at which real runs stop converging, by bisection, run by run.

    Rule: a run diverges when it does not forget its start, that is when the distance between two
    runs on the same data from different starting weights is larger after the last sample than at
    the first, or not finite. For updates linear in the weights that distance obeys the run's own
    recursion with d = 0, so this is run, and neither noise nor the size of d blurs the decision.

    Parameters
    ----------
    scenario : what to draw, or a pair (u, d) of given data, of which u may be a signal (N,) with
        ``taps`` or regressors (N, L); runs on given data differ in their random start only.
    algorithm : such as ``BlockLMS(mu=1.0, block=8)``, whose mu does not matter, or a name, such as
        "block_lms". Its update must be linear in the weights: sign_error_lms and sign_sign_lms,
        whose steps are bounded, have no edge, nor has rls, which has no step size.
    steps : samples per run; 5000 when None, or as many as were given. The longer, the sharper: the
        spread of the edges of single runs falls as 1 / sqrt(steps).
    runs : number of runs.
    seed : of the draws and starts.
    taps : of the delay line over a given signal.
    resolution : relative width at which each bisection ends.
    **options : settings of an algorithm given by name, such as ``leakage``. Regularisation left
        out is zero.

    Returns
    -------
    ObservedEdge: for long runs the almost-sure edge of the recursion. Where regressors are
    independent from sample to sample it lies above the mean-square bound; where all that they do
    is repeat within a block, at the mean bound of block LMS; a strongly correlated delay line can
    diverge below the mean-square bound, which supposes independence.

    Raises
    ------
    TypeError, ValueError : an algorithm without such an edge, a silent input, or no edge within a
        factor 1e6 of the starting step size.

    Notes
    -----
    The edge is where the Lyapunov exponent of the product of the updates crosses zero (Furstenberg
    and Kesten 1960), the first crossing in steps of 10 % as mu rises.

    Examples
    --------
    >>> u = np.full(1000, 2.0)  # one tap, never changing: 0 < mu < 2 / u^2
    >>> edge = observed_edge((u, u), taps=1, runs=2)
    >>> edge.lower < 0.5 < edge.upper
    True
    """
    chosen = _with_edge(algorithm, options)
    runs = _checks.count("runs", runs)
    seed = _checks.seed("seed", seed)
    width = _checks.quantile("resolution", resolution)
    count = None if steps is None else _checks.count("steps", steps)
    draw, length, power = _source(scenario, taps, count)
    start = 1.0 if chosen.normalized else 2 / power
    before = None if isinstance(scenario, tuple) else 0

    edges = np.empty(runs)
    for i in range(runs):
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(i,)))
        lines, dtype = draw(rng)
        w0 = _start(rng, lines.taps, dtype)
        silent = np.zeros(lines.samples, dtype)

        def grows(mu: float, lines: Regressors = lines, w0: Array = w0, d: Array = silent) -> bool:
            filter_ = AdaptiveFilter(chosen.with_mu(mu), w0=w0)
            run = filter_.run_lines([lines], d, before=before)
            if run.diverged_at is not None or not np.all(np.isfinite(run.weights)):
                return True
            with np.errstate(over="ignore", under="ignore"):
                return bool(np.linalg.norm(run.weights) > 1.0)

        low, high = search.bracket(grows, start, up=STRIDE, reach=FARTHEST)
        low, high = search.bisect(grows, low, high, width=width, geometric=True)
        edges[i] = np.sqrt(low * high)
    edges.sort()
    lower, upper = _median_interval(edges)
    return ObservedEdge(
        algorithm=chosen.name,
        mu=float(np.median(edges)),
        lower=lower / (1 + width / 2),
        upper=upper * (1 + width / 2),
        resolution=width,
        edges=edges,
        runs=runs,
        steps=length,
        seed=seed,
    )


def _with_edge(algorithm: Algorithm | str, options: dict[str, Any]) -> Algorithm:
    """The algorithm as a value, unregularised where that was left open, if it has an edge."""
    algorithm = without_step(algorithm, options)
    if algorithm.edgeless is not None:
        raise ValueError(
            f"algorithm must have an edge of stability; {algorithm.name} has none: "
            f"{algorithm.edgeless}"
        )
    return algorithm.regularised(0.0, 1)


def stability_map(
    algorithm: Algorithm | None = None,
    *,
    taps: int,
    spreads: ArrayLike | None = None,
    mus: ArrayLike | None = None,
) -> StabilityMap:
    """Predicted misadjustment and bounds for AR(1) inputs of unit power, by eigenvalue spread.

    Parameters
    ----------
    algorithm : one with theory, such as ``NLMS(mu=1.0)``, whose mu does not matter; LMS when None.
    taps : at least 2.
    spreads : (S,) eigenvalue spreads >= 1; 33 from 1 to 1000 when None. The coefficient of the
        AR(1) process is chosen to give them.
    mus : (M,) step sizes; 61 over three decades, to a little above the highest bound, when None.

    Returns
    -------
    StabilityMap

    Raises
    ------
    TypeError, ValueError : taps < 2, spreads below 1, step sizes not positive, or as
        :func:`adaptive.predict`.
    NotImplementedError : no theory is at hand for the algorithm.

    Examples
    --------
    >>> grid = stability_map(taps=4, spreads=[1.0, 100.0], mus=[0.01, 1.0])
    >>> grid.misadjustment.round(4).tolist()[0], grid.bounds["trace"].round(6).tolist()
    ([0.0206, inf], [0.5, 0.5])
    """
    L = _checks.count("taps", taps, least=2)
    chi = np.geomspace(1, 1000, 33) if spreads is None else _ascending("spreads", spreads)
    if chi[0] < 1:
        raise ValueError(f"spreads must be at least 1; got {chi[0]:.4g}")
    problems = []
    for spread in chi:
        R = AutoRegressive.with_spread(float(spread), taps=L).R
        problems.append(WienerProblem(R=R, P=np.zeros(L), d_power=1.0))
    # the bounds do not depend on the step size at which they are asked for
    chosen: Algorithm = LMS(mu=1.0)
    if algorithm is not None:
        chosen = _checks.instance("algorithm", algorithm, Algorithm)
    at_one = [chosen.with_mu(1.0).predict(problem, steps=1) for problem in problems]
    names = at_one[0].bounds
    bounds = {name: np.array([curve.bounds[name] for curve in at_one]) for name in names}
    if mus is None:
        top = 1.3 * max(float(values.max()) for values in bounds.values())
        steps = np.geomspace(top / 1000, top, 61)
    else:
        steps = _ascending("mus", mus)
    misadjustment = np.empty((chi.size, steps.size))
    for i, problem in enumerate(problems):
        for j, mu in enumerate(steps):
            curve = chosen.with_mu(float(mu)).predict(problem, steps=1)
            misadjustment[i, j] = curve.misadjustment if curve.stable else np.inf
    return StabilityMap(L, chi, steps, misadjustment, bounds, at_one[0].assumption)


def _ascending(name: str, value: ArrayLike) -> Array:
    a = _checks.array(name, value, ndim=(1,))
    if a.ndim != 1 or a.size == 0 or not np.all(np.isfinite(a)):
        raise ValueError(f"{name} must be a 1-D list of finite numbers; got {_checks.shown(value)}")
    if a.min() <= 0 or np.any(np.diff(a) <= 0):
        raise ValueError(f"{name} must be positive and ascending; got {a.tolist()}")
    return a


def _source(
    scenario: Scenario | tuple[ArrayLike, ArrayLike], taps: int | None, steps: int | None
) -> tuple[Callable[[np.random.Generator], tuple[Regressors, np.dtype]], int, float]:
    """What draws the regressors of a run, how many, and E|u|^2."""
    if isinstance(scenario, tuple):
        u, d = scenario
        problem = WienerProblem.from_data(u, d, taps=taps)  # checks both
        lines = regressors(u, taps)
        if problem.P.ndim == 2:
            raise ValueError(f"d must be 1-D, one output; got {problem.P.shape[0]} outputs")
        length = lines.samples if steps is None else steps
        if length > lines.samples:
            raise ValueError(f"steps must be at most the {lines.samples} given; got {length}")
        given, dtype = lines.part(0, length), np.result_type(lines.buffer, np.asarray(d))
        power = float(np.trace(problem.R).real)
        if not given.buffer.any():
            raise ValueError("u must not be silent: a silent input bounds no step size")
        return lambda rng: (given, dtype), length, power

    if taps is not None:
        got = _checks.shown(taps)
        raise ValueError(f"taps must be left out for a scenario, which has its own; got {got}")
    length = 5000 if steps is None else steps
    if not callable(getattr(scenario, "draw", None)):
        raise TypeError(
            "scenario must be one to draw from, such as SystemIdentification, or (u, d); "
            f"got {_checks.shown(scenario)}"
        )
    power = float(np.trace(scenario.problem.R).real)
    if power == 0:
        raise ValueError("scenario must not have a silent input: it bounds no step size")

    def draw(rng: np.random.Generator) -> tuple[Regressors, np.dtype]:
        lines, d = scenario.draw(rng, length)
        return lines, np.result_type(lines.buffer, d)

    return draw, length, power


def _start(rng: np.random.Generator, taps: int, dtype: np.dtype) -> Array:
    """Random starting weights of norm 1."""
    w: Array = rng.standard_normal(taps).astype(dtype)
    if np.iscomplexobj(w):
        w += 1j * rng.standard_normal(taps)
    unit: Array = w / np.linalg.norm(w)
    return unit


def _median_interval(edges: Array) -> tuple[float, float]:
    """Order statistics that enclose the median with 95 % confidence: a sign test, no model."""
    n = edges.size
    rank = int(scipy.stats.binom.ppf(0.025, n, 0.5))
    index = max(rank - 1, 0)  # at most 2.5 % that so many edges lie on one side of the median
    return float(edges[index]), float(edges[n - 1 - index])
