"""The FFT form for long delay lines is LMS itself: checked against the direct kernel."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import adaptive
from adaptive import long_filters
from adaptive.long_filters import SHORTEST


@pytest.fixture
def direct(monkeypatch):
    def run(algorithm, *args, **kwargs):
        with monkeypatch.context() as m:
            m.setattr(long_filters, "SHORTEST", 1 << 62)
            return algorithm(*args, **kwargs)

    return run


def signals(N, seed=0):
    rng = np.random.default_rng(seed)
    u = rng.standard_normal(N)
    return u, rng.standard_normal(N)


@pytest.mark.parametrize("taps", [SHORTEST, 8500, 16384])
@pytest.mark.parametrize("algorithm", ["lms", "nlms", "varying"])
def test_equals_the_direct_kernel(direct, taps, algorithm):
    N = 2 * 4096 + 777  # whole blocks and a rest
    u, d = signals(N)
    run, options = {
        "lms": (adaptive.lms, {"mu": 0.3 / taps}),
        "nlms": (adaptive.nlms, {"mu": 0.5}),
        "varying": (adaptive.lms, {"mu": 0.3 / taps / (1 + np.arange(N) / N)}),
    }[algorithm]
    fast = run(u, d, taps=taps, **options)
    slow = direct(run, u, d, taps=taps, **options)
    assert np.abs(fast.error - slow.error).max() <= 1e-10 * np.abs(slow.error).max()
    assert np.abs(fast.weights - slow.weights).max() <= 1e-10 * np.abs(slow.weights).max()


def test_it_is_chosen_for_long_real_double_lines_only(monkeypatch):
    calls = []
    real = long_filters.run
    monkeypatch.setattr(long_filters, "run", lambda *a: calls.append(1) or real(*a))
    u, d = signals(3000)
    adaptive.lms(u, d, mu=1e-4, taps=SHORTEST)
    assert calls
    calls.clear()
    adaptive.lms(u, d, mu=1e-4, taps=SHORTEST - 1)
    adaptive.lms(u.astype(np.float32), d.astype(np.float32), mu=1e-4, taps=SHORTEST)
    adaptive.lms(u + 0j, d, mu=1e-4, taps=SHORTEST)
    adaptive.lms(u[:500], d[:500], mu=1e-4, taps=SHORTEST)
    adaptive.lms(u, d, mu=1e-4, taps=SHORTEST, record=1000)
    assert not calls


def test_divergence_is_found_at_the_same_sample(direct):
    u, d = signals(6000)
    fast = adaptive.lms(u, d, mu=1.0, taps=SHORTEST)
    slow = direct(adaptive.lms, u, d, mu=1.0, taps=SHORTEST)
    assert fast.diverged_at is not None
    assert abs(fast.diverged_at - slow.diverged_at) <= 1
    assert np.isfinite(fast.error[: fast.diverged_at]).all()
    assert np.isnan(fast.error[fast.diverged_at :]).all()


def oracle(u, d, taps, mu, eps):
    """NLMS (LMS where eps is None) as the textbook writes it, and the scale of each rounding."""
    padded = np.concatenate([np.zeros(taps - 1), u])
    w, errors, scales = np.zeros(taps), np.empty(u.size), np.empty(u.size)
    largest = 0.0
    for n in range(u.size):
        x = padded[n : n + taps]
        e = d[n] - w @ x
        power = x @ x
        scale = 1.0 if eps is None else eps + power
        if scale > 0:
            w = w + mu / scale * e * x
        largest = max(largest, np.sqrt(w @ w))
        errors[n] = e
        scales[n] = abs(d[n]) + largest * np.sqrt(power)
    return errors, w[::-1], scales


def fade_out(rng, N):
    level = np.ones(N)
    level[N // 3 :] = 10.0 ** -rng.uniform(3, 12)
    return level


def decay(rng, N):
    return 10.0 ** (-rng.uniform(5, 30) * np.arange(N) / N)


def bursts(rng, N):
    return np.where(np.arange(N) // int(rng.integers(100, 3000)) % 2, 10.0 ** rng.uniform(1, 8), 1)


def digital_silence(rng, N):
    level = np.ones(N)
    start = int(rng.integers(0, N // 2))
    level[start : start + 3000] = 0.0
    return level


LEVELS = {f.__name__: f for f in (fade_out, decay, bursts, digital_silence)}


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), dither=st.booleans())
@pytest.mark.parametrize("kind", [None, 0.0, 1e-6])
@pytest.mark.parametrize("level", LEVELS)
def test_equals_the_recursion_whatever_the_level_does(level, kind, seed, dither):
    rng = np.random.default_rng(seed)
    N, taps = 6000, SHORTEST
    u = rng.standard_normal(N) * LEVELS[level](rng, N)
    d = np.convolve(u, rng.standard_normal(200))[:N]
    if dither:  # a 24-bit recording
        u, d = (np.round(x * 2**23 / 8 + rng.uniform(-0.5, 0.5, N)) * 8 / 2**23 for x in (u, d))
    if kind is None:
        mu = 0.3 / (taps * np.max(u**2))
        run = adaptive.lms(u, d, mu=mu, taps=taps)
    else:
        mu = 0.5
        run = adaptive.nlms(u, d, mu=mu, taps=taps, eps=kind)
    errors, weights, scales = oracle(u, d, taps, mu, kind)
    assert run.diverged_at is None
    # 6,000 updates of 2,048 roundings each, of which the square root adds up, with room
    assert np.all(np.abs(run.error - errors) <= 1e-11 * scales)
    assert np.abs(run.weights - weights).max() <= 1e-11 * np.linalg.norm(weights)


def test_a_fade_out_keeps_the_error_of_the_recursion(monkeypatch):
    monkeypatch.setattr(long_filters, "SHORTEST", 2048)
    rng = np.random.default_rng(0)
    N = 9000
    level = np.ones(N)
    level[3000:] = 1e-9
    u = rng.standard_normal(N) * level
    d = np.convolve(u, rng.standard_normal(2048) * np.exp(-np.arange(2048) / 200.0))[:N]
    run = adaptive.nlms(u, d, mu=0.5, taps=2048, eps=0.0)
    assert np.sqrt(np.mean(run.error[6000:] ** 2)) == pytest.approx(1.3075434e-9, rel=1e-6)
    assert np.linalg.norm(run.weights) == pytest.approx(9.975, abs=5e-4)
    stream = adaptive.NLMS(mu=0.5, eps=0.0).stream(taps=2048)
    parts = [stream.process(u[a : a + 500], d[a : a + 500]).error for a in range(0, N, 500)]
    joined = np.concatenate(parts)
    np.testing.assert_allclose(joined[6000:], run.error[6000:], rtol=0, atol=1e-20)
