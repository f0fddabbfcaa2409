"""Freezing, gating and delaying: laws that hold for every algorithm, and their oracles."""

import inspect
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import adaptive
from adaptive.algorithms import ALGORITHMS
from tests.adaptive.test_every_algorithm import TAPS, N, draw, kinds, through_the_path, values
from tests.oracles import naive

STEPPED = pytest.mark.parametrize(
    "kind", [k for k in ALGORITHMS if k.has_step_size()], ids=lambda kind: kind.name
)
# the FFT of a block that is cut elsewhere rounds differently
TOLERANCE = {adaptive.FrequencyDomainLMS: 1e-11}
MASK = np.arange(N) % 11 < 7


def build(kind, **changes):
    return kind(**{**values(kind), **changes})


def close(kind, mine, its, atol=0.0):
    tolerance = TOLERANCE.get(kind, 0.0)
    np.testing.assert_allclose(mine, its, rtol=tolerance, atol=max(tolerance, atol))


# --- a step size of zero --------------------------------------------------------------------------


@STEPPED
@pytest.mark.parametrize("mu", [0, 0.0, np.zeros(N), lambda n: 0.0], ids=["int", "0", "(N,)", "f"])
def test_a_step_of_zero_learns_nothing(kind, mu):
    u, d, w0 = draw(N), draw(N, seed=1), draw(TAPS, seed=2)
    run = adaptive.run(build(kind, mu=mu), u, d, taps=TAPS, w0=w0)
    np.testing.assert_allclose(run.weights, w0, rtol=1e-14)
    U = np.array(naive.delay_line(list(u), TAPS))
    np.testing.assert_allclose(run.error, d - through_the_path(kind, U @ w0), atol=1e-12)


@STEPPED
def test_the_step_may_be_assigned_between_blocks(kind):
    if kind is adaptive.MomentumLMS:
        pytest.skip("what moves already moves on; adapt= stops it")
    u, d = draw(N), draw(N, seed=1)
    stream = build(kind).stream(taps=TAPS)
    stream.process(u[:30], d[:30])
    before, mu = stream.weights, stream.mu
    stream.mu = 0.0
    stream.process(u[30:45], d[30:45])
    np.testing.assert_array_equal(stream.weights, before)
    stream.mu = mu
    stream.process(u[45:], d[45:])
    assert np.abs(stream.weights - before).max() > 0


def test_a_step_out_of_range_or_place_is_refused_on_assignment():
    stream = adaptive.LMS(mu=0.1).stream(taps=2)
    with pytest.raises(ValueError, match="mu must be zero or positive; got -1"):
        stream.mu = -1
    with pytest.raises(TypeError, match="mu must not be assigned for RLS, which has no step size"):
        adaptive.RLS(delta=0.1).stream(taps=2).mu = 0.1


# --- the mask -------------------------------------------------------------------------------------


@kinds
def test_the_function_of_an_algorithm_takes_what_run_takes(kind):
    u, d = draw(N), draw(N, seed=1)
    options = {"taps": TAPS, "adapt": MASK, "delay": 3, "record": 5}
    function = getattr(adaptive, kind.name)
    # a setting that has one value only is none of the function's
    taken = inspect.signature(function).parameters
    settings = {name: value for name, value in values(kind).items() if name in taken}
    one = function(u, d, **settings, **options)
    other = adaptive.run(build(kind), u, d, **options)
    np.testing.assert_array_equal(one.history, other.history)
    np.testing.assert_array_equal(one.error, other.error)


@kinds
def test_learning_from_every_sample_is_the_plain_run(kind):
    u, d = draw(N), draw(N, seed=1)
    one = adaptive.run(build(kind), u, d, taps=TAPS, record="all")
    other = adaptive.run(build(kind), u, d, taps=TAPS, record="all", adapt=np.ones(N, bool))
    np.testing.assert_array_equal(one.history, other.history)
    np.testing.assert_array_equal(one.error, other.error)


