"""LMS on a random walk: full-matrix recursion, simulated runs, and the step that follows best."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import adaptive
from tests.oracles import naive


def walking(kind="real", L=4, J_min=0.1, seed=0):
    """A problem and a covariance Q that is not aligned with R."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        x = rng.standard_normal(shape)
        return x + 1j * rng.standard_normal(shape) if kind == "complex" else x

    Q_basis = np.linalg.qr(draw(L, L))[0]
    R = (Q_basis * np.geomspace(0.1, 1, L)) @ Q_basis.conj().T
    w_o, A = draw(L), draw(L, L)
    P = R @ w_o
    problem = adaptive.WienerProblem(R=R, P=P, d_power=np.vdot(w_o, P).real + J_min)
    return problem, 1e-4 * A @ A.conj().T


def edge(problem, kind):
    return adaptive.stability_bounds(problem.R).mean_square(complex_data=kind == "complex")


@pytest.mark.parametrize("kind", ["real", "complex"])
@pytest.mark.parametrize("fraction", [0.1, 0.7, 1.2])
def test_tracking_equals_the_full_matrix(kind, fraction):
    problem, Q = walking(kind)
    mu = fraction * edge(problem, kind)
    curve = adaptive.tracking.predict_tracking(problem, mu=mu, Q=Q, steps=80)
    excess, msd = naive.block_lms_moments(problem.R, -problem.w_o, mu, 1, problem.J_min, 81, Q)
    np.testing.assert_allclose(curve.excess, excess[:80], rtol=1e-10)
    np.testing.assert_allclose(curve.msd, msd, rtol=1e-10)
    assert curve.stable == (fraction < 1)
    formula = float(adaptive.tracking.tracking_emse(problem, mu=mu, Q=Q))
    assert curve.emse == pytest.approx(formula, rel=1e-10)
    if curve.stable:
        curve = adaptive.tracking.predict_tracking(problem, mu=mu, Q=Q, steps=20_000)
        assert curve.excess[-1] == pytest.approx(curve.emse, rel=1e-9)
        assert curve.msd[-1] == pytest.approx(curve.msd_final, rel=1e-9)


@pytest.mark.parametrize("kind", ["real", "complex"])
def test_tracking_lies_in_the_band_of_20000_runs(kind):
    problem, Q = walking(kind)
    mu, runs, L = 0.3 * edge(problem, kind), 20_000, 4
    curve = adaptive.tracking.predict_tracking(problem, mu=mu, Q=Q, steps=120)
    rng = np.random.default_rng(1)

    def gaussian(*shape):
        g = rng.standard_normal(shape)
        return (g + 1j * rng.standard_normal(shape)) / np.sqrt(2) if kind == "complex" else g

    root, step = np.linalg.cholesky(problem.R), np.linalg.cholesky(Q)
    w, target = np.zeros((runs, L), problem.R.dtype), np.tile(problem.w_o, (runs, 1))
    for n in range(120):
        u = gaussian(runs, L) @ root.T
        c = w - target
        e = np.sqrt(problem.J_min) * gaussian(runs) - np.sum(c.conj() * u, axis=1)
        for sample, predicted in (
            (np.abs(e) ** 2, curve.mse[n]),
            (np.sum(np.abs(c) ** 2, axis=1), curve.msd[n]),
        ):
            assert abs(sample.mean() - predicted) <= 4.5 * sample.std() / np.sqrt(runs) + 1e-9
        w = w + mu * u * e.conj()[:, None]
        target = target + gaussian(runs, L) @ step.T


@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(["real", "complex"]),
    walk=st.floats(1e-8, 1e8),
    J_min=st.floats(1e-6, 1e3),
)
@settings(max_examples=40, deadline=None)
def test_no_step_size_beats_the_optimal_one(seed, kind, walk, J_min):
    problem, Q = walking(kind, J_min=J_min, seed=seed)
    best = adaptive.tracking.optimal_mu(problem, Q=walk * Q)
    grid = np.concatenate(
        [best.mu * np.linspace(0.5, 2, 31), edge(problem, kind) * np.geomspace(1e-9, 1, 200)]
    )
    emse = adaptive.tracking.tracking_emse(problem, mu=grid, Q=walk * Q)
    assert best.mu < edge(problem, kind)
    assert best.emse <= emse.min() * (1 + 1e-9)


