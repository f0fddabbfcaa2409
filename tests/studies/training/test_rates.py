"""The search on a grid of rates finds the edge in few trials, and says how well it is known."""

import math

import pytest

from studies.training.rates import geometric_rates, highest_on_grid, stable_interval


@pytest.mark.parametrize("edge", range(-1, 6))
def test_bisection_on_a_grid(edge):
    tried = []

    def stable(rate):
        tried.append(rate)
        return rate <= edge

    assert highest_on_grid([0, 1, 2, 3, 4, 5], stable) == edge
    assert len(tried) <= 3


def test_an_edge_off_the_grid_is_known_from_one_side():
    rates = geometric_rates(0.5, octaves=3)
    assert len(rates) == 7
    assert stable_interval(rates, -1) == (0.0, 0.5)
    assert stable_interval(rates, 2) == (1.0, 1.0)
    assert stable_interval(rates, 6) == (4.0, math.inf)
