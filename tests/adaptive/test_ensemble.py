"""Signals have the autocorrelation they claim; ensembles are the same for any thread count."""

import numpy as np
import pytest

import adaptive

SOURCES = {
    "white": adaptive.white(taps=4, power=2.0),
    "AR(1)": adaptive.AutoRegressive([0.9], taps=4),
    "AR(2)": adaptive.AutoRegressive([0.6, -0.5], taps=5, power=3.0),
    "given R": adaptive.GaussianRegressors(np.diag([0.1, 1.0, 10.0]) + 0.05),
    "complex R": adaptive.GaussianRegressors(np.array([[2.0, 1j], [-1j, 2.0]])),
}


@pytest.mark.parametrize("name", SOURCES)
def test_sources_have_their_stated_autocorrelation_from_the_first_sample(name):
    """The mean over independent draws, taken at the first and the last sample: 4.5 std. errors."""
    source = SOURCES[name]
    rng = np.random.default_rng(7)
    draws = [source.draw(rng, 3) for _ in range(4000)]
    for n in (0, 2):
        U = np.array([lines.rows[n][lines.order] for lines in draws])
        products = U[:, :, None] * U[:, None, :].conj()
        error = np.abs(products.mean(axis=0) - source.R)
        assert (error / (products.std(axis=0) / np.sqrt(len(U)))).max() < 4.5


def test_ar1_autocorrelation_in_closed_form():
    R = adaptive.AutoRegressive([0.8], taps=3, power=5.0).R
    np.testing.assert_allclose(R[0], [5.0, 4.0, 3.2], rtol=1e-12)


def scenario():
    return adaptive.SystemIdentification(
        adaptive.AutoRegressive([0.5], taps=3), w_o=[1.0, -1.0, 0.5], noise_power=0.01
    )


@pytest.mark.parametrize("algorithm", ["lms", "nlms"])
def test_the_same_bits_for_any_number_of_threads(algorithm):
    one, two, four = (
        adaptive.simulate(
            scenario(), algorithm=algorithm, mu=0.1, steps=40, runs=130, seed=3, threads=t
        )
        for t in (1, 2, 4)
    )
    for field in ("mse", "mse_se", "mean_weights", "mean_weights_se"):
        np.testing.assert_array_equal(getattr(one, field), getattr(two, field))
        np.testing.assert_array_equal(getattr(one, field), getattr(four, field))


def test_averages_equal_those_of_the_runs_taken_one_by_one():
    ensemble = adaptive.simulate(scenario(), mu=0.1, steps=40, runs=50, seed=3)
    errors, weights = [], []
    for i in range(50):
        rng = np.random.default_rng(np.random.SeedSequence(3, spawn_key=(i,)))
        lines, d = scenario().draw(rng, 40)
        run = adaptive.lms(lines.rows[:, lines.order], d, mu=0.1, record="all")
        errors.append(run.error**2)
        weights.append(run.history)
    np.testing.assert_allclose(ensemble.mse, np.mean(errors, axis=0), rtol=1e-10)
    np.testing.assert_allclose(
        ensemble.mse_se, np.std(errors, axis=0, ddof=1) / np.sqrt(50), rtol=1e-10
    )
    np.testing.assert_allclose(
        ensemble.mean_weights, np.mean(weights, axis=0), rtol=1e-10, atol=1e-12
    )


def test_another_seed_is_another_ensemble():
    a, b = (adaptive.simulate(scenario(), mu=0.1, steps=9, runs=9, seed=s) for s in (0, 1))
    assert not np.allclose(a.mse, b.mse)


