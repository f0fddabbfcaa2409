"""The mean-square edge on a true delay line, by a population of walkers.

With d = 0 the weights of a filter obey v(n+1) = A(n) v(n), A(n) a function of the regressors. The
rate at which E|v(n)|^2 grows is the largest exponent of a positive operator on (regressor,
direction of v). Walkers carry both; each is weighted by the growth of its own |v|^2 and they are
resampled in proportion, so that the logarithm of the mean weight of a step tends to that rate
(Del Moral 2004, Feynman-Kac Formulae; the cloning of rare-event simulation). Regressors need not be
independent from sample to sample: that is what the bounds of ``adaptive.bounds`` suppose.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from adaptive import checks as _checks
from adaptive.algorithms import (
    LMS,
    NLMS,
    Algorithm,
    BlockLMS,
    LeakyLMS,
    LeakyNLMS,
    MomentumLMS,
)
from adaptive.checks import Array
from adaptive.results import DelayLineEdge
from adaptive.signals import ARMA, unit_noise

POPULATIONS = 8  # independent of each other: their spread is the standard error
AGREE = 0.02  # relative difference that is taken for agreement
LARGEST = 1_000_000  # walkers or steps
LOWEST = 1e-4  # times the independence bound, below which no edge is looked for
Update = Callable[[Array, Array], Array]


def delay_line_edge(
    source: ARMA,
    algorithm: Algorithm,
    *,
    walkers: int = 2000,
    steps: int = 300,
    seed: int = 0,
    resolution: float = 0.005,
) -> DelayLineEdge:
    """Step size from which E|w - w_o|^2 grows on a true delay line, with its standard error.

    The bounds of :func:`adaptive.stability_bounds` suppose regressors that are independent from
    sample to sample. Those of a delay line share all samples but one, and where the input is
    correlated the mean square grows from a lower step size on. This estimates that step size.

    Two populations are tried. One starts from the stationary law of the input. The other starts at
    the level, held or alternating, at which a path that stays there gains most: for narrow-band
    inputs such rare paths can decide the mean, and walkers from the stationary law do not find
    them in any reasonable number. The lower of the two edges is the answer.

    Parameters
    ----------
    source : delay line over an ARMA process, such as ``white(taps=4)`` or ``AutoRegressive``.
    algorithm : LMS, NLMS, LeakyLMS, LeakyNLMS, MomentumLMS or BlockLMS; its mu does not matter.
        Regularisation left out is zero.
    walkers : in each of 8 populations.
    steps : updates; the first third is not counted.
    seed : of the walkers. All step sizes are tried on the same innovations.
    resolution : relative width at which the bisection ends.

    Returns
    -------
    DelayLineEdge. Too few walkers find too high an edge, since those that matter are rare:
    ``converged`` says whether a quarter of them gives the same. Some ten seconds at 4 taps.

    Raises
    ------
    TypeError : a source that is no ARMA process, an algorithm that is no value or not in the list.
    ValueError : walkers or steps too few or too many, no edge within reach.

    Notes
    -----
    The edge of the mean square, not of single runs: between it and ``observed_edge`` nearly every
    run converges, and rare bursts carry the mean.

    Examples
    --------
    >>> from adaptive import LMS, white
    >>> edge = delay_line_edge(white(taps=1), LMS(mu=1.0), walkers=500, steps=150)
    >>> abs(edge.mu - 2 / 3) < 0.02, round(edge.independence, 4)  # one white tap: independent
    (True, 0.6667)
    """
    _checks.instance("source", source, ARMA)
    _checks.instance("algorithm", algorithm, Algorithm)
    walkers = _checks.count("walkers", walkers, least=40)
    steps = _checks.count("steps", steps, least=30)
    for name, size in (("walkers", walkers), ("steps", steps)):
        if size > LARGEST:
            raise ValueError(f"{name} must be at most {LARGEST}; got {size}")
    seed = _checks.seed("seed", seed)
    width = _checks.quantile("resolution", resolution)
    chosen = algorithm.regularised(0.0, 1)
    update_at(chosen, np.ones(1))  # refuses what it does not know
    independence = chosen.bounds(source.R).of(complex_data=False)["mean_square"]

    def solve(count: int, high: bool) -> tuple[float, float]:
        def grows(mu: Array) -> Array:
            grown: Array = growth_rates(source, chosen, mu, count, steps, seed, high=high) > 0
            return grown

        edges = _edges(grows, independence, width)
        mu = float(edges.mean())
        noise = float(edges.std(ddof=1)) / np.sqrt(edges.size)
        return mu, float(np.hypot(noise, width * mu / np.sqrt(12)))

    edges = {"stationary": solve(walkers, False)}
    if not chosen.normalized:
        edges["high"] = solve(walkers, True)
    decisive = min(edges, key=lambda name: edges[name][0])
    mu, error = edges[decisive]
    fewer, its_error = solve(max(walkers // 4, 10), decisive == "high")
    return DelayLineEdge(
        algorithm=chosen.name,
        mu=mu,
        se=error,
        starts={name: edge for name, (edge, _) in edges.items()},
        decisive=decisive,
        independence=independence,
        fewer=fewer,
        converged=bool(abs(mu - fewer) <= max(3 * np.hypot(error, its_error), AGREE * mu)),
        walkers=walkers,
        steps=steps,
        seed=seed,
    )


def growth_rates(
    source: ARMA, algorithm: Algorithm, mu: Array, walkers: int, steps: int, seed: int,
    *, high: bool = False,
) -> Array:  # fmt: skip
    """Growth rate of ln E|v|^2 per update, one estimate for each mu (P,); inf if it overflows.

    Each entry has a population of its own; its innovations do not depend on mu.
    """
    rng, shifts = (
        np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(int(high), part)))
        for part in (0, 1)
    )
    update = update_at(algorithm, mu[:, None, None])
    shape = (mu.size, walkers)
    line = Line.start(source, rng, shape)
    states = 2 if isinstance(algorithm, MomentumLMS) else 1
    v = rng.standard_normal((*shape, states * source.taps))
    if high:
        line, v[..., : source.taps] = line.lifted(source, mu)
    v /= np.linalg.norm(v, axis=-1, keepdims=True)
    weights = np.full(shape, 1 / walkers)
    burn_in, total = steps // 3, np.zeros(mu.size)
    for n in range(steps):
        rows = []
        for _ in range(algorithm.samples_per_update):
            line = line.move(source, unit_noise(source.innovations, rng, weights.size))
            rows.append(line.taps)
        with np.errstate(over="ignore", invalid="ignore"):
            v = update(v, np.array(rows))
            growth = np.einsum("pnk,pnk->pn", v, v)
            mean = (weights * growth).sum(axis=1)
        lost = ~(np.isfinite(mean) & (mean > 0))
        total[lost] = np.inf  # and these walkers start again, to no effect
        v[lost], growth[lost], mean[lost], weights[lost] = 1.0, 1.0, 1.0, 1 / walkers
        if n >= burn_in:
            total += np.log(mean)
        v /= np.sqrt(np.where(growth > 0, growth, 1.0))[..., None]
        weights = weights * growth / mean[:, None]
        for p in np.flatnonzero(1 / (weights**2).sum(axis=1) < walkers / 2):
            chosen = _resample(weights[p], shifts.random())
            v[p], weights[p] = v[p, chosen], 1 / walkers
            line.taps[p], line.state[p] = line.taps[p, chosen], line.state[p, chosen]
    return total / (steps - burn_in)


class Line(NamedTuple):
    """Delay lines ``taps`` (P, N, L), newest first, and the states (P, N, m) of their process."""

    taps: Array
    state: Array

    @classmethod
    def start(cls, source: ARMA, rng: np.random.Generator, shape: tuple[int, int]) -> Line:
        """Full delay lines from the stationary law."""
        root = source.recursion.root
        state = rng.standard_normal((*shape, root.shape[0])) @ root
        line = cls(np.zeros((*shape, source.taps)), state)
        for _ in range(source.taps):
            line = line.move(source, unit_noise(source.innovations, rng, shape[0] * shape[1]))
        return line

    def move(self, source: ARMA, g: Array) -> Line:
        """One sample later, for innovations g of unit power."""
        b, a, _, gain = source.recursion
        g = g.reshape(self.taps.shape[:2])
        m = self.state.shape[-1]
        x = g + self.state[..., 0] if m else g
        state = np.zeros_like(self.state)
        state[..., : m - 1 if m else 0] = self.state[..., 1:]
        state += b[1:] * g[..., None] - a[1:] * x[..., None]
        taps = np.empty_like(self.taps)
        taps[..., 0], taps[..., 1:] = gain * x, self.taps[..., :-1]
        return Line(taps, state)

    def lifted(self, source: ARMA, mu: Array) -> tuple[Line, Array]:
        """The same about the level at which a path that stays gains most, and its sign pattern.

        A level x, held or alternating, needs an innovation h = x |A / B| at every sample, with
        probability exp(-h^2 / 2) a sample, and multiplies |v|^2 by (1 - mu L x^2)^2.
        """
        b, a, _, gain = source.recursion
        sign = np.array([1.0, -1.0]) ** np.arange(b.size)[:, None]
        cost = np.abs(a @ sign) / np.maximum(np.abs(b @ sign), 1e-12)
        alternating = int(np.argmin(cost))
        x = np.linspace(0, 40, 4001)
        gains = 2 * np.log(np.abs(1 - np.outer(mu, source.taps * (gain * x) ** 2)) + 1e-300)
        levels = x[np.argmax(gains - (cost[alternating] * x) ** 2 / 2, axis=1)]
        lift = Line(np.zeros((mu.size, 1, source.taps)), np.zeros((mu.size, 1, b.size - 1)))
        for n in range(source.taps + 200):  # innovations that hold the level
            held = lift.state[:, 0, 0] if b.size > 1 else 0.0
            lift = lift.move(source, (-1.0) ** (alternating * n) * levels - held)
        pattern = (-1.0) ** (alternating * np.arange(source.taps))
        return Line(self.taps + lift.taps, self.state + lift.state), pattern


def update_at(algorithm: Algorithm, mu: Array) -> Update:
    """v(n+1) from v(n) (..., S) and the regressors (B, ..., L) since, for d = 0.

    Raises
    ------
    TypeError : an algorithm whose update is not known here.
    """

    def product(u: Array, v: Array) -> Array:
        inner: Array = np.einsum("...k,...k->...", u, v)[..., None]
        return inner

    leakage = algorithm.leakage if isinstance(algorithm, LeakyLMS | LeakyNLMS) else 0.0
    if isinstance(algorithm, NLMS):
        assert algorithm.eps is not None
        floor = max(algorithm.eps, 1e-300)

        def normalized(v: Array, rows: Array) -> Array:
            u = rows[0]
            moved: Array = (1 - mu * leakage) * v - mu * u * (
                product(u, v) / (floor + product(u, u))
            )
            return moved

        return normalized
    if isinstance(algorithm, MomentumLMS):
        beta = algorithm.momentum

        def heavy(v: Array, rows: Array) -> Array:
            u = rows[0]
            L = u.shape[-1]
            step = beta * v[..., L:] - mu * u * product(u, v[..., :L])
            return np.concatenate([v[..., :L] + step, step], axis=-1)

        return heavy
    if isinstance(algorithm, LMS | LeakyLMS | BlockLMS):

        def plain(v: Array, rows: Array) -> Array:
            moved = (1 - mu * leakage) * v
            for u in rows:
                moved = moved - mu / len(rows) * u * product(u, v)
            return moved

        return plain
    raise TypeError(
        "algorithm must be LMS, NLMS, LeakyLMS, LeakyNLMS, MomentumLMS or BlockLMS; "
        f"got {_checks.shown(algorithm)}"
    )


def _edges(grows: Callable[[Array], Array], independence: float, width: float) -> Array:
    """(POPULATIONS,) step sizes at which the populations begin to grow, each by bisection."""
    high = np.full(POPULATIONS, 1.1 * independence)
    for _ in range(12):
        growing = grows(high)
        if growing.all():
            break
        high[~growing] *= 1.5
    else:
        raise ValueError("algorithm must have an edge within reach; the mean square never grew")
    low = high.copy()
    while (growing := grows(low)).any():  # from above: near zero the rate is too small for a sign
        high[growing] = low[growing]
        low[growing] /= 1.5
        if low.min() < LOWEST * independence:
            raise ValueError(
                "algorithm must have an edge within reach; the mean square grew at every step size"
            )
    for _ in range(60):  # halvings: more than doubles can tell
        if (high / low).max() <= 1 + width:
            break
        middle = np.sqrt(low * high)
        growing = grows(middle)
        low, high = np.where(growing, low, middle), np.where(growing, middle, high)
    edges: Array = np.sqrt(low * high)
    return edges


def _resample(weights: Array, shift: float) -> Array:
    """Indices in proportion to the weights, by systematic resampling (Kitagawa 1996)."""
    n = weights.size
    sums = np.cumsum(weights)
    at = (shift + np.arange(n)) / n * sums[-1]
    chosen: Array = np.minimum(np.searchsorted(sums, at), n - 1)
    return chosen
