"""Settings at the ends of the number range: a right number or one sentence, for every algorithm."""

import re

import numpy as np
import pytest

import adaptive
from adaptive.minibatch import lyapunov_edge, minibatch_edge
from tests.adaptive.test_every_algorithm import kinds, values

SMALL, LARGE = (1e-320, 1e-300, 1e-160), (1e160, 1e300, 1e308, 10**16, 10**400)
EXTREMES = (0.0, *SMALL, *LARGE, -1e160, np.nan, np.inf)
U = np.random.default_rng(0).standard_normal(40)
D = np.convolve(U, [1.0, 0.5, 0.2])[:40]
PROBLEM = adaptive.WienerProblem(R=np.diag([1.0, 0.5, 0.2]), P=[1.0, 0.5, 0.1], d_power=3.0)
SCENARIO = adaptive.SystemIdentification(adaptive.white(3), w_o=[1.0, -0.5, 0.2], noise_power=0.1)


def whole_or_diverged(found):
    return found.diverged_at is not None or (
        np.isfinite(found.error).all() and np.isfinite(found.weights).all()
    )


def bounded(algorithm):
    inputs = ([[1.0, 0.0], [0.0, 0.5]], [[1e-9]], [[1e-200]], [[1e150]])
    return all(
        value > 0 for R in inputs for value in vars(algorithm.bounds(R)).values() if value == value
    )


VERBS = {
    "run": lambda a: whole_or_diverged(adaptive.run(a, U, D, taps=3)),
    "stream": lambda a: whole_or_diverged(a.stream(taps=3).run(U, D)),
    "bounds": bounded,
    "predict": lambda a: not np.isnan(adaptive.predict(a, PROBLEM, steps=50).mse).any(),
    "simulate": lambda a: adaptive.simulate(
        SCENARIO, a, steps=12, runs=4, seed=0, progress=False
    ).runs == 4,
}  # fmt: skip


def refusal(kind, settings, verb):
    """What is said instead of a number; None where there is one."""
    try:
        return None if VERBS[verb](kind(**settings)) else "a wrong number"
    except NotImplementedError:
        return None  # what an algorithm does not offer is tested elsewhere
    except (ValueError, TypeError) as error:
        return str(error)


@kinds
@pytest.mark.parametrize("verb", VERBS)
def test_settings_at_the_ends_of_the_range(kind, verb):
    settings = values(kind)
    for name in settings:
        for extreme in EXTREMES:
            said = refusal(kind, {**settings, name: extreme}, verb)
            named = said is None or re.search(rf"^[^\n]*\b({name}|mu|eps|R)\b[^\n]*$", said)
            assert named, (name, extreme, said)


@pytest.mark.parametrize("leakage", [1e3, 1e8, 1e20, 1e160, 1e300])
def test_bounds_under_large_leakage(leakage):
    """One mode: (1 - mu (l + g))^2 + mu^2 l^2 (kappa - 1) = 1 at the edge, l = 1."""
    g, found = leakage, adaptive.LeakyLMS(mu=0.1, leakage=leakage).bounds([[1.0]])
    assert found.mean == pytest.approx(2 / (1 + g), rel=1e-12, abs=0)
    # the square of 1 + g is left out of both sides, so that it does not overflow
    share = (1 + 1 / g) / (1 + 2 / g + 3 / g / g)
    assert found.mean_square_real == pytest.approx(2 / g * share, rel=1e-12, abs=0)


@pytest.mark.parametrize("leakage", [0.1, 1e8, 1e160, 1e300])
def test_bounds_of_leaky_nlms_under_large_leakage(leakage):
    """With one mode and eps = 0 a step is a pure number: the error's factor is 1 - mu (1 + g)."""
    found = adaptive.LeakyNLMS(mu=0.1, leakage=leakage, eps=0.0).bounds([[1.0]])
    assert found.mean_square == pytest.approx(2 / (1 + leakage), rel=1e-9, abs=0)


def test_a_tiny_step_of_leaky_nlms_has_the_steady_state_of_a_small_one():
    at = {}
    for mu in (1e-9, 1e-300):
        algorithm = adaptive.LeakyNLMS(mu=mu, leakage=0.1, eps=0.1)
        at[mu] = adaptive.predict(algorithm, PROBLEM, steps=2).mse_final
    assert at[1e-300] == pytest.approx(at[1e-9], rel=1e-6)


@pytest.mark.parametrize("edge", [minibatch_edge, lambda u: lyapunov_edge(u, seed=0, steps=20)])
@pytest.mark.parametrize("scale", [1e-160, 1e-100, 1e60, 9e153])
def test_edges_of_data_whose_squared_power_has_no_number(edge, scale):
    with pytest.raises(ValueError, match="u must have a power of at"):
        edge(scale * np.array([[1.0, 0.5], [0.5, 2.0], [1.0, -1.0]]))


def test_autocorrelations_up_to_the_largest_number():
    bounds = adaptive.stability_bounds([[1.5e308]])
    assert bounds.mean == pytest.approx(2 / 1.5e308, rel=1e-9, abs=0)
