"""Verdicts say what they should of predictions known to be true, false or divergent; and the
observed edge lies where theory is exact."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

import adaptive
from adaptive.regressors import regressors
from adaptive.verdict import band, deviations

GAUSSIAN = adaptive.SystemIdentification(
    adaptive.GaussianRegressors(np.diag([0.2, 1.0, 3.0])), w_o=[1.0, -1.0, 0.5], noise_power=0.01
)


def both(mu=0.05, steps=120, runs=2000, **options):
    curve = adaptive.predict_lms(GAUSSIAN.problem, mu=mu, steps=steps)
    ensemble = adaptive.simulate(
        GAUSSIAN, mu=mu, steps=steps, runs=runs, seed=1, progress=False, **options
    )
    return curve, ensemble


def test_a_true_prediction_holds():
    verdict = adaptive.verdict(*both())
    assert verdict.holds
    assert (verdict.first_outside, verdict.fraction_outside) == (None, 0.0)
    assert 1 < verdict.largest_z <= 4
    assert verdict.largest_z == np.abs(verdict.z[verdict.worst_step])
    assert verdict.false_alarm == pytest.approx(120 * 2 * scipy.stats.t.sf(4, 1999))
    assert str(verdict) == verdict.text
    assert verdict.text.startswith("The prediction holds: all 120 steps lie within 4 standard")


def test_z_of_a_true_prediction_is_about_standard_normal_at_one_step():
    """Over seeds: mean 0 and variance 1 within 4 standard errors."""
    curve = adaptive.predict_lms(GAUSSIAN.problem, mu=0.05, steps=30)
    z = np.array(
        [
            adaptive.verdict(
                curve,
                adaptive.simulate(
                    GAUSSIAN, mu=0.05, steps=30, runs=320, seed=seed, progress=False, threads=1
                ),
            ).z[-1]
            for seed in range(60)
        ]
    )
    assert abs(z.mean()) < 4 / np.sqrt(60)
    assert abs(z.var() - 1) < 4 * np.sqrt(2 / 60)


def test_a_false_prediction_fails_at_the_step_where_it_goes_wrong():
    curve, ensemble = both()
    excess = curve.excess.copy()
    excess[70:] *= 2
    excess[90:] *= 0
    verdict = adaptive.verdict(replace(curve, excess=excess), ensemble)
    assert not verdict.holds
    assert verdict.first_outside == np.flatnonzero(np.abs(verdict.z) > 4)[0]
    assert 70 <= verdict.first_outside <= 75
    assert verdict.fraction_outside == np.mean(np.abs(verdict.z) > 4) > 0.2
    assert f"at step {verdict.first_outside}, below it" in verdict.text


def test_the_size_of_the_difference_is_told_beside_its_certainty():
    curve, ensemble = both()
    shifted = adaptive.verdict(
        replace(curve, J_min=2 * curve.J_min, excess=2 * curve.excess), ensemble
    )
    assert shifted.typical_dB == pytest.approx(10 * np.log10(2), abs=0.2)
    assert adaptive.verdict(curve, ensemble).typical_dB < 0.3
    assert "typically 3 dB from the prediction" in shifted.text
    nothing = replace(curve, J_min=0.0, excess=np.zeros(120))
    assert adaptive.verdict(nothing, ensemble).typical_dB is None


def test_the_width_of_the_band_is_the_callers():
    curve, ensemble = both()
    largest = adaptive.verdict(curve, ensemble).largest_z
    assert adaptive.verdict(curve, ensemble, k=1.001 * largest).holds
    narrow = adaptive.verdict(curve, ensemble, k=0.999 * largest)
    assert not narrow.holds
    assert narrow.false_alarm > adaptive.verdict(curve, ensemble).false_alarm


def test_block_lms_is_compared_update_by_update():
    ensemble = adaptive.simulate(
        GAUSSIAN, algorithm="block_lms", block=8, mu=0.1, steps=100, runs=1500, seed=2,
        progress=False,
    )  # fmt: skip
    curve = adaptive.predict(adaptive.BlockLMS(mu=0.1, block=8), GAUSSIAN.problem, steps=13)
    verdict = adaptive.verdict(curve, ensemble)
    assert verdict.holds
    assert verdict.steps == 100
    short = adaptive.predict(adaptive.BlockLMS(mu=0.1, block=8), GAUSSIAN.problem, steps=12)
    with pytest.raises(
        ValueError,
        match="must have the same number of steps; got 12 updates of 8 samples and 100",
    ):
        adaptive.verdict(short, ensemble)


def test_divergence_is_said_and_never_nan():
    curve, ensemble = both(mu=20.0, steps=400, runs=20)
    verdict = adaptive.verdict(curve, ensemble)
    assert not np.isnan(verdict.z).any()
    assert verdict.z[-1] == 0  # both are infinite
    assert "; 20 of 20 runs diverged, and the prediction does not converge either." in verdict.text
    stable = replace(
        curve, stable=True, excess=np.ones(400)
    )  # a prediction that saw nothing coming
    verdict = adaptive.verdict(stable, ensemble)
    assert not verdict.holds
    assert verdict.largest_z == np.inf
    assert "; 20 of 20 runs diverged, though the prediction converges." in verdict.text


NUMBERS = st.floats(0, 1e300) | st.sampled_from([0.0, np.inf])


@given(predicted=NUMBERS, mean=NUMBERS, se=st.floats(0, 1e300) | st.just(np.inf))
def test_deviations_are_never_nan(predicted, mean, se):
    z = deviations(np.array([predicted]), np.array([mean]), np.array([se]))[0]
    assert not np.isnan(z)
    if predicted == mean and se <= mean:
        assert abs(z) <= 0.34


@given(
    predicted=st.floats(1e-3, 1e3), mean=st.floats(1e-3, 1e3), relative=st.floats(1e-6, 1.0),
    k=st.floats(0.5, 8.0),
)  # fmt: skip
def test_the_band_holds_the_predictions_that_deviate_by_less_than_k(predicted, mean, relative, k):
    mean, se = np.array([mean]), np.array([relative * mean])
    low, high = band(mean, se, k)
    z = deviations(np.array([predicted]), mean, se)[0]
    if abs(abs(z) - k) > 1e-6:
        assert (low[0] < predicted < high[0]) == (abs(z) < k)


def test_with_many_runs_deviations_are_counted_in_standard_errors():
    z = deviations(np.array([1.0, 1.0]), np.array([1.0003, 0.9998]), np.full(2, 1e-4))
    np.testing.assert_allclose(z, [3.0, -2.0], rtol=1e-3)


@pytest.mark.parametrize("runs", [40, 300])
def test_scores_of_skewed_means_are_normal_far_into_both_tails(runs):
    """Means of squares of normals: the plain ratio is below -4 fifty times too often."""
    rng = np.random.default_rng(0)
    squares = rng.standard_normal((20_000, runs)) ** 2
    mean, se = squares.mean(axis=1), squares.std(axis=1, ddof=1) / np.sqrt(runs)
    z = deviations(np.ones(20_000), mean, se)
    plain = (mean - 1) / se
    for level in (2.0, 3.0):
        expected = scipy.stats.t.sf(level, runs - 1)
        for tail in (z > level, z < -level):
            assert tail.mean() < 2 * expected + 4 * np.sqrt(expected / 20_000)
    assert np.mean(plain < -4) > 3 * np.mean(np.abs(z) > 4)


def test_deviations_without_a_usable_standard_error():
    predicted = np.array([1.0, 1.0, 1.0, np.inf, 1.0])
    mean = np.array([1.0 + 1e-12, 2.0, 0.5, np.inf, np.inf])
    se = np.array([0.0, 0.0, np.inf, np.inf, np.inf])
    np.testing.assert_array_equal(
        deviations(predicted, mean, se), [0.0, np.inf, -np.inf, 0.0, np.inf]
    )


def test_verdict_refuses():
    curve, ensemble = both(runs=4)
    with pytest.raises(ValueError, match="k must be positive; got 0"):
        adaptive.verdict(curve, ensemble, k=0)
    with pytest.raises(ValueError, match=r"must be of the same mu; got 0\.06 and 0\.05"):
        adaptive.verdict(replace(curve, mu=0.06), ensemble)
    with pytest.raises(ValueError, match="the same number of steps; got 50 and 120"):
        adaptive.verdict(adaptive.predict_lms(GAUSSIAN.problem, mu=0.05, steps=50), ensemble)


# --- the observed edge ---


def near(edge, exact, k=4.5):
    """Within k standard errors of the median, and the bisection's width."""
    se = 1.2533 * edge.edges.std(ddof=1) / np.sqrt(edge.runs)
    return abs(edge.mu - exact) < k * se + edge.resolution * exact


