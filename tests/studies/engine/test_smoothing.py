"""The running mean against a loop."""

import numpy as np

from studies.engine.smoothing import running_mean


def test_running_mean():
    values = np.random.default_rng(0).standard_normal(25)
    expected = [values[max(0, n - 9) : n + 1].mean() for n in range(25)]
    np.testing.assert_allclose(running_mean(values), expected, rtol=1e-12)
