"""Mini-batch training: exact moments against every possible draw, edges against matrices."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptive.minibatch import lyapunov_edge, minibatch_edge, minibatch_edges, predict_minibatch
from tests.oracles import naive


def data(seed, N, T, L, M, *, circular=False, rank=None):
    """(N, T, L) correlated regressors of a given rank, and noisy responses (N, T, M)."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        x = rng.standard_normal(shape)
        return x + 1j * rng.standard_normal(shape) if circular else x

    U = draw(N, T, rank or L) @ draw(rank or L, L)
    return U, U @ draw(L, M) + draw(N, T, M)


@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize(
    ("N", "T", "L", "M", "batch", "circular", "rank"),
    [
        (3, 1, 2, 1, 1, False, None),
        (3, 1, 2, 2, 2, False, None),
        (3, 2, 3, 2, 2, False, None),  # more taps than positions
        (3, 5, 2, 1, 2, False, None),  # more positions than taps
        (3, 5, 2, 2, 2, True, None),
        (3, 1, 2, 1, 2, True, None),
        (3, 2, 4, 2, 2, False, 2),  # directions without input
        (3, 1, 4, 1, 3, False, None),  # fewer examples than taps
    ],
)
def test_the_recursion_is_the_average_over_every_draw(N, T, L, M, batch, circular, rank, replace):
    U, D = data(N + T + L, N, T, L, M, circular=circular, rank=rank)
    w0 = np.random.default_rng(1).standard_normal((M, L)).astype(U.dtype)
    R = np.einsum("nti,ntj->ij", U, U.conj()) / (N * T)
    mu = 0.4 / np.linalg.norm(R, 2)
    curve = predict_minibatch(U, D, mu=mu, steps=4, batch=batch, replace=replace, w0=w0)
    steps = 4 if batch < 3 else 3
    loss, msd, mean = naive.minibatch_expectations(U, D, w0.T, mu, batch, steps, replace)
    np.testing.assert_allclose(curve.mse[:steps], loss, rtol=1e-12)
    np.testing.assert_allclose(curve.msd[:steps], msd, rtol=1e-11)
    np.testing.assert_allclose(
        curve.weights[:steps], mean.transpose(0, 2, 1), rtol=1e-11, atol=1e-12
    )


SGD = [(0.9, 0.0), (0.0, 0.3), (0.6, 0.2)]


@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize(("momentum", "leak"), SGD)
@pytest.mark.parametrize(
    ("T", "L", "M", "circular", "rank"),
    [
        (1, 2, 2, False, None),
        (2, 3, 1, False, None),  # more taps than positions
        (5, 2, 2, True, None),  # more positions than taps
        (2, 4, 2, False, 2),  # directions without input, which leakage empties
    ],
)
def test_momentum_and_leakage_are_the_average_over_every_draw(
    T, L, M, circular, rank, momentum, leak, replace
):
    U, D = data(T + L, 3, T, L, M, circular=circular, rank=rank)
    w0 = np.random.default_rng(1).standard_normal((M, L)).astype(U.dtype)
    power = np.linalg.norm(np.einsum("nti,ntj->ij", U, U.conj()) / (3 * T), 2)
    sgd = {"momentum": momentum, "leakage": leak * power}
    mu = 0.4 / power
    curve = predict_minibatch(U, D, mu=mu, steps=4, batch=2, replace=replace, w0=w0, **sgd)
    loss, msd, mean = naive.minibatch_expectations(U, D, w0.T, mu, 2, 4, replace, **sgd)
    np.testing.assert_allclose(curve.mse, loss, rtol=1e-12)
    np.testing.assert_allclose(curve.msd[:4], msd, rtol=1e-11)
    np.testing.assert_allclose(curve.weights[:4], mean.transpose(0, 2, 1), rtol=1e-11, atol=1e-12)


def test_one_output_and_one_position_are_the_same_problem_in_fewer_axes():
    U, D = data(0, 6, 1, 3, 1)
    full = predict_minibatch(U, D, mu=0.02, steps=20)
    flat = predict_minibatch(U[:, 0], D[:, 0, 0], mu=0.02, steps=20)
    assert flat.weights.shape == (21, 3)
    assert full.weights.shape == (21, 1, 3)
    np.testing.assert_array_equal(flat.mse, full.mse)


@pytest.mark.parametrize("circular", [False, True])
@pytest.mark.parametrize(("T", "rank"), [(1, None), (2, None), (6, None), (1, 3), (4, 2)])
@pytest.mark.parametrize(("batch", "replace"), [(1, True), (3, True), (3, False)])
@pytest.mark.parametrize(("momentum", "leak"), [(0.0, 0.0), *SGD])
def test_edge_is_where_the_spectral_radius_of_the_full_map_is_one(
    T, rank, batch, replace, circular, momentum, leak
):
    U, _ = data(T + batch, 6, T, 4, 1, circular=circular, rank=rank)
    power = np.linalg.norm(np.einsum("nti,ntj->ij", U, U.conj()) / (6 * T), 2)
    sgd = {"momentum": momentum, "leakage": leak * power}
    edge = minibatch_edge(U, batch=batch, replace=replace, **sgd)
    basis = np.linalg.svd(U.reshape(-1, 4).conj())[2][: rank or 4].conj().T  # the range of R
    inside = U @ basis.conj()
    # below it everywhere, above it everywhere
    for factor, stable in ((0.3, True), (1 - 1e-6, True), (1 + 1e-6, False), (1.5, False)):
        F = naive.minibatch_moment_map(inside, batch, factor * edge, replace, **sgd)
        assert (np.abs(np.linalg.eigvals(F)).max() < 1) == stable