def test_slow_walks_meet_the_textbook():
    """For slow walks mu and EMSE tend to sqrt(tr Q / (J tr R)) and sqrt(J tr R tr Q)."""
    problem, Q = walking()
    errors = []
    for scale in (1e-2, 1e-4, 1e-6):
        best = adaptive.tracking.optimal_mu(problem, Q=scale * Q)
        J, power, walk = problem.J_min, np.trace(problem.R), scale * np.trace(Q)
        assert best.mu_small_step == pytest.approx(np.sqrt(walk / (J * power)))
        assert best.emse_small_step == pytest.approx(np.sqrt(J * power * walk))
        errors.append((abs(best.mu / best.mu_small_step - 1), best.emse / best.emse_small_step - 1))
    for before, after in itertools.pairwise(errors):
        assert after[0] == pytest.approx(before[0] / 10, rel=0.2)  # first order in mu
        assert after[1] == pytest.approx(before[1] / 10, rel=0.2)
    assert errors[-1][1] < 1e-3


def test_without_noise_the_optimum_is_set_by_the_edge_alone():
    """One tap, J = 0: EMSE = (Q / mu) / (2 - 3 mu l), least at mu = 1 / (3 l)."""
    problem = adaptive.WienerProblem(R=[[2.0]], P=[2.0], d_power=2.0)
    best = adaptive.tracking.optimal_mu(problem, Q=[[1e-3]])
    assert best.mu == pytest.approx(1 / 6, rel=1e-6)
    assert best.emse == pytest.approx(6e-3, rel=1e-9)
    assert best.mu_small_step == np.inf
    assert best.emse_small_step == 0


def test_a_walk_where_there_is_no_input_cannot_be_followed_and_does_no_harm():
    problem = adaptive.WienerProblem(R=np.diag([0.0, 1.0]), P=[0.0, 1.0], d_power=1.1)
    Q = 1e-3 * np.eye(2)
    curve = adaptive.tracking.predict_tracking(problem, mu=0.1, Q=Q, steps=400)
    one = adaptive.WienerProblem(R=[[1.0]], P=[1.0], d_power=1.1)
    alone = adaptive.tracking.predict_tracking(one, mu=0.1, Q=Q[:1, :1], steps=400)
    assert curve.emse == pytest.approx(alone.emse)
    assert curve.stable
    assert curve.msd_final == np.inf
    np.testing.assert_allclose(curve.msd - alone.msd, 1e-3 * np.arange(401), atol=1e-12)
    assert adaptive.tracking.optimal_mu(problem, Q=Q).emse == pytest.approx(
        adaptive.tracking.optimal_mu(one, Q=Q[:1, :1]).emse
    )


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"Q": np.eye(3)}, ValueError, r"Q must have the shape of R, \(2, 2\); got \(3, 3\)"),
        ({"Q": np.ones((2, 3))}, ValueError, r"Q must be square; got shape \(2, 3\)"),
        ({"Q": np.diag([1.0, -1.0])}, ValueError, "Q must be positive semidefinite; got the eigen"),
        ({"Q": [["1"]]}, TypeError, "Q must be float32, .* got <U1"),
        ({"mu": 0.0}, ValueError, "mu must be positive"),
        ({"mu": np.nan}, ValueError, "mu must be .*finite"),
    ],
)
def test_tracking_refuses(arguments, error, message):
    problem = adaptive.WienerProblem(R=np.eye(2), P=[1.0, 0.0], d_power=1.1)
    given = {"mu": 0.1, "Q": np.eye(2), **arguments}
    with pytest.raises(error, match=message):
        adaptive.tracking.predict_tracking(problem, steps=5, **given)
    with pytest.raises(error, match=message):
        adaptive.tracking.tracking_emse(problem, **given)


def test_optimal_mu_refuses_a_system_that_stands_still():
    problem = adaptive.WienerProblem(R=np.eye(2), P=[1.0, 0.0], d_power=1.1)
    with pytest.raises(ValueError, match="Q must move a mode that the input excites; got none"):
        adaptive.tracking.optimal_mu(problem, Q=np.zeros((2, 2)))
    silence = adaptive.WienerProblem(R=np.zeros((2, 2)), P=np.zeros(2), d_power=1.0)
    with pytest.raises(ValueError, match="R must not be zero"):
        adaptive.tracking.optimal_mu(silence, Q=np.eye(2))
