"""Every algorithm against its textbook recursion in plain Python, and as a stream.

Runs once more with the JIT disabled.
"""

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
import scipy.fft
from hypothesis import given, settings
from hypothesis import strategies as st

import adaptive
from tests.oracles import naive, naive_filters

TAPS = 4
N = 90


@dataclass
class Case:
    run: object
    stream: type
    options: dict
    oracle: object = None
    only_signals: bool = False
    own: dict = field(default_factory=dict)


def _dct_oracle(U, d, w, mu, eps, forgetting):
    """Weights and regressors through the DCT; powers of the bins, from the first sample on."""
    bins = scipy.fft.dct(np.array(U)[:, ::-1], axis=1, norm="ortho")
    start = scipy.fft.dct(np.array(w)[::-1], norm="ortho")
    errors, history = naive_filters.power_normalized_lms(
        bins, d, start, mu, eps, forgetting, lambda n: [bins[: n + 1, k] for k in range(len(w))]
    )
    return errors, scipy.fft.idct(history, axis=1, norm="ortho")[:, ::-1]


def _delay_line_powers(U, d, w, mu, eps, forgetting):
    """Tap k sees its channel k samples ago; before the signal began, nothing."""
    u = [row[0] for row in U]
    return naive_filters.power_normalized_lms(
        U, d, w, mu, eps, forgetting, lambda n: [u[: max(n + 1 - k, 0)] for k in range(len(w))]
    )


CASES = {
    "lms": Case(
        adaptive.lms,
        adaptive.LMS,
        {"mu": 0.03},
        lambda U, d, w, mu: naive.lms(U, d, mu, w),
    ),
    "nlms": Case(
        adaptive.nlms,
        adaptive.NLMS,
        {"mu": 0.7, "eps": 0.2},
        lambda U, d, w, mu, eps: naive.nlms(U, d, mu, eps, w),
    ),
    "leaky": Case(
        adaptive.leaky_lms,
        adaptive.LeakyLMS,
        {"mu": 0.03, "leakage": 0.5},
        naive_filters.leaky_lms,
    ),
    "leaky, normalised": Case(
        adaptive.leaky_nlms,
        adaptive.LeakyNLMS,
        {"mu": 0.7, "leakage": 0.05, "eps": 0.2},
        naive_filters.leaky_nlms,
    ),
    "sign-error": Case(
        adaptive.sign_error_lms, adaptive.SignErrorLMS, {"mu": 0.02}, naive_filters.sign_error_lms
    ),
    "sign-data": Case(
        adaptive.sign_data_lms, adaptive.SignDataLMS, {"mu": 0.02}, naive_filters.sign_data_lms
    ),
    "sign-sign": Case(
        adaptive.sign_sign_lms, adaptive.SignSignLMS, {"mu": 0.01}, naive_filters.sign_sign_lms
    ),
    "momentum": Case(
        adaptive.momentum_lms,
        adaptive.MomentumLMS,
        {"mu": 0.01, "momentum": 0.6},
        naive_filters.momentum_lms,
    ),
    "block": Case(
        adaptive.block_lms, adaptive.BlockLMS, {"mu": 0.2, "block": 7}, naive_filters.block_lms
    ),
    "power-normalised": Case(
        adaptive.power_normalized_lms,
        adaptive.PowerNormalizedLMS,
        {"mu": 0.1, "eps": 0.1, "forgetting": 0.9},
        _delay_line_powers,
    ),
    "transform-domain": Case(
        adaptive.transform_domain_lms,
        adaptive.TransformDomainLMS,
        {"mu": 0.1, "eps": 0.1, "forgetting": 0.9},
        _dct_oracle,
        only_signals=True,
    ),
    "affine projection": Case(
        adaptive.affine_projection,
        adaptive.AffineProjection,
        {"mu": 0.5, "order": 3, "eps": 0.01},
        naive_filters.affine_projection,
    ),
    "rls": Case(adaptive.rls, adaptive.RLS, {"forgetting": 0.95, "delta": 0.1}, naive_filters.rls),
    "newton": Case(
        adaptive.lms_newton,
        adaptive.LMSNewton,
        {"mu": 0.03, "forgetting": 0.95, "delta": 0.3},
        naive_filters.lms_newton,
    ),
    "filtered-x": Case(
        adaptive.filtered_x_lms,
        adaptive.FilteredXLMS,
        {"mu": 0.02, "secondary": (0.0, 0.8, -0.3), "model": (0.1, 0.7)},
        naive_filters.filtered_x_lms,
    ),
    "filtered-x, normalised": Case(
        adaptive.filtered_x_nlms,
        adaptive.FilteredXNLMS,
        {"mu": 0.2, "secondary": (0.0, 0.8, -0.3), "eps": 0.1},
        naive_filters.filtered_x_nlms,
    ),
    "frequency-domain": Case(
        adaptive.frequency_domain_lms,
        adaptive.FrequencyDomainLMS,
        {"mu": 0.2, "block": 3, "normalize": False},
        lambda U, d, w, mu, block, normalize: naive_filters.block_lms(U, d, w, mu, block),
        only_signals=True,
    ),
    "frequency-domain, normalised": Case(
        adaptive.frequency_domain_lms,
        adaptive.FrequencyDomainLMS,
        {"mu": 0.4, "block": 3, "eps": 0.1},
        only_signals=True,
    ),
}