def test_divergence_is_counted_and_never_becomes_nan():
    ensemble = adaptive.simulate(scenario(), mu=30.0, steps=500, runs=10, seed=0)
    assert ensemble.diverged == 10
    assert np.isinf(ensemble.mse[-1])
    assert not np.isnan(ensemble.mse).any()
    assert not np.isnan(ensemble.mean_weights).any()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"algorithm": "magic"}, ValueError, "algorithm must be one of lms, .*; got 'magic'"),
        ({"mu": -1.0}, ValueError, "mu must be zero or positive; got -1.0"),
        ({"steps": 0}, ValueError, "steps must be at least 1; got 0"),
        ({"runs": 1}, ValueError, "runs must be at least 2; got 1"),
        ({"seed": -1}, ValueError, "seed must be at least 0; got -1"),
        ({"seed": "x"}, TypeError, "seed must be a whole number; got 'x'"),
        ({"threads": -1}, ValueError, "threads must be at least 1; got -1"),
    ],
)
def test_simulate_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        adaptive.simulate(scenario(), **{"mu": 0.1, "steps": 5, "runs": 2, "seed": 0, **arguments})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: adaptive.AutoRegressive([1.1], taps=3),
            "coefficients must give a stable process, .* got a pole of modulus 1.1",
        ),
        (
            lambda: adaptive.AutoRegressive([np.nan], taps=3),
            "coefficients must be a 1-D list of finite numbers",
        ),
        (
            lambda: adaptive.SystemIdentification(
                adaptive.white(taps=3), w_o=[1.0], noise_power=0.1
            ),
            r"w_o must have one weight per tap, 3; got shape \(1,\)",
        ),
        (
            lambda: adaptive.SystemIdentification(
                adaptive.white(taps=1), w_o=[1.0], noise_power=-1.0
            ),
            "noise_power must be zero or positive; got -1.0",
        ),
        (lambda: adaptive.white(taps=3, power=0.0), "power must be positive; got 0.0"),
    ],
)
def test_scenarios_refuse(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_mean_weights_may_be_recorded_now_and_then():
    every = adaptive.simulate(scenario(), mu=0.1, steps=40, runs=40, seed=3)
    some = adaptive.simulate(scenario(), mu=0.1, steps=40, runs=40, seed=3, record=7)
    np.testing.assert_array_equal(some.mean_weights, every.mean_weights[::7])
    np.testing.assert_array_equal(some.mean_weights_se, every.mean_weights_se[::7])
    np.testing.assert_array_equal(some.mse, every.mse)


@pytest.mark.parametrize("algorithm", ["lms", "momentum_lms"])
def test_adding_runs_gives_the_bits_of_one_call(algorithm):
    options = {"momentum": 0.5} if algorithm == "momentum_lms" else {}
    call = {"algorithm": algorithm, "mu": 0.05, "steps": 30, "seed": 3, "quantiles": [0.5]}
    first = adaptive.simulate(scenario(), runs=64, **call, **options)
    both = adaptive.simulate(scenario(), runs=150, resume=first, **call, **options)
    once = adaptive.simulate(scenario(), runs=150, **call, **options)
    assert both.runs == 150
    for field in ("mse", "mse_se", "mean_weights", "mean_weights_se"):
        np.testing.assert_array_equal(getattr(both, field), getattr(once, field))
    np.testing.assert_array_equal(both.quantiles[0.5], once.quantiles[0.5])
    again = adaptive.simulate(scenario(), runs=150, resume=first, **call, **options)
    np.testing.assert_array_equal(again.mse, once.mse)  # the first ensemble was not used up


def test_resume_refuses_another_simulation():
    first = adaptive.simulate(scenario(), mu=0.1, steps=30, runs=64, seed=3)
    with pytest.raises(
        ValueError, match=r"resume must be an ensemble of the same mu, 0.2; got 0.1"
    ):
        adaptive.simulate(scenario(), mu=0.2, steps=30, runs=96, seed=3, resume=first)
    with pytest.raises(ValueError, match="runs must be at least the 64 of resume; got 32"):
        adaptive.simulate(scenario(), mu=0.1, steps=30, runs=32, seed=3, resume=first)


def test_quantiles_lie_within_half_a_bin_of_the_runs_own():
    call = {"mu": 0.1, "steps": 25, "seed": 3}
    ensemble = adaptive.simulate(scenario(), runs=400, quantiles=(0.1, 0.5, 0.9), **call)
    errors = []
    for i in range(400):
        rng = np.random.default_rng(np.random.SeedSequence(3, spawn_key=(i,)))
        lines, d = scenario().draw(rng, 25)
        errors.append(adaptive.lms(lines.rows[:, lines.order], d, mu=0.1).error ** 2)
    for level, values in ensemble.quantiles.items():
        exact = np.quantile(errors, level, axis=0, method="inverted_cdf")
        assert np.abs(np.log2(values / exact)).max() <= 1 / 8


def test_quantiles_survive_divergence():
    ensemble = adaptive.simulate(scenario(), mu=30.0, steps=500, runs=40, seed=0, quantiles=(0.5,))
    assert np.isinf(ensemble.quantiles[0.5][-1])
    assert not np.isnan(ensemble.quantiles[0.5]).any()


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        ("lms", {"mu": 0.05}),
        ("nlms", {"mu": 0.5}),
        ("leaky_lms", {"mu": 0.05, "leakage": 0.1}),
        ("sign_error_lms", {"mu": 0.01}),
        ("sign_data_lms", {"mu": 0.02}),
        ("sign_sign_lms", {"mu": 0.01}),
        ("momentum_lms", {"mu": 0.02, "momentum": 0.5}),
        ("block_lms", {"mu": 0.2, "block": 4}),
        ("power_normalized_lms", {"mu": 0.1}),
        ("transform_domain_lms", {"mu": 0.1}),
        ("affine_projection", {"mu": 0.5, "order": 2}),
        ("rls", {"forgetting": 0.99}),
        ("frequency_domain_lms", {"mu": 0.5, "block": 2}),
    ],
)
def test_every_algorithm_learns_the_system_in_an_ensemble(algorithm, options):
    ensemble = adaptive.simulate(
        scenario(), algorithm=algorithm, steps=600, runs=40, seed=1, **options
    )
    assert ensemble.mse[-100:].mean() < scenario().problem.d_power / 10
    assert ensemble.diverged == 0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"mu": None}, TypeError, "mu must be given for lms"),
        ({"algorithm": "rls"}, TypeError, "mu must be left out for rls"),
        ({"quantiles": (1.5,)}, ValueError, "quantiles must be between 0 and 1; got 1.5"),
        ({"record": 0}, ValueError, "record must be at least 1; got 0"),
        ({"w0": np.ones(5)}, ValueError, r"w0 must have shape \(3,\); got \(5,\)"),
        ({"algorithm": "nlms", "eps": -1.0}, ValueError, "eps must be zero or positive; got -1"),
    ],
)
def test_simulate_refuses_options(arguments, error, message):
    with pytest.raises(error, match=message):
        adaptive.simulate(scenario(), **{"mu": 0.1, "steps": 5, "runs": 2, "seed": 0, **arguments})
