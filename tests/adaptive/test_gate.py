"""Whatever is handed to the public functions: the right numbers, or one sentence that names it."""

import numpy as np
import pytest

import adaptive
from adaptive import algorithms
from adaptive.tracking import optimal_mu
from tests.adaptive.test_algorithms import CASES

RNG = np.random.default_rng(0)
U = RNG.standard_normal(300)
D = np.convolve(U, [1.0, -0.5])[:300]
PROBLEM = adaptive.WienerProblem(R=np.eye(2), P=[1.0, 0.5], d_power=2.0)


# --- integers, byte order, masks ----------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_integers_and_byte_order_give_the_numbers_of_floats(name):
    case = CASES[name]
    u, d = np.round(100 * U).astype(np.int16), np.round(100 * D).astype(">i4")
    mu = {"mu": case.options["mu"] / 1e4} if "mu" in case.options else {}
    options = {**case.options, **mu}
    expected = case.run(u.astype(float), d.astype(float), taps=3, **options)
    for a, b in [(u, d), (u.tolist(), d.tolist()), (u.astype(">f8"), d.astype("<f8"))]:
        run = case.run(a, b, taps=3, **options)
        np.testing.assert_array_equal(run.error, expected.error)
        np.testing.assert_array_equal(run.weights, expected.weights)


@pytest.mark.parametrize("which", ["u", "d", "w0", "mu"])
@pytest.mark.parametrize("name", CASES)
def test_no_mask_is_dropped(name, which):
    case = CASES[name]
    if which == "mu" and "mu" not in case.options:
        return
    arguments = {"u": U, "d": D, "w0": np.zeros(2), "mu": np.full(300, 0.01)}
    masked = np.ma.masked_array(arguments[which], mask=np.arange(arguments[which].size) == 1)
    call = {"u": U, "d": D, "taps": 2, **case.options, which: masked}
    with pytest.raises(TypeError, match=f"{which} must have no masked entries; got 1 masked of"):
        case.run(**call)


def test_a_masked_array_is_no_data_for_a_problem():
    masked = np.ma.masked_greater(U, 2.0)
    with pytest.raises(TypeError, match="u must have no masked entries"):
        adaptive.WienerProblem.from_data(masked, D, taps=2)


# --- step sizes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in CASES if "mu" in CASES[n].options])
def test_a_step_size_of_zero_freezes_the_weights_for_its_sample(name):
    case = CASES[name]
    frozen = np.arange(300) >= 200
    mu = np.where(frozen, 0.0, case.options["mu"])
    options = {**case.options, "mu": mu}
    run = case.run(U, D, taps=2, record=1, **options)
    by_function = case.run(U, D, taps=2, record=1, **{**options, "mu": lambda n: mu[n]})
    np.testing.assert_array_equal(run.history, by_function.history)
    if name == "momentum":  # what moves already moves on
        return
    np.testing.assert_array_equal(run.history[205:], np.broadcast_to(run.history[-1], (96, 2)))
    assert np.abs(run.history[150] - run.history[0]).max() > 0


# --- one sentence -------------------------------------------------------------------------------

LMS = adaptive.lms
f4 = np.float32

REFUSED = {
    "ragged": (lambda: LMS([[1.0], [1.0, 2.0]], D, mu=0.1), "u must have rows of equal length"),
    "no array": (lambda: LMS("abc", D, mu=0.1, taps=2), "u must be float32"),
    "scalar": (lambda: LMS(1.0, D, mu=np.ones(3), taps=2), "u must be 1-D or 2-D"),
    "scalar, normalised": (lambda: adaptive.nlms(1e-16, D, mu=0.1, taps=2), "u must be 1-D or 2-D"),
    "three axes": (lambda: adaptive.nlms(np.zeros((3, 3, 3)), D, mu=0.1), "u must be 1-D or 2-D"),
    "taps text": (lambda: adaptive.nlms(U, D, mu=0.1, taps="a"), "taps must be a whole number"),
    "taps list": (lambda: adaptive.nlms(U, D, mu=0.1, taps=[0.1]), "taps must be a whole number"),
    "taps huge": (lambda: LMS(U, D, mu=0.1, taps=10**30), "taps must be at most"),
    "mu text": (lambda: LMS(U, D, mu="0.05", taps=2), "mu must be a real number"),
    "mu complex": (lambda: LMS(U, D, mu=0.1j, taps=2), "mu must be a real number"),
    "mu complex array": (lambda: LMS(U, D, mu=np.full(300, 1j), taps=2), "mu must be real"),
    "mu ragged": (lambda: LMS(U, D, mu=[[1.0], [1.0, 2.0]], taps=2), "mu must have rows of equal"),
    "mu huge": (lambda: LMS(U, D, mu=10**400, taps=2), "mu must be finite"),
    "mu flag": (lambda: LMS(U, D, mu=True, taps=2), "mu must be a real number"),
    "mu function, complex": (lambda: LMS(U, D, mu=lambda n: 0.1j, taps=2), "mu must be a real"),
    "mu function, nothing": (lambda: LMS(U, D, mu=lambda n: None, taps=2), "mu must be a real"),
    "mu too large": (lambda: LMS(f4(U), f4(D), mu=1e300, taps=2), "mu must be within the range"),
    "mu too small": (lambda: LMS(f4(U), f4(D), mu=1e-60, taps=2), "mu must be within the range"),
    "w0 too large": (
        lambda: LMS(f4(U), f4(D), mu=0.1, taps=2, w0=[1e300, 0.0]),
        "w0 must be within the range",
    ),
    "eps text": (
        lambda: adaptive.nlms(U * 1e-200, D, mu=0.1, taps=2, eps="a"),
        "eps must be a real",
    ),
    "eps complex": (lambda: adaptive.nlms(U, D, mu=0.1, taps=2, eps=1j), "eps must be a real"),
    "eps huge": (lambda: adaptive.nlms(U, D, mu=0.1, taps=2, eps=10**400), "eps must be finite"),
    "record huge": (lambda: LMS(U, D, mu=0.1, taps=2, record=10**20), "record must be at most"),
    "record array": (
        lambda: LMS(U, D, mu=0.1, taps=2, record=np.array([1, 2])),
        "record must be a whole number",
    ),
    "block huge": (lambda: adaptive.block_lms(U, D, mu=0.1, taps=2, block=10**20), "block must be"),
    "normalize": (
        lambda: adaptive.frequency_domain_lms(U, D, mu=0.1, taps=2, normalize=np.ones(2)),
        "normalize must be True or False",
    ),
    "R for a problem": (
        lambda: adaptive.predict(adaptive.LMS(mu=0.1), np.eye(2), steps=3),
        "problem must be a WienerProblem; got an array",
    ),
    "R for a problem, tracking": (
        lambda: optimal_mu(np.eye(2), Q=np.eye(2)),
        "problem must be a WienerProblem",
    ),
    "data for a scenario": (
        lambda: adaptive.simulate((U, D), adaptive.LMS(mu=0.1), steps=3, runs=2, seed=0),
        "scenario must be one to draw from",
    ),
    "threads": (lambda: simulate(threads=np.ones(2)), "threads must be a whole number"),
    "progress": (lambda: simulate(progress=np.ones(2)), "progress must be True or False"),
    "quantiles": (lambda: simulate(quantiles=0.5), "quantiles must be a list of levels"),
    "runs": (lambda: simulate(runs=10**30), "runs must be at most"),
    "steps": (lambda: simulate(steps=10**30), "steps must be at most"),
    "seed": (lambda: simulate(seed=-1), "seed must be at least 0"),
}


