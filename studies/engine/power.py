"""How often a study's rule says what: false alarm and power, by simulation before the runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb
from typing import Literal

import numpy as np

from studies.engine.checks import CONFIDENCE, Interval, Verdict, median_verdict, worst
from studies.engine.protocol import Table
from studies.engine.text import number

__all__ = ["Prediction", "power_table", "share_table", "verdict_rates"]


@dataclass(frozen=True)
class Prediction:
    """One check of a study and what the theory, and its absence, say about it.

    Attributes
    ----------
    name : of the check.
    limit, side : see ``median_check``.
    if_true, if_false : median over seeds, positive, if the claim is true and if it is not.
    grid : factor between neighbouring values that can be observed; 1 where it is continuous.
    """

    name: str
    limit: float
    side: Literal["at least", "at most"]
    if_true: float
    if_false: float
    grid: float = 1.0


def verdict_rates(
    predictions: Sequence[Prediction],
    seeds: int,
    disturbance: float,
    *,
    true: bool | Mapping[str, bool] = True,
    runs: int = 300,
    seed: int = 0,
) -> dict[Verdict, float]:
    """How often the checks together hold, fail and stay open.

    Parameters
    ----------
    predictions : the checks that decide.
    seeds : networks per check.
    disturbance : standard deviation of the logarithm of each value about its median, over seeds.
        The checks are drawn independently, the worst case for a rule that fails if one fails.
    true : whether the claim is true; by name of the check where they differ.
    runs : studies to simulate.
    seed : of the simulation.

    Returns
    -------
    The share of each verdict.

    Examples
    --------
    >>> speed = Prediction("speed", limit=1.5, side="at least", if_true=5.0, if_false=1.0)
    >>> verdict_rates([speed], seeds=8, disturbance=0.3)["holds"]
    1.0
    """
    rng = np.random.default_rng(seed)
    counts: dict[Verdict, int] = {"holds": 0, "fails": 0, "inconclusive": 0}
    family = len(predictions)
    for _ in range(runs):
        verdicts = []
        for one in predictions:
            so = true if isinstance(true, bool) else true[one.name]
            middle = one.if_true if so else one.if_false
            drawn = middle * np.exp(disturbance * rng.standard_normal(seeds))
            values = [_observed(float(v), one.grid) for v in drawn]
            verdicts.append(median_verdict(values, one.limit, one.side, family))
        counts[worst(verdicts)] += 1
    return {verdict: count / runs for verdict, count in counts.items()}


def _observed(value: float, grid: float) -> Interval:
    """A quotient of two numbers that are each known to one step of a geometric grid."""
    if grid == 1:
        return (value, value)
    nearest = grid ** round(np.log(value) / np.log(grid))
    return (nearest / grid, nearest * grid)


COLUMNS = ("if", "holds", "fails", "inconclusive")


def power_table(predictions: Sequence[Prediction], seeds: int, disturbance: float) -> Table:
    """What the rule says if the claim is true, if it is false, and if one part of it is false."""
    cases: dict[str, bool | dict[str, bool]] = {
        "the claim is true": True,
        "no part of it is true": False,
    }
    for one in predictions:
        cases[f"all but this is true: {one.name}"] = {
            other.name: other.name != one.name for other in predictions
        }
    rows = []
    for name, true in cases.items():
        rates = verdict_rates(predictions, seeds, disturbance, true=true)
        shares = (f"{100 * rates[verdict]:.0f} %" for verdict in COLUMNS[1:])  # type: ignore[index]
        rows.append([name, *shares])
    text = (
        f"Known before the runs, by simulation: {seeds} seeds, each value scattered about its "
        f"median by a factor of e^{number(disturbance, 2)} (one standard deviation), {len(rows)} "
        'cases of 300 studies. "Fails" in the first row is a false alarm, in the others power. '
        "The bound of a check that fails is corrected for the number of checks."
    )
    return Table("What the rule can distinguish", COLUMNS, rows, [text], printed=False)


def share_table(seeds: int, family: int) -> Table:
    """What a rule of median checks says if a given share of all seeds is on one side of a limit.

    Exact for any distribution, because a bound of the median is a count of seeds.

    Parameters
    ----------
    seeds : values of each check.
    family : number of checks of which one that fails makes the study fail.
    """
    level = 1 - CONFIDENCE
    rows = []
    for share in (0.5, 0.9, 0.95, 0.99):
        one_holds = _chance(seeds, _spare(seeds, level), share)
        one_fails = _chance(seeds, _spare(seeds, level / family), share)
        chances = [one_holds, one_holds**family, one_fails, 1 - (1 - one_fails) ** family]
        rows.append([f"{100 * share:g} %", *(f"{100 * p:.2g} %" for p in chances)])
    text = (
        f"Known before the runs, for {seeds} seeds and independent checks, whatever the "
        "distribution. The first column is the share of all possible seeds that lie on one side of "
        "a limit: the right one for the next two columns, the wrong one for the last two. At 50 % "
        "the median is the limit, and the last column is the chance of a false alarm."
    )
    columns = ("share of seeds", "one holds", f"all {family} hold", "one fails", "any fails")
    return Table("What the rule can distinguish", columns, rows, [text], printed=False)


def _spare(n: int, level: float) -> int:
    """How many of n seeds may be on the other side of a one-sided bound; -1 if none suffice."""
    tail, spare = 0.0, -1
    while spare + 1 <= n and tail + comb(n, spare + 1) * 0.5**n <= level:
        spare += 1
        tail += comb(n, spare) * 0.5**n
    return spare


def _chance(n: int, spare: int, share: float) -> float:
    """Chance that at most ``spare`` of n seeds are on the other side."""
    return sum(comb(n, k) * (1 - share) ** k * share ** (n - k) for k in range(spare + 1))
