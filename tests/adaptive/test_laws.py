"""Laws that each algorithm obeys for any data: linearity, units, rotations, kinds of number."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.adaptive.test_algorithms import CASES, TAPS

SAMPLES = 40

DATA = st.integers(0, 2**32 - 1)
SCALES = st.floats(1e-3, 1e3)

SIGNED = {"sign-error", "sign-sign"}  # not linear in d: there mu carries the units of the weights
# the units of u in which mu or the regularisation is given: mu -> mu / c^power
STEP_PER_INPUT = {
    "lms": 2,
    "leaky": 2,
    "momentum": 2,
    "block": 2,
    "frequency-domain": 2,
    "sign-data": 1,
    "sign-error": 2,
    "sign-sign": 1,
    "filtered-x": 2,
}
ROTATES = [
    "lms", "nlms", "leaky", "leaky, normalised", "sign-error", "momentum", "block",
    "affine projection", "rls",
]  # fmt: skip


def draw(seed, *shapes, dtype=np.float64):
    rng = np.random.default_rng(seed)
    for shape in shapes:
        x = rng.standard_normal(shape)
        if np.issubdtype(dtype, np.complexfloating):
            x = x + 1j * rng.standard_normal(shape)
        yield x.astype(dtype)


def chancy(name, *errors):
    """Whether an error is so small that rounding may turn its sign, for the sign algorithms."""
    parts = [p for e in errors for p in ((e.real, e.imag) if np.iscomplexobj(e) else (e,))]
    return "sign" in name and any(np.abs(p).min() < 1e-6 for p in parts)


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9 * np.abs(b).max())


@settings(max_examples=15, deadline=None)
@given(seed=DATA, scale=SCALES, phase=st.floats(0, 2 * np.pi))
@pytest.mark.parametrize("name", [n for n in CASES if n not in SIGNED])
def test_errors_and_weights_scale_with_d(name, seed, scale, phase):
    """d -> c d gives e -> c e and w -> c* w, c complex."""
    case = CASES[name]
    u, d, w0 = draw(seed, SAMPLES, SAMPLES, TAPS, dtype=complex)
    c = scale * np.exp(1j * phase)
    one = case.run(u, d, taps=TAPS, w0=w0, **case.options)
    other = case.run(u, c * d, taps=TAPS, w0=np.conj(c) * w0, **case.options)
    close(other.error, c * one.error)
    close(other.weights, np.conj(c) * one.weights)


@settings(max_examples=15, deadline=None)
@given(seed=DATA)
@pytest.mark.parametrize("name", [n for n in CASES if n not in SIGNED])
def test_superposition(name, seed):
    """The run on d_1 + d_2 is the sum of the runs: linear in d for a given u."""
    case = CASES[name]
    u, first, second = draw(seed, SAMPLES, SAMPLES, SAMPLES)
    runs = [case.run(u, d, taps=TAPS, **case.options) for d in (first, second, first + second)]
    close(runs[2].error, runs[0].error + runs[1].error)
    close(runs[2].weights, runs[0].weights + runs[1].weights)


@settings(max_examples=15, deadline=None)
@given(seed=DATA, scale=SCALES)
@pytest.mark.parametrize("name", sorted(SIGNED))
def test_sign_algorithms_scale_with_d_and_mu(name, seed, scale):
    case = CASES[name]
    u, d, w0 = draw(seed, SAMPLES, SAMPLES, TAPS)
    c = 2.0 ** round(np.log2(scale))  # a rounded error near zero may change its sign
    one = case.run(u, d, taps=TAPS, w0=w0, **case.options)
    other = case.run(u, c * d, taps=TAPS, w0=c * w0, mu=c * case.options["mu"])
    np.testing.assert_array_equal(other.error, c * one.error)
    np.testing.assert_array_equal(other.weights, c * one.weights)


@settings(max_examples=15, deadline=None)
@given(seed=DATA, exponent=st.integers(-40, 40))
@pytest.mark.parametrize("name", CASES)
def test_units_of_the_input(name, seed, exponent):
    """u -> c u with mu, eps, delta, leakage in their units gives the same errors and w / c."""
    case = CASES[name]
    u, d, w0 = draw(seed, SAMPLES, SAMPLES, TAPS)
    c = 2.0**exponent
    options = dict(case.options)
    for regularisation in ("eps", "delta", "leakage"):
        pure = regularisation == "leakage" and name not in STEP_PER_INPUT
        if regularisation in options and not pure:
            options[regularisation] *= c**2
    if name in STEP_PER_INPUT:
        options["mu"] /= c ** STEP_PER_INPUT[name]
    one = case.run(u, d, taps=TAPS, w0=w0, **case.options)
    other = case.run(c * u, d, taps=TAPS, w0=w0 / c, **options)
    close(other.error, one.error)
    close(c * other.weights, one.weights)


@settings(max_examples=15, deadline=None)
@given(seed=DATA, dtype=st.sampled_from([np.float64, np.complex128]))
@pytest.mark.parametrize("name", ROTATES)
def test_rotated_regressors_give_rotated_weights(name, seed, dtype):
    """u -> Q u, w0 -> Q w0, Q unitary: the same errors, and w -> Q w."""
    case = CASES[name]
    U, d, w0, square = draw(seed, (SAMPLES, TAPS), SAMPLES, TAPS, (TAPS, TAPS), dtype=dtype)
    Q, _ = np.linalg.qr(square)
    one = case.run(U, d, w0=w0, **case.options)
    if chancy(name, one.error):
        return
    other = case.run(U @ Q.T, d, w0=Q @ w0, **case.options)
    close(other.error, one.error)
    close(other.weights, Q @ one.weights)


@pytest.mark.parametrize("name", ["sign-data", "sign-sign", "power-normalised"])
def test_the_others_prefer_the_axes_they_are_given(name):
    case = CASES[name]
    U, d, square = draw(0, (SAMPLES, TAPS), SAMPLES, (TAPS, TAPS))
    Q, _ = np.linalg.qr(square)
    one, other = case.run(U, d, **case.options), case.run(U @ Q.T, d, **case.options)
    assert np.abs(other.error - one.error).max() > 1e-3


@settings(max_examples=10, deadline=None)
@given(seed=DATA, order=st.permutations(range(TAPS)))
@pytest.mark.parametrize("name", [n for n in CASES if not CASES[n].only_signals])
def test_taps_have_no_order_where_regressors_are_given(name, seed, order):
    case = CASES[name]
    U, d, w0 = draw(seed, (SAMPLES, TAPS), SAMPLES, TAPS)
    one = case.run(U, d, w0=w0, **case.options)
    other = case.run(U[:, order], d, w0=w0[list(order)], **case.options)
    if chancy(name, one.error):
        return
    close(other.error, one.error)
    close(other.weights, one.weights[list(order)])


@settings(max_examples=10, deadline=None)
@given(seed=DATA)
@pytest.mark.parametrize("name", CASES)
def test_real_signals_are_complex_ones_without_an_imaginary_part(name, seed):
    case = CASES[name]
    u, d, w0 = draw(seed, SAMPLES, SAMPLES, TAPS)
    real = case.run(u, d, taps=TAPS, w0=w0, **case.options)
    embedded = case.run(u + 0j, d + 0j, taps=TAPS, w0=w0 + 0j, **case.options)
    if chancy(name, real.error):
        return
    close(embedded.error, real.error + 0j)
    close(embedded.weights, real.weights + 0j)


@settings(max_examples=10, deadline=None)
@given(seed=DATA)
@pytest.mark.parametrize("name", CASES)
def test_conjugate_signals_give_conjugate_runs(name, seed):
    case = CASES[name]
    u, d, w0 = draw(seed, SAMPLES, SAMPLES, TAPS, dtype=complex)
    one = case.run(u, d, taps=TAPS, w0=w0, **case.options)
    other = case.run(u.conj(), d.conj(), taps=TAPS, w0=w0.conj(), **case.options)
    if chancy(name, one.error):
        return
    close(other.error, one.error.conj())
    close(other.weights, one.weights.conj())


@settings(max_examples=8, deadline=None)
@given(
    seed=DATA,
    dtype=st.sampled_from([np.float32, np.float64, np.complex64, np.complex128]),
    outputs=st.sampled_from([None, 1, 5]),
)
@pytest.mark.parametrize("name", CASES)
def test_the_kind_of_number_is_kept(name, seed, dtype, outputs):
    case = CASES[name]
    shape = SAMPLES if outputs is None else (SAMPLES, outputs)
    u, d = draw(seed, SAMPLES, shape, dtype=dtype)
    run = case.run(u, d, taps=TAPS, record="all", **case.options)
    assert {a.dtype for a in (run.error, run.output, run.weights, run.history)} == {np.dtype(dtype)}
    assert run.error.shape == run.output.shape == d.shape
    wide = np.complex128 if np.issubdtype(dtype, np.complexfloating) else np.float64
    double = case.run(u.astype(wide), d.astype(wide), taps=TAPS, **case.options)
    if "sign" not in name:  # one flipped sign parts the runs
        np.testing.assert_allclose(
            run.weights, double.weights, atol=2e-3 * np.abs(double.weights).max()
        )


@settings(max_examples=8, deadline=None)
@given(seed=DATA)
@pytest.mark.parametrize("name", CASES)
def test_complex_desired_response_of_a_real_signal_makes_complex_weights(name, seed):
    case = CASES[name]
    u, real, imaginary = draw(seed, SAMPLES, SAMPLES, SAMPLES)
    run = case.run(u, real + 1j * imaginary, taps=TAPS, **case.options)
    assert run.weights.dtype == np.complex128
    parts = [case.run(u, d, taps=TAPS, **case.options) for d in (real, imaginary)]
    if chancy(name, *(p.error for p in parts)):
        return
    # y = w^H u: the imaginary output comes from -Im w
    close(run.error, parts[0].error + 1j * parts[1].error)
    close(run.weights, parts[0].weights - 1j * parts[1].weights)
