"""Four samples a pass are the recursion: against the sample-by-sample kernel and plain sums.

Runs once more with the JIT disabled.
"""

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptive import _four, _kernels
from adaptive.regressors import Regressors

KINDS = [np.float32, np.float64, np.complex64, np.complex128]
FEW = 10 if numba.config.DISABLE_JIT else 40  # examples

LEVELS = {
    "even": lambda n, N: np.ones(N),
    "fade-out": lambda n, N: np.where(n < N // 2, 1.0, 1e-9),
    "onset": lambda n, N: np.where(n < N // 2, 1e-9, 1.0),
    "silence": lambda n, N: np.where((n > N // 3) & (n < 2 * N // 3), 0.0, 1.0),
    "decay": lambda n, N: 10.0 ** (-12.0 * n / N),
}


def draw(rng, shape, dtype):
    x = rng.standard_normal(shape)
    if np.issubdtype(dtype, np.complexfloating):
        x = x + 1j * rng.standard_normal(shape)
    return x.astype(dtype)


def line(rng, N, taps, hop, dtype, level="even"):
    total = N + taps - 1
    x = draw(rng, (total, hop), dtype) * LEVELS[level](np.arange(total), total)[:, None]
    L = taps * hop
    return Regressors(x.astype(dtype).reshape(-1), hop, L, N, np.arange(L))


@settings(max_examples=FEW, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    N=st.integers(4, 50),
    taps=st.integers(4, 40),
    hop=st.integers(1, 3),
    level=st.sampled_from(sorted(LEVELS)),
)
@pytest.mark.parametrize("dtype", KINDS)
def test_products_of_neighbours_are_their_plain_sums(dtype, seed, N, taps, hop, level):
    rng = np.random.default_rng(seed)
    lines = line(rng, N, taps, hop, dtype, level)
    z = draw(rng, lines.buffer.size, dtype)
    products = _four.directions(lines, z).products
    rows = lines.rows.astype(complex)
    along = Regressors(z, hop, lines.taps, N, lines.order).rows.astype(complex)
    for j in range(N // 4):
        for c, (a, b) in enumerate(_four.PAIRS):
            terms = along[4 * j + b].conj() * rows[4 * j + a]
            # nothing was subtracted: the error is a part of what was added, not of louder samples
            tolerance = 8 * np.finfo(dtype).eps * np.abs(terms).sum()
            assert abs(products[j, c] - terms.sum()) <= tolerance


def test_products_over_many_rounds():
    rng = np.random.default_rng(0)
    lines = line(rng, 4000, 70, 1, np.float64)
    products = _four.directions(lines, lines.buffer).products
    rows = lines.rows
    for c, (a, b) in enumerate(_four.PAIRS):
        expected = np.einsum("nk,nk->n", rows[a::4][:1000], rows[b::4][:1000])
        np.testing.assert_allclose(products[:, c], expected, rtol=0, atol=1e-12)


def both(lines, z, d, step, power, eps, keep, signed, w0, every):
    """Results of the two kernels: (stop, weights, errors, history)."""
    results = []
    for four in (True, False):
        w, error = w0.copy(), np.full(d.size, 9, d.dtype)
        history = np.full((d.size // every + 1 if every else 0, 1, w.size), 9, d.dtype)
        record = (0, every, history)
        if four:
            shared = _four.directions(lines, z)
            stop = _four.run(shared, d, step, power, eps, keep, signed, w, error, 0, record)
        else:
            stop = _kernels.stochastic_gradient(
                0, d.size, lines.buffer, z, lines.hop, d, step, power, eps, keep, signed,
                w, error, 0, *record,
            )  # fmt: skip
        results.append((stop, w, error, history))
    return results


@settings(max_examples=FEW, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    N=st.integers(1, 60),
    taps=st.integers(4, 40),
    every=st.integers(0, 9),
    varying=st.booleans(),
    level=st.sampled_from(sorted(LEVELS)),
    normalised=st.booleans(),
)
@pytest.mark.parametrize(
    ("hop", "own", "leaky", "signed"),
    [
        (1, False, False, None),
        (1, True, False, None),
        (1, False, True, None),
        (2, False, False, True),
    ],
    ids=["lms", "sign-data", "leaky", "two channels, sign-error"],
)
@pytest.mark.parametrize("dtype", KINDS)
def test_equals_one_sample_a_pass(
    dtype, hop, own, leaky, signed, seed, N, taps, every, varying, level, normalised
):
    rng = np.random.default_rng(seed)
    lines = line(rng, N, taps, hop, dtype, level)
    z = draw(rng, lines.buffer.size, dtype) if own else lines.buffer
    real = lines.buffer.real.dtype
    w0, d = draw(rng, lines.taps, dtype), draw(rng, N, dtype)
    step = (0.3 / lines.taps * rng.uniform(0.5, 1, N if varying else 1)).astype(real)
    power, eps = (lines.power(), 0.0) if normalised and not own else (np.zeros(1), 1.0)
    keep = (1 - 0.5 * step).astype(real) if leaky else None
    ours, plain = both(lines, z, d, step, power, eps, keep, signed, w0, every)
    if signed and np.abs([plain[2].real, plain[2].imag][: 1 + np.iscomplexobj(d)]).min() < 1e-4:
        return  # rounding may turn a sign
    assert ours[0] == plain[0] == -1
    largest = max(np.abs(plain[1]).max(), 1.0)
    size = np.finfo(dtype).eps * 40 * lines.taps * largest * max(1.0, np.abs(plain[2]).max())
    for a, b in zip(ours[1:], plain[1:], strict=True):
        if b.size:
            assert np.abs(a - b).max() <= size


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("mu", [50.0, 1e3])
def test_divergence_comes_at_the_sample_of_the_recursion(dtype, mu):
    rng = np.random.default_rng(1)
    lines = line(rng, 1500, 6, 1, dtype)
    d, w0, step = draw(rng, 1500, dtype), np.zeros(6, dtype), np.array([mu])
    with np.errstate(over="ignore", invalid="ignore"):
        ours, plain = both(
            lines, lines.buffer, d, step, np.zeros(1), 1.0, None, None, w0, 0
        )  # fmt: skip
    assert 0 < plain[0] < 1500
    assert ours[0] == plain[0]
    np.testing.assert_allclose(ours[2][: plain[0]], plain[2][: plain[0]], rtol=1e-9)
    assert (ours[2][plain[0] :] == 9).all()  # what comes after is not touched


@pytest.mark.parametrize("scale", [1e160, 1e-140])
def test_products_out_of_range_leave_it_to_the_recursion(scale):
    """|u|^2 leaves the floating-point range, mu |u|^2 does not."""
    rng = np.random.default_rng(2)
    plain = line(rng, 200, 5, 1, np.float64)
    lines = Regressors(plain.buffer * scale, 1, 5, 200, plain.order)
    d, w0 = draw(rng, 200, np.float64), np.zeros(5)
    step = np.array([0.05]) / scale / scale if scale < 1 else np.array([5e-320])
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        ours, expected = both(
            lines, lines.buffer, d, step, np.zeros(1), 1.0, None, None, w0, 0
        )  # fmt: skip
    np.testing.assert_array_equal(ours[2], expected[2])
    np.testing.assert_array_equal(ours[1], expected[1])
    assert np.abs(ours[1]).max() > 0


def test_it_is_chosen_for_delay_lines_of_some_length(monkeypatch):
    rng = np.random.default_rng(0)
    assert _four.applies(line(rng, 3000, 128, 1, np.float64))
    assert _four.applies(line(rng, 3000, 43, 3, np.float64))
    assert not _four.applies(line(rng, 3000, 127, 1, np.float64))
    assert not _four.applies(line(rng, 100, 128, 1, np.float64))
    assert not _four.applies(Regressors(np.zeros(9000), 3, 3, 3000, np.arange(3)))