def simulate(**options):
    scenario = adaptive.SystemIdentification(
        adaptive.white(taps=2), w_o=[1.0, -0.5], noise_power=0.01
    )
    arguments = {"steps": 3, "runs": 2, "seed": 0, **options}
    return adaptive.simulate(scenario, adaptive.LMS(mu=0.1), **arguments)


@pytest.mark.parametrize("name", REFUSED)
def test_one_sentence(name):
    call, message = REFUSED[name]
    with pytest.raises((TypeError, ValueError), match=f"^{message}") as caught:
        call()
    assert "; got " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_seeds_may_be_of_any_length():
    assert simulate(seed=10**40).seed == 10**40


# --- state --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        ({}, TypeError, "state must be the state of a filter; got {}"),
        (None, TypeError, "state must be the state of a filter; got None"),
        (adaptive.LMS(mu=0.1).stream(taps=2).state, ValueError, "state must be that of a filter"),
        (
            adaptive.AffineProjection(mu=0.1, order=2, eps=0.1).stream(taps=3).state,
            ValueError,
            "state must be that of a filter",
        ),
        (
            adaptive.AffineProjection(mu=0.1, order=3, eps=0.1).stream(taps=2).state,
            ValueError,
            "state must be that of a filter",
        ),
    ],
)
def test_a_state_of_another_kind_is_refused(state, error, message):
    stream = adaptive.AffineProjection(mu=0.1, order=2, eps=0.1).stream(taps=2)
    stream.process(U, D)
    before = stream.weights
    with pytest.raises(error, match=message):
        stream.state = state
    np.testing.assert_array_equal(stream.weights, before)


def test_a_state_serves_another_filter_of_its_kind():
    one = adaptive.NLMS(mu=0.1, eps=0.1).stream(taps=2)
    one.process(U, D)
    other = adaptive.NLMS(mu=0.1, eps=0.1).stream(taps=2)
    other.state = one.state
    np.testing.assert_array_equal(other.process(U, D).error, one.process(U, D).error)


def test_settings_cannot_be_changed_into_nonsense():
    with pytest.raises(AttributeError):
        adaptive.NLMS(mu=0.1, eps=0.1).eps = -5


# --- NLMS where the power of the regressor fades ------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
@pytest.mark.parametrize("outputs", [1, 12])
def test_nlms_without_eps_on_a_tail_that_decays_to_nothing(dtype, outputs):
    x = np.zeros(6000)
    x[:200], x[5000:] = RNG.standard_normal(200), RNG.standard_normal(1000)
    u = np.empty(6000)
    last = 0.0
    for n in range(6000):
        last = u[n] = 0.9 * last + x[n]
    d = np.convolve(u, [1.0, -0.5, 0.25])[:6000]
    desired = np.stack([d] * outputs, axis=1).astype(dtype)
    run = adaptive.nlms(u.astype(dtype), desired, mu=0.5, taps=3, eps=0.0)
    assert run.diverged_at is None
    tolerance = 100 * np.finfo(dtype).eps
    for weights in run.weights:
        np.testing.assert_allclose(weights, [1.0, -0.5, 0.25], rtol=0, atol=tolerance)


def test_every_algorithm_that_is_linear_in_d_is_in_the_cases():
    linear = {kind for kind in algorithms.ALGORITHMS if kind.linear}
    assert {c.stream for c in CASES.values()} >= linear
