"""Condition numbers of layers against their definitions, and what the checks notice."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from studies.engine.protocol import Measured
from studies.related.conditioning import NETS, PRESETS, cells
from studies.related.conditioning.judge import checks_of, judge, layer_rows, verdict_of
from studies.related.conditioning.measure import condition, layer_readings, measure
from studies.related.conditioning.readings import MEASURES, Readings
from studies.training.networks import PlainVGG, draw_weights

TINY = PRESETS["smoke"]
LAYERS = ("conv1", "conv2", "conv3", "linear")


def test_condition_is_over_the_median():
    assert condition(np.array([8.0, 1.0, 4.0])) == 2
    assert condition(np.array([[8.0, 1.0], [4.0, 2.0]])) == 4  # the lower of two medians
    assert condition(np.array([0.0, 0.0, 4.0])) == 1e12
    assert condition(np.array([0.0, 1e-20, 4.0])) == 1e12


def test_readings_against_autograd_on_one_layer():
    """R, G and the whole Gauss-Newton matrix of a layer, from their definitions."""
    torch.manual_seed(0)
    images, labels = torch.randn(6, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])
    model = PlainVGG(1, 3, (2, 2, 2, 2, 2, 2), "full", "post").train()
    draw_weights(model, "he", 0)
    rows = {row["layer"]: row for row in layer_readings(model, images, labels, 6)}
    assert list(rows) == ["conv1", "conv2", "conv3", "conv4", "conv5", "conv6", "linear"]

    features = model.pool(model.features(images)).flatten(1).detach().double()
    W = model.classify.weight.detach().double()
    p = (features @ W.T + model.classify.bias.detach()).softmax(1)
    G_rows = p - nn.functional.one_hot(labels, 3)
    R = np.linalg.eigvalsh((features.T @ features / 6).numpy())
    G = np.linalg.eigvalsh((G_rows.T @ G_rows / 6).numpy())
    linear = rows["linear"]
    assert linear["R"] == pytest.approx(condition(R), rel=1e-4)
    assert linear["G"] == pytest.approx(condition(G), rel=1e-4)
    products = sorted(a * b for a in R for b in G)
    assert linear["R x G"] == pytest.approx(products[-1] / products[2], rel=1e-3)

    inputs = torch.cat([features, torch.ones(6, 1)], dim=1)
    blocks = [torch.diag(q) - torch.outer(q, q) for q in p]
    whole = sum(torch.kron(H, torch.outer(u, u)) for H, u in zip(blocks, inputs, strict=True)) / 6
    assert linear["curvature"] == pytest.approx(float(torch.linalg.eigvalsh(whole)[-1]), rel=0.02)


def readings(hidden, last, curvature, seeds=8):
    """Nets whose hidden layers lie at so many decades, by net, and the linear layer at others."""
    values = {}
    for net in NETS:
        for name in MEASURES:
            values[net, name] = np.zeros((seeds, 2, len(LAYERS)))
        values[net, "R x G"][:, :, 1:-1] = hidden[net]
        values[net, "R x G"][:, :, -1] = last[net]
        values[net, "curvature"][:, :, -1] = curvature[net]
    return Readings(LAYERS, values, {net: np.ones(seeds) for net in NETS})


def nets(none, after, before):
    return {"none": none, "after": after, "before": before}


def judged(*args, **options):
    checks = checks_of(readings(*args, **options))
    return [c.verdict for c in checks[:4]], verdict_of(checks)


def test_checks_notice():
    better, worst, flat = nets(3.0, 2.0, 1.0), nets(4.0, 4.0, 4.0), nets(-1.0, -1.0, -1.0)
    assert judged(better, worst, flat) == (["holds"] * 3 + ["fails"], "holds")
    assert judged(better, flat, worst) == (["holds", "holds", "fails", "holds"], "holds")
    assert judged(better, flat, flat) == (["holds", "holds", "fails", "fails"], "fails")
    assert judged(nets(3.0, 3.5, 1.0), worst, worst)[1] == "fails"
    assert judged(better, worst, worst, seeds=4) == (["inconclusive"] * 4, "inconclusive")


def test_a_run_that_broke_off_could_have_had_any_value():
    broken = readings(nets(3.0, 2.0, 1.0), nets(4.0, 4.0, 4.0), nets(1.0, 1.0, 1.0))
    broken.values["none", "R x G"][:2, 1:] = np.nan
    verdicts = [c.verdict for c in checks_of(broken)]
    assert verdicts[:4] == ["inconclusive", "inconclusive", "holds", "holds"]
    assert len(layer_rows(broken)) == 3 * len(LAYERS)


def test_a_dead_network_ends_the_readings():
    cell = dataclasses.replace(cells(TINY, "cpu")[0], lr=1e4, times=(0, 30))
    result = measure(cell)
    assert result["state"] != "stable"
    assert len(result["readings"]) == 1


def test_smoke_and_what_a_failed_network_leaves_unknown():
    measured = [Measured(cell, measure(cell)) for cell in cells(TINY, "cpu")]
    findings = judge(TINY, measured)
    assert findings.verdict == "inconclusive"  # one seed
    assert len(findings.checks) == 7
    assert [len(table.rows) for table in findings.tables] == [3, 18, 4]
    lost = dataclasses.replace(measured[0], result=None, error="lost")
    some = judge(TINY, [lost, *measured[1:]])
    names = ["not a number" in row for table in some.tables for row in table.rows]
    assert sum(names) == 7  # the layers of one network
    before, after = findings.checks[2:6], some.checks[2:6]
    assert [c.observed for c in before] == [c.observed for c in after]
