"""The study ``noise-floor``: linearisation, critical batch, and the rule on made results."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import adaptive
from studies.engine.protocol import Measured
from studies.related.noise_floor import PRESETS, Cell, Images, cells
from studies.related.noise_floor.judge import judge
from studies.related.noise_floor.measure import (
    _train_runs,
    critical_batch,
    linear_problem,
    measure,
    noise_scale,
    updates_to,
)

CONFIG = PRESETS["laptop"]


def data(N=6):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, 1, 2, 2, generator=generator).double()
    y = torch.randn(N, 1, generator=generator).double()
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 1)).double(), x, y


def test_a_linear_network_trains_as_its_linear_problem_says():
    """One batch of all images is no random draw: the recursion is then the training itself."""
    model, x, y = data()
    u, d = linear_problem(model, x, y)
    cell = Cell(network_runs=2, network_steps=12)
    seen = _train_runs(model, x, y, (6, 0.05, 0.0), cell)
    said = adaptive.minibatch.predict_minibatch(u, d, mu=0.1, steps=13, batch=6, replace=False).mse
    np.testing.assert_allclose(seen, said, rtol=1e-9)


def test_runs_of_a_linear_network_scatter_about_the_recursion():
    model, x, y = data()
    u, d = linear_problem(model, x, y)
    runs = [
        _train_runs(model, x, y, (2, 0.05, 0.0), Cell(seed=seed, network_runs=64, network_steps=20))
        for seed in range(6)
    ]
    said = adaptive.minibatch.predict_minibatch(u, d, mu=0.1, steps=21, batch=2, replace=False).mse
    error = np.std(runs, axis=0, ddof=1) / math.sqrt(6)
    assert (abs(np.mean(runs, axis=0) - said)[1:] < 6 * error[1:]).all()


def test_training_ends_at_its_goal():
    model, x, y = data()
    cell = Cell(network_runs=1, network_steps=50)
    whole = _train_runs(model, x, y, (6, 0.05, 0.0), cell)
    goal = float(whole[10])
    ended = _train_runs(model, x, y, (6, 0.05, goal), cell)
    np.testing.assert_array_equal(ended[:11], whole[:11])
    assert np.isinf(ended[11:]).all()


def test_a_run_that_diverges_never_arrives():
    model, x, y = data()
    seen = _train_runs(model, x, y, (2, 1e200, 0.0), Cell(network_runs=2, network_steps=9))
    assert math.isinf(updates_to(seen, 0.1))


def test_updates_between_two_steps():
    assert updates_to([1.0, 0.1], 1.0) == 0
    assert updates_to([1.0, 0.1, 0.01], math.sqrt(1e-3)) == pytest.approx(1.5)
    assert updates_to([1.0, 0.9], 0.5) == math.inf
    assert updates_to([math.inf, math.nan], 0.5) == math.inf


def test_critical_batch_of_a_known_law():
    """S(B) = S (1 + C / B) has the critical batch C, but for the full batch's own noise."""
    batches = [1, 2, 4, 8, 16, 32, 64, 2**20]
    updates = [10 * (1 + 8 / b) for b in batches]
    assert critical_batch(batches, updates) == pytest.approx(8, rel=1e-3)
    assert critical_batch([1, 64], [15.0, 10.0]) == 0
    assert math.isnan(critical_batch([1, 64], [30.0, math.inf]))
    assert math.isnan(critical_batch([1, 64], [math.inf, 10.0]))


def test_equal_gradients_have_no_noise():
    assert noise_scale(np.ones((5, 2)), np.full(5, 3.0)) == 0


def result(*, excess=1.0, breaks=0.95, batch=10.0):
    sizes = len(CONFIG.cell.batches)
    head = {
        "predicted": np.ones(sizes - 1),
        "observed": np.full(sizes - 1, excess),
        "textbook": np.full(sizes - 1, 0.7),
        "shuffled": np.full(sizes - 1, 1.5),
        "mean_square": np.full(sizes - 1, 0.9),
        "mean": np.ones(sizes - 1),
        "breaks": np.full(sizes - 1, breaks),
    }
    updates = [20.0 / size + 1 for size in CONFIG.cell.batches]
    network = {
        "observed": updates,
        "predicted": updates,
        "observed_batch": batch,
        "predicted_batch": 10.0,
        "noise_scale": 100.0,
    }
    return {"head": head, "network": network}


def verdicts(made):
    measured = [Measured(cell, made) for cell in cells(CONFIG, "cpu")]
    findings = judge(CONFIG, measured)
    return findings.verdict, [check.verdict for check in findings.checks]


def test_theory_that_is_right_holds():
    assert verdicts(result()) == ("holds", ["holds"] * 3)


@pytest.mark.parametrize(
    ("change", "which"),
    [
        ({"excess": 1.04}, 0),
        ({"excess": 0.96}, 0),
        ({"breaks": 1.03}, 1),
        ({"breaks": 0.85}, 1),
        ({"batch": 16.0}, 2),
        ({"batch": 6.0}, 2),
    ],
)
def test_each_check_can_fail_alone(change, which):
    verdict, each = verdicts(result(**change))
    assert verdict == "fails"
    assert [v == "fails" for v in each] == [k == which for k in range(3)]


def test_a_batch_that_was_not_resolved_decides_nothing():
    assert verdicts(result(batch=math.nan))[1] == ["holds", "holds", "inconclusive"]


def test_a_single_network_decides_nothing():
    cell = Cell(
        images=Images(limit=12, size=8),
        width=1,
        until=0.95,
        runs=4,
        steps=12,
        batches=(1, 12),
        fractions=(0.5,),
        network_runs=2,
        network_steps=4,
        goal=0.99,
    )
    config = PRESETS["smoke"]
    found = measure(cell)
    assert len(found["head"]["observed"]) == 1
    assert judge(config, [Measured(cell, None, "failed")]).verdict == "inconclusive"