def test_the_full_batch_is_gradient_descent():
    U, D = data(2, 5, 2, 3, 2)
    R = np.einsum("nti,ntj->ij", U, U) / 10
    edge = minibatch_edge(U, batch=5, replace=False)
    assert edge == pytest.approx(2 / np.linalg.norm(R, 2), rel=1e-12)
    assert lyapunov_edge(U, batch=5, replace=False, seed=0).value == edge
    curve = predict_minibatch(U, D, mu=0.5 * edge, steps=30, batch=5, replace=False)
    e = D - U @ curve.weights[20].T  # weights are certain, so the loss is the loss of the mean
    assert curve.mse[20] == pytest.approx((e**2).sum(axis=2).mean(), rel=1e-12)
    assert curve.emse == 0


@pytest.mark.parametrize("T", [1, 3, 8])
@pytest.mark.parametrize("fraction", [0.2, 0.9])
@pytest.mark.parametrize(("momentum", "leakage"), [(0.0, 0.0), *SGD])
def test_steady_state_is_the_limit_of_the_curve(T, fraction, momentum, leakage):
    rng = np.random.default_rng(3)
    U, D = rng.standard_normal((20, T, 4)), rng.standard_normal((20, T, 2))
    sgd = {"batch": 2, "momentum": momentum, "leakage": leakage}
    mu = fraction * minibatch_edge(U, **sgd)
    curve = predict_minibatch(U, D, mu=mu, steps=6000, **sgd)
    assert curve.stable
    assert curve.residual < 1e-11
    assert curve.excess[-1] == pytest.approx(curve.emse, rel=1e-9)
    assert curve.msd[-1] == pytest.approx(curve.msd_final, rel=1e-9)


def test_leakage_empties_directions_without_input():
    U, D = data(4, 10, 1, 5, 1, rank=2)
    sgd = {"momentum": 0.5, "leakage": 0.3}
    mu = 0.5 * minibatch_edge(U, **sgd)
    curve = predict_minibatch(U, D, mu=mu, steps=4000, w0=np.ones((1, 5)), **sgd)
    assert np.abs(curve.modes[-1, 0, :3]).max() < 1e-12
    assert curve.msd[-1] == pytest.approx(curve.msd_final, rel=1e-9)
    assert curve.mse[-1] == pytest.approx(curve.mse_final, rel=1e-9)


def test_singular_data_leave_the_still_part_of_the_deviation_alone():
    U, D = data(4, 10, 1, 5, 1, rank=2)
    w0 = np.ones((1, 5))
    mu = 0.5 * minibatch_edge(U)
    curve = predict_minibatch(U, D, mu=mu, steps=4000, w0=w0)
    still = curve.modes[0, 0, :3]
    np.testing.assert_array_equal(curve.modes[-1, 0, :3], still)
    assert curve.msd_final > np.sum(still**2)
    assert curve.msd[-1] == pytest.approx(curve.msd_final, rel=1e-9)


def test_above_the_edge_the_curve_grows_and_never_becomes_nan():
    U, D = data(5, 10, 2, 3, 1)
    edge = minibatch_edge(U)
    curve = predict_minibatch(U, D, mu=1.5 * edge, steps=6000)
    assert not curve.stable
    assert curve.emse == curve.msd_final == np.inf
    assert np.isinf(curve.mse[-1])
    assert not np.isnan(curve.mse).any()
    assert not np.isnan(curve.msd).any()


def test_simulated_training_lies_in_the_band():
    """4,000 runs of mini-batch SGD on one data set: within 4.5 standard errors at every step."""
    U, D = data(6, 30, 4, 5, 2)
    steps, runs, batch = 150, 4000, 3
    mu = 0.4 * minibatch_edge(U, batch=batch)
    curve = predict_minibatch(U, D, mu=mu, steps=steps, batch=batch)
    rng = np.random.default_rng(7)
    R = np.einsum("nti,ntj->nij", U, U) / 4
    P = np.einsum("nti,ntm->nmi", U, D) / 4
    w_o, R_mean = P.mean(axis=0) @ np.linalg.inv(R.mean(axis=0)), R.mean(axis=0)
    w = np.zeros((runs, 2, 5))
    for n in range(steps):
        c = w - w_o
        excess = np.einsum("rmi,ij,rmj->r", c, R_mean, c)
        se = excess.std() / np.sqrt(runs)
        assert abs(excess.mean() - curve.excess[n]) <= 4.5 * se + 1e-12 * curve.excess[0]
        draw = rng.integers(30, size=(runs, batch))
        w = w + mu * (P[draw].mean(axis=1) - w @ R[draw].mean(axis=1))


