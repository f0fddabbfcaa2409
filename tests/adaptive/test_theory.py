"""Modes, bounds and learning curves against oracles, theorems and simulated ensembles."""

import runpy
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import adaptive
from adaptive._moments import normalized_moments
from adaptive.algorithms.power import predict_known_powers
from adaptive.results import LearningCurve
from adaptive.tracking import predict_tracking
from tests.oracles import naive

SEEDS = st.integers(0, 2**32 - 1)


def predict_with(kind):
    """A prediction that takes the settings of one kind of algorithm as keywords."""

    def predict(problem, *, steps, w0=None, **own):
        return adaptive.predict(kind(**own), problem, steps=steps, w0=w0)

    return predict


predict_block_lms = predict_with(adaptive.BlockLMS)
predict_leaky_lms = predict_with(adaptive.LeakyLMS)
predict_momentum_lms = predict_with(adaptive.MomentumLMS)


def predict_power_normalized_lms(problem, *, steps, w0=None, transform=None, **own):
    kind = adaptive.PowerNormalizedLMS(**own)
    T = np.eye(problem.taps) if transform is None else transform
    return predict_known_powers(kind, problem, T, steps=steps, w0=w0)


def block_bounds(R, block):
    return adaptive.BlockLMS(mu=1.0, block=block).bounds(R)


def leaky_bounds(R, leakage):
    return adaptive.LeakyLMS(mu=1.0, leakage=leakage).bounds(R)


def momentum_bounds(R, momentum):
    return adaptive.MomentumLMS(mu=1.0, momentum=momentum).bounds(R)


def nlms_bounds(R, eps=None):
    return adaptive.NLMS(mu=1.0, eps=eps).bounds(R)


def random_R(seed, L, spread):
    """Random eigenvectors, eigenvalues spread geometrically, and a random scale."""
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.standard_normal((L, L)))[0]
    return 10 ** rng.uniform(-3, 3) * (Q * np.geomspace(1 / spread, 1, L)) @ Q.T


def problem_for(R, J_min=0.1, seed=0):
    w_o = np.random.default_rng(seed).standard_normal(R.shape[0])
    P = R @ w_o
    return adaptive.WienerProblem(R=R, P=P, d_power=w_o @ P + J_min)


# --- WienerProblem ------------------------------------------------------------------------


def test_wiener_solution_and_minimum_error_by_least_squares():
    rng = np.random.default_rng(0)
    U, D = rng.standard_normal((300, 4)), rng.standard_normal((300, 2))
    problem = adaptive.WienerProblem.from_data(U, D)
    w, residual, *_ = np.linalg.lstsq(U, D, rcond=None)
    np.testing.assert_allclose(problem.w_o, w.T, rtol=1e-10)
    assert problem.J_min == pytest.approx(residual.sum() / 300, rel=1e-10)
    assert problem.mse(np.zeros((2, 4))) == pytest.approx((D**2).sum() / 300, rel=1e-12)


def test_from_data_delay_line_equals_explicit_regressors():
    rng = np.random.default_rng(1)
    u = rng.standard_normal((50, 2)) + 1j * rng.standard_normal((50, 2))
    d = rng.standard_normal(50) + 1j * rng.standard_normal(50)
    U = np.array(naive.stacked_delay_lines(u, 3))
    a = adaptive.WienerProblem.from_data(u, d, taps=3)
    np.testing.assert_allclose(a.R, U.T @ U.conj() / 50, rtol=1e-12)
    np.testing.assert_allclose(a.P, U.T @ d.conj() / 50, rtol=1e-12)
    np.testing.assert_allclose(a.R @ a.w_o, a.P, rtol=1e-9)
    e = d - U @ a.w_o.conj()
    assert a.J_min == pytest.approx(np.mean(np.abs(e) ** 2), rel=1e-9)


def test_from_data_can_leave_out_the_unfilled_line():
    u = np.random.default_rng(2).standard_normal(40)
    U = np.array(naive.delay_line(list(u), 5))[4:]
    problem = adaptive.WienerProblem.from_data(u, u, taps=5, start=4)
    np.testing.assert_allclose(problem.R, U.T @ U / 36, rtol=1e-12)


def test_singular_R_gives_the_least_norm_solution_and_names_still_modes():
    rng = np.random.default_rng(3)
    U = rng.standard_normal((200, 3)) @ rng.standard_normal((3, 6))
    d = U @ np.arange(6.0) + 0.1 * rng.standard_normal(200)
    problem = adaptive.WienerProblem.from_data(U, d)
    np.testing.assert_allclose(problem.w_o, np.linalg.pinv(U) @ d, rtol=1e-8, atol=1e-10)
    modes = problem.modes
    assert modes.rank == 3
    assert modes.stationary.tolist() == [True] * 3 + [False] * 3
    assert modes.spread == np.inf
    assert np.isinf(modes.time_constants(0.01)[:3]).all()
    curve = adaptive.predict_lms(problem, mu=1e-3, steps=50, w0=np.ones(6))
    np.testing.assert_array_equal(curve.modes[:, :3], np.tile(curve.modes[0, :3], (51, 1)))
    run = adaptive.lms(U, d, mu=1e-3, w0=np.ones(6))
    still = modes.to_modes(run.weights - np.ones(6))[:3]
    assert np.abs(still).max() < 1e-13


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"R": np.ones((2, 3))}, ValueError, r"R must be square; got shape \(2, 3\)"),
        ({"R": [["1"]]}, TypeError, "R must be float32, .* got <U1"),
        ({"R": [[1.0, 0.5], [0.0, 1.0]]}, ValueError, "R must be symmetric"),
        ({"R": [[1.0, 2.0], [2.0, 1.0]]}, ValueError, "R must be positive semidefinite; got"),
        ({"R": [[np.nan, 0.0], [0.0, 1.0]]}, ValueError, r"R must be finite; got nan at index \(0"),
        ({"P": [1.0]}, ValueError, r"P must have 2 taps on its last axis, as R has; got shape"),
        ({"P": [1.0, np.inf]}, ValueError, "P must be finite; got inf at index 1"),
        ({"d_power": -1.0}, ValueError, "d_power must be zero or positive; got -1.0"),
        ({"d_power": 0.5}, ValueError, "d_power must be at least the power that R and P explain"),
        (
            {"R": [[1.0, 1.0], [1.0, 1.0]], "P": [1.0, -1.0]},
            ValueError,
            "P must lie in the range of R",
        ),
    ],
)
def test_wiener_problem_refuses_what_is_no_statistic(arguments, error, message):
    good = {"R": [[1.0, 0.0], [0.0, 1.0]], "P": [1.0, 0.0], "d_power": 2.0}
    with pytest.raises(error, match=message):
        adaptive.WienerProblem(**{**good, **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"d": np.ones(3)}, r"d must have as many samples as u, 10; got shape \(3,\)"),
        ({"start": 10}, "start must be less than the 10 samples of u; got 10"),
        ({"start": -1}, "start must be at least 0; got -1"),
        ({"u": np.zeros((0, 2)), "taps": None}, r"u must not be empty; got shape \(0, 2\)"),
    ],
)
def test_from_data_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        adaptive.WienerProblem.from_data(
            **{"u": np.ones(10), "d": np.ones(10), "taps": 2, **arguments}
        )


