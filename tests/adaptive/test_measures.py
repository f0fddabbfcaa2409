"""Figures of merit, delay estimates and double-talk masks."""

import numpy as np
import pytest

import adaptive
from adaptive import double_talk, measures
from adaptive.signals import white

RNG = np.random.default_rng(0)
W_O = np.array([1.0, -0.5, 0.2])
SCENARIO = adaptive.SystemIdentification(white(taps=3), w_o=W_O, noise_power=0.01)


def recording(samples=4000, outputs=None):
    rng = np.random.default_rng(1)
    u = rng.standard_normal(samples)
    d = np.convolve(u, W_O)[:samples] + 0.1 * rng.standard_normal(samples)
    return u, d if outputs is None else np.stack([d] * outputs, axis=1)


def test_run_ensemble_and_curve_tell_the_same_story():
    algorithm = adaptive.LMS(mu=0.05)
    curve = adaptive.predict(algorithm, SCENARIO.problem, steps=600)
    ensemble = adaptive.simulate(SCENARIO, algorithm, steps=600, runs=400, seed=0, progress=False)
    floor = measures.noise_floor(ensemble)
    assert floor == pytest.approx(measures.noise_floor(curve), rel=0.05)
    mine, its = measures.time_to(curve, 3.0), measures.time_to(ensemble, 3.0, window=5)
    assert abs(mine - its) < 0.25 * mine
    far = [measures.misalignment(x, W_O)[[0, 60]] for x in (curve, ensemble)]
    np.testing.assert_allclose(*far, atol=0.5)
    power = SCENARIO.problem.d_power
    gain = [measures.erle(x, d_power=power, window=20)[-1] for x in (curve, ensemble)]
    np.testing.assert_allclose(*gain, atol=0.5)
    run = adaptive.run(algorithm, *recording(), taps=3)
    assert measures.erle(run, window=1000)[-1] == pytest.approx(gain[0], abs=0.7)


def test_erle_in_plain_python():
    u, d = recording(300, outputs=2)
    run = adaptive.lms(u, d, mu=0.05, taps=3)
    expected = []
    for n in range(300):
        last = slice(max(0, n - 6), n + 1)
        expected.append(10 * np.log10(np.sum(d[last] ** 2) / np.sum(run.error[last] ** 2)))
    np.testing.assert_allclose(measures.erle(run, window=7), expected, rtol=1e-9)


def test_misalignment_of_an_ensemble_is_the_mean_over_its_runs():
    scenario, steps, runs = SCENARIO, 40, 6
    ensemble = adaptive.simulate(scenario, "lms", mu=0.1, steps=steps, runs=runs, seed=2)
    total = 0.0
    for i in range(runs):
        rng = np.random.default_rng(np.random.SeedSequence(2, spawn_key=(i,)))
        lines, d = scenario.draw(rng, steps)
        run = adaptive.lms(lines.rows[:, lines.order], d, mu=0.1, record="all")
        total = total + np.sum((run.history - W_O) ** 2, axis=1) / runs
    # the mean over few runs, not its unbiased estimate: (runs - 1) / runs of the spread less
    spread = np.sum(ensemble.mean_weights_se**2, axis=1)
    mine = 10 ** (measures.misalignment(ensemble, W_O) / 10) * np.sum(W_O**2)
    bias = np.sum((ensemble.mean_weights - W_O) ** 2, axis=1)
    np.testing.assert_allclose(mine - bias, (runs - 1) * spread, atol=1e-12)
    np.testing.assert_allclose(mine, total, atol=1e-12)


def test_time_to_counts_samples_not_updates():
    block = adaptive.predict(adaptive.BlockLMS(mu=0.2, block=4), SCENARIO.problem, steps=400)
    assert measures.time_to(block, 1.0) == 4 * block.steps_to_within(dB=1.0)


def test_a_diverged_run_has_no_time():
    run = adaptive.lms(*recording(), mu=50.0, taps=3)
    assert np.isnan(measures.erle(run, window=100)[-1])
    assert measures.time_to(run, 3.0) is None


def test_autocorrelation_needs_no_desired_response():
    u, d = recording()
    R = adaptive.WienerProblem.from_data(u, d, taps=3, start=2).R
    np.testing.assert_allclose(adaptive.autocorrelation(u, taps=3, start=2), R, rtol=1e-13)
    shifted = np.concatenate([np.zeros(5), u[:-5]])
    one = adaptive.WienerProblem.from_data(u, d, taps=3, delay=5)
    other = adaptive.WienerProblem.from_data(shifted, d, taps=3)
    np.testing.assert_array_equal(one.P, other.P)


