"""Bounds of a median from few values, and the verdicts that rest on them."""

import math

import numpy as np
import pytest

from studies.engine.checks import median_bounds, median_check, ratio

INF = math.inf


def test_bounds_are_order_statistics():
    assert median_bounds([1.0, 2.0, 3.0, 4.0]) == (-INF, INF)
    assert median_bounds([5.0, 1.0, 4.0, 2.0, 3.0]) == (1.0, 5.0)
    assert median_bounds(list(range(8))) == (1, 6)
    assert median_bounds([]) == (-INF, INF)


@pytest.mark.parametrize("count", [5, 8, 11])
def test_bounds_cover_the_median_as_often_as_they_say(count):
    # a skewed distribution with median 1: nothing normal is assumed
    draws = np.exp(np.random.default_rng(0).standard_normal((4000, count)) ** 3)
    below = np.mean([median_bounds(row)[0] <= 1 for row in draws])
    assert below >= 0.94


def test_ratio_of_intervals():
    assert ratio((4.0, 4.0), (2.0, 2.0)) == (2.0, 2.0)
    assert ratio((4.0, INF), (2.0, 2.0)) == (2.0, INF)
    assert ratio((4.0, 4.0), (2.0, INF)) == (0.0, 2.0)
    assert ratio((4.0, 4.0), (0.0, 2.0)) == (2.0, INF)


def verdict(values, limit, side):
    pairs = [v if isinstance(v, tuple) else (v, v) for v in values]
    return median_check("name", pairs, limit, side, unit="x").verdict


def test_verdicts():
    assert verdict([2, 2, 3, 4, 5], 1.5, "at least") == "holds"
    assert verdict([1, 2, 3, 4, 5], 1.5, "at least") == "inconclusive"
    assert verdict([1, 1, 1, 1, 1.2], 1.5, "at least") == "fails"
    assert verdict([1, 1, 1, 1, 1.2], 1.5, "at most") == "holds"
    assert verdict([2, 2, 2, 2, 2], 1.5, "at most") == "fails"
    assert verdict([9, 9, 9, 9], 1.5, "at least") == "inconclusive"
    assert verdict([], 1.5, "at least") == "inconclusive"


def test_an_open_end_speaks_against_the_verdict():
    assert verdict([(2, INF)] * 5, 1.5, "at least") == "holds"
    assert verdict([(1, INF)] * 5, 1.5, "at least") == "inconclusive"
    assert verdict([(1, INF)] * 5, 1.5, "at most") == "inconclusive"
    assert verdict([(2, INF)] * 5, 1.5, "at most") == "fails"


def test_the_note_says_what_is_known():
    note = median_check("name", [(2.0, INF)] * 5, 1.5, "at least", unit="x").note
    assert "at least 2" in note
    assert "5 seeds" in note
    assert "too few" in median_check("name", [(2.0, 2.0)], 1.5, "at least", unit="x").note


def test_a_check_fails_at_the_level_of_its_family():
    """One of twelve checks may fail by chance as seldom as one alone: eight seeds can show it."""
    low = [(1.0, 1.0)] * 5
    assert median_check("name", low, 1.5, "at least", unit="x", family=1).verdict == "fails"
    assert median_check("name", low, 1.5, "at least", unit="x", family=2).verdict == "inconclusive"
    eight = [(1.0, 1.0)] * 8
    assert median_check("name", eight, 1.5, "at least", unit="x", family=12).verdict == "fails"
    open_ = median_check("name", eight, 1.5, "at least", unit="x", family=13)
    assert open_.verdict == "inconclusive"
    # what holds needs no correction: all checks must hold together
    high = [(2.0, 2.0)] * 5
    assert median_check("name", high, 1.5, "at least", unit="x", family=100).verdict == "holds"


def test_a_family_rarely_fails_by_chance():
    rng = np.random.default_rng(0)
    fails = 0
    for _ in range(300):
        draws = rng.standard_normal((12, 8))  # the median of each is on the limit
        pairs = [[(v, v) for v in row] for row in draws]
        checks = [median_check("n", row, 0.0, "at least", unit="", family=12) for row in pairs]
        fails += any(c.verdict == "fails" for c in checks)
    # 5 % and three standard errors
    assert fails / 300 < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)


@pytest.mark.parametrize(
    ("values", "observed", "words"),
    [
        ([(0.0, INF)], None, "not reached by either"),
        ([(-INF, INF)], None, "not reached by either"),
        ([(0.0, 2.0)], 2.0, "at most 2"),
        ([(2.0, INF)], 2.0, "at least 2"),
        ([(0.0, 0.0)], 0.0, "0"),
        ([(-1.0, -1.0)], -1.0, "-1"),
    ],
)
def test_what_was_not_reached_is_no_number(values, observed, words):
    check = median_check("name", values, 1.5, "at least", unit="x")
    assert check.observed == observed
    assert f"median over 1 seeds {words}" in check.note