def test_mse_refuses_weights_of_another_shape():
    with pytest.raises(ValueError, match=r"w must have the shape of P, \(2,\); got \(3,\)"):
        problem_for(np.eye(2)).mse(np.zeros(3))


# --- natural modes --------------------------------------------------------------------------


def test_mean_weights_follow_the_modes():
    """E[w(n+1)] - w_o = (I - mu R)(E[w(n)] - w_o), iterated as a matrix."""
    R = random_R(0, 5, 50)
    mu = 0.7 * adaptive.stability_bounds(R).mean
    modes = adaptive.natural_modes(R)
    c = np.arange(1.0, 6.0)
    path = modes.to_weights(modes.trajectory(modes.to_modes(c), mu, 40))
    for n in range(41):
        np.testing.assert_allclose(path[n], c, rtol=1e-9, atol=1e-9)
        c = c - mu * R @ c


def test_time_constants_at_the_special_factors():
    modes = adaptive.natural_modes(np.diag([1.0, 1.5, 2.0, 4.0]))
    tau = modes.time_constants(1.0)  # factors 0, -0.5, -1, -3
    assert tau[0] == 0
    assert tau[1] == pytest.approx(1 / np.log(2))
    assert np.isinf(tau[2])
    assert tau[3] == pytest.approx(-1 / np.log(3))


def test_a_diverging_trajectory_overflows_to_inf_and_zero_stays_zero():
    path = adaptive.natural_modes(np.eye(2)).trajectory([0.0, 1.0], mu=10.0, steps=1000)
    assert np.isinf(path[-1, 1])
    np.testing.assert_array_equal(path[:, 0], 0)


@pytest.mark.parametrize(
    ("v0", "mu", "steps", "message"),
    [
        ([1.0, 2.0, 3.0], 0.1, 5, r"v0 must have 2 modes on its last axis; got shape \(3,\)"),
        ([1.0, 2.0], -0.1, 5, "mu must be positive; got -0.1"),
        ([1.0, 2.0], 0.1, -1, "steps must be at least 0; got -1"),
        ([1.0, np.nan], 0.1, 5, "v0 must be finite; got nan at index 1"),
    ],
)
def test_trajectory_refuses(v0, mu, steps, message):
    with pytest.raises(ValueError, match=message):
        adaptive.natural_modes(np.eye(2)).trajectory(v0, mu, steps)


# --- stability bounds as theorems -------------------------------------------------------------


@given(seed=SEEDS, L=st.integers(1, 8), spread=st.floats(1, 1e6))
@settings(max_examples=50, deadline=None)
def test_mean_bound_is_the_edge_of_gradient_descent(seed, L, spread):
    """Theorem: c <- (I - mu R) c has operator norm <= 1 for mu <= 2 / l_max, and grows without
    bound from the top eigenvector for mu > 2 / l_max. Shown on the matrix itself, no eigenvalues.
    """
    R = random_R(seed, L, spread)
    bound = adaptive.stability_bounds(R).mean
    top = np.linalg.svd(R)[0][:, 0]
    below, above = (np.eye(L) - f * bound * R for f in (0.999, 1.001))
    assert np.linalg.norm(below, 2) < 1
    assert np.linalg.norm(above @ top) > 1


@given(seed=SEEDS, L=st.integers(1, 6), spread=st.floats(1, 1e4))
@settings(max_examples=40, deadline=None)
def test_mean_square_bounds_are_where_the_moment_map_turns_unstable(seed, L, spread):
    """Theorem (Gaussian, independent): E[v_k^2] converges iff the spectral radius of
    F = diag(1 - 2 mu l + c mu^2 l^2) + mu^2 l l' is below 1; c = 2 real, 1 circular complex.
    """
    R = random_R(seed, L, spread)
    lam = np.linalg.eigvalsh(R)
    bounds = adaptive.stability_bounds(R)
    for edge, c in ((bounds.mean_square_real, 2), (bounds.mean_square_complex, 1)):
        for factor, stable in ((0.99, True), (1.01, False)):
            mu = factor * edge
            F = np.diag(1 - 2 * mu * lam + c * (mu * lam) ** 2) + mu**2 * np.outer(lam, lam)
            assert (np.abs(np.linalg.eigvals(F)).max() < 1) == stable


