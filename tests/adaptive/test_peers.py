"""Other packages run beside ours: equal where they are right, and our own behaviour elsewhere.

Conventions, ours against padasip 1.2, pyroomacoustics 0.10 and adafilt 0.1:

- Taps: ours newest first. ``padasip.input_from_history`` lays them oldest first, and begins with
  the first full row instead of zeros; the other two agree with ours.
- Step: w + mu e u everywhere (no factor 2). Block LMS: ours takes the mean over the block, the
  others the sum, so mu_ours = mu_theirs * block.
- Error: a priori everywhere.
- eps: mu / (eps + |u|^2) in padasip and adafilt; pyroomacoustics has none.
- RLS: delta = their eps (padasip), delta (pyroomacoustics); adafilt's alpha = forgetting^-1/2 and
  initial_covariance = 1 / delta hold for meas_noise_var + 1e-8 = 1.
- Leakage: adafilt's factor is 1 - mu leakage.

The second half needs none of them: each test there is named after something that one of them gets
wrong, and holds ours to the right behaviour.
"""

import numpy as np
import pytest

import adaptive
from tests.adaptive.test_algorithms import CASES
from tests.oracles.naive import delay_line

TAPS = 8
N = 600


def signals(dtype=np.float64, samples=N, seed=0):
    rng = np.random.default_rng(seed)

    def draw(n):
        x = rng.standard_normal(n)
        return x + 1j * rng.standard_normal(n) if np.issubdtype(dtype, np.complexfloating) else x

    u = draw(samples)
    d = np.convolve(u, draw(TAPS))[:samples] + 0.1 * draw(samples)
    return u.astype(dtype), d.astype(dtype)


def rows(u, taps=TAPS):
    return np.array(delay_line(list(u), taps))


def agree(ours, theirs):
    assert np.abs(ours - theirs).max() <= 1e-10 * np.abs(theirs).max()


# --- padasip ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "theirs", "run", "ours"),
    [
        ("LMS", {"mu": 0.02}, adaptive.lms, {"mu": 0.02}),
        ("NLMS", {"mu": 0.5, "eps": 0.1}, adaptive.nlms, {"mu": 0.5, "eps": 0.1}),
        ("SSLMS", {"mu": 0.005}, adaptive.sign_sign_lms, {"mu": 0.005}),
        (
            "AP",
            {"mu": 0.5, "order": 4, "ifc": 0.01},
            adaptive.affine_projection,
            {"mu": 0.5, "order": 4, "eps": 0.01},
        ),
        (
            "GNGD",
            {"mu": 0.5, "ro": 0.3, "eps": 5.0},
            adaptive.gngd,
            {"mu": 0.5, "rho": 0.3, "eps": 5.0},
        ),
        ("LMF", {"mu": 1e-4}, adaptive.least_mean_fourth, {"mu": 1e-4}),
        ("RLS", {"mu": 0.98, "eps": 0.01}, adaptive.rls, {"forgetting": 0.98, "delta": 0.01}),
    ],
)
def test_padasip(model, theirs, run, ours):
    padasip = pytest.importorskip("padasip")
    u, d = signals()
    w0 = np.linspace(-1, 1, TAPS)
    filter_ = padasip.filters.AdaptiveFilter(model=model, n=TAPS, w=w0, **theirs)
    output, error, weights = filter_.run(d, rows(u))
    mine = run(u, d, taps=TAPS, w0=w0, record="all", **ours)
    agree(mine.error, error)
    agree(mine.output, output)
    agree(mine.history[:-1], weights)  # theirs lacks the weights after the last update
    agree(mine.weights, filter_.w)


@pytest.mark.parametrize("complex_", [False, True])
@pytest.mark.parametrize(
    ("theirs", "settings", "run", "ours"),
    [
        ("LMS", {"step_size": 0.02}, adaptive.lms, {"mu": 0.02}),
        ("NLMS", {"step_size": 0.5, "gamma": 0.1}, adaptive.nlms, {"mu": 0.5, "eps": 0.1}),
        (
            "AffineProjection",
            {"step_size": 0.5, "L": 3, "gamma": 0.01},
            adaptive.affine_projection,
            {"mu": 0.5, "order": 4, "eps": 0.01},
        ),
        (
            "RLS",
            {"delta": 0.01, "forgetting_factor": 0.98},
            adaptive.rls,
            {"forgetting": 0.98, "delta": 0.01},
        ),
    ],
)
def test_pydaptivefiltering(theirs, settings, run, ours, complex_):
    """Their order is taps - 1, their L is our order - 1."""
    peer = pytest.importorskip("pydaptivefiltering")
    u, d = signals()
    if complex_:
        v, c = signals(seed=1)
        u, d = u + 1j * v, d + 1j * c
    found = getattr(peer, theirs)(filter_order=TAPS - 1, **settings).optimize(u, d)
    mine = run(u, d, taps=TAPS, **ours)
    np.testing.assert_allclose(np.squeeze(found.errors), mine.error, rtol=1e-8, atol=1e-8)


