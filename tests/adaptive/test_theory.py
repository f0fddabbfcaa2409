"""Modes, bounds and learning curves against oracles, theorems and simulated ensembles."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import adaptive
from tests import naive

SEEDS = st.integers(0, 2**32 - 1)


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
        ({"R": [[1, 0], [0, 1]]}, TypeError, "R must be float32, .* got int64"),
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
