"""LMS-Newton: RLS where its two settings agree, and one speed for all modes."""

import numpy as np
import pytest

import adaptive


def test_with_the_step_that_forgets_as_much_it_is_rls():
    rng = np.random.default_rng(0)
    u, d = np.cumsum(rng.standard_normal(300)) / 10, rng.standard_normal(300)
    mine = adaptive.lms_newton(u, d, mu=0.05, forgetting=0.95, delta=0.1, taps=5)
    # RLS starts from the sum of squares, LMS-Newton from their mean
    rls = adaptive.rls(u, d, forgetting=0.95, delta=0.1 / 0.05, taps=5)
    np.testing.assert_allclose(mine.error, rls.error, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(mine.weights, rls.weights, rtol=1e-9, atol=1e-10)


def test_all_modes_of_a_coloured_input_converge_at_one_rate():
    """E[v(n)] falls by 1 - mu a sample, whatever the eigenvalue, once R(n) is settled.

    The spread here is 39, so LMS would need 39 times as long for its slowest mode.
    """
    R = adaptive.AutoRegressive([0.9], taps=3).R
    modes = adaptive.natural_modes(R)
    assert modes.eigenvalues[-1] > 39 * modes.eigenvalues[0]
    scenario = adaptive.SystemIdentification(
        adaptive.GaussianRegressors(R), w_o=[1.0, 1.0, -1.0], noise_power=1e-2
    )
    mu = np.where(np.arange(10_100) < 10_000, 0.0, 0.02)
    algorithm, ends = adaptive.LMSNewton(mu=mu, forgetting=0.999, delta=1.0), []
    for i in range(100):
        rng = np.random.default_rng(np.random.SeedSequence(4, spawn_key=(i,)))
        lines, d = scenario.draw(rng, mu.size)
        ends.append(adaptive.run(algorithm, lines.rows, d).weights)
    start = modes.to_modes(-scenario.w_o)
    ratio = modes.to_modes(np.array(ends) - scenario.w_o) / start
    error = ratio.std(axis=0, ddof=1) / 10
    assert (error < 0.02).all()
    assert (np.abs(ratio.mean(axis=0) - 0.98**100) < 4.5 * error).all()


@pytest.mark.parametrize("forgetting", [0.0, 1.0])
def test_forgetting_is_checked(forgetting):
    with pytest.raises(ValueError, match="forgetting must be"):
        adaptive.LMSNewton(mu=0.1, forgetting=forgetting)