def test_a_regressor_that_never_changes_has_the_mean_bound_for_its_edge():
    u = np.full(2000, 3.0)
    edge = adaptive.observed_edge((u, u), taps=1, runs=3)
    assert edge.lower < 2 / 9 < edge.upper
    assert edge.upper / edge.lower < 1.003
    assert (edge.runs, edge.steps, edge.algorithm) == (3, 2000, "lms")
    assert str(edge).startswith("lms diverges from mu = 0.22")


def test_a_block_that_spans_the_period_has_the_mean_bound_for_its_edge():
    rows = np.random.default_rng(0).standard_normal((5, 3))
    U = np.tile(rows, (400, 1))
    edge = adaptive.observed_edge((U, np.ones(2000)), "block_lms", block=5, runs=3)
    mean = adaptive.BlockLMS(mu=1.0, block=5).bounds(rows.T @ rows / 5).mean
    assert edge.lower < mean < edge.upper


def test_momentum_raises_the_edge_of_a_constant_regressor():
    u = np.full(2000, 3.0)
    edge = adaptive.observed_edge((u, u), "momentum_lms", momentum=0.5, taps=1, runs=3)
    assert edge.lower < adaptive.MomentumLMS(mu=1.0, momentum=0.5).bounds([[9.0]]).mean < edge.upper


