"""False alarm and power of a rule, by simulation."""

import dataclasses
import math

import numpy as np
import pytest

from studies.engine.checks import median_verdict
from studies.engine.power import Prediction, power_table, share_table, verdict_rates

SPEED = Prediction("speed", limit=1.5, side="at least", if_true=4.0, if_false=1.0)
RATE = Prediction("rate", limit=1.0, side="at least", if_true=8.0, if_false=1.0, grid=2.0)


def test_clear_effects_are_found_and_their_absence_too():
    assert verdict_rates([SPEED, RATE], 8, 0.2)["holds"] == 1
    assert verdict_rates([SPEED], 8, 0.1, true=False)["fails"] == 1


def test_known_binomial_share():
    """On the limit every bound of five values is wrong in one of 32 studies."""
    level = dataclasses.replace(SPEED, if_true=1.5)
    rates = verdict_rates([level], 5, 0.5, runs=2000)
    for verdict in ("holds", "fails"):
        assert rates[verdict] == pytest.approx(1 / 32, abs=4 * math.sqrt(1 / 32 / 2000))
    assert sum(rates.values()) == pytest.approx(1)


def test_a_grid_makes_a_verdict_harder():
    near = dataclasses.replace(RATE, if_true=1.3)
    fine = dataclasses.replace(near, grid=1.0)
    assert verdict_rates([near], 8, 0.1)["holds"] < verdict_rates([fine], 8, 0.1)["holds"]


def test_too_few_seeds_find_nothing():
    assert verdict_rates([SPEED, RATE], 4, 0.1)["inconclusive"] == 1


def test_the_table_names_every_part():
    table = power_table([SPEED, RATE], 8, 0.3)
    assert [row[0] for row in table.rows] == [
        "the claim is true",
        "no part of it is true",
        "all but this is true: speed",
        "all but this is true: rate",
    ]
    assert "8 seeds" in table.text[0]


@pytest.mark.parametrize(("seeds", "family"), [(9, 14), (8, 9), (8, 3), (5, 3)])
def test_shares_are_those_of_simulated_verdicts(seeds, family):
    """Values are 1 on the right side of the limit, 0, with a given chance, and -1 on the wrong."""
    table = share_table(seeds, family)
    rng = np.random.default_rng(0)
    for share, row in zip((0.5, 0.9, 0.95, 0.99), table.rows, strict=True):
        drawn = np.where(rng.random((4000, seeds)) < share, 1.0, -1.0)
        holds = [
            median_verdict([(v, v) for v in values], 0.0, "at least", family) == "holds"
            for values in drawn
        ]
        fails = [
            median_verdict([(-v, -v) for v in values], 0.0, "at least", family) == "fails"
            for values in drawn
        ]
        for seen, said in ((holds, row[1]), (fails, row[3])):
            p = float(said.removesuffix(" %")) / 100
            error = math.sqrt(max(p * (1 - p), 1e-3) / 4000)
            # the table rounds to two digits
            assert np.mean(seen) == pytest.approx(p, abs=4 * error + 0.05 * p)


def test_a_false_alarm_is_rarer_than_one_in_twenty():
    for seeds, family in ((9, 14), (8, 9), (8, 3)):
        alarm = share_table(seeds, family).rows[0][4]
        assert 0 < float(alarm.removesuffix(" %")) <= 5
