"""Half-times, reach and rank correlations of modes."""

import math

import numpy as np
import pytest

from studies.training.natural_modes import (
    half_times,
    partial_rank_correlation,
    rank_correlation,
    tap_distances,
)


def test_half_times_step_by_step():
    rng = np.random.default_rng(0)
    distance = np.cumsum(rng.random((30, 5)), axis=0) - rng.random((30, 5))
    distance[0] = 0
    distance[:, 3] = 0
    distance[-1, 4] = np.nan
    found = half_times(distance)
    for k in range(3):
        half = distance[-1, k] / 2
        n = next(n for n in range(30) if distance[n, k] >= half)
        before, after = distance[n - 1, k], distance[n, k]
        assert found[k] == pytest.approx(n - (after - half) / (after - before))
    assert np.isnan(found[3:]).all()


def test_rank_correlation_of_nothing_is_nothing():
    assert math.isnan(rank_correlation(np.ones(5), np.arange(5)))
    assert math.isnan(rank_correlation(np.arange(2), np.arange(2)))
    assert rank_correlation(np.array([1, 5, 9, 20]), np.array([4, 3, 2, 1])) == pytest.approx(-1)


def test_partial_rank_correlation_of_what_only_follows_a_third():
    rng = np.random.default_rng(0)
    third = rng.standard_normal(4000)
    a, b = third + 0.3 * rng.standard_normal(4000), third + 0.3 * rng.standard_normal(4000)
    assert rank_correlation(a, b) > 0.8
    assert abs(partial_rank_correlation(a, b, third)) < 4 / math.sqrt(4000)
    assert partial_rank_correlation(a, -a, third) == pytest.approx(-1)
    assert math.isnan(partial_rank_correlation(a, b, a))
    assert math.isnan(partial_rank_correlation(a[:3], b[:3], third[:3]))


def test_distances_are_over_the_outputs_of_a_group():
    modes = np.arange(24.0).reshape(2, 12)  # two steps; two groups of two outputs with three taps
    found = tap_distances(modes, 2, 3)
    assert found.shape == (2, 6)
    assert found[0, 0] == pytest.approx(math.hypot(0, 3))
    assert found[1, 5] == pytest.approx(math.hypot(20, 23))
