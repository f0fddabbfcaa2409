"""Numbers that textbooks and MATLAB's manual print, from our functions.

Simulated numbers are compared within 5 standard errors, taken over groups of runs, so that the
correlation of neighbouring samples is in them.
"""

import numba
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

import adaptive
from adaptive.scenarios import Equalisation, Prediction, raised_cosine

compiled_only = pytest.mark.skipif(numba.config.DISABLE_JIT, reason="millions of samples")

GROUPS = 8


def grouped_mse(scenario, *, runs, skip, **options):
    """Mean of |e|^2 after ``skip`` samples over GROUPS independent ensembles, and its SE."""
    means = [
        adaptive.simulate(scenario, runs=runs, seed=seed, record=10**6, **options).mse[skip:].mean()
        for seed in range(GROUPS)
    ]
    return np.mean(means), np.std(means, ddof=1) / np.sqrt(GROUPS)


# --- MATLAB: maxstep, msepred -----------------------------------------------------------------

MATLAB_INPUT = adaptive.AutoRegressive([0.5], taps=32, innovations="binary")


def matlab_bound(R, kurtosis):
    """2 / (sum of eigenvalues + (kurtosis - 1) largest eigenvalue): a sufficient bound.

    With E[z_k^4] = kurtosis l_k^2 for the modes z_k of the regressor, its own square enters the
    recursion of k_i as (kurtosis - 1) mu^2 l_i^2 beside mu^2 l_i sum_j l_j k_j, so that the edge
    is where sum_k mu l_k / (2 - (kurtosis - 1) mu l_k) = 1. Putting the largest eigenvalue into
    every denominator gives this. Gaussian: kurtosis 3. It is not in ``stability_bounds``, which
    solves the equation instead.
    """
    return 2 / (np.trace(R) + (kurtosis - 1) * np.linalg.eigvalsh(R)[-1])


def test_matlab_input_has_unit_power_and_the_ar_autocorrelation():
    """filter(sqrt(0.75), [1 -0.5], +-1): r(k) = 0.5^k."""
    np.testing.assert_allclose(
        MATLAB_INPUT.R, scipy.linalg.toeplitz(0.5 ** np.arange(32)), rtol=1e-12
    )


def test_matlab_mumax_is_our_trace_bound():
    bounds = adaptive.stability_bounds(MATLAB_INPUT.R)
    assert f"{bounds.trace:.4f}" == "0.0625"
    # which is far below what its own description asks for, convergence of the mean
    assert bounds.mean == pytest.approx(0.6774, abs=5e-5)


def test_matlab_mumaxmse_is_a_sufficient_bound_below_our_exact_one():
    R = MATLAB_INPUT.R
    bounds = adaptive.stability_bounds(R)
    assert bounds.mean_square_real == pytest.approx(0.0565, abs=5e-5)
    # Gaussian, closed form
    assert matlab_bound(R, 3.0) == pytest.approx(0.0528, abs=5e-5)
    # the average kurtosis of the eigenvector-filtered signals, which the manual names:
    # 3 - 2 sum h^4 / (sum h^2)^2 for a filter h on +-1 noise
    innovations = np.sqrt(0.75) * 0.5 ** np.arange(100)
    _, vectors = np.linalg.eigh(R)
    filters = np.array([np.convolve(q, innovations) for q in vectors.T])
    kurtosis = 3 - 2 * np.sum(filters**4, axis=1) / np.sum(filters**2, axis=1) ** 2
    assert kurtosis.mean() == pytest.approx(2.909, abs=5e-4)
    assert matlab_bound(R, kurtosis.mean()) == pytest.approx(0.0531, abs=5e-5)
    # the kurtosis of the input itself, 1.8, in the place of (kurtosis - 1): the printed digits
    of_input = 3 - 2 * np.sum(innovations**4) / np.sum(innovations**2) ** 2
    assert of_input == pytest.approx(1.8)
    assert f"{matlab_bound(R, 1 + of_input):.4f}" == "0.0536"