@given(seed=SEEDS, L=st.integers(1, 8), spread=st.floats(1, 1e6), scale=st.floats(1e-3, 1e3))
@settings(max_examples=40, deadline=None)
def test_bounds_are_ordered_and_scale_with_the_inverse_power(seed, L, spread, scale):
    R = random_R(seed, L, spread)
    b = adaptive.stability_bounds(R)
    assert 0 < b.mean_square_real < b.mean_square_complex <= b.trace * (1 + 1e-12)
    assert b.trace <= b.mean * (1 + 1e-12)
    scaled = adaptive.stability_bounds(scale * R)
    for name in ("trace", "mean", "mean_square_real", "mean_square_complex"):
        assert getattr(scaled, name) == pytest.approx(getattr(b, name) / scale, rel=1e-9)


def test_one_tap_bounds_in_closed_form():
    b = adaptive.stability_bounds([[2.0]])
    assert b.trace == b.mean == 1.0
    assert b.mean_square_real == pytest.approx(1 / 3)  # 2 / (3 E[u^2]): E[u^4] = 3 E[u^2]^2
    assert b.mean_square_complex == pytest.approx(1 / 2)  # 1 / E|u|^2: E|u|^4 = 2 (E|u|^2)^2


def test_the_documented_example_of_matlabs_maxstep():
    """32 taps, x = sqrt(0.75) / (1 - 0.5 z^-1) of +-1 noise: maxstep prints 0.0625, our `trace`.

    Its second number, 0.0536, allows for the kurtosis of that input; ours are for Gaussian input.
    """
    b = adaptive.stability_bounds(adaptive.AutoRegressive([0.5], taps=32).R)
    assert b.trace == pytest.approx(0.0625, rel=1e-12)
    assert b.mean == pytest.approx(0.677, abs=5e-4)
    assert b.mean_square_real == pytest.approx(0.0565, abs=5e-5)
    assert b.mean_square_complex == pytest.approx(0.0594, abs=5e-5)


def test_bounds_refuse_silence_and_say_their_assumptions():
    with pytest.raises(ValueError, match="R must not be zero: a silent input bounds no step size"):
        adaptive.stability_bounds(np.zeros((3, 3)))
    text = str(adaptive.stability_bounds(np.eye(2)))
    assert "mean_square_complex" in text
    assert "Gaussian" in text


# --- learning curves --------------------------------------------------------------------------


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.95, 1.5])
def test_predicted_mse_equals_the_full_matrix_recursion(fraction):
    R = random_R(4, 6, 100)
    problem = problem_for(R)
    mu = fraction * adaptive.stability_bounds(R).mean_square_real
    curve = adaptive.predict_lms(problem, mu=mu, steps=200)
    expected = naive.gaussian_lms_second_moment(R, -problem.w_o, mu, problem.J_min, 200)
    np.testing.assert_allclose(curve.mse, expected, rtol=1e-9)
    assert curve.stable == (fraction < 1)


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.6])
def test_gaussian_curve_lies_in_the_band_of_2000_runs(fraction):
    """Spread 100, three step sizes: within 4 standard errors at every step."""
    R = random_R(5, 6, 100)
    w_o = np.random.default_rng(5).standard_normal(6)
    scenario = adaptive.SystemIdentification(
        adaptive.GaussianRegressors(R), w_o=w_o, noise_power=0.1
    )
    mu = fraction * adaptive.stability_bounds(R).mean_square_real
    ensemble = adaptive.simulate(scenario, mu=mu, steps=300, runs=2000, seed=11)
    curve = adaptive.predict_lms(scenario.problem, mu=mu, steps=300)
    assert np.abs((ensemble.mse - curve.mse) / ensemble.mse_se).max() < 4
    moved = ensemble.mean_weights_se[1:]
    assert np.abs((ensemble.mean_weights[1:] - curve.weights[1:]) / moved).max() < 4.5


def test_complex_gaussian_curve_lies_in_the_band():
    rng = np.random.default_rng(6)
    A = rng.standard_normal((4, 4)) + 1j * rng.standard_normal((4, 4))
    R = A @ A.conj().T
    w_o = rng.standard_normal(4) + 1j * rng.standard_normal(4)
    scenario = adaptive.SystemIdentification(
        adaptive.GaussianRegressors(R), w_o=w_o, noise_power=0.1
    )
    mu = 0.3 * adaptive.stability_bounds(R).mean_square_complex
    ensemble = adaptive.simulate(scenario, mu=mu, steps=200, runs=2000, seed=12)
    curve = adaptive.predict_lms(scenario.problem, mu=mu, steps=200)
    assert np.abs((ensemble.mse - curve.mse) / ensemble.mse_se).max() < 4


def test_steady_state_is_the_limit_of_the_curve():
    problem = problem_for(random_R(7, 4, 10))
    mu = 0.5 * adaptive.stability_bounds(problem.R).mean_square_real
    curve = adaptive.predict_lms(problem, mu=mu, steps=5000)
    assert curve.mse[-1] == pytest.approx(problem.J_min + curve.emse, rel=1e-9)
    assert curve.misadjustment == pytest.approx(curve.emse / problem.J_min)


def test_an_unstable_curve_says_so_and_never_becomes_nan():
    R = np.diag([0.0, 1.0])
    problem = adaptive.WienerProblem(R=R, P=[0.0, 1.0], d_power=1.1)
    curve = adaptive.predict_lms(problem, mu=5.0, steps=2000)
    assert not curve.stable
    assert curve.emse == curve.misadjustment == np.inf
    assert np.isinf(curve.mse[-1])
    assert not np.isnan(curve.mse).any()
    assert not np.isnan(curve.weights).any()


