"""Gains that follow the error: what they reduce to, what they promise, what they are for."""

import numpy as np
import pytest

import adaptive

TAPS = 8


def signals(noise=0.1, samples=4000, seed=0):
    rng = np.random.default_rng(seed)
    u, h = rng.standard_normal(samples), rng.standard_normal(TAPS)
    return u, np.convolve(u, h)[:samples] + noise * rng.standard_normal(samples), h


def same(one, other):
    np.testing.assert_allclose(one.error, other.error, rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(one.weights, other.weights, rtol=1e-10, atol=1e-11)


def test_without_the_fourth_power_the_mixture_is_lms():
    u, d, _ = signals()
    lms = adaptive.lms(u, d, mu=0.02, taps=TAPS)
    same(adaptive.mixed_norm_lms(u, d, mu=0.02, mix=1.0, taps=TAPS), lms)


def test_a_regularisation_that_does_not_move_is_nlms():
    u, d, _ = signals()
    nlms = adaptive.nlms(u, d, mu=0.7, eps=0.3, taps=TAPS)
    same(adaptive.gngd(u, d, mu=0.7, rho=0.0, eps=0.3, taps=TAPS), nlms)


@pytest.mark.parametrize(
    "algorithm",
    [
        adaptive.SetMembershipNLMS(bound=0.0, eps=0.3),
        adaptive.VariableStepNLMS(noise_power=0.0, eps=0.3),
    ],
    ids=lambda a: a.name,
)
def test_nothing_to_accept_is_nlms_at_full_step(algorithm):
    u, d, _ = signals()
    nlms = adaptive.nlms(u, d, mu=1.0, eps=0.3, taps=TAPS)
    same(adaptive.run(algorithm, u, d, taps=TAPS), nlms)


@pytest.mark.parametrize("complex_data", [False, True])
def test_a_set_membership_update_ends_on_the_bound_and_the_others_change_nothing(complex_data):
    u, d, _ = signals()
    if complex_data:
        u, d = u[:2000] + 1j * u[2000:], d[:2000] + 1j * d[2000:]
    run = adaptive.set_membership_nlms(u, d, bound=0.3, eps=0.0, taps=TAPS, record="all")
    U = adaptive.regressors.regressors(u, TAPS)
    rows = U.rows[:, U.order]
    after = np.abs(d - np.einsum("nk,nk->n", run.history[1:].conj(), rows))
    updated = np.abs(run.error) > 0.3
    assert 0 < updated.mean() < 1
    np.testing.assert_allclose(after[updated], 0.3, rtol=1e-9)
    np.testing.assert_array_equal(run.history[1:][~updated], run.history[:-1][~updated])


def test_the_set_membership_filter_rests_once_the_weights_are_found():
    u, d, h = signals(noise=0.01)
    run = adaptive.set_membership_nlms(u, d, bound=0.05, taps=TAPS)
    assert (np.abs(run.error[2000:]) > 0.05).mean() < 0.02
    assert np.linalg.norm(run.weights - h) < 0.1


def excess(algorithm, part):
    """Mean excess error over samples of 200 runs, and its standard error."""
    scenario = adaptive.SystemIdentification(
        adaptive.white(taps=TAPS), w_o=np.ones(TAPS), noise_power=0.01
    )
    seen = adaptive.simulate(scenario, algorithm, steps=1500, runs=200, seed=2, progress=False)
    return seen.mse[part].mean() - 0.01


def test_the_variable_step_is_as_fast_as_a_large_one_and_as_accurate_as_a_small_one():
    """What the method is for: each fixed step loses by 6 dB or more at one of the two."""
    start, end = slice(30, 60), slice(1200, 1500)
    variable = adaptive.VariableStepNLMS(noise_power=0.01, eps=0.0)
    large, small = adaptive.NLMS(mu=1.0, eps=0.0), adaptive.NLMS(mu=0.1, eps=0.0)
    assert excess(variable, start) < excess(small, start) / 4
    assert excess(variable, end) < excess(large, end) / 4


def test_least_mean_fourth_beats_lms_on_noise_with_short_tails():
    """At the same speed near the solution, mu_lms = 3 sigma^2 mu_lmf (Walach and Widrow 1984).

    With that mu the deviations are as E[v^6] / (9 sigma^4) to sigma^2, v the noise: for v uniform
    on [-1, 1], (1 / 7) / (9 / 27) = 3 / 7.
    """
    rng = np.random.default_rng(1)
    mu, taps, ends = 0.004, 4, {"lms": [], "lmf": []}
    for _ in range(60):
        u, noise = rng.standard_normal(6000), rng.uniform(-1, 1, 6000)
        d = noise  # the solution is zero: the weights are the deviation
        lms = adaptive.lms(u, d, mu=mu, taps=taps, record=500)
        lmf = adaptive.least_mean_fourth(u, d, mu=mu, taps=taps, record=500)
        ends["lms"].append((lms.history[4:] ** 2).sum(axis=1).mean())
        ends["lmf"].append((lmf.history[4:] ** 2).sum(axis=1).mean())
    lms, lmf = (np.array(ends[name]) for name in ("lms", "lmf"))
    # mu_lmf E[3 v^2] = mu_lms: 3 / 3 = 1
    ratio = lmf.mean() / lms.mean()
    error = ratio * np.hypot(*(x.std() / x.mean() / np.sqrt(60) for x in (lms, lmf)))
    assert abs(ratio - 3 / 7) < 4 * error
    assert error < 0.06


def test_gngd_raises_a_regularisation_of_zero_where_the_input_is_nearly_silent():
    """NLMS without regularisation amplifies the noise there; GNGD leaves it after a while."""
    rng = np.random.default_rng(3)
    u, noise = 1e-3 * rng.standard_normal(4000), rng.standard_normal(4000)
    loud = adaptive.nlms(u, noise, mu=1.0, eps=0.0, taps=TAPS)
    calm = adaptive.gngd(u, noise, mu=1.0, rho=0.1, eps=0.0, taps=TAPS)
    excess = [np.mean(run.error[2000:] ** 2) - 1 for run in (loud, calm)]
    assert 0 < excess[1] < excess[0] / 2


def test_silence_moves_nothing():
    _, d, h = signals()
    for algorithm in (
        adaptive.SetMembershipNLMS(bound=0.1, eps=0.0),
        adaptive.VariableStepNLMS(noise_power=0.1, eps=0.0),
        adaptive.GNGD(mu=1.0, eps=0.0),
    ):
        run = adaptive.run(algorithm, np.zeros(d.size), d, taps=TAPS, w0=h)
        np.testing.assert_array_equal(run.weights, h)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: adaptive.MixedNormLMS(mu=0.1, mix=1.1), r"mix must be in \[0, 1\]; got 1.1"),
        (lambda: adaptive.LeastMeanFourth(mu=0.1, mix=0.1), "mix must be 0 for least_mean_fourth"),
        (lambda: adaptive.VariableStepNLMS(noise_power=-1.0), "noise_power must be zero or pos"),
        (lambda: adaptive.VariableStepNLMS(noise_power=1.0, forgetting=1.0), "forgetting must be"),
        (lambda: adaptive.SetMembershipNLMS(bound=-0.1), "bound must be zero or positive"),
        (lambda: adaptive.GNGD(mu=0.1, rho=-0.1), "rho must be zero or positive"),
        (lambda: adaptive.GNGD(mu=0.1, eps=-0.1), "eps must be zero or positive"),
    ],
)
def test_settings_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()