def draw(shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape)
    if np.issubdtype(dtype, np.complexfloating):
        x = x + 1j * rng.standard_normal(shape)
    return x.astype(dtype)


@pytest.mark.parametrize("name", [n for n in CASES if CASES[n].oracle])
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("outputs", [None, 2, 11])
def test_equals_the_textbook(name, dtype, outputs):
    case = CASES[name]
    u, w0 = draw(N, dtype), draw(((outputs or 1), TAPS), dtype, 1)
    d = draw((N, outputs or 1), dtype, 2)
    start, desired = (w0[0], d[:, 0]) if outputs is None else (w0, d)
    run = case.run(u, desired, taps=TAPS, w0=start, record="all", **case.options)
    U = naive.delay_line(list(u), TAPS)
    for m in range(outputs or 1):
        errors, history = case.oracle(U, d[:, m], w0[m], **case.options)
        pick = (slice(None),) if outputs is None else (slice(None), m)
        np.testing.assert_allclose(run.error[pick], errors, rtol=1e-11, atol=1e-11)
        np.testing.assert_allclose(run.history[pick], history, rtol=1e-11, atol=1e-11)
    np.testing.assert_array_equal(run.weights, run.history[-1])


@pytest.mark.parametrize("name", [n for n in CASES if not CASES[n].only_signals])
def test_given_regressors_equal_the_delay_line_they_came_from(name):
    case = CASES[name]
    u, d = draw(N, np.float64), draw(N, np.float64, 2)
    if name == "power-normalised":
        u[: TAPS - 1] = 0  # a given tap counts the zeros before the signal, a delay line does not
        options = {**case.options, "forgetting": 0.0}
    else:
        options = case.options
    line = case.run(u, d, taps=TAPS, **options)
    given_rows = case.run(np.array(naive.delay_line(list(u), TAPS)), d, **options)
    np.testing.assert_allclose(given_rows.error, line.error, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(given_rows.weights, line.weights, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", CASES)
def test_channels_equal_stacked_regressors(name):
    """Two channels one after the other, each newest first; a silent channel changes nothing."""
    case = CASES[name]
    u, d = draw((N, 2), np.float64), draw(N, np.float64, 2)
    w0 = draw(2 * TAPS, np.float64, 3)
    both = case.run(u, d, taps=TAPS, w0=w0, record="all", **case.options)
    np.testing.assert_array_equal(both.history[0].round(12), w0.round(12))
    lines = np.array(naive.stacked_delay_lines(u, TAPS))
    outputs = np.einsum("nl,nl->n", lines, both.history[:-1])
    outputs = np.convolve(outputs, case.options.get("secondary", [1.0]))[:N]
    np.testing.assert_allclose(both.output, outputs, rtol=1e-10, atol=1e-10)
    silent = u * [1.0, 0.0]
    one = case.run(u[:, 0], d, taps=TAPS, **case.options)
    two = case.run(silent, d, taps=TAPS, **case.options)
    if "domain" in name or name == "power-normalised":
        assert np.abs(two.weights[TAPS:]).max() == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(two.error, one.error, rtol=1e-9, atol=1e-9)


@settings(max_examples=12, deadline=None)
@given(cuts=st.lists(st.integers(0, N), max_size=6), outputs=st.sampled_from([None, 3, 40]))
@pytest.mark.parametrize("name", CASES)
def test_any_split_into_blocks_gives_the_same_numbers(name, cuts, outputs):
    case = CASES[name]
    u, d = draw((N, 2), np.float64), draw((N, outputs or 1), np.float64, 2)
    d = d[:, 0] if outputs is None else d
    whole = case.run(u, d, taps=TAPS, **case.options)
    stream = case.stream(**case.options).stream(taps=TAPS)
    edges = sorted({0, N, *cuts})
    parts = [stream.process(u[a:b], d[a:b]) for a, b in pairwise(edges)]
    joined = np.concatenate([p.error for p in parts])
    if "frequency" in name:  # the FFT of a block still filling up rounds differently
        np.testing.assert_allclose(joined, whole.error, rtol=1e-11, atol=1e-11)
        np.testing.assert_allclose(stream.weights, whole.weights, rtol=1e-11, atol=1e-11)
    else:
        np.testing.assert_array_equal(joined, whole.error)
        np.testing.assert_array_equal(stream.weights, whole.weights)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
def test_single_precision_is_kept_and_follows_double(name, dtype):
    case = CASES[name]
    double = np.complex128 if dtype == np.complex64 else np.float64
    u, d = draw(N, dtype), draw(N, dtype, 2)
    run = case.run(u, d, taps=TAPS, record=10, **case.options)
    assert {run.error.dtype, run.output.dtype, run.weights.dtype, run.history.dtype} == {
        np.dtype(dtype)
    }
    exact = case.run(u.astype(double), d.astype(double), taps=TAPS, **case.options)
    scale = np.abs(exact.error).max()
    # 90 steps of a stable recursion in single precision: 90 roundings of 6e-8, with room
    assert np.abs(run.error - exact.error).max() < 90 * 6e-8 * 20 * scale


@pytest.mark.parametrize("name", CASES)
def test_state_can_be_saved_and_reset_forgets(name):
    case = CASES[name]
    u, d = draw(N, np.float64), draw(N, np.float64, 2)
    stream = case.stream(**case.options).stream(taps=TAPS)
    stream.process(u[:41], d[:41])
    saved = stream.state
    first = stream.process(u[41:], d[41:])
    stream.state = saved
    second = stream.process(u[41:], d[41:])
    np.testing.assert_array_equal(first.error, second.error)
    stream.reset()
    assert stream.weights is None
    again = stream.process(u, d)
    np.testing.assert_array_equal(again.error, case.run(u, d, taps=TAPS, **case.options).error)


@pytest.mark.parametrize("name", CASES)
def test_silence_changes_nothing_and_leaves_no_nan(name):
    case = CASES[name]
    u, d = draw(N, np.float64), draw(N, np.float64, 2)
    u[20:60], d[20:60] = 0, 0
    run = case.run(u, d, taps=TAPS, record="all", **case.options)
    assert run.diverged_at is None
    assert np.isfinite(run.history).all()
    np.testing.assert_allclose(run.error[30:55], 0, atol=1e-12)


@pytest.mark.parametrize(
    "name", ["lms", "leaky", "sign-data", "momentum", "block", "frequency-domain"]
)
def test_divergence_is_a_result_in_one_call_and_in_blocks(name):
    case = CASES[name]
    u, d = draw(4000, np.float64), draw(4000, np.float64, 2)
    options = {**case.options, "mu": 50.0}
    whole = case.run(u, d, taps=TAPS, record=100, **options)
    assert whole.diverged_at is not None
    assert np.isfinite(whole.error[: whole.diverged_at]).all()
    assert np.isnan(whole.error[whole.diverged_at :]).all()
    stream = case.stream(**options).stream(taps=TAPS)
    parts = [stream.process(u[a : a + 333], d[a : a + 333]) for a in range(0, 4000, 333)]
    assert stream.diverged_at == parts[-1].diverged_at == whole.diverged_at
    joined = np.concatenate([p.error for p in parts])
    np.testing.assert_array_equal(np.isnan(joined), np.isnan(whole.error))


# --- each algorithm's own promises ------------------------------------------------------------


def test_leaky_lms_settles_at_the_ridge_solution():
    u = draw(200_000, np.float64)
    d = np.convolve(u, [1.0, -0.5])[: u.size]
    run = adaptive.leaky_lms(u, d, mu=1e-4, leakage=0.5, taps=2)
    np.testing.assert_allclose(run.weights, np.array([1.0, -0.5]) / 1.5, atol=5 * 1e-2)


def test_affine_projection_of_order_one_is_nlms():
    u, d = draw(N, np.float64), draw(N, np.float64, 2)
    a = adaptive.affine_projection(u, d, mu=0.4, order=1, eps=0.3, taps=TAPS)
    b = adaptive.nlms(u, d, mu=0.4, eps=0.3, taps=TAPS)
    np.testing.assert_allclose(a.error, b.error, rtol=1e-11, atol=1e-12)


def test_affine_projection_with_unit_step_fits_the_last_samples_exactly():
    u, d = draw(N, np.float64), draw(N, np.float64, 2)
    run = adaptive.affine_projection(u, d, mu=1.0, order=3, eps=0.0, taps=TAPS)
    U = np.array(naive.delay_line(list(u), TAPS))
    np.testing.assert_allclose(U[-3:] @ run.weights, d[-3:], rtol=1e-9)


def test_rls_is_regularised_least_squares():
    u, d = draw(N, np.float64), draw(N, np.float64, 2)
    run = adaptive.rls(u, d, forgetting=0.97, delta=0.3, taps=TAPS)
    U = np.array(naive.delay_line(list(u), TAPS))
    weight = 0.97 ** np.arange(N)[::-1]
    R = (U * weight[:, None]).T @ U + 0.3 * 0.97**N * np.eye(TAPS)
    np.testing.assert_allclose(run.weights, np.linalg.solve(R, U.T @ (weight * d)), rtol=1e-9)


def test_sign_error_lms_moves_by_at_most_mu_u():
    u, d = draw(N, np.float64), 1e9 * draw(N, np.float64, 2)
    run = adaptive.sign_error_lms(u, d, mu=0.01, taps=TAPS, record="all")
    U = np.array(naive.delay_line(list(u), TAPS))
    np.testing.assert_allclose(np.abs(np.diff(run.history, axis=0)), 0.01 * np.abs(U), atol=1e-12)


@pytest.mark.parametrize("block", [1, 2, 5, 8, 11])
@pytest.mark.parametrize("taps", [1, 5, 8])
def test_frequency_domain_lms_is_block_lms_for_any_partition(block, taps):
    u, d = draw((N, 2), np.complex128), draw((N, 2), np.complex128, 2)
    a = adaptive.frequency_domain_lms(u, d, mu=0.1, taps=taps, block=block, normalize=False)
    b = adaptive.block_lms(u, d, mu=0.1, taps=taps, block=block)
    np.testing.assert_allclose(a.error, b.error, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(a.weights, b.weights, rtol=1e-10, atol=1e-10)


def test_normalising_frequencies_learns_a_coloured_input_faster():
    rng = np.random.default_rng(0)
    lines = adaptive.AutoRegressive([0.95], taps=1).draw(rng, 20_000)
    u = lines.rows[:, 0]
    w_o = rng.standard_normal(32)
    d = np.convolve(u, w_o)[: u.size]

    def misalignment(**options):
        run = adaptive.frequency_domain_lms(u, d, taps=32, block=16, **options)
        return np.linalg.norm(run.weights - w_o)

    plain = min(misalignment(mu=m, normalize=False) for m in (0.01, 0.02, 0.04))
    assert misalignment(mu=0.5) < plain / 3


# --- bad input --------------------------------------------------------------------------------

GOOD = np.linspace(-1, 1, 20)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: adaptive.leaky_lms(GOOD, GOOD, mu=0.1, leakage=-1.0, taps=2),
            ValueError,
            "leakage must be zero or positive; got -1.0",
        ),
        (
            lambda: adaptive.momentum_lms(GOOD, GOOD, mu=0.1, momentum=1.0, taps=2),
            ValueError,
            "momentum must be less than 1; got 1.0",
        ),
        (
            lambda: adaptive.block_lms(GOOD, GOOD, mu=0.1, block=0, taps=2),
            ValueError,
            "block must be at least 1; got 0",
        ),
        (
            lambda: adaptive.power_normalized_lms(GOOD, GOOD, mu=0.1, forgetting=1.0, taps=2),
            ValueError,
            "forgetting must be less than 1; got 1.0",
        ),
        (
            lambda: adaptive.power_normalized_lms(0 * GOOD, GOOD, mu=0.1, taps=2),
            ValueError,
            "u must not be all zero when eps is None",
        ),
        (
            lambda: adaptive.affine_projection(GOOD, GOOD, mu=0.1, order=0, taps=2),
            ValueError,
            "order must be at least 1; got 0",
        ),
        (
            lambda: adaptive.rls(GOOD, GOOD, forgetting=1.5, taps=2),
            ValueError,
            "forgetting must be at most 1; got 1.5",
        ),
        (
            lambda: adaptive.rls(GOOD, GOOD, delta=0.0, taps=2),
            ValueError,
            "delta must be positive; got 0.0",
        ),
        (
            lambda: adaptive.rls(0 * GOOD, GOOD, taps=2),
            ValueError,
            "u must not be all zero when delta is None",
        ),
        (
            lambda: adaptive.frequency_domain_lms(GOOD, GOOD, mu=0.1, taps=2, block=-1),
            ValueError,
            "block must be at least 1; got -1",
        ),
    ],
)
def test_bad_options(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_block_must_look_like_the_first():
    stream = adaptive.LMS(mu=0.1).stream(taps=2)
    stream.process(GOOD, GOOD)
    with pytest.raises(TypeError, match="u and d must stay float64 as in the first block; got com"):
        stream.process(GOOD, GOOD * 1j)
    with pytest.raises(ValueError, match="u must have 1 channels as in the first block"):
        stream.process(np.ones((20, 2)), GOOD)
    with pytest.raises(ValueError, match=r"d must have 1 outputs as in the first block"):
        stream.process(GOOD, np.ones((20, 2)))
    regress = adaptive.LMS(mu=0.1).stream()
    regress.process(np.ones((5, 3)), np.ones(5))
    with pytest.raises(ValueError, match="u must have 3 taps as in the first block; got 4"):
        regress.process(np.ones((5, 4)), np.ones(5))
    short = adaptive.LMS(mu=np.full(25, 0.1)).stream(taps=2)
    short.process(GOOD, GOOD)
    with pytest.raises(ValueError, match=r"mu must be a number or hold one per sample, 40"):
        short.process(GOOD, GOOD)
