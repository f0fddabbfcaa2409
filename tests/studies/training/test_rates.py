"""Grids of learning rates."""

import numpy as np

from studies.training.rates import geometric_rates


def test_rates_are_evenly_spaced_on_a_log_axis():
    rates = geometric_rates(0.5, octaves=3)
    assert (len(rates), rates[0], rates[-1]) == (7, 0.5, 4.0)
    np.testing.assert_allclose(np.diff(np.log2(rates)), 0.5)
