"""False alarm and power of a rule, by simulation."""

import dataclasses
import math

import pytest

from studies.engine.power import Prediction, power_table, verdict_rates

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