@compiled_only
def test_matlab_estimates_scatter_wide_enough_for_its_printed_number():
    """maxstep estimates R from 50 records of 2,000 samples, so its third digit is not fixed.

    The formula with the manual's kurtosis gives 0.0531 give or take 0.0003 on fresh data.
    """
    rng = np.random.default_rng(0)
    values = []
    for _ in range(20):
        records = np.array([MATLAB_INPUT.signal(rng, 2000) for _ in range(50)])
        r = [np.mean(records[:, k:] * records[:, : 2000 - k]) for k in range(32)]
        R = scipy.linalg.toeplitz(r)
        values.append(matlab_bound(R, 2.909))
    assert np.mean(values) == pytest.approx(0.0531, abs=3e-4)
    assert np.std(values) < 6e-4
    assert min(values) < 0.0536 < max(values) + 2 * np.std(values)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=12))
def test_the_closed_form_never_exceeds_our_bound(eigenvalues):
    R = np.diag(eigenvalues)
    exact = adaptive.stability_bounds(R)
    assert matlab_bound(R, 3.0) <= exact.mean_square_real * (1 + 1e-9)
    assert matlab_bound(R, 2.0) <= exact.mean_square_complex * (1 + 1e-9)
    assert exact.mean_square_real <= exact.trace * (1 + 1e-9)


@compiled_only
def test_matlab_msepred_example():
    """mu = 0.008, a half-band FIR of 32 taps, noise of power 0.01: predicted and simulated."""
    h = np.sinc((np.arange(32) - 15.5) / 2) * np.hamming(32)
    scenario = adaptive.SystemIdentification(MATLAB_INPUT, w_o=h / h.sum(), noise_power=0.01)
    curve = adaptive.predict_lms(scenario.problem, mu=0.008, steps=2000)
    assert curve.J_min == pytest.approx(0.01)
    share = 0.008 * np.linalg.eigvalsh(MATLAB_INPUT.R)
    load = np.sum(share / (2 * (1 - share)))
    assert curve.emse == pytest.approx(0.01 * load / (1 - load), rel=1e-9)
    assert curve.emse == pytest.approx(0.00149, abs=5e-6)
    run = adaptive.simulate(scenario, mu=0.008, steps=2000, runs=400, seed=0)
    blocks = run.mse.reshape(40, 50).mean(axis=1) / curve.mse.reshape(40, 50).mean(axis=1)
    # binary or Gaussian alike, a delay line is 12 % off the theory on the steep part, then 5 %
    assert np.abs(blocks - 1).max() < 0.15
    assert np.abs(blocks[4:] - 1).max() < 0.07
    assert np.abs(blocks[20:].mean() - 1) < 0.01


# --- Haykin: adaptive equaliser ---------------------------------------------------------------

HAYKIN = {  # W: r(0), r(1), r(2), smallest and largest eigenvalue, spread
    2.9: (1.0973, 0.4388, 0.0481, 0.3339, 2.0295, 6.0782),
    3.1: (1.1576, 0.5596, 0.0783, 0.2136, 2.3761, 11.1238),
    3.3: (1.2274, 0.6729, 0.1132, 0.1256, 2.7263, 21.7132),
    3.5: (1.3032, 0.7775, 0.1511, 0.0656, 3.0707, 46.8216),
}


def equaliser(W):
    return Equalisation(raised_cosine(W), taps=11, delay=7, noise_power=0.001)


@pytest.mark.parametrize("W", HAYKIN)
def test_haykin_equaliser_table(W):
    problem = equaliser(W).problem
    modes = adaptive.natural_modes(problem.R)
    ours = (*problem.R[0, :3], modes.eigenvalues[0], modes.eigenvalues[-1], modes.spread)
    np.testing.assert_allclose(ours, HAYKIN[W], atol=5e-5 + 1e-12)


@compiled_only
@pytest.mark.parametrize("W", HAYKIN)
def test_haykin_equaliser_learning_curve_at_a_small_step(W):
    """mu = 0.0075: theory within 10 % of 800 runs, averaged over 50 updates, all the way."""
    scenario = equaliser(W)
    curve = adaptive.predict_lms(scenario.problem, mu=0.0075, steps=1500)
    run = adaptive.simulate(scenario, mu=0.0075, steps=1500, runs=800, seed=1)
    ratio = run.mse.reshape(30, 50).mean(axis=1) / curve.mse.reshape(30, 50).mean(axis=1)
    assert np.abs(ratio - 1).max() < 0.1