def test_padasip_input_from_history_is_oldest_first():
    padasip = pytest.importorskip("padasip")
    u, d = signals()
    theirs = padasip.filters.FilterLMS(TAPS, mu=0.02, w="zeros")
    _, error, _ = theirs.run(d[TAPS - 1 :], padasip.preprocess.input_from_history(u, TAPS))
    mine = adaptive.lms(rows(u)[TAPS - 1 :], d[TAPS - 1 :], mu=0.02)
    agree(mine.error, error)
    agree(mine.weights[::-1], theirs.w)


# --- pyroomacoustics --------------------------------------------------------------------------


def _feed(filter_, u, d):
    """Their weights after each sample."""
    history = [filter_.w.copy()]
    for x, y in zip(u, d, strict=True):
        filter_.update(x, y)
        history.append(filter_.w.copy())
    return np.array(history)


def test_pyroomacoustics_nlms():
    peer = pytest.importorskip("pyroomacoustics.adaptive")
    u, d = signals()
    mine = adaptive.nlms(u, d, mu=0.5, eps=0.0, taps=TAPS, record="all")
    agree(mine.history, _feed(peer.NLMS(TAPS, mu=0.5), u, d))


@pytest.mark.parametrize("block", [1, 4, 8, 20])
@pytest.mark.parametrize("run", [adaptive.block_lms, adaptive.frequency_domain_lms])
def test_pyroomacoustics_block_lms(block, run):
    peer = pytest.importorskip("pyroomacoustics.adaptive")
    u, d = signals()
    options = {"normalize": False} if run is adaptive.frequency_domain_lms else {}
    mine = run(u, d, mu=0.01 * block, block=block, taps=TAPS, record="all", **options)
    agree(mine.history, _feed(peer.BlockLMS(TAPS, mu=0.01, L=block), u, d))


def test_pyroomacoustics_rls():
    peer = pytest.importorskip("pyroomacoustics.adaptive")
    u, d = signals()
    mine = adaptive.rls(u, d, forgetting=0.99, delta=0.5, taps=TAPS, record="all")
    theirs = peer.RLS(TAPS, lmbd=0.99, delta=0.5, dtype=np.float64)
    agree(mine.history, _feed(theirs, u, d))


@pytest.mark.parametrize("block", [1, 4, 8, 20])
def test_pyroomacoustics_block_rls_at_the_ends_of_its_blocks(block):
    peer = pytest.importorskip("pyroomacoustics.adaptive")
    u, d = signals()
    mine = adaptive.rls(u, d, forgetting=0.99, delta=0.5, taps=TAPS, record=block)
    theirs = peer.BlockRLS(TAPS, lmbd=0.99, delta=0.5, dtype=np.float64, L=block)
    agree(mine.history, _feed(theirs, u, d)[::block])


def test_pyroomacoustics_subband_lms_is_complex_nlms():
    """Their w^H u and w + mu u e* are ours; in double precision once its arrays are."""
    peer = pytest.importorskip("pyroomacoustics.adaptive")
    u, d = signals(np.complex128)
    theirs = peer.SubbandLMS(TAPS, 1, mu=0.5)
    theirs.W, theirs.X = theirs.W.astype(complex), theirs.X.astype(complex)
    errors = []
    for x, y in zip(u, d, strict=True):
        theirs.update(np.array([x]), np.array([y]))
        errors.append(theirs.E[0])
    mine = adaptive.nlms(u, d, mu=0.5, eps=1e-6, taps=TAPS)
    agree(mine.error, np.array(errors))
    agree(mine.weights, theirs.W[:, 0])


# --- adafilt ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("theirs", "run", "ours"),
    [
        ({"stepsize": 0.02, "normalized": False}, adaptive.lms, {"mu": 0.02}),
        (
            {"stepsize": 0.02, "normalized": False, "leakage": 1 - 0.02 * 0.3},
            adaptive.leaky_lms,
            {"mu": 0.02, "leakage": 0.3},
        ),
        (
            {"stepsize": 0.5, "normalized": True, "epsilon_power": 0.1},
            adaptive.nlms,
            {"mu": 0.5, "eps": 0.1},
        ),
    ],
)
def test_adafilt_lms(theirs, run, ours):
    adafilt = pytest.importorskip("adafilt")
    u, d = signals()
    output, _, error, weights = adafilt.LMSFilter(TAPS, **theirs)(u, d)
    mine = run(u, d, taps=TAPS, record="all", **ours)
    agree(mine.error, error)
    agree(mine.output, output)
    agree(mine.history[:-1], weights)


