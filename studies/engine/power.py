"""How often a study's rule says what: false alarm and power, by simulation before the runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from studies.engine.checks import Interval, Verdict, median_verdict, worst
from studies.engine.protocol import Table
from studies.engine.text import number

__all__ = ["Prediction", "power_table", "verdict_rates"]


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