# --- delays ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("delay", [0, 1, 333, -333])
@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("samples", [3001, 20000])
def test_a_delay_is_found_in_noise(delay, is_complex, samples):
    x = RNG.standard_normal(samples + 1000)
    if is_complex:
        x = x + 1j * RNG.standard_normal(samples + 1000)
    x = np.convolve(x, [1.0, 0.8, 0.3])[: samples + 1000]
    u, d = x[500:][:samples], x[500 - delay :][:samples]
    found = adaptive.estimate_delay(u, d + RNG.standard_normal(samples), largest=500)
    assert found.samples == delay
    assert found.confidence > 0.999
    assert found.lags[np.argmax(np.abs(found.correlation))] == delay


@pytest.mark.parametrize("is_complex", [False, True])
def test_the_confidence_is_a_probability(is_complex):
    """Of unrelated signals, one in twenty is found with a confidence above 0.95."""
    rng, runs, false = np.random.default_rng(3), 400, 0
    for _ in range(runs):
        u, d = rng.standard_normal((2, 600))
        if is_complex:
            u, d = u + 1j * rng.standard_normal(600), d + 1j * rng.standard_normal(600)
        false += adaptive.estimate_delay(u, d, largest=100).confidence > 0.95
    assert false / runs < 0.05 + 4 * np.sqrt(0.05 * 0.95 / runs)


# --- double talk ----------------------------------------------------------------------------------


@pytest.mark.parametrize("taps", [1, 2, 5, 8])
@pytest.mark.parametrize("hold", [0, 3])
def test_geigel_in_plain_python(taps, hold):
    u, d = RNG.standard_normal((2, 80))
    talk = [abs(d[n]) >= 0.9 * max(abs(u[max(n - taps + 1, 0) : n + 1])) for n in range(80)]
    expected = [not any(talk[max(n - hold, 0) : n + 1]) for n in range(80)]
    mask = double_talk.geigel(u, d, taps=taps, threshold=0.9, hold=hold)
    assert mask.tolist() == expected
    both = double_talk.geigel(u, np.stack([d, -d], 1), taps=taps, threshold=0.9, hold=hold)
    assert (both == mask[:, None]).all()


def test_normalized_correlation_in_plain_python():
    d, e = RNG.standard_normal((2, 80))
    e += d
    r_ed = r_dd = 0.0
    expected = []
    for n in range(80):
        r_ed = 0.9 * r_ed + 0.1 * e[n] * d[n]
        r_dd = 0.9 * r_dd + 0.1 * d[n] ** 2
        expected.append(n < 5 or 1 - r_ed / r_dd >= 0.3)
    mask = double_talk.normalized_correlation(d, e, threshold=0.3, forgetting=0.9, start=5)
    assert mask.tolist() == expected


def test_a_canceller_that_listens_to_its_detector_keeps_its_weights():
    rng, N = np.random.default_rng(5), 12000
    u = rng.standard_normal(N)
    h = 0.1 * 0.8 ** np.arange(16)
    near = np.where(np.arange(N) > 8000, 2.0, 0.0) * rng.standard_normal(N)
    d = np.convolve(u, h)[:N] + near + 0.01 * rng.standard_normal(N)
    plain = adaptive.nlms(u, d, mu=0.1, taps=16)
    spoiled = measures.misalignment(plain, h)
    geigel = double_talk.geigel(u, d, taps=16, hold=200)
    first = double_talk.normalized_correlation(d, plain.error, start=4000, hold=200)
    for adapt in (geigel, first):
        kept = measures.misalignment(adaptive.nlms(u, d, mu=0.1, taps=16, adapt=adapt), h)
        assert kept < spoiled - 10


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: measures.erle([1.0]), TypeError, "learned must be a FilterRun, an Ensemble or a"),
        (lambda: measures.erle(adaptive.lms([1.0], [1.0], mu=0.1, taps=1), d_power=1.0), TypeError,
         "d_power must be left out for a run"),
        (lambda: measures.erle(adaptive.predict_lms(SCENARIO.problem, mu=0.1, steps=3)), TypeError,
         "d_power must be given for an ensemble or a curve"),
        (lambda: measures.misalignment([1.0], [0.0]), ValueError, "w_o must not be zero"),
        (lambda: measures.misalignment([1.0, 2.0], [1.0]), ValueError, "w_o must have the shape"),
        (lambda: adaptive.estimate_delay([1.0, 2.0], [1.0]), ValueError, "d must have as many sa"),
        (lambda: adaptive.estimate_delay([1.0, 2.0], [0.0, 0.0]), ValueError, "d must not be si"),
        (lambda: adaptive.estimate_delay([1.0, 2.0], [1.0, 2.0], largest=2), ValueError,
         "largest must be less than the 2 samples of u; got 2"),
        (lambda: double_talk.geigel([1.0, 2.0], [1.0], taps=1), ValueError, "d must have as many"),
        (lambda: double_talk.normalized_correlation([1.0], [1.0, 2.0]), ValueError,
         "error must have the shape of d"),
    ],
)  # fmt: skip
def test_one_sentence(call, error, message):
    with pytest.raises(error, match=f"^{message}"):
        call()