@kinds
@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
def test_a_filter_that_never_adapts_only_filters(kind, dtype):
    u, d, w0 = draw(N, dtype), draw(N, dtype, 1), draw(TAPS, dtype, 2)
    run = adaptive.run(build(kind), u, d, taps=TAPS, w0=w0, record=7, adapt=np.zeros(N, bool))
    assert run.error.dtype == dtype
    rounding = 100 * np.finfo(dtype).eps
    np.testing.assert_allclose(run.history, np.tile(w0, (N // 7 + 1, 1)), rtol=0, atol=rounding)
    U = np.array(naive.delay_line(list(u), TAPS))
    np.testing.assert_allclose(run.error, d - through_the_path(kind, U @ w0.conj()), atol=rounding)


@kinds
@settings(max_examples=10, deadline=None)
@given(mask=st.lists(st.booleans(), min_size=N, max_size=N), seed=st.integers(0, 9))
def test_what_is_masked_has_no_influence(kind, mask, seed):
    adapt = np.array(mask)
    u, d = draw(N), draw(N, seed=1)
    other = np.where(adapt, d, 1e3 * draw(N, seed=seed + 5))
    one = adaptive.run(build(kind), u, d, taps=TAPS, record="all", adapt=adapt)
    two = adaptive.run(build(kind), u, other, taps=TAPS, record="all", adapt=adapt)
    np.testing.assert_array_equal(one.history, two.history)
    np.testing.assert_array_equal(one.error[adapt], two.error[adapt])
    np.testing.assert_allclose(one.output, two.output, atol=1e-9)


@kinds
@settings(max_examples=10, deadline=None)
@given(
    cuts=st.lists(st.integers(0, N), max_size=5),
    mask=st.lists(st.booleans(), min_size=N, max_size=N),
    delay=st.integers(0, 6),
)
def test_any_split_gives_the_same_gated_and_delayed_run(kind, cuts, mask, delay):
    algorithm, adapt = build(kind), np.array(mask)
    u, d = draw((N, 2)), draw(N, seed=1)
    whole = adaptive.run(algorithm, u, d, taps=TAPS, adapt=adapt, delay=delay)
    parts, stream = [], algorithm.stream(taps=TAPS, delay=delay)
    for a, b in pairwise(sorted({0, N, *cuts})):
        saved, stream = stream.state, algorithm.stream(taps=TAPS, delay=delay)
        stream.state = saved
        parts.append(stream.process(u[a:b], d[a:b], adapt=adapt[a:b]).error)
    close(kind, np.concatenate(parts), whole.error)
    close(kind, stream.weights, whole.weights)


def zeroed_errors(kind, U, d, mask):
    """LMS, block LMS: the textbook's gradient with the masked errors taken as zero."""
    block = 3 if kind is adaptive.BlockLMS else 1
    w, g, errors = np.zeros(TAPS), np.zeros(TAPS), []
    for n in range(N):
        errors.append(d[n] - w @ U[n])
        g = g + errors[-1] * mask[n] * U[n]
        if (n + 1) % block == 0:
            w, g = w + 0.02 / block * g, 0 * g
    return np.array(errors), w


@pytest.mark.parametrize("kind", [adaptive.LMS, adaptive.BlockLMS], ids=lambda k: k.name)
def test_a_masked_error_is_zero_in_the_gradient(kind):
    u, d = draw(N), draw(N, seed=1)
    errors, w = zeroed_errors(kind, np.array(naive.delay_line(list(u), TAPS)), d, MASK)
    run = adaptive.run(build(kind), u, d, taps=TAPS, adapt=MASK)
    np.testing.assert_allclose(run.error, errors, atol=1e-12)
    np.testing.assert_allclose(run.weights, w, atol=1e-12)


def test_frequency_domain_without_normalisation_is_gated_as_block_lms_is():
    u, d = draw(N), draw(N, seed=1)
    plain = adaptive.FrequencyDomainLMS(mu=0.02, block=3, normalize=False)
    one = adaptive.run(plain, u, d, taps=TAPS, adapt=MASK, record="all")
    block = adaptive.BlockLMS(mu=0.02, block=3)
    other = adaptive.run(block, u, d, taps=TAPS, adapt=MASK, record="all")
    np.testing.assert_allclose(one.history, other.history, atol=1e-13)


@pytest.mark.parametrize("kind", [adaptive.RLS, adaptive.MomentumLMS], ids=lambda k: k.name)
def test_a_memory_of_updates_skips_what_is_masked(kind):
    """The run is that on the samples learned from, as if the others had not been there."""
    U, d = np.array(naive.delay_line(list(draw(N)), TAPS)), draw(N, seed=1)
    gated = adaptive.run(build(kind), U, d, adapt=MASK)
    kept = adaptive.run(build(kind), U[MASK], d[MASK])
    np.testing.assert_array_equal(gated.error[MASK], kept.error)
    np.testing.assert_array_equal(gated.weights, kept.weights)


def test_affine_projection_projects_on_no_masked_sample():
    u, d, order = draw(N), draw(N, seed=1), 3
    U = np.array(naive.delay_line(list(u), TAPS))
    run = adaptive.affine_projection(u, d, mu=0.5, order=order, eps=0.1, taps=TAPS, adapt=MASK)
    w = np.zeros(TAPS)
    for n in range(N):
        if MASK[n]:
            last = [n]
            while len(last) < order and last[-1] > 0 and MASK[last[-1] - 1]:
                last.append(last[-1] - 1)
            X = U[last]
            w = w + 0.5 * X.T @ np.linalg.solve(X @ X.T + 0.1 * np.eye(len(last)), d[last] - X @ w)
    np.testing.assert_allclose(run.weights, w, atol=1e-11)


@kinds
def test_each_output_may_adapt_on_samples_of_its_own(kind):
    u, d = draw(N), draw((N, 3), seed=1)
    adapt = draw((N, 3), seed=2) > -0.5
    w0 = draw((3, TAPS), seed=3)
    both = adaptive.run(build(kind), u, d, taps=TAPS, adapt=adapt, w0=w0, record=4)
    stream = build(kind).stream(taps=TAPS, w0=w0)
    stream.process(u[:20], d[:20], adapt=adapt[:20])
    saved = stream.state
    stream = build(kind).stream(taps=TAPS, w0=w0)
    stream.state = saved
    stream.process(u[20:], d[20:], adapt=adapt[20:])
    close(kind, stream.weights, both.weights)
    for m in range(3):
        one = adaptive.run(
            build(kind), u, d[:, m], taps=TAPS, adapt=adapt[:, m], w0=w0[m], record=4
        )
        np.testing.assert_array_equal(both.error[:, m], one.error)
        np.testing.assert_array_equal(both.weights[m], one.weights)
        np.testing.assert_array_equal(both.history[:, m], one.history)


def test_divergence_of_one_output_that_adapts_is_that_of_the_run():
    u, d = draw(400), draw((400, 2), seed=1)
    adapt = np.ones((400, 2), bool)
    adapt[:, 0] = False
    run = adaptive.lms(u, d, mu=50.0, taps=TAPS, adapt=adapt)
    assert run.diverged_at == adaptive.lms(u, d[:, 1], mu=50.0, taps=TAPS).diverged_at
    assert np.isnan(run.error[run.diverged_at :]).all()
    assert np.isfinite(run.error[: run.diverged_at]).all()


@pytest.mark.parametrize(
    ("adapt", "error", "message"),
    [
        (np.ones(9), TypeError, "adapt must hold True or False; got float64"),
        (np.ma.masked_array(np.ones(9, bool)), TypeError, "adapt must hold True or False; got a m"),
        (np.ones(8, bool), ValueError, r"adapt must have shape \(9,\), as d has; got \(8,\)"),
        ([[True], [True, False]], ValueError, "adapt must have rows of equal length"),
    ],
)
def test_masks_that_are_refused(adapt, error, message):
    with pytest.raises(error, match=message):
        adaptive.lms(draw(9), draw(9), mu=0.1, taps=2, adapt=adapt)


def test_outputs_cannot_part_later():
    stream = adaptive.LMS(mu=0.1).stream(taps=2)
    stream.process(draw(9), draw((9, 2)))
    with pytest.raises(ValueError, match="adapt must hold a column per output from the first bl"):
        stream.process(draw(9), draw((9, 2)), adapt=np.ones((9, 2), bool))
    stream.reset()
    stream.process(draw(9), draw((9, 2)), adapt=np.ones((9, 2), bool))
    stream.process(draw(9), draw((9, 2)))
    with pytest.raises(ValueError, match="d must have 2 outputs as in the first block; got"):
        stream.process(draw(9), draw((9, 3)))


# --- the delay ------------------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("delay", [5, -5])
def test_a_delay_shifts_the_input(kind, delay):
    u, d = draw(N), draw(N, seed=1)
    shifted = np.zeros(N)
    if delay > 0:
        shifted[delay:] = u[:-delay]
    else:
        shifted[:delay] = u[-delay:]
    one = adaptive.run(build(kind), u, d, taps=TAPS, delay=delay)
    other = adaptive.run(build(kind), shifted, d, taps=TAPS)
    np.testing.assert_array_equal(one.error, other.error)


def test_a_delay_finds_what_lies_beyond_the_taps_and_before_the_present():
    u = draw(4000)
    late = np.concatenate([np.zeros(700), u[:-700]])
    assert np.abs(adaptive.nlms(u, late, mu=0.5, taps=2, delay=699).weights - [0, 1]).max() < 1e-6
    early = np.concatenate([u[3:], np.zeros(3)])
    found = adaptive.nlms(u, early, mu=0.5, taps=5, delay=-4).weights
    assert np.abs(found - [0, 1, 0, 0, 0]).max() < 1e-2


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: adaptive.lms(draw(9), draw(9), mu=0.1, taps=2, delay=9), ValueError,
         "delay must be less than the 9 samples of u; got 9"),
        (lambda: adaptive.lms(draw(9), draw(9), mu=0.1, taps=2, delay=1.5), TypeError,
         "delay must be a whole number; got 1.5"),
        (lambda: adaptive.LMS(mu=0.1).stream(taps=2, delay=-3), ValueError,
         "delay must be zero or positive for a stream, .*: delay d by 3 samples instead"),
    ],
)  # fmt: skip
def test_delays_that_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("delay", [0, 2])
@pytest.mark.parametrize("flip", [False, True])
def test_delay_lines_are_no_channels(delay, flip):
    u, d = draw(50), draw(50, seed=1)
    U = np.array(naive.delay_line(list(u), 4))
    X = U[:, ::-1] if flip else U
    with pytest.raises(ValueError, match="u must hold a signal per column when taps is given"):
        adaptive.lms(X, d, mu=0.1, taps=4, delay=delay)
    assert adaptive.lms(X, d, mu=0.1).weights.shape == (4,)
    assert adaptive.lms(np.ones((50, 2)), d, mu=0.1, taps=2).weights.shape == (4,)
