"""What every algorithm promises, those to come included: the laws run over the registry."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import scipy.fft
from hypothesis import given, settings
from hypothesis import strategies as st

import adaptive
from adaptive import algorithms, scenarios, signals
from adaptive.algorithms import ALGORITHMS
from tests.oracles import family, naive

TAPS, N = 4, 60
# a value for each setting, by name; one that is missing here fails the test of its algorithm
VALUES = {
    "mu": 0.02, "leakage": 0.5, "momentum": 0.6, "block": 3, "order": 2, "eps": 0.1, "delta": 0.1,
    "forgetting": 0.9, "normalize": True, "alpha": 0.3, "mix": 0.9, "noise_power": 0.4,
    "bound": 0.5, "rho": 0.2, "secondary": (0.0, 0.8, -0.3), "model": (0.1, 0.7),
}  # fmt: skip
OWN = {adaptive.IPNLMS: {"order": 1}, adaptive.LeastMeanFourth: {"mu": 5e-4, "mix": 0.0}}
CONTROL = (adaptive.FilteredXLMS, adaptive.FilteredXNLMS)
# the power of the amplitude that a setting is in units of
UNITS = {"eps": 2, "delta": 2, "rho": 2, "noise_power": 2, "bound": 1}
kinds = pytest.mark.parametrize("kind", ALGORITHMS, ids=lambda kind: kind.name)
RUN_MU = 1e-300  # too small a step to move any weight: the filter only hears


def values(kind):
    own = OWN.get(kind, {})
    return {f.name: {**VALUES, **own}[f.name] for f in dataclasses.fields(kind)}


def through_the_path(kind, y):
    """An output as the error sees it."""
    return np.convolve(y, VALUES["secondary"])[: len(y)] if kind in CONTROL else y


def draw(shape, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape)
    if np.issubdtype(dtype, np.complexfloating):
        x = x + 1j * rng.standard_normal(shape)
    return x.astype(dtype)


# --- the value ------------------------------------------------------------------------------------


@kinds
def test_is_a_frozen_value_exported_under_its_name(kind):
    one, other = kind(**values(kind)), kind(**values(kind))
    assert one == other
    assert hash(one) == hash(other)
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.eps = 1.0
    assert getattr(adaptive, kind.__name__) is kind
    assert callable(getattr(adaptive, kind.name))
    assert algorithms.named(kind.name, **values(kind)) == one
    assert all(f.metadata["help"] for f in dataclasses.fields(kind))


def test_names_differ():
    assert len(set(algorithms.names())) == len(ALGORITHMS)


@kinds
def test_theory_and_bounds_are_there_or_refused_in_a_sentence(kind):
    algorithm = kind(**values(kind))
    problem = adaptive.WienerProblem(R=np.eye(3), P=[1.0, 0.0, 0.0], d_power=1.1)
    if kind.has_theory:
        curve = adaptive.predict(algorithm, problem, steps=20)
        assert curve.algorithm == kind.name
        assert curve.samples_per_update == algorithm.samples_per_update
        assert curve.mse[0] == pytest.approx(1.1)
    else:
        with pytest.raises(NotImplementedError, match=f"no theory is at hand for {kind.name}"):
            adaptive.predict(algorithm, problem, steps=20)


# --- the run --------------------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_equals_its_oracle(kind, dtype):
    u, d, w0 = draw(N, dtype), draw(N, dtype, 1), draw(TAPS, dtype, 2)
    run = adaptive.run(kind(**values(kind)), u, d, taps=TAPS, w0=w0, record="all")
    oracle = getattr(family, kind.name)
    errors, history = oracle(naive.delay_line(list(u), TAPS), d, w0, **values(kind))
    np.testing.assert_allclose(run.error, errors, rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(run.history, history, rtol=1e-10, atol=1e-11)


@kinds
@settings(max_examples=10, deadline=None)
@given(cuts=st.lists(st.integers(0, N), max_size=5))
def test_any_split_into_blocks_gives_the_same_run_and_state_can_be_restored(kind, cuts):
    algorithm = kind(**values(kind))
    u, d = draw((N, 2)), draw(N, seed=1)
    whole = adaptive.run(algorithm, u, d, taps=TAPS)
    edges, stream, parts = sorted({0, N, *cuts}), algorithm.stream(taps=TAPS), []
    for a, b in pairwise(edges):
        saved, stream = stream.state, algorithm.stream(taps=TAPS)
        stream.state = saved
        parts.append(stream.process(u[a:b], d[a:b]).error)
    # the FFT of a block that is still filling up rounds differently
    tolerance = 1e-11 if kind is adaptive.FrequencyDomainLMS else 0.0
    for mine, its in ((np.concatenate(parts), whole.error), (stream.weights, whole.weights)):
        np.testing.assert_allclose(mine, its, rtol=tolerance, atol=tolerance)


@kinds
@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
def test_single_precision_is_kept_and_follows_double(kind, dtype):
    algorithm = kind(**values(kind))
    u, d = draw(N, dtype), draw(N, dtype, 1)
    run = adaptive.run(algorithm, u, d, taps=TAPS)
    assert run.error.dtype == run.weights.dtype == dtype
    double = np.complex128 if dtype == np.complex64 else np.float64
    exact = adaptive.run(algorithm, u.astype(double), d.astype(double), taps=TAPS)
    assert np.abs(run.error - exact.error).max() < N * 6e-8 * 20 * np.abs(exact.error).max()


@kinds
def test_integers_and_foreign_byte_order_run_as_doubles(kind):
    u, d = (100 * draw(N)).round(), (100 * draw(N, seed=1)).round()
    algorithm = kind(**values(kind))
    doubles = adaptive.run(algorithm, u, d, taps=TAPS).error
    for dtype in (np.int64, np.int16, ">f8"):
        other = adaptive.run(algorithm, u.astype(dtype), d.astype(dtype), taps=TAPS).error
        np.testing.assert_array_equal(other, doubles)


@pytest.mark.parametrize(
    "kind", [k for k in ALGORITHMS if k.normalized or not k.has_step_size()], ids=lambda k: k.name
)
@settings(max_examples=8, deadline=None)
@given(exponent=st.integers(-30, 30))
def test_a_normalized_step_has_no_units(kind, exponent):
    """u -> c u and d -> c d leave the errors over c as they were, since mu is a pure number."""
    c, mine = 2.0**exponent, values(kind)
    for name in UNITS.keys() & mine.keys():
        mine[name] *= c ** UNITS[name]
    u, d = draw(N), draw(N, seed=1)
    one = adaptive.run(kind(**values(kind)), u, d, taps=TAPS)
    other = adaptive.run(kind(**mine), c * u, c * d, taps=TAPS)
    np.testing.assert_allclose(other.error, c * one.error, rtol=1e-8, atol=1e-9 * c)


# no step size is the edge, as the first errors decide
DIVERGES_BY_ITS_START = (adaptive.MixedNormLMS, adaptive.LeastMeanFourth)


@kinds
def test_divergence_is_a_result_or_there_is_no_edge(kind):
    u, d = draw(4000), draw(4000, seed=1)
    mine = values(kind)
    if kind.has_step_size():
        mine["mu"] = 100.0
    run = adaptive.run(kind(**mine), u, d, taps=TAPS)
    if kind.edgeless is None or kind in DIVERGES_BY_ITS_START:
        assert run.diverged_at is not None
        assert np.isfinite(run.error[: run.diverged_at]).all()
        assert np.isnan(run.error[run.diverged_at :]).all()
    else:
        assert run.diverged_at is None
        assert np.isfinite(run.error).all()


# --- the ensemble ---------------------------------------------------------------------------------

AR = adaptive.AutoRegressive([0.9], taps=TAPS)
SCENARIOS = {
    "identification": adaptive.SystemIdentification(
        AR, w_o=[1.0, -0.5, 0.2, 0.7], noise_power=1e-2
    ),
    "independent": adaptive.SystemIdentification(
        adaptive.GaussianRegressors(AR.R), w_o=[1.0, -0.5, 0.2, 0.7], noise_power=1e-2
    ),
    "cancelling": scenarios.NoiseCancelling(signals.Tones([0.1], taps=1), AR, path=[1.0, 0.5]),
    "echo": scenarios.Echo(AR, length=9, noise_power=1e-2),
    "prediction": scenarios.Prediction(AR),
    "equalisation": scenarios.Equalisation(
        scenarios.raised_cosine(3.1), taps=TAPS, delay=3, noise_power=1e-2
    ),
}


def single_run(algorithm, lines, d, before, w0):
    """Errors of the plain function on one draw, after the filter has heard ``before`` samples."""
    U = lines.rows[:, lines.order]
    if algorithm.name == "frequency_domain_lms":
        heard = np.concatenate([lines.buffer[: TAPS - 1], lines.buffer[TAPS - 1 :][:before]])
        oracle, own = family.frequency_domain_lms, dataclasses.asdict(algorithm)
        return oracle(U[before:], d[before:], w0, past=heard[len(heard) % 3 :], **own)[0]
    if before == 0:
        return adaptive.run(algorithm, U, d, w0=w0).error
    mu = np.full(len(d), algorithm.mu)
    mu[:before] = RUN_MU
    if algorithm.name == "transform_domain_lms":
        plain = adaptive.PowerNormalizedLMS(
            mu=mu, eps=algorithm.eps, forgetting=algorithm.forgetting
        )
        bins, start = (scipy.fft.dct(x[..., ::-1], norm="ortho") for x in (U, w0))
        return adaptive.run(plain, bins, d, w0=start).error[before:]
    quiet = algorithm.with_mu(mu)
    if lines.hop > 1:
        return adaptive.run(quiet, U, d, w0=w0).error[before:]
    past = np.zeros(TAPS - 1)  # of a delay line the first samples are heard as well
    quiet = algorithm.with_mu(np.concatenate([past + RUN_MU, mu]))
    d = np.concatenate([past, d])
    return adaptive.run(quiet, lines.buffer, d, taps=TAPS, w0=w0).error[TAPS - 1 + before :]


@kinds
@pytest.mark.parametrize("name", SCENARIOS)
def test_an_ensemble_is_the_mean_over_single_runs_on_the_same_draws(kind, name):
    scenario, algorithm = SCENARIOS[name], kind(**values(kind))
    if kind.delay_lines_only and name == "independent":
        pytest.skip("these regressors are no delay lines")
    w0 = np.array([0.3, -0.1, 0.2, 0.5])
    ensemble = adaptive.simulate(
        scenario, algorithm, steps=30, runs=40, seed=3, w0=w0, progress=False
    )
    before, squares = algorithm.warm_up(1 if name == "independent" else TAPS), []
    for i in range(40):
        rng = np.random.default_rng(np.random.SeedSequence(3, spawn_key=(i,)))
        lines, d = scenario.draw(rng, before + 30)
        squares.append(single_run(algorithm, lines, d, before, w0) ** 2)
    np.testing.assert_allclose(ensemble.mse, np.mean(squares, axis=0), rtol=1e-8)


@kinds
def test_a_run_from_the_wiener_solution_starts_with_the_noise_alone(kind):
    """No false past: at the first sample the error is the noise, and it stays of that order."""
    scenario = SCENARIOS["identification"]
    if kind in CONTROL:
        pytest.skip("at the end of a path the Wiener solution of the direct problem is none")
    ensemble = adaptive.simulate(
        scenario, kind(**values(kind)), steps=6, runs=400, seed=5, w0=scenario.w_o, progress=False
    )
    assert abs(ensemble.mse[0] / 1e-2 - 1) < 5 * ensemble.mse_se[0] / 1e-2
    assert ensemble.mse.max() < 3e-2 or kind is adaptive.RLS
