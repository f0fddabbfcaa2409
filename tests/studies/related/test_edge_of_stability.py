"""What the study of the edge of stability measures, and what its checks notice."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

import cnnbridge
from studies.engine.protocol import Measured
from studies.related.edge_of_stability import PRESETS, Cell, cells
from studies.related.edge_of_stability.course import Course
from studies.related.edge_of_stability.judge import (
    checks_of,
    course_rows,
    evidence_against,
    judge,
)
from studies.related.edge_of_stability.measure import follow, lms_curvature, measure, network

TINY = PRESETS["smoke"]


def course(hessian, *, steps=600, loss=0.1, layer=0.5, lr=0.5):
    edge = 2 / lr
    return Course(
        lr=lr,
        steps=steps,
        at=np.linspace(0, steps, len(hessian)).astype(int),
        hessian=np.array(hessian) * edge,
        gauss_newton=np.array(hessian) * edge,
        layers={"conv1": np.full(len(hessian), layer * edge)},
        inputs={"conv1": np.ones(len(hessian))},
        loss=np.full(steps + 1, loss),
    )


def verdicts(*args, **options):
    return [c.verdict for c in checks_of(course(*args, **options))]


def test_checks_notice():
    assert verdicts([0.2, 0.6, 1.05, 1.08]) == ["holds", "holds", "holds"]
    assert verdicts([0.2, 0.6, 0.7, 0.8])[1] == "fails"
    assert verdicts([0.2, 0.6, 1.2, 1.2])[1] == "fails"
    # the last third is from step 400 on, two of these four
    assert verdicts([0.2, 0.3, 0.95, 1.05])[1] == "holds"
    assert verdicts([0.2, 0.6, 1.0, 1.0], loss=np.nan)[1] == "fails"
    assert verdicts([0.6, 0.9, 1.0, 1.0])[:2] == ["inconclusive", "inconclusive"]
    assert verdicts([0.2, 0.6, 0.7, 0.8], steps=60)[1] == "inconclusive"
    assert verdicts([0.2, 0.6, 1.0, 1.0], layer=1.0)[2] == "fails"


def test_evidence_against_names_the_layers_and_the_lower_rate():
    courses = [course([0.2, 1.0, 1.0, 1.0], lr=lr) for lr in (1.0, 0.5, 0.25)]
    first, _, last = evidence_against(courses[:2], courses[2:])
    assert "At lr 1 no single layer" in first
    assert "conv1 0.5 of 2 / lr" in first
    assert "at lr 0.25 the sharpness ends at 1 of 2 / lr after 600 steps" in last


def test_curvature_of_lms_on_a_layers_input():
    torch.manual_seed(0)
    images = torch.randn(5, 2, 14, 14)
    model = network(images, 3, (2, 3), seed=1)
    reference = model.conv1(images).tanh().detach()
    patches = nn.functional.unfold(reference, 3).transpose(1, 2).reshape(-1, 18).double()
    patches = torch.cat([patches, torch.ones(len(patches), 1)], dim=1)
    R = patches.T @ patches / len(patches)
    found = lms_curvature(model, "conv2", images)
    assert found == pytest.approx(2 * float(torch.linalg.eigvalsh(R)[-1]) / 3, rel=1e-6)
    y = torch.randn(5, 3)
    own = cnnbridge.sharpness(model, images, y, nn.MSELoss(), kind="gauss_newton", layer="linear")
    bound = lms_curvature(model, "linear", images)
    assert bound == pytest.approx(own, rel=1e-3)


def test_weights_start_at_half_of_torchs():
    images = torch.zeros(1, 1, 14, 14)
    model = network(images, 10, (6, 8), seed=0)
    largest = float(model.conv1.weight.detach().abs().max())
    assert 0.9 * 0.5 / 5 < largest <= 0.5 / 5  # uniform in ± 1 / sqrt(25), halved


def test_smoke_is_too_short_to_decide():
    measured = [Measured(cell, measure(cell)) for cell in cells(TINY, "cpu")]
    findings = judge(TINY, measured)
    assert findings.verdict == "inconclusive"
    assert len(findings.checks) == 6
    assert [len(table.rows) for table in findings.tables] == [3]
    lost = Measured(measured[2].cell, error="lost")
    assert judge(TINY, [*measured[:2], lost]).checks == findings.checks


def test_a_rate_that_was_not_measured_leaves_the_claim_undecided():
    def found(run):
        values = {k: v for k, v in vars(run).items() if k not in ("lr", "steps")}
        return Measured(Cell(lr=run.lr, steps=run.steps), values)

    good = [found(course([0.2, 0.6, 1.0, 1.0], lr=lr)) for lr in (1.0, 0.5)]
    assert judge(TINY, good).verdict == "holds"
    assert judge(TINY, good[:1]).verdict == "inconclusive"
    bad = found(course([0.2, 0.3, 0.4, 0.5]))
    assert judge(TINY, [bad]).verdict == "fails"


def test_a_diverging_run_is_a_result():
    torch.manual_seed(0)
    images, labels = torch.randn(5, 1, 14, 14), torch.tensor([0, 1, 2, 0, 1])
    cell = dataclasses.replace(TINY.cell, lr=1e30, steps=6, layers=())
    found = Course(cell.lr, cell.steps, **follow(images, labels, 3, cell))
    assert found.diverged
    assert course_rows([found])[0][4] == "diverged"
