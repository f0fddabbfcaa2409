"""The rules by which a run explodes, dies or learns, on courses made by hand."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from studies.engine.outcomes import Course, highest, lowest


def course(norm, loss=None, accuracy=None, lr=0.5, dead_at=None):
    n = len(norm) - 1
    loss = np.full(n, 1.0) if loss is None else loss
    accuracy = np.full(n, 0.9) if accuracy is None else accuracy
    return Course(
        lr,
        np.asarray(loss, float),
        np.asarray(accuracy, float),
        np.asarray(norm, float),
        dead_at,
        n,
    )


def test_a_bounded_gradient_never_explodes_and_a_geometric_growth_does():
    t = np.arange(101)
    for slope in (1.0, 99.0):
        assert not course(3 + slope * 0.5 * t).explodes()
    assert course(3 * 2.0**t).explodes()
    assert course(3 + 0.5 * 101 * t).explodes()
    assert not course(3 + 0.5 * 101 * t).explodes(allowance=300)


def test_the_peak_counts_and_not_the_end():
    norm = np.full(101, 3.0)
    norm[50] = 1e9
    assert course(norm).explodes()


def test_overflow_is_an_explosion():
    assert course([1, 2, np.nan]).explodes()
    assert course([1, 2, 3], loss=[1, np.inf]).explodes()
    assert course([1, 2, np.inf], lr=1e6).explodes_at_huge_rate()


def test_at_a_huge_rate_norm_and_loss_must_both_peak():
    assert course([1, 1e12, 1e12], loss=[1, 1e12], lr=1e6).explodes_at_huge_rate()
    assert not course([1, 1e12, 1e12], loss=[1, 1e6], lr=1e6).explodes_at_huge_rate()
    assert not course([1, 1e6, 1e6], loss=[1, 1e12], lr=1e6).explodes_at_huge_rate()


def test_accuracy_is_free_of_scale_and_loss_is_not():
    run = course(np.ones(31), loss=np.full(30, 1e4))
    assert run.learns_by_accuracy()
    assert not run.learns_by_loss()
    assert run.outcome() == "learns"


def test_outcomes_in_one_word():
    assert course([1, 2, np.nan], dead_at=1).outcome() == "explodes"
    assert course(np.ones(31), dead_at=10).outcome() == "dies"
    assert course(np.ones(31), accuracy=np.full(30, 0.1)).outcome() == "neither"


@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_intervals_bracket_what_happens(happens):
    rates = [2.0**k for k in range(len(happens))]
    low, high = lowest(rates, happens)
    assert low < high
    assert not any(yes for rate, yes in zip(rates, happens, strict=True) if rate <= low)
    assert np.isinf(high) == (not any(happens))
    low, high = highest(rates, happens)
    assert not any(yes for rate, yes in zip(rates, happens, strict=True) if rate >= high)
    assert (low == 0) == (not any(happens))


def test_a_record_becomes_a_course():
    record = {
        "lr": 0.1,
        "steps": 2,
        "loss": [1, 2],
        "accuracy": [0, 1],
        "norm": [1, 2, 3],
        "dead_at": None,
    }
    run = Course.of(record)
    assert run.norm.tolist() == [1, 2, 3]
    assert not run.dies
    with pytest.raises(KeyError):
        Course.of({"lr": 1})


def test_a_run_that_was_ended_has_not_learned():
    run = course([1, 1, 1], loss=[0.1, 0.1])
    assert run.complete
    assert run.learns_by_loss()
    ended = dataclasses.replace(run, steps=3)
    assert not ended.complete
    assert not ended.learns_by_loss()
    assert not ended.learns_by_accuracy()


def test_the_ceiling_decides_where_the_loss_grows_with_the_rate():
    """A loss of rate times a constant: the rule of a ceiling finds the ceiling."""

    def first(ceiling):
        rates = 2.0 ** np.arange(12)
        runs = [course(np.ones(41), loss=np.full(40, 3.0) + np.r_[0, [r] * 39]) for r in rates]
        return lowest(rates, [run.passes_ceiling(ceiling, 10) for run in runs])[1]

    assert [first(c) for c in (2, 8, 32)] == [4, 32, 128]


def test_a_spike_passes_no_ceiling_and_overflow_passes_all():
    loss = np.full(60, 1.0)
    loss[30] = 50.0  # ten updates' mean is above the ceiling, but not for twenty
    assert not course(np.ones(61), loss=loss).passes_ceiling(2, 10)
    assert course([1, 2, np.nan]).passes_ceiling(1e9, 10)
    ended = dataclasses.replace(course(np.ones(6)), steps=50)
    assert ended.passes_ceiling(1e9, 10)
    assert not dataclasses.replace(ended, dead_at=5).passes_ceiling(1e9, 10)
