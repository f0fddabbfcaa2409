"""Inputs and scenarios have the statistics they claim, from the first sample of a draw on."""

import numpy as np
import pytest
import scipy.io.wavfile
import scipy.linalg
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st

import adaptive
from adaptive import signals
from adaptive.scenarios import Echo, Equalisation, NoiseCancelling, Prediction, raised_cosine
from adaptive.signals import ARMA, Impulsive, Recorded, Tones

K = 4.5  # standard errors; no seed here was chosen, and a few hundred entries are compared


def recording(samples=50):
    return np.cumsum(np.random.default_rng(5).standard_normal(samples)) + 0.3


SOURCES = {
    "white": adaptive.white(taps=4, power=2.0),
    "white uniform": adaptive.white(taps=4, power=2.0, distribution="uniform"),
    "white Laplace": adaptive.white(taps=4, distribution="laplace"),
    "white binary": adaptive.white(taps=4, power=0.5, distribution="binary"),
    "white impulsive": adaptive.white(taps=3, distribution=Impulsive(0.1, 10.0)),
    "AR(2)": adaptive.AutoRegressive([0.6, -0.5], taps=5, power=3.0),
    "AR(1), binary innovations": adaptive.AutoRegressive([0.5], taps=4, innovations="binary"),
    "MA(2)": ARMA([], [0.5, -0.3], taps=4),
    "ARMA(2, 1)": ARMA([1.2, -0.6], [0.7], taps=5, power=2.0),
    "tones": Tones([0.1, 0.2], taps=4, amplitudes=[1.0, 0.5], noise_power=0.1),
    "tone at the Nyquist frequency": Tones([0.5], taps=2),
    "recorded": Recorded(recording(), taps=4),
}

SCENARIOS = {
    "identification": adaptive.SystemIdentification(
        adaptive.AutoRegressive([0.8], taps=3), w_o=[1.0, -1.0, 0.5], noise_power=0.1
    ),
    "identification of a complex system": adaptive.SystemIdentification(
        adaptive.GaussianRegressors(np.array([[2.0, 1j], [-1j, 2.0]])),
        w_o=np.array([1.0, 1j]),
        noise_power=0.1,
        noise="laplace",
    ),
    "cancelling": NoiseCancelling(
        Tones([0.05], taps=1),
        adaptive.AutoRegressive([0.5], taps=3),
        path=[1.0, -0.5],
    ),
    "cancelling, path longer than the filter": NoiseCancelling(
        Tones([0.05], taps=1),
        ARMA([0.5], [0.4], taps=2),
        path=[1.0, -0.5, 0.3, 0.2],
    ),
    "prediction": Prediction(adaptive.AutoRegressive([0.6, -0.5], taps=3)),
    "three steps ahead": Prediction(Tones([0.1], taps=3, noise_power=0.2), ahead=3),
    "equalisation": Equalisation(raised_cosine(3.1), taps=5, delay=4, noise_power=0.01),
    "equalisation, delay beyond the reach": Equalisation(
        [1.0, 0.5], taps=2, delay=6, noise_power=0.01
    ),
    "echo": Echo(adaptive.AutoRegressive([0.5], taps=4), length=7, loss=6.0, noise_power=0.01),
    "echo, long": Echo(adaptive.white(taps=3), length=100, decay=50.0, noise_power=0.1),
    "recorded far end": Echo(Recorded(recording(), taps=3), noise_power=0.1, noise="uniform"),
}


@pytest.mark.parametrize("R", [[[2.0, 1.0], [1.0, 2.0]], [[2.0, 1j], [-1j, 2.0]]])
def test_a_draw_does_not_depend_on_the_signs_that_lapack_gives_eigenvectors(R):
    """R's Hermitian root is unique; a draw made with eigenvectors would not be."""
    R = np.array(R)
    g = np.random.default_rng(3).standard_normal((20, 2))
    if np.iscomplexobj(R):
        rng = np.random.default_rng(3)
        g = (rng.standard_normal((20, 2)) + 1j * rng.standard_normal((20, 2))) / np.sqrt(2)
    drawn = adaptive.GaussianRegressors(R).draw(np.random.default_rng(3), 20).rows
    np.testing.assert_allclose(drawn, g @ scipy.linalg.sqrtm(R).T, rtol=1e-12, atol=1e-12)