def test_adafilt_fast_block_lms_with_blocks_as_long_as_the_filter():
    adafilt = pytest.importorskip("adafilt")
    u, d = signals()
    theirs = adafilt.FastBlockLMSFilter(TAPS, TAPS, stepsize=0.02, normalized=False)
    _, _, error, _ = theirs(u, d)
    mine = adaptive.frequency_domain_lms(u, d, mu=0.02 * TAPS, taps=TAPS, normalize=False)
    agree(mine.error, error)


@pytest.mark.parametrize("forgetting", [1.0, 0.99])
def test_adafilt_rls(forgetting):
    adafilt = pytest.importorskip("adafilt")
    u, d = signals(samples=300)  # theirs loses digits as it runs
    theirs = adafilt.RLSFilter(
        TAPS, alpha=forgetting**-0.5, initial_covariance=10.0, meas_noise_var=1 - 1e-8
    )
    _, _, error, _ = theirs(u, d)
    mine = adaptive.rls(u, d, forgetting=forgetting, delta=0.1, taps=TAPS)
    agree(mine.error, error)


# --- what one of them gets wrong, and ours right ----------------------------------------------


@pytest.mark.parametrize("name", ["nlms", "affine projection", "frequency-domain, normalised"])
@pytest.mark.parametrize("eps", [0.0, 1e-3])
def test_silence_before_the_signal_leaves_no_nan(name, eps):
    """pyroomacoustics' NLMS and normalised BlockLMS divide by |u|^2 = 0: NaN for ever after."""
    case = CASES[name]
    u, d = signals()
    u[:50] = d[:50] = 0
    run = case.run(u, d, taps=TAPS, record="all", **{**case.options, "eps": eps})
    assert np.isfinite(run.history).all()
    assert np.isfinite(run.error).all()
    assert not run.history[49].any()


