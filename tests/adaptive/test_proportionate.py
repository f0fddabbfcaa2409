"""Proportionate steps: what they reduce to, and what they are for."""

import numpy as np
import pytest

import adaptive


def signals(taps, seed=0, dtype=float):
    rng = np.random.default_rng(seed)
    u, h = rng.standard_normal(600), np.zeros(taps)
    h[taps // 3] = 1.0
    d = np.convolve(u, h)[:600] + 1e-3 * rng.standard_normal(600)
    return u, d, h


def test_equal_gains_are_nlms_and_affine_projection():
    u, d, _ = signals(8)
    mine = adaptive.ipnlms(u, d, mu=0.5, alpha=-1.0, eps=0.1, taps=8)
    nlms = adaptive.nlms(u, d, mu=0.5, eps=0.1, taps=8)
    np.testing.assert_allclose(mine.error, nlms.error, rtol=1e-10, atol=1e-12)
    mine = adaptive.proportionate_affine_projection(
        u, d, mu=0.5, order=3, alpha=-1.0, eps=0.1, taps=8
    )
    plain = adaptive.affine_projection(u, d, mu=0.5, order=3, eps=0.1, taps=8)
    np.testing.assert_allclose(mine.error, plain.error, rtol=1e-9, atol=1e-11)


def test_a_sparse_response_is_found_sooner_than_by_nlms():
    u, d, h = signals(64)
    away = [
        np.linalg.norm(run.weights - h)
        for run in (
            adaptive.ipnlms(u[:150], d[:150], mu=0.5, alpha=0.5, taps=64),
            adaptive.nlms(u[:150], d[:150], mu=0.5, taps=64),
        )
    ]
    assert away[0] < 0.5 * away[1]


def test_outputs_have_gains_of_their_own():
    u, d, _ = signals(8)
    both = adaptive.ipnlms(u, np.stack([d, -2 * d**2], axis=1), mu=0.5, alpha=0.3, taps=8)
    for m, wanted in enumerate((d, -2 * d**2)):
        one = adaptive.ipnlms(u, wanted, mu=0.5, alpha=0.3, taps=8)
        np.testing.assert_array_equal(both.error[:, m], one.error)


def test_silence_and_a_step_of_zero_change_nothing():
    u, d, h = signals(8)
    silent = adaptive.ipnlms(0 * u, d, mu=0.5, eps=0.0, taps=8, w0=h)
    np.testing.assert_array_equal(silent.weights, h)
    frozen = adaptive.ipnlms(u, d, mu=0.0, taps=8, w0=h)
    np.testing.assert_array_equal(frozen.weights, h)


@pytest.mark.parametrize("alpha", [1.0, -1.1])
def test_alpha_is_checked(alpha):
    with pytest.raises(ValueError, match=rf"alpha must be in \[-1, 1\); got {alpha}"):
        adaptive.IPNLMS(mu=0.5, alpha=alpha)


def test_order_is_one_for_ipnlms():
    with pytest.raises(ValueError, match="order must be 1 for ipnlms; got 2"):
        adaptive.IPNLMS(mu=0.5, order=2)
