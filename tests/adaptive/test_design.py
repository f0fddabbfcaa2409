"""``design_step``: the inverse of ``predict``, against predict and against simulation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import adaptive
from adaptive.algorithms import (
    ALGORITHMS,
    LMS,
    NLMS,
    BlockLMS,
    LeakyLMS,
    LeakyNLMS,
    MomentumLMS,
    PowerNormalizedLMS,
    TransformDomainLMS,
)

STEPS = {
    "lms": LMS(mu=0.03),
    "nlms": NLMS(mu=0.4),
    "leaky_lms": LeakyLMS(mu=0.03, leakage=0.02),
    "leaky_nlms": LeakyNLMS(mu=0.3, leakage=0.01),
    "momentum_lms": MomentumLMS(mu=0.01, momentum=0.6),
    "block_lms": BlockLMS(mu=0.05, block=4),
    "power_normalized_lms": PowerNormalizedLMS(mu=0.05),
    "transform_domain_lms": TransformDomainLMS(mu=0.05),
}


def random_problem(seed, taps=5, *, complex_data=False, dead=0, outputs=0, noise=0.1):
    rng = np.random.default_rng(seed)
    shape = (3 * taps, taps)
    rows = rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if complex_data else 0)
    R = rows.T @ rows.conj() / len(rows)
    if dead:
        lam, V = np.linalg.eigh(R)
        lam[:dead] = 0
        R = (V * lam) @ V.conj().T
    R = (R + R.conj().T) / 2
    w = rng.standard_normal((outputs, taps) if outputs else taps) * (1 + 1j * complex_data)
    P = w @ R.T
    explained = float(np.real(np.sum(w.conj() * P)))
    return adaptive.WienerProblem(R=R, P=P, d_power=explained + noise)


def test_every_algorithm_with_a_theory_has_one_here():
    assert set(STEPS) == {kind.name for kind in ALGORITHMS if kind.has_theory}


@pytest.mark.parametrize("kind", ["real", "complex", "singular", "outputs"])
@pytest.mark.parametrize("name", STEPS)
def test_closed_form_is_the_predicted_curve(name, kind):
    problem = random_problem(
        1, complex_data=kind == "complex", dead=2 * (kind == "singular"),
        outputs=2 * (kind == "outputs"),
    )  # fmt: skip
    algorithm = STEPS[name]
    curve = algorithm.predict(problem, steps=3000)
    found = algorithm.second_moments(problem).at(algorithm.mu)
    assert found.emse == pytest.approx(curve.emse, rel=1e-9)
    np.testing.assert_allclose(found.mse(np.arange(3000)), curve.mse, rtol=1e-8)
    for dB in (0.01, 0.3, 1.0, 6.0):
        assert found.updates_to_within(dB) == curve.steps_to_within(dB)


@pytest.mark.parametrize("w0", [[2.0, -1.0, 0.0, 1.0, 5.0], "optimum"])
@pytest.mark.parametrize("name", STEPS)
def test_a_curve_may_rise_or_ring_on_its_way(name, w0):
    problem, algorithm = random_problem(4), STEPS[name]
    start = problem.w_o if isinstance(w0, str) else np.array(w0)
    curve = algorithm.predict(problem, steps=4000, w0=start)
    found = algorithm.second_moments(problem, w0=start).at(algorithm.mu)
    for dB in (0.003, 0.05, 1.0):
        assert found.updates_to_within(dB) == curve.steps_to_within(dB)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    name=st.sampled_from(sorted(STEPS)),
    misadjustment=st.floats(0.01, 2.0),
    complex_data=st.booleans(),
)
def test_misadjustment_is_what_predict_says(seed, name, misadjustment, complex_data):
    problem = random_problem(seed, complex_data=complex_data)
    algorithm = STEPS[name]
    try:
        found = adaptive.design_step(problem, algorithm, misadjustment=misadjustment)
    except ValueError as error:
        assert "leakage's bias" in str(error) and name.startswith("leaky")  # noqa: PT017, PT018
        return
    curve = algorithm.with_mu(found.mu).predict(problem, steps=1)
    assert found.met
    assert curve.misadjustment == pytest.approx(misadjustment, rel=1e-6)
    assert found.misadjustment == pytest.approx(misadjustment, rel=1e-6)
    assert dict(curve.bounds) == pytest.approx(dict(found.bounds))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), name=st.sampled_from(sorted(STEPS)))
def test_the_slowest_step_that_is_fast_enough(seed, name):
    problem, algorithm = random_problem(seed), STEPS[name]
    found = adaptive.design_step(problem, algorithm, samples=600, within_dB=0.5)
    block = algorithm.samples_per_update
    for factor, fits in ((1.0, True), (0.99, False)):
        curve = algorithm.with_mu(found.mu * factor).predict(problem, steps=5000)
        needed = curve.steps_to_within(0.5)
        assert (needed * block <= 600) == fits


def test_both_wishes():
    problem = random_problem(0)
    slow = adaptive.design_step(problem, "lms", misadjustment=0.05)
    granted = adaptive.design_step(problem, "lms", misadjustment=0.05, samples=2 * slow.samples)
    assert granted.met
    assert granted.mu < slow.mu
    assert granted.misadjustment < 0.05
    assert granted.samples <= 2 * slow.samples

    denied = adaptive.design_step(problem, "lms", misadjustment=0.05, samples=slow.samples // 2)
    assert not denied.met
    assert denied.mu == slow.mu
    assert "No step grants" in denied.text
    assert "costs" in denied.text
    curve = denied.trade_off
    assert np.all(np.diff(curve.misadjustment) > 0)
    for k in (0, 5, 20):
        there = LMS(mu=curve.mu[k]).predict(problem, steps=1)
        assert curve.misadjustment[k] == pytest.approx(there.misadjustment)


def test_impossible_speed_is_named_with_the_cost():
    problem = random_problem(0)
    denied = adaptive.design_step(problem, "lms", misadjustment=0.05, samples=1)
    assert "the fastest takes" in denied.text


@pytest.mark.parametrize("complex_data", [False, True])
def test_tracking_is_the_optimum_of_its_theory(complex_data):
    problem = random_problem(3, complex_data=complex_data)
    Q = 1e-4 * np.diag([1.0, 2.0, 0.0, 1.0, 3.0])
    best = adaptive.tracking.optimal_mu(problem, Q=Q)
    found = adaptive.design_step(problem, "lms", tracking=Q)
    assert found.mu == pytest.approx(best.mu, rel=1e-5)
    assert found.emse == pytest.approx(best.emse, rel=1e-9)


@pytest.mark.parametrize(
    "algorithm",
    [
        NLMS(mu=1.0),
        MomentumLMS(mu=1.0, momentum=0.6),
        PowerNormalizedLMS(mu=1.0, forgetting=0.9999),
    ],
    ids=lambda algorithm: algorithm.name,
)
def test_tracking_against_runs_on_a_walking_system(algorithm):
    taps, walk, noise = 4, 1e-4, 0.05
    rng = np.random.default_rng(7)
    R = random_problem(5, taps).R
    w = rng.standard_normal(taps)
    problem = adaptive.WienerProblem(R=R, P=R @ w, d_power=float(w @ R @ w) + noise)
    Q = walk * np.diag([1.0, 0.5, 2.0, 1.0])
    found = adaptive.design_step(problem, algorithm, tracking=Q)
    steps, runs = 1500, 120
    tails = []
    root, jump = np.linalg.cholesky(R), np.sqrt(np.diag(Q))
    chosen = algorithm.with_mu(found.mu).regularised(np.trace(R) / taps, taps)
    for _ in range(runs):
        u = rng.standard_normal((steps, taps)) @ root.T
        path = w + np.cumsum(rng.standard_normal((steps, taps)) * jump, axis=0)
        d = np.sum(path * u, axis=1) + np.sqrt(noise) * rng.standard_normal(steps)
        error = adaptive.run(chosen, u, d, w0=w).error
        tails.append(np.mean(error[steps // 2 :] ** 2))
    mean, se = np.mean(tails), np.std(tails) / np.sqrt(runs)
    assert abs(mean - found.mse_final) < 4 * se


def test_signals_are_described_first():
    rng = np.random.default_rng(0)
    u, v = rng.standard_normal((2, 5000))
    d = np.convolve(u, [1.0, 0.5])[:5000] + 0.1 * v
    problem = adaptive.WienerProblem.from_data(u, d, taps=2)
    of_signals = adaptive.design_step((u, d), "nlms", misadjustment=0.1, taps=2)
    assert of_signals.mu == adaptive.design_step(problem, "nlms", misadjustment=0.1).mu
    assert "of the bound mean square" in str(of_signals)
    assert str(of_signals).endswith("misadjustment of 0.1.")


@pytest.mark.slow
def test_fifty_random_problems_come_out_as_designed(capsys):
    """The misadjustment achieved by simulation within 4 standard errors of the one asked for."""
    kinds = [
        NLMS(mu=1.0), LMS(mu=1.0), MomentumLMS(mu=1.0, momentum=0.7), BlockLMS(mu=1.0, block=3),
        LeakyLMS(mu=1.0, leakage=1e-4), LeakyNLMS(mu=1.0, leakage=1e-5),
        PowerNormalizedLMS(mu=1.0, forgetting=0.99999),
    ]  # fmt: skip
    worst = []
    for k in range(50):
        rng = np.random.default_rng([50, k])
        taps = int(rng.integers(2, 13))
        problem = random_problem(k, taps, noise=1.0)
        wish = float(np.exp(rng.uniform(np.log(0.02), np.log(0.3))))
        algorithm = kinds[k % len(kinds)]
        found = adaptive.design_step(problem, algorithm, misadjustment=wish, within_dB=0.01)
        scenario = adaptive.SystemIdentification(
            adaptive.GaussianRegressors(problem.R), w_o=problem.w_o, noise_power=1.0
        )
        block = algorithm.samples_per_update
        length = max(1000, 6 * found.samples // block) // 5 * 5
        tails = []
        for seed in range(16):
            ensemble = adaptive.simulate(
                scenario, algorithm.with_mu(found.mu), steps=length * block, runs=16, seed=seed,
                progress=False,
            )  # fmt: skip
            tails.append(ensemble.mse[-length * block * 4 // 5 :].mean())
        z = (np.mean(tails) - 1 - wish) / (np.std(tails, ddof=1) / 4)
        worst.append(z)
        # Student's t with 15 degrees of freedom: as rare as 4 standard errors
        assert abs(z) < 5.3, (k, algorithm, wish, z)
    with capsys.disabled():
        print(f"\n50 problems: largest |z| {np.abs(worst).max():.2f}, rms {np.std(worst):.2f}")


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda p: adaptive.design_step(p, "lms"), TypeError, "misadjustment, samples or tracking"),
        (lambda p: adaptive.design_step(p, "rls", misadjustment=0.1, forgetting=0.99), ValueError,
         "must have a step size"),
        (lambda p: adaptive.design_step(p, "sign_error_lms", misadjustment=0.1),
         NotImplementedError, "no theory"),
        (lambda p: adaptive.design_step(p, "lms", misadjustment=-0.1), ValueError, "positive"),
        (lambda p: adaptive.design_step(p, "lms", samples=0), ValueError, "samples"),
        (lambda p: adaptive.design_step(p, "lms", samples=1), ValueError, "fastest takes"),
        (lambda p: adaptive.design_step(p, "lms", samples=99, within_dB=90.0), ValueError,
         "less than what there is to learn"),
        (lambda p: adaptive.design_step(p, "lms", samples=99, tracking=np.eye(5)), TypeError,
         "alone"),
        (lambda p: adaptive.design_step(p, "lms", tracking=np.eye(4)), ValueError,
         "tracking must have the shape of R"),
        (lambda p: adaptive.design_step(p, "lms", tracking=np.zeros((5, 5))), ValueError,
         "tracking must move"),
        (lambda p: adaptive.design_step(p, LeakyLMS(mu=1.0, leakage=0.1), tracking=np.eye(5)),
         ValueError, "does not leak"),
        (lambda p: adaptive.design_step(p, LeakyLMS(mu=1.0, leakage=9.0), misadjustment=0.01),
         ValueError, "leakage's bias"),
        (lambda p: adaptive.design_step(p, "lms", misadjustment=0.1, taps=5), TypeError, "taps"),
        (lambda p: adaptive.design_step(p.R, "lms", misadjustment=0.1), TypeError, "problem must"),
        (lambda p: adaptive.design_step(p, LMS(mu=1.0), misadjustment=0.1, leakage=0.1), TypeError,
         "must be left out"),
        (lambda p: adaptive.design_step(
            adaptive.WienerProblem(R=[[1.0]], P=[1.0], d_power=1.0), "lms", misadjustment=0.1),
         ValueError, "J_min = 0"),
    ],
)  # fmt: skip
def test_messages(call, kind, message):
    with pytest.raises(kind, match=message):
        call(random_problem(0))