def test_many_outputs_add_up():
    R = random_R(8, 3, 10)
    W = np.random.default_rng(8).standard_normal((2, 3))
    both = adaptive.WienerProblem(R=R, P=W @ R, d_power=np.trace(W @ R @ W.T) + 0.3)
    mu = 0.3 * adaptive.stability_bounds(R).mean_square_real
    single = [
        adaptive.WienerProblem(R=R, P=w @ R, d_power=w @ R @ w + j)
        for w, j in zip(W, (0.1, 0.2), strict=True)
    ]
    curves = [adaptive.predict_lms(p, mu=mu, steps=50) for p in single]
    curve = adaptive.predict_lms(both, mu=mu, steps=50)
    np.testing.assert_allclose(curve.mse, curves[0].mse + curves[1].mse, rtol=1e-9)
    np.testing.assert_allclose(curve.weights[:, 1], curves[1].weights, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mu": 0.0}, "mu must be positive; got 0.0"),
        ({"steps": 0}, "steps must be at least 1; got 0"),
        ({"w0": [1.0]}, r"w0 must have the shape of P, \(2,\); got \(1,\)"),
    ],
)
def test_predict_lms_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        adaptive.predict_lms(problem_for(np.eye(2)), **{"mu": 0.1, "steps": 5, **arguments})


# --- the family against full-matrix recursions ---------------------------------------------------


def random_complex_R(seed, L):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((L, L)) + 1j * rng.standard_normal((L, L))
    return A @ np.diag(np.geomspace(0.1, 1, L)) @ A.conj().T


def family_problem(kind, seed=20, L=4):
    """A problem of each kind of data, with its w_o and a start that is not zero."""
    rng = np.random.default_rng(seed)
    if kind == "complex":
        R = random_complex_R(seed, L)
        w_o = rng.standard_normal(L) + 1j * rng.standard_normal(L)
        w0 = rng.standard_normal(L) + 1j * rng.standard_normal(L)
    else:
        lam = np.geomspace(0.05, 1, L)
        lam[: 1 if kind == "singular" else 0] = 0
        Q = np.linalg.qr(rng.standard_normal((L, L)))[0]
        R, w_o, w0 = (Q * lam) @ Q.T, rng.standard_normal(L), rng.standard_normal(L)
    P = R @ w_o
    problem = adaptive.WienerProblem(R=R, P=P, d_power=np.vdot(w_o, P).real + 0.1)
    return problem, w0


def edge_of(bounds, kind):
    return bounds.mean_square_complex if kind == "complex" else bounds.mean_square_real


def assert_moments(curve, excess, msd):
    steps = curve.mse.size
    np.testing.assert_allclose(curve.excess, excess[:steps], rtol=1e-9)
    np.testing.assert_allclose(curve.mse, curve.J_min + excess[:steps], rtol=1e-9)
    np.testing.assert_allclose(curve.msd, msd, rtol=1e-9)


def assert_steady(predict):
    """``predict(steps)`` long enough: the closed form is the limit of the curve."""
    curve = predict(20_000)
    assert curve.stable
    assert curve.mean_stable
    assert curve.excess[-1] == pytest.approx(curve.emse, rel=1e-8)
    assert curve.msd[-1] == pytest.approx(curve.msd_final, rel=1e-8)


KINDS = pytest.mark.parametrize("kind", ["real", "complex", "singular"])
FRACTIONS = pytest.mark.parametrize("fraction", [0.2, 0.8, 1.2])


@KINDS
@FRACTIONS
@pytest.mark.parametrize("block", [1, 5])
def test_block_lms_equals_the_full_matrix(kind, fraction, block):
    problem, w0 = family_problem(kind)
    bounds = block_bounds(problem.R, block=block)
    mu = fraction * edge_of(bounds, kind)
    args = {"mu": mu, "block": block, "w0": w0}
    curve = predict_block_lms(problem, steps=100, **args)
    c0 = w0 - problem.w_o
    expected = naive.block_lms_moments(problem.R, c0, mu, block, problem.J_min, 101)
    assert_moments(curve, *expected)
    assert curve.stable == (fraction < 1)
    if curve.stable:
        assert_steady(lambda steps: predict_block_lms(problem, steps=steps, **args))
    if block == 1:
        lms = adaptive.predict_lms(problem, mu=mu, steps=100, w0=w0)
        np.testing.assert_array_equal(lms.mse, curve.mse)


@KINDS
@FRACTIONS
def test_leaky_lms_equals_the_full_matrix(kind, fraction):
    problem, w0 = family_problem(kind)
    mu = fraction * edge_of(leaky_bounds(problem.R, leakage=0.3), kind)
    args = {"mu": mu, "leakage": 0.3, "w0": w0}
    curve = predict_leaky_lms(problem, steps=100, **args)
    *expected, mean = naive.leaky_lms_moments(
        problem.R, problem.w_o, w0 - problem.w_o, mu, 0.3, problem.J_min, 101
    )
    assert_moments(curve, *expected)
    np.testing.assert_allclose(curve.weights, problem.w_o + mean[:101], rtol=1e-8, atol=1e-9)
    assert curve.stable == (fraction < 1)
    if curve.stable:
        assert_steady(lambda steps: predict_leaky_lms(problem, steps=steps, **args))


@KINDS
@FRACTIONS
@pytest.mark.parametrize("momentum", [0.5, 0.95])
def test_momentum_lms_equals_the_full_matrix(kind, fraction, momentum):
    problem, w0 = family_problem(kind)
    mu = fraction * edge_of(momentum_bounds(problem.R, momentum=momentum), kind)
    args = {"mu": mu, "momentum": momentum, "w0": w0}
    curve = predict_momentum_lms(problem, steps=100, **args)
    *expected, mean = naive.momentum_lms_moments(
        problem.R, w0 - problem.w_o, mu, momentum, problem.J_min, 101
    )
    assert_moments(curve, *expected)
    np.testing.assert_allclose(curve.weights, problem.w_o + mean[:101], rtol=1e-8, atol=1e-9)
    assert curve.stable == (fraction < 1)
    if curve.stable:
        assert_steady(lambda steps: predict_momentum_lms(problem, steps=steps, **args))