@compiled_only
def test_haykin_equaliser_slows_and_worsens_with_the_spread():
    """mu = 0.075, 200 runs, as in the book's figure."""
    runs = [
        adaptive.simulate(equaliser(W), mu=0.075, steps=500, runs=200, seed=1).mse for W in HAYKIN
    ]
    finals = [mse[-50:].mean() for mse in runs]
    below = [int(np.argmax(mse < 0.1)) for mse in runs]
    assert finals == sorted(finals)
    assert below == sorted(below)
    assert 1.2 < finals[0] / equaliser(2.9).problem.J_min < 3


@compiled_only
def test_haykin_equaliser_by_plain_numpy():
    """The experiment written out again, with its own random numbers: 5 standard errors."""
    runs, steps, mu = 2000, 300, 0.075
    rng = np.random.default_rng(99)
    a = rng.choice([-1.0, 1.0], (runs, steps + 40))
    h = raised_cosine(3.1)
    x = sum(h[k] * np.roll(a, k, axis=1) for k in range(4))
    x += np.sqrt(0.001) * rng.standard_normal(x.shape)
    w, squares = np.zeros((runs, 11)), np.empty((steps, runs))
    for n in range(steps):
        u = x[:, n + 30 : n + 19 : -1]
        e = a[:, n + 23] - np.sum(w * u, axis=1)
        w += mu * e[:, None] * u
        squares[n] = e**2
    run = adaptive.simulate(equaliser(3.1), mu=mu, steps=steps, runs=runs, seed=5)
    theirs, se = squares.mean(axis=1), squares.std(axis=1) / np.sqrt(runs)
    z = (run.mse - theirs)[1:] / np.hypot(run.mse_se, se)[1:]
    assert np.abs(z).max() < 5
    assert abs(z.mean()) < 1


# --- Haykin: one-step prediction of an AR(1) process ------------------------------------------


@compiled_only
@pytest.mark.parametrize("mu", [0.01, 0.05, 0.1])
def test_haykin_one_tap_predictor(mu):
    """The curve settles at J_min (1 + M), J_min the power of the innovations."""
    scenario = Prediction(adaptive.AutoRegressive([0.5], taps=1))
    assert scenario.problem.J_min == pytest.approx(0.75)
    assert scenario.problem.w_o == pytest.approx([0.5])
    curve = adaptive.predict_lms(scenario.problem, mu=mu, steps=1000)
    assert curve.misadjustment == pytest.approx(mu / (2 - 3 * mu), rel=1e-9)
    mean, se = grouped_mse(scenario, mu=mu, steps=1000, runs=256, skip=700)
    # the theory's own error: it stays below mu / 10
    assert abs(mean - curve.mse_final) < 5 * se + 0.1 * mu * curve.mse_final


@compiled_only
def test_the_predictor_has_a_bias_of_order_mu_that_independence_misses():
    """Neighbouring regressors share samples: E[w] settles below a = 0.5 by about mu."""
    scenario = Prediction(adaptive.AutoRegressive([0.5], taps=1))
    bias = []
    for mu in (0.025, 0.05, 0.1):
        run = adaptive.simulate(scenario, mu=mu, steps=1000, runs=4000, seed=3, w0=[0.5])
        bias.append(0.5 - run.mean_weights[-200:, 0].mean())
        prediction = adaptive.predict_lms(scenario.problem, mu=mu, steps=1000, w0=[0.5])
        assert prediction.weights[-1, 0] == pytest.approx(0.5)
    np.testing.assert_allclose(np.array(bias) / [0.025, 0.05, 0.1], 1.0, atol=0.15)


@compiled_only
def test_haykin_larger_steps_learn_faster_and_settle_higher():
    """a = 0.99, where the spread over time makes theory a guide only: the order of the curves."""
    scenario = Prediction(adaptive.AutoRegressive([0.99], taps=1))
    runs = [
        adaptive.simulate(scenario, mu=mu, steps=1000, runs=1000, seed=1).mse
        for mu in (0.01, 0.05, 0.1)
    ]
    early = [mse[5:20].mean() for mse in runs]
    assert early == sorted(early, reverse=True)
    late = [mse[-300:].mean() / scenario.problem.J_min for mse in runs]
    assert late[1] < late[2]
    assert late[1] == pytest.approx(1 + 0.05 / 2, abs=0.02)


# --- Sayed: EMSE of white Gaussian regressors -------------------------------------------------

