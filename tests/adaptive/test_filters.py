"""The kernels against plain Python, and the laws they obey; run again without the JIT."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import adaptive
from tests.oracles import naive

KINDS = ["signal", "channels", "regressors"]


def data(kind, dtype, M=None, N=120, seed=0):
    rng = np.random.default_rng(seed)

    def draw(*shape):
        x = rng.standard_normal(shape)
        if np.issubdtype(dtype, np.complexfloating):
            x = x + 1j * rng.standard_normal(shape)
        return x.astype(dtype)

    shape = {"signal": (N,), "channels": (N, 2), "regressors": (N, 5)}[kind]
    taps = None if kind == "regressors" else 4
    u = draw(*shape)
    d = draw(N) if M is None else draw(N, M)
    U = {
        "signal": lambda: naive.delay_line(list(u), 4),
        "channels": lambda: naive.stacked_delay_lines(u, 4),
        "regressors": lambda: u.tolist(),
    }[kind]()
    return u, d, taps, U


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("M", [None, 1, 3])
@pytest.mark.parametrize("algorithm", ["lms", "nlms"])
def test_equals_plain_python(kind, dtype, M, algorithm):
    u, d, taps, U = data(kind, dtype, M)
    w0 = np.linspace(-1, 1, (1 if M is None else M) * len(U[0])).astype(dtype)
    w0 = w0 if M is None else w0.reshape(M, -1)
    if algorithm == "lms":
        run = adaptive.lms(u, d, mu=0.02, taps=taps, w0=w0, record="all")
    else:
        run = adaptive.nlms(u, d, mu=0.7, taps=taps, eps=0.3, w0=w0, record="all")
    for m in range(1 if M is None else M):
        column, start = (d, w0) if M is None else (d[:, m], w0[m])
        if algorithm == "lms":
            errors, history = naive.lms(U, column, 0.02, start)
        else:
            errors, history = naive.nlms(U, column, 0.7, 0.3, start)
        pick = (slice(None),) if M is None else (slice(None), m)
        np.testing.assert_allclose(run.error[pick], errors, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(run.history[pick], history, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(run.weights, run.history[-1])
    np.testing.assert_allclose(run.output + run.error, d, rtol=1e-14, atol=1e-14)
    assert run.diverged_at is None


@pytest.mark.parametrize(
    ("given_dtype", "kept"), [(np.float32, np.float32), (np.complex64, np.complex64)]
)
def test_single_precision_is_kept(given_dtype, kept):
    u, d, taps, _ = data("signal", given_dtype)
    for run in (
        adaptive.lms(u, d, mu=0.02, taps=taps, record="all"),
        adaptive.nlms(u, d, mu=0.5, taps=taps),
    ):
        assert run.error.dtype == run.output.dtype == run.weights.dtype == kept


def test_mixed_real_and_complex_input_runs_complex():
    u, _, taps, _ = data("signal", np.float64)
    d = np.exp(1j * np.arange(120.0))
    assert adaptive.lms(u, d, mu=0.01, taps=taps).weights.dtype == np.complex128


@pytest.mark.parametrize("record", [1, 7, 30, 120, 1000])
def test_history_rows_are_the_weights_after_multiples_of_record(record):
    u, d, taps, _ = data("signal", np.float64)
    every = adaptive.lms(u, d, mu=0.02, taps=taps, record="all").history
    some = adaptive.lms(u, d, mu=0.02, taps=taps, record=record).history
    np.testing.assert_array_equal(some, every[::record])


def test_no_history_unless_asked():
    u, d, taps, _ = data("signal", np.float64)
    assert adaptive.lms(u, d, mu=0.02, taps=taps).history is None


def test_step_size_may_be_an_array_or_a_function():
    u, d, taps, U = data("signal", np.float64)
    mus = 0.05 / (1 + np.arange(120.0))
    errors, _ = naive.lms(U, d, lambda n: mus[n])
    for mu in (mus, lambda n: 0.05 / (1 + n)):
        run = adaptive.lms(u, d, mu=mu, taps=taps)
        np.testing.assert_allclose(run.error, errors, rtol=1e-12, atol=1e-12)


def test_channels_stack_after_one_another():
    u, d, _, _ = data("channels", np.float64)
    w = np.arange(8.0)
    y = np.convolve(u[:, 0], w[:4])[:120] + np.convolve(u[:, 1], w[4:])[:120]
    run = adaptive.nlms(np.tile(u, (40, 1)), np.tile(y, 40), mu=0.5, taps=4)
    np.testing.assert_allclose(run.weights, w, atol=0.2)
    exact = adaptive.lms(u, d, mu=0.02, taps=4, w0=w)
    np.testing.assert_allclose(exact.output[0], w[0] * u[0, 0] + w[4] * u[0, 1], rtol=1e-14)


# --- divergence is a result -------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
@pytest.mark.parametrize("M", [None, 2])
@pytest.mark.parametrize("mu", [3.0, 50.0])
def test_diverged_at_is_the_first_error_that_is_not_finite(dtype, M, mu):
    u, d, taps, U = data("signal", dtype, M, N=700)
    run = adaptive.lms(u, d, mu=mu, taps=taps, record=100)
    with np.errstate(all="ignore"):
        columns = [d] if M is None else [d[:, m] for m in range(M)]
        U = np.array(U, dtype)
        expected = min(naive.first_non_finite(U, c, dtype(mu).real) for c in columns)
    # compiled sums run in another order, so overflow may come one sample earlier or later
    assert abs(run.diverged_at - expected) <= 1
    assert np.isfinite(run.error[: run.diverged_at]).all()
    assert np.isnan(run.error[run.diverged_at :]).all()
    rows = run.diverged_at // 100 + 1
    assert np.isfinite(run.history[: rows - 1]).all()
    assert np.isnan(run.history[rows:]).all()


def test_divergence_in_the_very_last_update_is_seen():
    run = adaptive.lms(np.array([1e200]), np.array([1e200]), mu=1.0, taps=1)
    assert run.error[0] == 1e200
    assert run.diverged_at == 1


def test_a_run_below_the_bound_does_not_diverge():
    u, d, taps, _ = data("signal", np.float64, N=2000)
    assert adaptive.lms(u, d, mu=0.1, taps=taps).diverged_at is None


# --- laws -------------------------------------------------------------------------------------

SEEDS = st.integers(0, 2**32 - 1)


@given(seed=SEEDS, L=st.integers(1, 7), normalised=st.booleans())
@settings(max_examples=30, deadline=None)
def test_rotating_the_regressors_rotates_the_weights(seed, L, normalised):
    """u -> Q u: w -> Q w, errors unchanged, for any orthogonal Q."""
    rng = np.random.default_rng(seed)
    U, d, w0 = rng.standard_normal((60, L)), rng.standard_normal(60), rng.standard_normal(L)
    Q = np.linalg.qr(rng.standard_normal((L, L)))[0]

    def run(regressors, start):
        if normalised:
            return adaptive.nlms(regressors, d, mu=0.5, eps=0.1, w0=start)
        return adaptive.lms(regressors, d, mu=0.2 / L, w0=start)

    plain, rotated = run(U, w0), run(U @ Q.T, Q @ w0)
    np.testing.assert_allclose(rotated.error, plain.error, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(rotated.weights, Q @ plain.weights, rtol=1e-9, atol=1e-9)


@given(seed=SEEDS, power=st.integers(-100, 100), taps=st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_nlms_without_eps_ignores_the_input_scale(seed, power, taps):
    """u -> c u: errors unchanged, weights divided by c. Exactly so for a power of two."""
    rng = np.random.default_rng(seed)
    u, d = rng.standard_normal(80), rng.standard_normal(80)
    one = adaptive.nlms(u, d, mu=0.5, taps=taps, eps=0.0)
    scaled = adaptive.nlms(2.0**power * u, d, mu=0.5, taps=taps, eps=0.0)
    np.testing.assert_array_equal(scaled.error, one.error)
    np.testing.assert_array_equal(scaled.weights * 2.0**power, one.weights)


@given(seed=SEEDS, mu=st.floats(0.01, 1.99), L=st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_noiseless_nlms_never_moves_away_from_the_system(seed, mu, L):
    """|w(n) - w_o| does not increase for 0 < mu < 2: a theorem for any input without noise."""
    rng = np.random.default_rng(seed)
    U, w_o = rng.standard_normal((50, L)), rng.standard_normal(L)
    run = adaptive.nlms(U, U @ w_o, mu=mu, eps=0.0, record="all")
    distance = np.linalg.norm(run.history - w_o, axis=1)
    assert np.all(np.diff(distance) <= 1e-12 * distance[0])


def test_nlms_survives_silence_and_what_follows_it():
    rng = np.random.default_rng(0)
    u = 1e8 * rng.standard_normal(400)
    u[100:200] = 0
    u[200:] *= 1e-12
    d = np.convolve(u, [1.0, 0.5, -0.25])[:400]
    run = adaptive.nlms(u, d, mu=0.8, taps=3, eps=0.0, record="all")
    assert run.diverged_at is None
    np.testing.assert_array_equal(run.history[110], run.history[190])
    _, history = naive.nlms(naive.delay_line(list(u), 3), d, 0.8, 0.0)
    # a running power that subtracts what leaves the window would have lost the quiet part
    np.testing.assert_allclose(run.history, history, rtol=1e-9, atol=1e-9)


# --- bad input: one sentence each -------------------------------------------------------------

GOOD = np.linspace(-1, 1, 20)


def bad(value, at=3):
    x = GOOD.copy()
    x[at] = value
    return x


@pytest.mark.parametrize("run", [adaptive.lms, adaptive.nlms])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"u": bad(np.nan)}, ValueError, "u must be finite; got nan at index 3"),
        ({"d": bad(np.inf, 0)}, ValueError, "d must be finite; got inf at index 0"),
        ({"u": GOOD > 0}, TypeError, r"u must be float32, .* got bool: convert it first"),
        ({"d": GOOD > 0}, TypeError, r"d must be float32, .* got bool: convert it first"),
        ({"u": np.empty(0)}, ValueError, r"u must not be empty; got shape \(0,\)"),
        ({"d": np.empty(0)}, ValueError, r"d must not be empty; got shape \(0,\)"),
        ({"u": np.ones((2, 2, 2))}, ValueError, r"u must be 1-D or 2-D; got shape \(2, 2, 2\)"),
        ({"d": GOOD[:7]}, ValueError, r"d must have as many samples as u, 20; got shape \(7,\)"),
        ({"mu": -1.0}, ValueError, "mu must be zero or positive; got -1.0"),
        ({"mu": np.nan}, ValueError, "mu must be finite; got nan"),
        ({"mu": "fast"}, TypeError, "mu must be a real number; got 'fast'"),
        ({"mu": np.ones(3)}, ValueError, r"mu must be a number or hold one per sample, 20"),
        ({"mu": np.where(GOOD > 0.9, -0.5, 0.1)}, ValueError, "mu must be zero or positive; got"),
        ({"mu": lambda n: 1.0 - n}, ValueError, "mu must be zero or positive; got -1.0"),
        ({"taps": 0}, ValueError, "taps must be at least 1; got 0"),
        ({"taps": 2.5}, TypeError, "taps must be a whole number; got 2.5"),
        ({"taps": None}, ValueError, r"u must be \(N, L\) regressors when taps is not given"),
        ({"w0": np.ones(3)}, ValueError, r"w0 must have shape \(4,\); got \(3,\)"),
        ({"w0": np.ones(4) * 1j}, TypeError, "w0 must be real where u and d are real"),
        ({"record": "some"}, ValueError, 'record must be "last", "all" or a whole number'),
        ({"record": 0}, ValueError, "record must be at least 1; got 0"),
    ],
)
def test_bad_input(run, arguments, error, message):
    with pytest.raises(error, match=message):
        run(**{"u": GOOD, "d": GOOD, "mu": 0.1, "taps": 4, **arguments})


def test_nlms_refuses_silence_without_eps():
    with pytest.raises(ValueError, match="u must not be all zero when eps is None"):
        adaptive.nlms(np.zeros(10), np.ones(10), mu=0.5, taps=3)
    run = adaptive.nlms(np.zeros(10), np.ones(10), mu=0.5, taps=3, eps=1e-3)
    np.testing.assert_array_equal(run.weights, np.zeros(3))


def test_nlms_refuses_negative_eps():
    with pytest.raises(ValueError, match="eps must be zero or positive; got -1"):
        adaptive.nlms(GOOD, GOOD, mu=0.5, taps=3, eps=-1.0)
