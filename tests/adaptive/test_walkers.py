"""The mean-square edge on a delay line: exact cases, quadrature, and small populations."""

import numpy as np
import pytest

import adaptive
from tests.oracles import transfer

SMALL = {"walkers": 800, "steps": 200}


@pytest.mark.parametrize(
    "algorithm",
    [
        adaptive.LMS(mu=1.0),
        adaptive.LeakyLMS(mu=1.0, leakage=0.3),
        adaptive.MomentumLMS(mu=1.0, momentum=0.5),
        adaptive.BlockLMS(mu=1.0, block=3),
        adaptive.NLMS(mu=1.0, eps=0.5),
        adaptive.LeakyNLMS(mu=1.0, leakage=0.2, eps=0.5),
    ],
    ids=lambda a: a.name,
)
def test_one_white_tap_is_independent_so_the_edge_is_the_bound(algorithm):
    found = adaptive.delay_line_edge(adaptive.white(taps=1), algorithm, **SMALL)
    assert found.converged
    assert found.se < 0.02 * found.mu
    assert abs(found.mu - found.independence) < 4 * found.se + 0.01 * found.mu


def test_the_quadrature_knows_one_white_tap():
    """E(1 - mu u^2)^2 = 1 - 2 mu + 3 mu^2."""
    assert transfer.growth_rate(0.0, 0.5) == pytest.approx(np.log(0.75), abs=1e-6)
    assert transfer.edge(0.0, 0.3, 0.9) == pytest.approx(2 / 3, abs=1e-4)


def test_one_correlated_tap_agrees_with_quadrature():
    exact = transfer.edge(0.6, 0.1, 0.9)
    source = adaptive.AutoRegressive([0.6], taps=1)
    found = adaptive.delay_line_edge(source, adaptive.LMS(mu=1.0), walkers=2000, steps=150)
    assert exact < 0.95 * found.independence
    # the bias of a finite population is the part that a quarter of it shows fourfold
    bias = abs(found.fewer - found.mu)
    assert abs(found.mu - exact) < 4 * found.se + bias


def test_on_a_narrow_band_rare_paths_decide_and_the_independence_bound_is_far_too_high():
    source = adaptive.AutoRegressive([0.9], taps=4)
    found = adaptive.delay_line_edge(source, adaptive.LMS(mu=1.0), **SMALL)
    assert found.decisive == "high"
    assert found.mu < 0.15 * found.independence
    assert found.starts["high"] < 0.7 * found.starts["stationary"]


def test_a_population_too_small_is_reported():
    source = adaptive.AutoRegressive([0.9], taps=4)
    found = adaptive.delay_line_edge(source, adaptive.LMS(mu=1.0), walkers=60, steps=120)
    assert not found.converged


def test_a_seed_gives_the_same_edge_again():
    edges = [
        adaptive.delay_line_edge(
            adaptive.white(taps=2), adaptive.LMS(mu=1.0), walkers=100, steps=60, seed=seed
        ).mu
        for seed in (1, 1, 2)
    ]
    assert edges[0] == edges[1] != edges[2]


def test_an_alternating_input_is_as_narrow_as_its_mirror_image():
    edges = [
        adaptive.delay_line_edge(
            adaptive.AutoRegressive([a], taps=2), adaptive.LMS(mu=1.0), walkers=300, steps=120
        )
        for a in (0.8, -0.8)
    ]
    assert abs(edges[0].mu - edges[1].mu) < 5 * np.hypot(edges[0].se, edges[1].se)


@pytest.mark.parametrize(
    ("source", "algorithm", "message"),
    [
        (adaptive.GaussianRegressors(np.eye(2)), adaptive.LMS(mu=1.0), "source must be"),
        (adaptive.white(taps=2), "lms", "algorithm must be"),
        (adaptive.white(taps=2), adaptive.RLS(delta=1.0), "algorithm must be LMS, NLMS, Leaky"),
    ],
)
def test_what_it_refuses(source, algorithm, message):
    with pytest.raises(TypeError, match=message):
        adaptive.delay_line_edge(source, algorithm)
