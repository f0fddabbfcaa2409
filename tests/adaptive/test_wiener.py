"""The Wiener problem: scales at the ends of the range, and what its statistics must satisfy."""

import numpy as np
import pytest

from adaptive import WienerProblem


@pytest.mark.parametrize("scale", [1e-100, 1e-80, 1.0, 1e80, 1e100])
def test_data_of_any_scale_give_the_same_solution(scale):
    u = np.random.default_rng(0).standard_normal(500)
    d = np.convolve(u, [1.0, -0.5])[:500]
    problem = WienerProblem.from_data(scale * u, scale * d, taps=2)
    np.testing.assert_allclose(problem.w_o, [1.0, -0.5], rtol=1e-9)


@pytest.mark.parametrize("scale", [1e-150, 1.0, 1e150])
@pytest.mark.parametrize(("outside", "refused"), [(1e-5, True), (1e-7, False)])
def test_how_far_p_may_lie_outside_the_range_of_r(scale, outside, refused):
    """As far as sums over data round, 1e-6 of the power for two taps, and no farther."""
    arguments = {
        "R": np.diag([1.0, 0.0]) * scale,
        "P": np.array([1.0, outside]) * scale,
        "d_power": 1.5 * scale,
    }
    if not refused:
        assert WienerProblem(**arguments).w_o.tolist() == [1.0, 0.0]
        return
    with pytest.raises(ValueError, match="P must lie in the range of R"):
        WienerProblem(**arguments)