def test_almost_sure_edge_of_one_weight_in_closed_form():
    """E ln|1 - mu x| = 0 for x in {1, 4}: the product (1 - mu)(1 - 4 mu) has modulus 1."""
    edge = lyapunov_edge(np.array([[1.0], [2.0]]), seed=3, runs=64, steps=4000)
    assert 0 < edge.standard_error < 0.01
    assert abs(edge.value - 1.25) < 4 * edge.standard_error


def test_the_almost_sure_edge_separates_settling_from_exploding_products():
    U, _ = data(8, 12, 2, 4, 1)
    edge = lyapunov_edge(U, batch=2, seed=0)
    again = lyapunov_edge(U, batch=2, seed=0)
    assert edge == again
    rng = np.random.default_rng(9)
    R = np.einsum("nti,ntj->nij", U, U) / 2
    for factor, settles in ((0.9, True), (1.1, False)):
        v, growth = np.ones((16, 4)), 0.0
        for _ in range(3000):
            push = np.einsum("rbij,rj->ri", R[rng.integers(12, size=(16, 2))], v) / 2
            v = v - factor * edge.value * push
            size = np.linalg.norm(v, axis=1, keepdims=True)
            v, growth = v / size, growth + np.log(size).mean()
        assert (growth < 0) == settles


@given(seed=st.integers(0, 2**32 - 1), batch=st.integers(1, 4), T=st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_edges_are_ordered_and_scale_with_the_inverse_power(seed, batch, T):
    """Theorem: E|c|^2 >= |E c|^2, so mean square comes before mean; and mu scales as 1/|u|^2."""
    U, _ = data(seed, 5, T, 3, 1)
    R = np.einsum("nti,ntj->ij", U, U) / (5 * T)
    edge = minibatch_edge(U, batch=batch)
    assert 0 < edge < 2 / np.linalg.norm(R, 2) * (1 + 1e-9)
    assert minibatch_edge(10 * U, batch=batch) == pytest.approx(edge / 100, rel=1e-9)
    assert minibatch_edge(U, batch=batch, replace=False) >= edge * (1 - 1e-9)
    assert minibatch_edge(U, batch=batch + 1) >= edge * (1 - 1e-9)


def test_the_three_edges_are_named():
    edges = minibatch_edges(data(10, 8, 1, 3, 1)[0], seed=1)
    assert edges.mean_square < edges.almost_sure.value
    assert edges.mean_square < edges.mean
    text = str(edges)
    assert all(name in text for name in ("mean_square:", "almost_sure:", "mean:"))


def test_256_taps_and_1000_samples_run_in_seconds():
    U, D = data(11, 1000, 1, 256, 1)
    begin = time.perf_counter()
    curve = predict_minibatch(U[:, 0], D[:, 0, 0], mu=1e-6, steps=20)
    assert curve.stable
    assert time.perf_counter() - begin < 20


GOOD = {"u": np.ones((4, 2)), "d": np.ones(4), "mu": 0.1, "steps": 3}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"u": np.ones(4)}, ValueError, r"u must be 2-D or 3-D; got shape \(4,\)"),
        ({"u": np.ones((4, 2), bool)}, TypeError, "u must be float32, .* got bool"),
        ({"u": np.zeros((4, 2)), "d": np.zeros(4)}, ValueError, "u must not be all zero: a silent"),
        (
            {"u": np.full((4, 2), np.nan)},
            ValueError,
            r"u must be finite; got nan at index \(0, 0\)",
        ),
        (
            {"d": np.ones(3)},
            ValueError,
            r"d must start with the shape of u but its last axis, \(4,\); got shape \(3,\)",
        ),
        ({"d": np.ones((4, 1, 1))}, ValueError, r"d must be 1-D or 2-D; got shape \(4, 1, 1\)"),
        ({"mu": 0.0}, ValueError, "mu must be positive; got 0.0"),
        ({"steps": 0}, ValueError, "steps must be at least 1; got 0"),
        ({"batch": 0}, ValueError, "batch must be at least 1; got 0"),
        ({"batch": 1.5}, TypeError, "batch must be a whole number; got 1.5"),
        (
            {"batch": 5, "replace": False},
            ValueError,
            "batch must be at most the 4 examples when replace is False; got 5",
        ),
        ({"momentum": 1.0}, ValueError, "momentum must be less than 1; got 1.0"),
        ({"leakage": -0.1}, ValueError, "leakage must be zero or positive; got -0.1"),
        ({"w0": np.ones(3)}, ValueError, r"w0 must have the shape of P, \(2,\); got \(3,\)"),
    ],
)
def test_predict_minibatch_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        predict_minibatch(**{**GOOD, **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"runs": 1}, "runs must be at least 2; got 1"),
        ({"steps": 9}, "steps must be at least 10; got 9"),
        ({"seed": -1}, "seed must be at least 0; got -1"),
    ],
)
def test_lyapunov_edge_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        lyapunov_edge(np.ones((4, 2)), **{"seed": 0, **arguments})