@pytest.mark.parametrize("algorithm", ["nlms", "affine_projection"])
def test_normalised_algorithms_have_the_edge_2_whatever_the_input(algorithm):
    scenario = adaptive.SystemIdentification(
        adaptive.AutoRegressive([0.9], taps=4), w_o=np.ones(4), noise_power=1.0
    )
    options = {"order": 2} if algorithm == "affine_projection" else {}
    edge = adaptive.observed_edge(scenario, algorithm, runs=6, **options)
    assert edge.lower < 2 < edge.upper * 1.001
    assert edge.upper / edge.lower < 1.005


def test_one_gaussian_tap_has_its_almost_sure_edge():
    """E ln |1 - mu u^2| = 0, far above the mean-square bound 2/3 and above the mean's 2."""

    def exponent(mu):
        pole = 1 / np.sqrt(mu)

        def integrand(u):
            return np.log(np.abs(1 - mu * u * u)) * 2 * scipy.stats.norm.pdf(u)

        inner = scipy.integrate.quad(integrand, 0, pole, limit=200)[0]
        return inner + scipy.integrate.quad(integrand, pole, 12, limit=200)[0]

    exact = scipy.optimize.brentq(exponent, 2.0, 3.0)
    scenario = adaptive.SystemIdentification(adaptive.white(1), w_o=[1.0], noise_power=10.0)
    edge = adaptive.observed_edge(scenario, runs=40, steps=10_000, seed=5)
    assert near(edge, exact)
    assert edge.lower < edge.mu < edge.upper


class OfTwo:
    """Regressors 1 and 2, drawn with equal chance."""

    problem = adaptive.WienerProblem(R=[[2.5]], P=[0.0], d_power=1.0)

    def draw(self, rng, samples):
        return regressors(rng.integers(1, 3, samples).astype(float), 1), np.ones(samples)


def test_a_finite_data_set_has_the_edge_of_its_lyapunov_exponent():
    edge = adaptive.observed_edge(OfTwo(), runs=40, steps=10_000, seed=1)
    assert near(edge, 1.25)  # |1 - mu| |1 - 4 mu| = 1
    lyapunov = adaptive.minibatch.lyapunov_edge(np.array([[1.0], [2.0]]), seed=0)
    assert near(edge, lyapunov.value, k=8)


def test_independent_regressors_diverge_between_the_mean_square_bound_and_beyond():
    edge = adaptive.observed_edge(GAUSSIAN, runs=8)
    assert edge.lower > adaptive.stability_bounds(GAUSSIAN.source.R).mean_square_real


def test_complex_data_and_the_same_seed():
    scenario = adaptive.SystemIdentification(
        adaptive.GaussianRegressors(np.array([[2.0, 1j], [-1j, 2.0]])),
        w_o=np.array([1.0, 1j]),
        noise_power=0.1,
    )
    first = adaptive.observed_edge(scenario, runs=6, steps=500, seed=2)
    again = adaptive.observed_edge(scenario, runs=6, steps=500, seed=2)
    np.testing.assert_array_equal(first.edges, again.edges)
    assert first.lower > adaptive.stability_bounds(scenario.source.R).mean_square_complex


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((GAUSSIAN, "sign_sign_lms"), {}, "sign_sign_lms has none: its steps are bounded"),
        ((GAUSSIAN, "rls"), {}, "rls has none: it has no step size"),
        ((GAUSSIAN, "magic"), {}, "algorithm must be one of lms, .*; got 'magic'"),
        ((GAUSSIAN,), {"taps": 3}, "taps must be left out for a scenario, .*; got 3"),
        ((GAUSSIAN,), {"runs": 0}, "runs must be at least 1; got 0"),
        ((GAUSSIAN,), {"resolution": 0}, "resolution must be positive; got 0"),
        (((np.ones(5), np.ones(5)),), {"taps": 1, "steps": 6}, "at most the 5 given; got 6"),
        (((np.zeros(5), np.ones(5)),), {"taps": 1}, "u must not be silent"),
        (((np.ones(5), np.ones((5, 2))),), {"taps": 1}, "d must be 1-D, one output; got 2"),
        (
            (
                adaptive.SystemIdentification(
                    adaptive.GaussianRegressors([[0.0]]), w_o=[1.0], noise_power=1.0
                ),
            ),
            {},
            "scenario must not have a silent input",
        ),
        (((np.eye(1, 9)[0], np.ones(9)),), {"taps": 1, "leakage": 0.0}, None),
    ],
)
def test_observed_edge_refuses(arguments, options, message):
    error = ValueError if message else TypeError
    with pytest.raises(error, match=message):
        adaptive.observed_edge(*arguments, **options)


def test_searches_that_find_nothing_say_so():
    with pytest.raises(ValueError, match="no divergence found up to mu = "):
        adaptive.observed_edge(
            (np.concatenate([[1.0], np.zeros(8)]), np.ones(9)), "nlms", taps=1, eps=1e9, runs=1
        )
