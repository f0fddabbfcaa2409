"""The FFT form for long delay lines is LMS itself: checked against the direct kernel."""

import numpy as np
import pytest

import adaptive
from adaptive import long_filters


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


@pytest.mark.parametrize("taps", [2048, 2500, 4096])
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
    adaptive.lms(u, d, mu=1e-4, taps=2048)
    assert calls
    calls.clear()
    adaptive.lms(u, d, mu=1e-4, taps=2047)
    adaptive.lms(u.astype(np.float32), d.astype(np.float32), mu=1e-4, taps=2048)
    adaptive.lms(u + 0j, d, mu=1e-4, taps=2048)
    adaptive.lms(u[:500], d[:500], mu=1e-4, taps=2048)
    adaptive.lms(u, d, mu=1e-4, taps=2048, record=1000)
    assert not calls


def test_divergence_is_found_at_the_same_sample(direct):
    u, d = signals(6000)
    fast = adaptive.lms(u, d, mu=1.0, taps=2048)
    slow = direct(adaptive.lms, u, d, mu=1.0, taps=2048)
    assert fast.diverged_at is not None
    assert abs(fast.diverged_at - slow.diverged_at) <= 1
    assert np.isfinite(fast.error[: fast.diverged_at]).all()
    assert np.isnan(fast.error[fast.diverged_at :]).all()