def assert_mean(values, expected):
    """The mean over axis 0 within K standard errors; entries that never vary must be equal."""
    error = np.abs(values.mean(axis=0) - expected)
    se = values.std(axis=0) / np.sqrt(len(values))
    assert np.all(error <= K * se + 1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("name", SOURCES)
def test_sources_have_their_stated_autocorrelation_from_the_first_sample(name):
    source = SOURCES[name]
    rng = np.random.default_rng(7)
    draws = [source.draw(rng, 3) for _ in range(4000)]
    assert draws[0].samples == 3
    for n in (0, 2):
        U = np.array([lines.rows[n][lines.order] for lines in draws])
        assert_mean(U, np.zeros(U.shape[1]) + (recording().mean() if name == "recorded" else 0))
        assert_mean(U[:, :, None] * U[:, None, :].conj(), source.R)


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenarios_pose_the_problem_they_state_from_the_first_sample(name):
    scenario = SCENARIOS[name]
    rng = np.random.default_rng(11)
    draws = [scenario.draw(rng, 3) for _ in range(4000)]
    assert draws[0][1].shape == (3,)
    for n in (0, 2):
        U = np.array([lines.rows[n][lines.order] for lines, _ in draws])
        d = np.array([desired[n] for _, desired in draws])
        assert_mean(U[:, :, None] * U[:, None, :].conj(), scenario.problem.R)
        assert_mean(U * d.conj()[:, None], scenario.problem.P)
        assert_mean(np.abs(d) ** 2, scenario.problem.d_power)


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_wiener_error_of_a_draw_has_power_J_min_and_is_uncorrelated_with_the_input(name):
    problem = SCENARIOS[name].problem
    rng = np.random.default_rng(3)
    errors, products = [], []
    for _ in range(2000):
        lines, d = SCENARIOS[name].draw(rng, 1)
        u = lines.rows[0][lines.order]
        e = d[0] - problem.w_o.conj() @ u
        errors.append(abs(e) ** 2)
        products.append(u * np.conj(e))
    assert_mean(np.array(errors), problem.J_min)
    assert_mean(np.array(products), np.zeros(problem.w_o.size))


@pytest.mark.parametrize("kind", [*signals.DISTRIBUTIONS, Impulsive(0.3, 5.0)])
def test_noise_has_mean_zero_power_one_and_no_memory(kind):
    x = signals.unit_noise(kind, np.random.default_rng(2), 200_000)
    assert_mean(x, 0.0)
    assert_mean(x**2, 1.0)
    assert_mean(x[1:] * x[:-1], 0.0)


def test_kurtosis_tells_the_distributions_apart():
    """Excess kurtosis in closed form: 0, -6/5, 3, -2, and 3 (E[v^2] / E[v]^2 - 1)."""
    p, r = 0.1, 50.0
    mixture = 3 * (((1 - p) + p * (1 + r) ** 2) / (1 + p * r) ** 2 - 1)
    expected = [0.0, -1.2, 3.0, -2.0, mixture]
    kinds = ["gaussian", "uniform", "laplace", "binary", Impulsive(p, r)]
    for kind, kurtosis in zip(kinds, expected, strict=True):
        x = signals.unit_noise(kind, np.random.default_rng(4), 400_000)
        assert_mean(x**4 - 3, kurtosis)


def test_autocovariances_in_closed_form():
    r = adaptive.AutoRegressive([0.8], taps=3, power=5.0).R[0]
    np.testing.assert_allclose(r, [5.0, 4.0, 3.2], rtol=1e-12)
    # x(n) = g(n) + t g(n-1): r(1) / r(0) = t / (1 + t^2)
    r = ARMA([], [0.5], taps=3).R[0]
    np.testing.assert_allclose(r, [1.0, 0.4, 0.0], atol=1e-14)
    # ARMA(1, 1), Brockwell and Davis: (1 + f t)(f + t) / (1 + 2 f t + t^2)
    f, t = 0.7, -0.4
    r = ARMA([f], [t], taps=3).R[0]
    first = (1 + f * t) * (f + t) / (1 + 2 * f * t + t * t)
    np.testing.assert_allclose(r, [1.0, first, f * first], rtol=1e-12)


@settings(deadline=None, max_examples=40)
@given(
    poles=st.lists(st.floats(-0.95, 0.95), max_size=3),
    zeros=st.lists(st.floats(-2.0, 2.0), max_size=3),
    power=st.floats(1e-3, 1e3),
)
def test_autocovariance_is_that_of_the_impulse_response(poles, zeros, power):
    a, b = np.atleast_1d(np.poly(poles)), np.atleast_1d(np.poly(zeros))
    h = scipy.signal.lfilter(b, a, np.eye(1, 3000)[0])
    r = np.array([h[k:] @ h[: h.size - k] for k in range(6)])
    source = ARMA(-a[1:], b[1:], taps=6, power=power)
    np.testing.assert_allclose(source.R[0], power * r / r[0], rtol=1e-6, atol=1e-9 * power)


def test_pure_tones_leave_the_input_singular_by_two_ranks_a_tone():
    assert adaptive.natural_modes(Tones([0.1, 0.23], taps=8).R).rank == 4


def test_the_equaliser_has_haykins_spectra():
    """Haykin, Adaptive Filter Theory, table of the equalisation experiment: 11 taps.

    r(1), r(2), lambda_min, lambda_max and their ratio; r(0) is printed there without the noise.
    """
    table = {
        2.9: (0.4388, 0.0481, 0.3339, 2.0295, 6.0782),
        3.1: (0.5596, 0.0783, 0.2136, 2.3761, 11.1238),
        3.3: (0.6729, 0.1132, 0.1256, 2.7263, 21.7132),
        3.5: (0.7774, 0.1511, 0.0656, 3.0707, 46.8216),
    }
    for W, row in table.items():
        problem = Equalisation(raised_cosine(W), taps=11, delay=7, noise_power=0.001).problem
        lam = problem.modes.eigenvalues
        ours = (*problem.R[0, 1:3], lam[0], lam[-1], lam[-1] / lam[0])
        np.testing.assert_allclose(ours, row, rtol=6e-4, atol=6e-5)


def test_prediction_of_an_ar_process_finds_its_coefficients_and_innovations():
    source = adaptive.AutoRegressive([0.6, -0.5], taps=4, power=2.0)
    problem = Prediction(source).problem
    np.testing.assert_allclose(problem.w_o, [0.6, -0.5, 0.0, 0.0], atol=1e-12)
    x = source.signal(np.random.default_rng(0), 200_000)
    innovation = x[2:] - 0.6 * x[1:-1] + 0.5 * x[:-2]
    assert_mean(innovation**2, problem.J_min)


def test_a_pure_tone_is_predicted_without_error():
    assert Prediction(Tones([0.1], taps=2), ahead=5).problem.J_min < 1e-12


def test_the_echo_is_the_same_in_every_draw_and_decays_by_60_dB():
    build = {"source": adaptive.white(taps=8), "noise_power": 0.0, "length": 4000}
    h = Echo(**build, decay=1000.0, loss=20.0).response
    np.testing.assert_array_equal(h, Echo(**build, decay=1000.0, loss=20.0).response)
    assert np.sum(h**2) == pytest.approx(0.01)
    drop = 10 * np.log10(np.mean(h[:500] ** 2) / np.mean(h[1000:1500] ** 2))
    assert drop == pytest.approx(60, abs=1.5)
    assert not np.array_equal(h, Echo(**build, decay=1000.0, loss=20.0, seed=1).response)


def test_a_long_echo_by_fft_equals_the_direct_sum():
    echo = Echo(adaptive.white(taps=3), length=200, noise_power=0.0)
    lines, d = echo.draw(np.random.default_rng(0), 50)
    x = echo.source.signal(np.random.default_rng(0), 50 + 199)
    np.testing.assert_allclose(d, np.convolve(x, echo.response, "valid"), rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(lines.buffer, x[-52:])


# --- recordings ---


def wav(path, samples, rate=8000):
    scipy.io.wavfile.write(path, rate, samples)
    return path


@pytest.mark.parametrize(
    ("dtype", "stored", "read"),
    [
        (np.uint8, [0, 128, 255], [-1.0, 0.0, 127 / 128]),
        (np.int16, [-32768, 0, 16384], [-1.0, 0.0, 0.5]),
        (np.int32, [-(2**31), 0, 2**30], [-1.0, 0.0, 0.5]),
        (np.float32, [-2.0, 0.0, 0.25], [-2.0, 0.0, 0.25]),
        (np.float64, [-2.0, 0.0, 0.25], [-2.0, 0.0, 0.25]),
    ],
)
def test_wav_files_of_every_sample_type(tmp_path, dtype, stored, read):
    source = Recorded.from_wav(wav(tmp_path / "a.wav", np.array(stored, dtype)), taps=2)
    np.testing.assert_array_equal(source.samples, read)
    assert source.rate == 8000


def test_a_channel_of_a_stereo_file(tmp_path):
    path = wav(tmp_path / "a.wav", np.array([[1, 2], [3, 4]], np.int16))
    source = Recorded.from_wav(path, taps=2, channel=1)
    np.testing.assert_array_equal(source.samples * 2**15, [2, 4])


def test_recorded_draws_are_segments_that_wrap_around():
    source = Recorded(np.arange(5.0), taps=2)
    rng = np.random.default_rng(0)
    starts = set()
    for _ in range(50):
        x = source.signal(rng, 12)
        np.testing.assert_array_equal(np.diff(x) % 5, 1)
        starts.add(x[0])
    assert starts == {0.0, 1.0, 2.0, 3.0, 4.0}


@settings(deadline=None, max_examples=40)
@given(
    x=st.lists(st.floats(-10, 10), min_size=1, max_size=12).filter(any),
    taps=st.integers(1, 30),
)
def test_a_recordings_R_is_the_mean_over_all_the_segments_there_are(x, taps):
    x = np.array(x)
    n = np.arange(x.size)
    U = x[(n[:, None] - np.arange(taps)) % x.size]
    R = Recorded(x, taps=taps).R
    np.testing.assert_allclose(R, U.T @ U / x.size, atol=1e-12 * np.max(x**2) + 1e-300)


def write(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("make", "options", "error", "message"),
    [
        (lambda p: p, {}, FileNotFoundError, "a.wav is not a file"),
        (lambda p: write(p, b"hello"), {}, ValueError, "a.wav is not a readable WAV file: "),
        (lambda p: write(p, b""), {}, ValueError, "a.wav is not a readable WAV file: "),
        (
            lambda p: write(p, wav(p, np.ones(9, np.int16)).read_bytes()[:-4]),
            {},
            ValueError,
            "a.wav is not a readable WAV file: ",
        ),
        (lambda p: wav(p, np.zeros(3)), {}, ValueError, "a.wav is silent: each of its 3 samples"),
        (lambda p: wav(p, np.zeros(0)), {}, ValueError, "a.wav holds no samples"),
        (
            lambda p: wav(p, np.ones((3, 2))),
            {},
            ValueError,
            "a.wav has 2 channels: say which, channel=0 to 1",
        ),
        (
            lambda p: wav(p, np.ones((3, 2))),
            {"channel": 2},
            ValueError,
            "channel must be less than the 2 of .*a.wav; got 2",
        ),
        (lambda p: wav(p, np.array([1.0, np.nan])), {}, ValueError, "samples must be finite"),
    ],
)
def test_wav_files_that_cannot_be_used(tmp_path, make, options, error, message):
    path = make(tmp_path / "a.wav")
    with pytest.raises(error, match=message):
        Recorded.from_wav(path, taps=2, **options)


TONE = Tones([0.1], taps=2)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (
            lambda: ARMA([1.1], [], taps=3),
            ValueError,
            "ar must give a stable process, .* got a pole of modulus 1.1",
        ),
        (
            lambda: ARMA([], ["x"], taps=3),
            TypeError,
            r"ma must be a list of real numbers; got \['x'\]",
        ),
        (
            lambda: ARMA([np.inf], [], taps=3),
            ValueError,
            "ar must be a 1-D list of finite numbers",
        ),
        (
            lambda: adaptive.white(taps=2, distribution="pink"),
            ValueError,
            "distribution must be one of gaussian, .*; got 'pink'",
        ),
        (
            lambda: Impulsive(probability=1.0),
            ValueError,
            "probability must lie between 0 and 1; got 1.0",
        ),
        (
            lambda: Impulsive(ratio=0.0),
            ValueError,
            "ratio must be positive; got 0.0",
        ),
        (
            lambda: Tones([], taps=2),
            ValueError,
            "frequencies must hold at least one frequency; got none",
        ),
        (
            lambda: Tones([0.6], taps=2),
            ValueError,
            r"frequencies must lie from 0 to 0.5 cycles per sample; got \[0.6\]",
        ),
        (
            lambda: Tones([0.1], taps=2, amplitudes=[1.0, 2.0]),
            ValueError,
            "amplitudes must be one, or one per tone, 1; got 2",
        ),
        (
            lambda: Tones([0.1], taps=2, amplitudes=-1.0),
            ValueError,
            r"amplitudes must be positive; got \[-1.0\]",
        ),
        (
            lambda: Recorded(np.zeros(4), taps=2),
            ValueError,
            "samples must not be silent; got 4 zeros",
        ),
        (
            lambda: Recorded(np.ones(4) * 1j, taps=2),
            TypeError,
            "samples must be real",
        ),
        (
            lambda: adaptive.SystemIdentification(
                adaptive.white(taps=1), w_o=[1.0], noise_power=1.0, noise="pink"
            ),
            ValueError,
            "noise must be one of gaussian, .*; got 'pink'",
        ),
        (
            lambda: NoiseCancelling(TONE, [1.0], path=[1.0]),
            TypeError,
            "reference must be a process, such as .*; got list",
        ),
        (
            lambda: NoiseCancelling(TONE, TONE, path=[1j]),
            TypeError,
            "path must be real; got complex128",
        ),
        (
            lambda: Prediction(adaptive.GaussianRegressors(np.eye(2))),
            TypeError,
            "source must be a process, such as .*; got GaussianRegressors",
        ),
        (
            lambda: Prediction(TONE, ahead=0),
            ValueError,
            "ahead must be at least 1; got 0",
        ),
        (lambda: raised_cosine(0.0), ValueError, "W must be positive; got 0.0"),
        (
            lambda: Equalisation([1.0], taps=2, delay=-1, noise_power=0.0),
            ValueError,
            "delay must be at least 0; got -1",
        ),
        (
            lambda: Echo(TONE, noise_power=0.0, decay=0.0),
            ValueError,
            "decay must be positive; got 0.0",
        ),
    ],
)
def test_inputs_and_scenarios_refuse(build, error, message):
    with pytest.raises(error, match=message):
        build()
