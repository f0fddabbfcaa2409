"""Theory of leaky NLMS: the reduction to NLMS, the steady state, the edge, and simulation."""

import numpy as np
import pytest

import adaptive

R = np.array([[1.0, 0.6, 0.2], [0.6, 1.0, 0.6], [0.2, 0.6, 1.0]])
W_O = np.array([1.0, -0.5, 0.3])


def scenario():
    return adaptive.SystemIdentification(adaptive.GaussianRegressors(R), w_o=W_O, noise_power=1e-2)


def test_without_leakage_it_is_nlms():
    problem = scenario().problem
    mine = adaptive.predict(adaptive.LeakyNLMS(mu=0.7, leakage=0.0, eps=0.1), problem, steps=50)
    nlms = adaptive.predict(adaptive.NLMS(mu=0.7, eps=0.1), problem, steps=50)
    np.testing.assert_allclose(mine.mse, nlms.mse, rtol=1e-12)
    assert mine.emse == pytest.approx(nlms.emse, rel=1e-12)
    bounds = adaptive.LeakyNLMS(mu=1.0, leakage=0.0, eps=0.1).bounds(R)
    assert bounds == adaptive.NLMS(mu=1.0, eps=0.1).bounds(R)


@pytest.mark.parametrize("leakage", [0.05, 0.5])
def test_the_curve_is_that_of_20000_runs(leakage):
    algorithm = adaptive.LeakyNLMS(mu=0.6, leakage=leakage, eps=0.2)
    curve = adaptive.predict(algorithm, scenario().problem, steps=60)
    seen = adaptive.simulate(
        scenario(), algorithm, steps=60, runs=20_000, seed=1, record=10, progress=False
    )
    z = (seen.mse - curve.mse[:60]) / seen.mse_se
    assert np.abs(z).max() < 4.5
    away = np.abs(seen.mean_weights[1:] - curve.weights[10::10])
    assert (away / seen.mean_weights_se[1:]).max() < 4.5


def test_the_steady_state_is_where_the_curve_ends():
    algorithm = adaptive.LeakyNLMS(mu=0.6, leakage=0.2, eps=0.2)
    curve = adaptive.predict(algorithm, scenario().problem, steps=2000)
    assert curve.mse[-1] - curve.J_min == pytest.approx(curve.emse, rel=1e-9)


@pytest.mark.parametrize("factor", [0.98, 1.02])
def test_the_curve_grows_beyond_the_mean_square_bound_alone(factor):
    edge = adaptive.LeakyNLMS(mu=1.0, leakage=0.5, eps=0.2).bounds(R).mean_square
    algorithm = adaptive.LeakyNLMS(mu=factor * edge, leakage=0.5, eps=0.2)
    curve = adaptive.predict(algorithm, scenario().problem, steps=4000)
    assert (curve.mse[-1] > 10 * curve.mse[0]) == (factor > 1)
    assert curve.stable == (factor < 1)