@KINDS
@FRACTIONS
@pytest.mark.parametrize("rotated", [False, True])
def test_power_normalized_lms_equals_the_full_matrix(kind, fraction, rotated):
    problem, w0 = family_problem(kind)
    T = np.linalg.qr(random_R(21, 4, 3))[0] if rotated else np.eye(4)
    power = 0.01 + np.real(np.diagonal(T @ problem.R @ T.T))
    G = T.T @ np.diag(1 / power) @ T
    root = (T / np.sqrt(power)[:, None]) @ problem.R @ (T / np.sqrt(power)[:, None]).T
    mu = fraction * edge_of(adaptive.stability_bounds(root), kind)
    args = {"mu": mu, "eps": 0.01, "transform": T if rotated else None, "w0": w0}
    curve = predict_power_normalized_lms(problem, steps=100, **args)
    c0 = w0 - problem.w_o
    expected = naive.preconditioned_lms_moments(problem.R, c0, mu, G, problem.J_min, 101)
    assert_moments(curve, *expected)
    mean, c = [], c0
    for _ in range(101):
        mean.append(c)
        c = c - mu * G @ problem.R @ c
    np.testing.assert_allclose(curve.weights, problem.w_o + mean, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(curve.modes, problem.modes.to_modes(mean), rtol=1e-8, atol=1e-9)
    assert curve.stable == (fraction < 1)
    if curve.stable:
        assert_steady(lambda steps: predict_power_normalized_lms(problem, steps=steps, **args))


@pytest.mark.parametrize("circular", [False, True])
@pytest.mark.parametrize("eps", [0.0, 1e-6, 0.3, 50.0])
@pytest.mark.parametrize("lam", [[1.0, 1.0, 1.0], [1e-3, 0.1, 2.0, 40.0]])
def test_normalized_moments_equal_adaptive_quadrature(lam, eps, circular):
    lam = np.array(lam)
    for ours, quad in zip(
        normalized_moments(lam, eps, circular=circular),
        naive.normalized_moments(lam, eps, circular),
        strict=True,
    ):
        np.testing.assert_allclose(ours, quad, rtol=1e-9)


@given(seed=SEEDS, L=st.integers(3, 40), spread=st.floats(1, 1e8), eps=st.floats(0, 10))
@settings(max_examples=40, deadline=None)
def test_normalized_moments_obey_their_sums(seed, L, spread, eps):
    """Sum_i u_i^2 = s - eps gives sum_i a_i = 1 - eps E[1/s] and sum_j B_ij = a_i - eps b_i."""
    lam = np.random.default_rng(seed).permutation(np.geomspace(1 / spread, 1, L))
    for circular in (False, True):
        a, b, B = normalized_moments(lam, eps, circular=circular)
        np.testing.assert_allclose(B.sum(axis=1), a - eps * b, rtol=1e-9)
        assert a.sum() <= 1 + 1e-12
        if eps == 0:
            assert a.sum() == pytest.approx(1, rel=1e-12)


def test_normalized_moments_of_white_input_in_closed_form():
    """E[u_i^2/|u|^2] = 1/L, E[1/|u|^2] = 1/(power (L - 2)) real, 1/(power (L - 1)) complex."""
    a, b, B = normalized_moments(np.full(6, 3.0), 0.0, circular=False)
    np.testing.assert_allclose(a, 1 / 6, rtol=1e-12)
    np.testing.assert_allclose(b, 1 / (6 * 3 * 4), rtol=1e-12)
    assert B[0, 0] / B[0, 1] == pytest.approx(3)
    _, b, B = normalized_moments(np.full(2, 3.0), 0.0, circular=True)
    np.testing.assert_allclose(b, 1 / (2 * 3), rtol=1e-12)
    assert B[0, 0] / B[0, 1] == pytest.approx(2)


def test_nlms_steady_state_is_the_limit_and_white_input_has_a_closed_form():
    problem, w0 = family_problem("real")
    for eps in (None, 0.0, 0.5):
        assert_steady(
            lambda steps, eps=eps: adaptive.predict_nlms(
                problem, mu=0.7, eps=eps, steps=steps, w0=w0
            )
        )
    singular, w0 = family_problem("singular")
    assert_steady(lambda steps: adaptive.predict_nlms(singular, mu=0.7, steps=steps, w0=w0))
    white = adaptive.predict_nlms(problem_for(np.eye(8)), mu=0.5, steps=5, eps=0.0)
    assert white.misadjustment == pytest.approx(0.5 * 8 / (1.5 * 6), rel=1e-10)


# --- the family against simulated runs ------------------------------------------------------------


def assert_band(curve, problem, update, *, w0=None, block=1, runs=20_000, seed=0, scale=1.0):
    """Simulate ``update`` on Gaussian regressors and ask for 4.5 standard errors everywhere."""
    rng = np.random.default_rng(seed)
    R, w_o, L = problem.R, problem.w_o, problem.taps
    root = problem.modes.eigenvectors * np.sqrt(problem.modes.eigenvalues)

    def gaussian(*shape):
        g = rng.standard_normal(shape)
        if np.iscomplexobj(R):
            g = (g + 1j * rng.standard_normal(shape)) / np.sqrt(2)
        return g

    w = np.zeros((runs, L), R.dtype) if w0 is None else np.tile(w0, (runs, 1))
    state = {}
    for n in range(curve.mse.size):
        u = gaussian(runs, block, L) @ root.T
        c = w - w_o
        e = np.sqrt(problem.J_min) * gaussian(runs, block) - np.einsum("ri,rbi->rb", c.conj(), u)
        for sample, predicted in (
            (np.abs(e[:, 0]) ** 2, curve.mse[n]),
            (np.sum(np.abs(c) ** 2, axis=1), curve.msd[n]),
            (c @ problem.modes.eigenvectors.conj()[:, -1], curve.modes[n, -1]),
        ):
            se = sample.std() / np.sqrt(runs)
            assert abs(sample.mean() - predicted) <= 4.5 * se + 1e-9, n
        w = update(w, u, e, state)


def gradient(u, e):
    return np.einsum("rb,rbi->ri", e.conj(), u) / u.shape[1]


@pytest.mark.parametrize("kind", ["real", "complex"])
class TestSimulatedRuns:
    """20,000 independent runs of each member, 60 steps: MSE, MSD and the top mode."""

    def test_nlms(self, kind):
        problem, w0 = family_problem(kind)
        eps = 0.05 * np.trace(problem.R).real
        curve = adaptive.predict_nlms(problem, mu=0.8, eps=eps, steps=60, w0=w0)

        def update(w, u, e, state):
            return w + 0.8 * gradient(u, e) / (eps + np.sum(np.abs(u[:, 0]) ** 2, axis=1))[:, None]

        assert_band(curve, problem, update, w0=w0)

    def test_leaky_lms(self, kind):
        problem, w0 = family_problem(kind)
        mu = 0.4 * edge_of(leaky_bounds(problem.R, leakage=0.3), kind)
        curve = predict_leaky_lms(problem, mu=mu, leakage=0.3, steps=60, w0=w0)
        assert_band(
            curve, problem, lambda w, u, e, _: (1 - mu * 0.3) * w + mu * gradient(u, e), w0=w0
        )

    def test_momentum_lms(self, kind):
        problem, w0 = family_problem(kind)
        mu = 0.4 * edge_of(momentum_bounds(problem.R, momentum=0.8), kind)
        curve = predict_momentum_lms(problem, mu=mu, momentum=0.8, steps=60, w0=w0)

        def update(w, u, e, state):
            following = w + mu * gradient(u, e) + 0.8 * (w - state.get("previous", w))
            state["previous"] = w
            return following

        assert_band(curve, problem, update, w0=w0)

    def test_block_lms(self, kind):
        problem, w0 = family_problem(kind)
        mu = 0.4 * edge_of(block_bounds(problem.R, block=3), kind)
        curve = predict_block_lms(problem, mu=mu, block=3, steps=60, w0=w0)
        assert_band(curve, problem, lambda w, u, e, _: w + mu * gradient(u, e), w0=w0, block=3)

    def test_power_normalized_lms(self, kind):
        problem, w0 = family_problem(kind)
        power = np.real(np.diagonal(problem.R))
        curve = predict_power_normalized_lms(problem, mu=0.1, eps=0.0, steps=60, w0=w0)
        assert_band(curve, problem, lambda w, u, e, _: w + 0.1 * gradient(u, e) / power, w0=w0)


# --- the family's bounds as theorems --------------------------------------------------------------


def spectral_radius(advance, L):
    """Of a linear map on symmetric L x L matrices, from its matrix."""
    basis = np.eye(L * L).reshape(-1, L, L)
    return np.abs(
        np.linalg.eigvals(np.array([advance((E + E.T) / 2).ravel() for E in basis]).T)
    ).max()


@given(
    seed=SEEDS,
    L=st.integers(1, 4),
    spread=st.floats(1, 100),
    circular=st.booleans(),
    block=st.integers(1, 9),
    leakage=st.floats(0, 2),
)
@settings(max_examples=40, deadline=None)
def test_block_and_leaky_edges_are_where_the_full_moment_map_turns_unstable(
    seed, L, spread, circular, block, leakage
):
    """Theorem: E[c c'] converges iff the map on whole matrices has spectral radius below 1. A real
    R as a complex one gives circular complex data."""
    R = random_R(seed, L, spread)
    gamma = leakage * np.linalg.norm(R, 2)
    as_data = R.astype(complex) if circular else R
    kind = "complex" if circular else "real"
    block_edge = edge_of(block_bounds(R, block=block), kind)
    leaky_edge = edge_of(leaky_bounds(R, leakage=gamma), kind)
    for factor, stable in ((0.99, True), (1.01, False)):
        mu = factor * block_edge

        def block_map(K, mu=mu):
            mixed = (naive.isserlis(as_data, K).real + (block - 1) * R @ K @ R) / block
            return K - mu * (R @ K + K @ R) + mu**2 * mixed

        assert (spectral_radius(block_map, L) < 1) == stable
        mu = factor * leaky_edge
        a = 1 - mu * gamma

        def leaky_map(K, mu=mu, a=a):
            return a**2 * K - a * mu * (R @ K + K @ R) + mu**2 * naive.isserlis(as_data, K).real

        assert (spectral_radius(leaky_map, L) < 1) == stable


@given(
    seed=SEEDS,
    L=st.integers(1, 3),
    spread=st.floats(1, 100),
    circular=st.booleans(),
    momentum=st.floats(0, 0.98),
)
@settings(max_examples=40, deadline=None)
def test_momentum_edges_are_where_the_maps_turn_unstable(seed, L, spread, circular, momentum):
    """Theorem: on the state (c(n), c(n-1)), for the mean and for the full second moment."""
    R = random_R(seed, L, spread)
    as_data = R.astype(complex) if circular else R
    bounds = momentum_bounds(R, momentum=momentum)
    edge = edge_of(bounds, "complex" if circular else "real")
    eye, zero = np.eye(L), np.zeros((L, L))

    def mean_map(mu):
        return np.block([[(1 + momentum) * eye - mu * R, -momentum * eye], [eye, zero]])

    for factor, stable in ((0.99, True), (1.01, False)):
        mean = np.abs(np.linalg.eigvals(mean_map(factor * bounds.mean))).max()
        assert (mean < 1) == stable
        A, mu = mean_map(factor * edge), factor * edge

        def moment_map(S, A=A, mu=mu):
            K = S[:L, :L]
            S = A @ S @ A.T
            S[:L, :L] += mu**2 * (naive.isserlis(as_data, K).real - R @ K @ R)
            return S

        assert (spectral_radius(moment_map, 2 * L) < 1) == stable


@given(seed=SEEDS, L=st.integers(1, 6), spread=st.floats(1, 1e4), eps=st.floats(0, 3))
@settings(max_examples=40, deadline=None)
def test_nlms_edge_is_at_least_two_and_two_without_regularisation(seed, L, spread, eps):
    """Theorem: |c| never grows for mu < 2 whatever the input, so the Gaussian edge is not below."""
    R = random_R(seed, L, spread)
    scale = np.trace(R)
    bounds = nlms_bounds(R, eps=eps * scale)
    assert bounds.any_input == 2
    assert 2 - 1e-9 <= bounds.mean_square <= bounds.mean * (1 + 1e-9)
    assert nlms_bounds(R, eps=0.0).mean_square == pytest.approx(2, rel=1e-9)
    a, _, B = normalized_moments(np.linalg.eigvalsh(R), eps * scale, circular=False)
    for factor, stable in ((0.99, True), (1.01, False)):
        mu = factor * bounds.mean_square
        F = np.eye(L) - 2 * mu * np.diag(a) + mu**2 * B
        assert (np.abs(np.linalg.eigvals(F)).max() < 1) == stable


@given(seed=SEEDS, momentum=st.floats(0, 0.99), fraction=st.floats(0.01, 0.99))
@settings(max_examples=30, deadline=None)
def test_momentum_roots_solve_their_quadratic(seed, momentum, fraction):
    R = random_R(seed, 4, 50)
    modes = adaptive.natural_modes(R)
    mu = fraction * momentum_bounds(R, momentum=momentum).mean
    roots = modes.momentum_roots(mu, momentum)
    assert roots.shape == (4, 2)
    assert np.abs(roots).max() < 1
    np.testing.assert_allclose(roots.prod(axis=1), momentum, atol=1e-9)
    np.testing.assert_allclose(roots.sum(axis=1), 1 + momentum - mu * modes.eigenvalues, atol=1e-9)


def test_the_family_without_its_parameter_is_lms():
    problem, w0 = family_problem("real")
    lms = adaptive.predict_lms(problem, mu=0.1, steps=50, w0=w0)
    leaky = predict_leaky_lms(problem, mu=0.1, leakage=0.0, steps=50, w0=w0)
    heavy = predict_momentum_lms(problem, mu=0.1, momentum=0.0, steps=50, w0=w0)
    for curve in (leaky, heavy):
        np.testing.assert_allclose(curve.mse, lms.mse, rtol=1e-12)
        np.testing.assert_allclose(curve.weights, lms.weights, rtol=1e-10, atol=1e-12)
        assert curve.emse == pytest.approx(lms.emse, rel=1e-12)
        assert curve.bounds == pytest.approx(lms.bounds)


# --- the result -----------------------------------------------------------------------------------


def every_prediction(problem, mu, steps):
    return [
        adaptive.predict_lms(problem, mu=mu, steps=steps),
        predict_block_lms(problem, mu=mu, block=4, steps=steps),
        predict_leaky_lms(problem, mu=mu, leakage=0.1, steps=steps),
        predict_momentum_lms(problem, mu=mu, momentum=0.5, steps=steps),
        adaptive.predict_nlms(problem, mu=mu, steps=steps),
        predict_power_normalized_lms(problem, mu=mu, steps=steps),
        predict_tracking(problem, mu=mu, Q=1e-6 * np.eye(problem.taps), steps=steps),
    ]


def test_every_prediction_returns_the_same_record():
    R, W = random_R(30, 3, 5), np.random.default_rng(30).standard_normal((2, 3))
    R /= np.trace(R)
    problem = adaptive.WienerProblem(R=R, P=W @ R, d_power=np.trace(W @ R @ W.T) + 0.3)
    curves = every_prediction(problem, 0.1, 40)
    assert len({c.algorithm for c in curves}) == len(curves)
    for curve in curves:
        assert {f.name for f in fields(curve)} == {f.name for f in fields(LearningCurve)}
        assert curve.mse.shape == curve.excess.shape == (40,)
        assert curve.msd.shape == (41,)
        assert curve.weights.shape == curve.modes.shape == (41, 2, 3)
        assert curve.stable
        assert curve.mean_stable
        assert curve.mse_final == problem.J_min + curve.emse
        assert curve.misadjustment == pytest.approx(curve.emse / problem.J_min)
        assert curve.msd[0] == pytest.approx(np.sum(W**2))
        assert curve.mu < curve.bounds["mean_square"]
        assert curve.mu < curve.bounds["mean"]
        assert "delay line" in curve.assumption
        np.testing.assert_allclose(
            problem.modes.to_modes(curve.weights - W), curve.modes, atol=1e-9
        )


def test_every_unstable_prediction_says_so_and_never_becomes_nan():
    problem, _ = family_problem("singular")
    for curve in every_prediction_unstable(problem):
        assert not curve.stable
        assert curve.emse == curve.misadjustment == curve.msd_final == curve.mse_final == np.inf
        assert np.isinf(curve.mse[-1])
        assert np.isinf(curve.msd[-1])
        for values in (curve.mse, curve.msd, curve.weights, curve.modes):
            assert not np.isnan(values).any(), curve.algorithm
        assert curve.steps_to_within(1.0) is None


def every_prediction_unstable(problem):
    return every_prediction(problem, 30.0, 2000)


def test_mean_stable_and_mean_square_stable_are_told_apart():
    problem = problem_for(np.eye(4))
    curve = adaptive.predict_lms(problem, mu=1.0, steps=5)
    assert curve.mean_stable
    assert not curve.stable


def test_steps_to_within_is_the_last_crossing():
    problem = problem_for(np.diag([0.5, 1.0, 2.0, 5.0]))
    mu = 0.3 * adaptive.stability_bounds(problem.R).mean_square_real
    curve = adaptive.predict_lms(problem, mu=mu, steps=3000)
    for dB in (0.1, 1.0, 3.0):
        n = curve.steps_to_within(dB)
        distance = np.abs(10 * np.log10(curve.mse / curve.mse_final))
        assert np.all(distance[n:] <= dB)
        assert distance[n - 1] > dB
    short = adaptive.predict_lms(problem, mu=mu, steps=curve.steps_to_within(1.0))
    assert short.steps_to_within(1.0) is None
    at_rest = adaptive.predict_lms(problem, mu=mu, steps=5, w0=problem.w_o)
    assert at_rest.steps_to_within(20.0) == 0
    with pytest.raises(ValueError, match="dB must be positive; got 0"):
        curve.steps_to_within(0)


def test_without_noise_nothing_is_left_and_no_step_is_within_a_ratio_of_zero():
    problem = adaptive.WienerProblem(R=np.eye(3), P=[1.0, 0.0, 0.0], d_power=1.0)
    curve = adaptive.predict_lms(problem, mu=0.1, steps=50)
    assert curve.emse == curve.msd_final == 0
    assert np.isnan(curve.misadjustment)
    assert curve.steps_to_within(3.0) is None


@pytest.mark.parametrize(
    ("predict", "arguments", "error", "message"),
    [
        ("block_lms", {"block": 0}, ValueError, "block must be at least 1; got 0"),
        ("block_lms", {"block": 2.5}, TypeError, "block must be a whole number; got 2.5"),
        ("leaky_lms", {"leakage": -0.1}, ValueError, "leakage must be zero or positive; got -0.1"),
        ("momentum_lms", {"momentum": 1.0}, ValueError, "momentum must be less than 1; got 1.0"),
        (
            "momentum_lms",
            {"momentum": -0.5},
            ValueError,
            "momentum must be zero or positive; got -0.5",
        ),
        ("momentum_lms", {"momentum": "x"}, TypeError, "momentum must be a real number; got 'x'"),
        ("nlms", {"eps": -1.0}, ValueError, "eps must be zero or positive; got -1.0"),
        (
            "nlms",
            {"eps": 0.0},
            ValueError,
            r"eps must be positive for fewer than 3 excited modes of real data, where "
            r"E\[1/\|u\|\^2\] is infinite; got eps=0 and 2",
        ),
        ("nlms", {"mu": -1.0}, ValueError, "mu must be zero or positive; got -1.0"),
        ("nlms", {"w0": [1.0]}, ValueError, r"w0 must have the shape of P, \(2,\); got \(1,\)"),
        ("power_normalized_lms", {"eps": -1.0}, ValueError, "eps must be zero or positive; got -1"),
        (
            "power_normalized_lms",
            {"transform": np.eye(3)},
            ValueError,
            r"transform must have shape \(2, 2\), one row per tap; got \(3, 3\)",
        ),
        (
            "power_normalized_lms",
            {"transform": 2 * np.eye(2)},
            ValueError,
            r"transform must be orthogonal \(unitary if complex\); got T T\^H off I by 3",
        ),
    ],
)
def test_the_family_refuses(predict, arguments, error, message):
    good = {
        "block_lms": {"block": 2},
        "leaky_lms": {"leakage": 0.1},
        "momentum_lms": {"momentum": 0},
    }
    call = {
        "nlms": adaptive.predict_nlms,
        "block_lms": predict_block_lms,
        "leaky_lms": predict_leaky_lms,
        "momentum_lms": predict_momentum_lms,
        "power_normalized_lms": predict_power_normalized_lms,
    }[predict]
    with pytest.raises(error, match=message):
        call(
            problem_for(np.eye(2)), **{"mu": 0.1, "steps": 5, **good.get(predict, {}), **arguments}
        )


def test_refusals_that_hang_on_the_data():
    silent_tap = adaptive.WienerProblem(R=np.diag([0.0, 1.0]), P=[0.0, 1.0], d_power=1.1)
    with pytest.raises(ValueError, match=r"eps must be positive where a tap has no power.* tap 0"):
        predict_power_normalized_lms(silent_tap, mu=0.1, eps=0.0, steps=5)
    for eps in (None, 0.1):
        assert predict_power_normalized_lms(silent_tap, mu=0.1, steps=5, eps=eps).stable
    one = adaptive.WienerProblem(R=np.eye(1) + 0j, P=np.ones(1) + 0j, d_power=1.1)
    with pytest.raises(ValueError, match="fewer than 2 excited modes of complex data"):
        adaptive.predict_nlms(one, mu=0.1, steps=5, eps=0.0)
    silence = adaptive.WienerProblem(R=np.zeros((2, 2)), P=np.zeros(2), d_power=1.0)
    with pytest.raises(ValueError, match="R must not be zero: a silent input bounds no step size"):
        adaptive.predict_lms(silence, mu=0.1, steps=5)


@pytest.mark.parametrize(
    ("bounds", "arguments", "message"),
    [
        (block_bounds, {"block": 0}, "block must be at least 1; got 0"),
        (leaky_bounds, {"leakage": np.nan}, "leakage must be finite; got nan"),
        (momentum_bounds, {"momentum": 1.5}, "momentum must be less than 1; got 1.5"),
        (nlms_bounds, {"eps": -1e-3}, "eps must be zero or positive; got -0.001"),
    ],
)
def test_the_bounds_refuse(bounds, arguments, message):
    with pytest.raises(ValueError, match=message):
        bounds(np.eye(2), **arguments)
    good = {"block": 2, "leakage": 0.1, "momentum": 0.1, "eps": 0.1}
    with pytest.raises(ValueError, match="R must not be zero"):
        bounds(np.zeros((2, 2)), **{k: good[k] for k in arguments})


def test_nlms_bounds_print_what_they_rest_on():
    text = str(nlms_bounds(np.eye(2)))
    assert "any_input" in text
    assert "whatever the input" in text


# --- the documented error of the theory on a delay line -------------------------------------------


def test_the_script_behind_the_documented_table_runs():
    """White input, four taps, a tenth of the bound: theory and measurement agree."""
    path = Path(__file__).parents[2] / "docs" / "scripts" / "delay_line_table.py"
    row = runpy.run_path(str(path))["cell"](0.0, 4, 0.1, runs=20, seed=0)
    a, taps, fraction, emse, learning, diverged = (x.strip() for x in row.strip("|").split("|"))
    assert (a, taps, fraction, diverged) == ("0", "4", "0.1", "0")
    for text in (emse, learning):
        error, se = (float(x) for x in text.split("±"))
        assert abs(error) < 4 * se + 1
