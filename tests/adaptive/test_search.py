"""Bracketing and bisection of a threshold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptive.search import NotBracketed, bisect, bracket


@given(
    edge=st.floats(1e-4, 1e4),
    start=st.floats(1e-2, 1e2),
    down=st.floats(1.2, 8.0),
    up=st.floats(1.05, 8.0),
    geometric=st.booleans(),
)
def test_the_threshold_of_a_step_lies_in_the_bracket(edge, start, down, up, geometric):
    low, high = bracket(lambda x: x > edge, start, down=down, up=up)
    assert low <= edge < high
    low, high = bisect(lambda x: x > edge, low, high, width=1e-6, geometric=geometric)
    assert low <= edge < high <= low / (1 - 1e-6) * (1 + 1e-12)


def test_the_lowest_of_several_thresholds_is_found():
    """From an unstable start the search goes down, and climbs in small steps from there."""

    def fails(x):
        return 1.5 < x < 1.9 or x > 3.0

    low, high = bracket(fails, 3.5, up=1.1)
    assert low <= 1.5 < high


def test_both_ends_were_tried():
    tried = {}

    def fails(x):
        tried[x] = x > 3.0
        return tried[x]

    for start, second in ((1.0, None), (2.0, 2.5), (50.0, 70.0), (2.0, 100.0)):
        low, high = bracket(fails, start, second)
        assert not tried[low]
        assert tried[high]


def test_without_a_threshold_the_search_says_which_side_was_tried():
    with pytest.raises(NotBracketed, match="no stable value found down to mu = ") as caught:
        bracket(lambda x: True, 1.0, reach=100.0)
    assert caught.value.fails
    assert caught.value.at < 0.01
    with pytest.raises(NotBracketed, match="no divergence found up to mu = ") as caught:
        bracket(lambda x: False, 1.0, reach=100.0)
    assert not caught.value.fails
    assert caught.value.at > 100


def test_bisection_ends_between_neighbouring_numbers():
    low, high = bisect(lambda x: x > 1.0, 1.0, np.nextafter(1.0, 2.0), width=1e-300)
    assert (low, high) == (1.0, np.nextafter(1.0, 2.0))


@pytest.mark.parametrize(
    ("low", "high", "width", "message"),
    [
        (2.0, 1.0, 0.1, "low must be less than high; got 2.0 and 1.0"),
        (0.0, 1.0, 0.1, "low must be positive; got 0.0"),
        (1.0, 2.0, 1.0, "width must be between 0 and 1; got 1.0"),
    ],
)
def test_a_bracket_that_is_none_is_refused(low, high, width, message):
    with pytest.raises(ValueError, match=message):
        bisect(lambda x: x > 1.5, low, high, width=width)
