"""The default eps: right for audio with pauses, and for float32 with more regressors than taps."""

import numpy as np
import pytest
import scipy.signal

import adaptive
from adaptive.algorithms import ALGORITHMS


def echo_with_pauses(seed, taps=256, samples=40_000):
    """Far end, microphone, the echo in it, and when the far end speaks."""
    rng = np.random.default_rng(seed)
    speech = scipy.signal.lfilter([1.0], [1.0, -0.9], rng.standard_normal(samples))
    speaks = np.arange(samples) // 4000 % 2 == 0
    far = np.where(speaks, 0.1 * speech / speech.std(), 1e-5 * rng.standard_normal(samples))
    path = rng.standard_normal(taps) * np.exp(-np.arange(taps) / 40.0)
    echo = np.convolve(far, path / np.linalg.norm(path))[:samples]
    return far, echo + 1e-3 * rng.standard_normal(samples), echo, speaks


def erle(seed, run, **options):
    far, microphone, echo, speaks = echo_with_pauses(seed)
    result = run(far, microphone, mu=0.5, taps=256, **options)
    residual = result.error - (microphone - echo)
    late = speaks & (np.arange(far.size) > 12_000)
    return 10 * np.log10(np.mean(echo[late] ** 2) / np.mean(residual[late] ** 2))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("run", "options"), [(adaptive.nlms, {}), (adaptive.affine_projection, {"order": 2})]
)
def test_the_default_keeps_the_filter_through_pauses(run, options, seed):
    far, *_ = echo_with_pauses(seed)
    by_default = erle(seed, run, **options)
    power = 256 * np.mean(far**2)
    others = [erle(seed, run, eps=part * power, **options) for part in (1e-4, 1e-3, 1e-2)]
    assert by_default == pytest.approx(others[1], abs=1e-6)
    assert by_default > max(others) - 2
    if run is adaptive.nlms:
        assert erle(seed, run, eps=1e-6 * power, **options) < by_default - 25


@pytest.mark.parametrize("excess", [0, 1, 3])
def test_single_precision_affine_projection_follows_double(excess):
    rng = np.random.default_rng(excess)
    for _ in range(60):
        taps = int(rng.integers(1, 5))
        order = taps + excess
        u = rng.standard_normal((73, taps)).astype(np.float32)
        d = rng.standard_normal(73).astype(np.float32)
        single = adaptive.affine_projection(u, d, mu=0.3, order=order)
        double = adaptive.affine_projection(u.astype(float), d.astype(float), mu=0.3, order=order)
        assert single.weights.dtype == np.float32
        size = np.linalg.norm(double.weights)
        assert np.linalg.norm(single.weights - double.weights) <= 2e-3 * size


def test_function_stream_and_prediction_take_the_same_part():
    for kind in ALGORITHMS:
        rest = kind.regularisation
        if rest is None or rest.name != "eps":
            continue
        options = {n: [1.0] if n == "secondary" else 2 for n in kind.settings() if kind.requires(n)}
        step = {"mu": 0.1} if kind.has_step_size() else {}
        value = kind(**step, **options).regularised(3.0, 5).eps
        assert value == rest.part * 3.0 * (5 if rest.whole else 1)
    assert adaptive.NLMS.regularisation == adaptive.AffineProjection.regularisation


@pytest.mark.parametrize("mu", [0.1, 0.6])
def test_no_step_size_is_safe_for_power_normalised_lms_at_a_rise(mu):
    """What its documentation warns of, without noise and below 2 / L; NLMS takes the rise."""
    rng = np.random.default_rng(0)
    u = np.concatenate([1e-5 * rng.standard_normal(2000), rng.standard_normal(4000)])
    d = np.convolve(u, [1.0, -0.5, 0.25])[:6000]
    run = adaptive.power_normalized_lms(u, d, mu=mu, taps=3)
    assert np.nanmax(np.abs(run.error)) > 1e2 * np.abs(d).max()
    loud = adaptive.power_normalized_lms(u, d, mu=mu / 3, taps=3, eps=1.0)
    assert np.abs(loud.error).max() < 3 * np.abs(d).max()
    nlms = adaptive.nlms(u, d, mu=mu, taps=3)
    assert np.abs(nlms.error).max() < 3 * np.abs(d).max()