TAPS, NOISE = 10, 1e-2


def identification(source):
    return adaptive.SystemIdentification(source, w_o=np.ones(TAPS) / TAPS, noise_power=NOISE)


INDEPENDENT = adaptive.GaussianRegressors(np.eye(TAPS))


@compiled_only
@pytest.mark.parametrize("mu", [0.01, 0.03, 0.06, 0.1])
def test_sayed_lms_emse(mu):
    """mu M s / (2 - (M + 2) mu) for unit power, M taps, noise s: exact for these regressors."""
    book = mu * TAPS * NOISE / (2 - (TAPS + 2) * mu)
    curve = adaptive.predict_lms(identification(INDEPENDENT).problem, mu=mu, steps=1)
    assert curve.emse == pytest.approx(book, rel=1e-12)
    mean, se = grouped_mse(
        identification(INDEPENDENT), mu=mu, steps=1200, runs=128, skip=800, w0=np.ones(TAPS) / TAPS
    )
    assert abs(mean - NOISE - book) < 5 * se
    assert se < 0.02 * mean


@compiled_only
@pytest.mark.parametrize("mu", [0.1, 0.5, 1.0, 1.5])
def test_sayed_nlms_emse(mu):
    """mu s M / ((2 - mu) (M - 2)), eps = 0: direction and length of white u are independent."""
    book = mu * NOISE / (2 - mu) * TAPS / (TAPS - 2)
    curve = adaptive.predict_nlms(identification(INDEPENDENT).problem, mu=mu, eps=0.0, steps=1)
    assert curve.emse == pytest.approx(book, rel=1e-9)
    mean, se = grouped_mse(
        identification(INDEPENDENT),
        algorithm="nlms",
        eps=0.0,
        mu=mu,
        steps=1200,
        runs=128,
        skip=800,
        w0=np.ones(TAPS) / TAPS,
    )
    assert abs(mean - NOISE - book) < 5 * se
    assert se < 0.02 * mean


@compiled_only
@pytest.mark.parametrize("mu", [0.001, 0.003])
def test_sayed_sign_error_emse(mu):
    """a (a + sqrt(a^2 + 4 s)) / 2 with a = sqrt(pi / 8) mu M: small steps; within 10 %."""
    a = np.sqrt(np.pi / 8) * mu * TAPS
    book = a / 2 * (a + np.sqrt(a**2 + 4 * NOISE))
    mean, _ = grouped_mse(
        identification(INDEPENDENT),
        algorithm="sign_error_lms",
        mu=mu,
        steps=1500,
        runs=256,
        skip=900,
        w0=np.ones(TAPS) / TAPS,
    )
    assert mean - NOISE == pytest.approx(book, rel=0.1)


@compiled_only
@pytest.mark.parametrize("forgetting", [0.98, 0.995])
def test_sayed_rls_emse(forgetting):
    """s (1 - f) M / (1 + f - (1 - f) M), for f near 1; within 10 %."""
    book = NOISE * (1 - forgetting) * TAPS / (1 + forgetting - (1 - forgetting) * TAPS)
    mean, _ = grouped_mse(
        identification(INDEPENDENT),
        algorithm="rls",
        forgetting=forgetting,
        steps=2000,
        runs=128,
        skip=1400,
        w0=np.ones(TAPS) / TAPS,
    )
    assert mean - NOISE == pytest.approx(book, rel=0.1)


@compiled_only
@pytest.mark.parametrize("algorithm", ["lms", "nlms"])
def test_the_table_holds_on_a_delay_line_of_white_noise(algorithm):
    """Regressors that share samples, small steps: within 5 % of the independent ones."""
    mu = 0.02 if algorithm == "lms" else 0.2
    options = {} if algorithm == "lms" else {"eps": 0.0}
    predict = adaptive.predict_lms if algorithm == "lms" else adaptive.predict_nlms
    scenario = identification(adaptive.white(TAPS))
    curve = predict(scenario.problem, mu=mu, steps=1, **options)
    mean, se = grouped_mse(
        scenario,
        algorithm=algorithm,
        mu=mu,
        steps=1500,
        runs=256,
        skip=900,
        w0=np.ones(TAPS) / TAPS,
        **options,
    )
    assert abs(mean - curve.mse_final) < 5 * se + 0.05 * curve.emse
