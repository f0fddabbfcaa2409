"""Steps next to a normalization: which layers, how far from LMS, and the check."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import cnnbridge
from cnnbridge.results import FirstStep
from studies.chai2020 import nlms
from studies.chai2020.nlms_checks import equality, step_rows
from studies.training.networks import PlainVGG, draw_weights

WIDTHS = (3, 3, 4, 4, 4, 4)


@pytest.mark.parametrize(("position", "count"), [("pre", 5), ("post", 6)])
def test_every_layer_next_to_a_normalization_is_compared(position, count):
    found = nlms.adjacent(PlainVGG(1, 2, WIDTHS, "full", position))
    first = 2 if position == "pre" else 1
    assert [layer for layer, _, _ in found] == [f"conv{i}" for i in range(first, 7)]
    assert len(found) == count


@pytest.mark.parametrize("position", ["pre", "post"])
def test_steps_of_a_network(position):
    model = PlainVGG(1, 3, WIDTHS, "full", position).double().train()
    draw_weights(model, "spread", 1)
    before = {name: w.clone() for name, w in model.state_dict().items()}
    x = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(2)).double()
    rows = nlms.compare(model, x, torch.arange(6) % 3)
    assert {row["position"] for row in rows} == {position}
    assert all(row["difference"] < 1e-11 for row in rows)
    assert all(0.01 < row["lms"] <= 1 for row in rows)
    assert all(torch.equal(w, before[name]) for name, w in model.state_dict().items())
    assert len(step_rows(rows)) == len(rows)


def test_distance_from_lms_by_hand():
    # two input channels of power 1 and 4, one output, one tap: the step of LMS is (1, 4) x NLMS
    step = FirstStep(
        position="before",
        g=np.zeros((1, 1, 2)),
        g_sgd=np.array([[[1.0, 1.0]]]),
        g_nlms=np.array([[[1.0, 1.0]]]),
        s=np.array([1.0, 2.0]),
        minimum_norm=0.0,
        radial=math.nan,
    )
    # sine of the angle between (1, 1) and (1, 4)
    assert nlms.distance_from_lms(step) == pytest.approx(math.sqrt(1 - 25 / 34))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("after", [False, True])
def test_with_equal_powers_nlms_is_lms(groups, after):
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 4, 3, padding=1, groups=groups)
    norm = cnnbridge.SplitBatchNorm(4 if after else 2, affine=False, eps=1e-12)
    model = nn.Sequential(*([conv, norm] if after else [norm, conv])).double()
    x = torch.randn(6, 2, 6, 6).double()
    names = ("1", "0") if after else ("0", "1")

    def distance(x):
        target = torch.ones(6, 4, 6, 6).double()
        return nlms.distance_from_lms(
            cnnbridge.first_step_is_nlms(model, *names, x, target, nn.MSELoss(), lr=0.1)
        )

    if after:
        with torch.no_grad():
            s = model[0](x).std(dim=(0, 2, 3), correction=0)
            conv.weight /= s[:, None, None, None]
    else:
        x = x / x.std(dim=(0, 2, 3), correction=0)[:, None, None]
    assert distance(x) < 1e-7  # the square root of the eps
    with torch.no_grad():
        if after:
            conv.weight[0] *= 3
        else:
            x = x * torch.tensor([1.0, 3.0]).reshape(2, 1, 1)
    assert distance(x) > 0.05


def test_not_a_number_fails():
    rows = [
        {"position": "pre", "layer": "conv2", "difference": 0.0},
        {"position": "pre", "layer": "conv3", "difference": math.nan},
    ]
    before, after = equality(rows, "steps")
    assert before.verdict == "fails"
    assert "largest in conv3" in before.note
    assert after.verdict == "inconclusive"
    assert after.note == "no step was taken"