@pytest.mark.parametrize("name", CASES)
def test_split_calls_lose_no_samples_at_the_seam(name):
    """padasip.input_from_history drops taps - 1 samples of every block handed to it."""
    case = CASES[name]
    u, d = signals()
    whole = case.run(u, d, taps=TAPS, **case.options)
    stream = case.stream(**case.options).stream(taps=TAPS)
    parts = [stream.process(u[a : a + 77], d[a : a + 77]) for a in range(0, N, 77)]
    error = np.concatenate([p.error for p in parts])
    assert error.shape == (N,)
    np.testing.assert_allclose(error, whole.error, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_output_and_error_are_a_priori(name):
    """y(n) = w(n)^H u(n) with the weights before the update: a posteriori ones flatter the filter.

    After ``update`` pyroomacoustics only has the new weights to compute an output from.
    """
    case = CASES[name]
    u, d = signals(np.complex128)
    run = case.run(u, d, taps=TAPS, record="all", **case.options)
    before = np.einsum("nl,nl->n", run.history[:-1].conj(), rows(u))
    if "secondary" in case.options:  # the error hears the output behind that path
        before = np.convolve(before, case.options["secondary"])[: len(before)]
    np.testing.assert_allclose(run.output, before, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(run.error, d - before, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_complex_input_keeps_its_imaginary_part(name):
    """padasip, pyroomacoustics' LMS and RLS, and adafilt drop it with a warning, or raise."""
    case = CASES[name]
    u, d = signals(np.complex128)
    run = case.run(u, d, taps=TAPS, **case.options)
    assert run.error.dtype == run.weights.dtype == np.complex128
    assert np.abs(run.error[0] - d[0]) == 0
    assert np.abs(run.weights.imag).max() > 1e-3


def test_complex_weights_are_conjugated_in_the_output():
    u, _ = signals(np.complex128)
    w_o = np.array([1 + 2j, -0.5j, 0.25])
    d = rows(u, 3) @ w_o.conj()
    run = adaptive.nlms(u, d, mu=1.0, taps=3)
    np.testing.assert_allclose(run.weights, w_o, rtol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_the_weights_after_the_last_update_are_returned(name):
    """padasip's history and adafilt's end before it."""
    case = CASES[name]
    u, d = signals(samples=6 * 7 * 3)  # whole blocks for every case
    run = case.run(u, d, taps=TAPS, record="all", **case.options)
    assert run.history.shape == (u.size + 1, TAPS)
    np.testing.assert_array_equal(run.history[-1], run.weights)
    assert (run.history[-1] != run.history[-2]).any()


@pytest.mark.parametrize("name", CASES)
def test_default_weights_are_zero_and_runs_repeat(name):
    """padasip starts from random weights unless told otherwise."""
    case = CASES[name]
    u, d = signals()
    first, second = (case.run(u, d, taps=TAPS, record="all", **case.options) for _ in range(2))
    assert not first.history[0].any()
    np.testing.assert_array_equal(first.history, second.history)


@pytest.mark.parametrize("block", [1, 2, 4])
def test_blocks_shorter_than_the_filter_use_each_error_once(block):
    """adafilt's FastBlockLMSFilter keeps the last ``length`` errors and corrects by them again."""
    u, d = signals()
    fast = adaptive.frequency_domain_lms(u, d, mu=0.05, taps=TAPS, block=block, normalize=False)
    slow = adaptive.block_lms(u, d, mu=0.05, taps=TAPS, block=block)
    np.testing.assert_allclose(fast.error, slow.error, rtol=1e-10, atol=1e-12)


def test_slow_power_averaging_does_not_make_the_first_steps_huge():
    """adafilt's running power fills up from zero: its first step is 1 / (1 - averaging) times mu.

    With 0.99 and this signal its error passes 1e12 before it comes back.
    """
    u, d = signals(samples=20_000)
    for forgetting in (0.5, 0.9, 0.99, 0.999):
        run = adaptive.frequency_domain_lms(u, d, mu=0.5, taps=TAPS, forgetting=forgetting)
        assert np.abs(run.error).max() < 3 * np.abs(d).max()
        assert np.mean(run.error[-5000:] ** 2) < 0.02


@pytest.mark.parametrize("source", ["white", "tone"])
@pytest.mark.parametrize("forgetting", [0.9, 0.99])
def test_rls_does_not_break_down(source, forgetting):
    """padasip and adafilt overflow on the tone; with 0.9 adafilt does so on white noise too."""
    rng = np.random.default_rng(0)
    n = np.arange(20_000)
    u = np.sin(0.3 * n) if source == "tone" else rng.standard_normal(n.size)
    d = np.convolve(u, rng.standard_normal(TAPS))[: n.size] + 0.01 * rng.standard_normal(n.size)
    run = adaptive.rls(u, d, forgetting=forgetting, delta=0.01, taps=TAPS)
    assert run.diverged_at is None
    assert np.abs(run.error[1000:]).max() < 0.1


def test_rls_with_hardly_any_regularisation_keeps_its_digits():
    """adafilt's default amounts to delta = 1e-12; its P - k u^H P then loses seven digits."""
    u, d = signals()
    run = adaptive.rls(u, d, delta=1e-12, taps=TAPS)
    best = np.linalg.lstsq(rows(u), d, rcond=None)[0]
    np.testing.assert_allclose(run.weights, best, rtol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_a_stream_does_not_grow(name):
    """pyroomacoustics' BlockRLS never drops the desired samples it has used."""
    case = CASES[name]
    u, d = signals()
    stream = case.stream(**case.options).stream(taps=TAPS)

    def size():
        return sum(a.size for a in stream.state["arrays"].values())

    stream.process(u[:100], d[:100])
    before = size()
    stream.process(u[100:], d[100:])
    assert size() == before


@pytest.mark.parametrize("name", CASES)
def test_one_tap_is_a_filter(name):
    """pyroomacoustics' BlockLMS cannot shift a delay line of length one."""
    case = CASES[name]
    u, _ = signals()
    run = case.run(u, 0.5 * u, taps=1, **case.options)
    assert run.weights.shape == (1,)
    assert np.abs(run.error[-100:]).max() < np.abs(u).max()


@pytest.mark.parametrize("samples", [1, 5, 13])
def test_signals_that_fill_no_block(samples):
    """adafilt's block filters take whole blocks only."""
    u, d = signals()
    run = adaptive.frequency_domain_lms(u[:samples], d[:samples], mu=0.5, taps=TAPS)
    assert run.error.shape == (samples,)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_sample_is_named_not_learned(bad):
    """All three take a NaN, and are NaN from then on."""
    u, d = signals()
    u[17] = bad
    with pytest.raises(ValueError, match=r"u must be finite; got .* at index 17"):
        adaptive.nlms(u, d, mu=0.5, taps=TAPS)
