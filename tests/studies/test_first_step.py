"""The study end to end on a tiny preset; the NLMS twin against BatchNorm itself."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import nn

from studies import first_step
from studies.errors import UserError
from studies.models import PlainVGG, draw_weights
from studies.nlms_twin import nlms_twin
from tests.studies.test_report import assert_self_contained

WIDTHS = (3, 3, 4, 4, 4, 4)
TINY = first_step.Config(
    "tiny",
    images=64,
    image_size=8,
    seeds=1,
    widths=WIDTHS,
    step_images=6,
    updates_before=2,
    departure_rates=(1e-4, 1e-3),
    departure_batches=(8, 32),
    departure_steps=2,
    loss_rates=(0.01,),
    loss_steps=4,
    rate_lowest=0.5,
    rate_octaves=1,
    rate_steps=3,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("tiny")
    return out, first_step.run(TINY, out, device="cpu", workers=1)


def test_everything_is_there(finished):
    out, summary = finished
    assert summary.status == "complete"
    names = {path.name for path in out.iterdir()}
    drawn = {f"{name}.{kind}" for name in first_step.drawing.FIGURES for kind in ("png", "svg")}
    assert drawn | {"summary.json", "report.html"} <= names
    assert_self_contained((out / "report.html").read_text())
    # one line for each layer with a normalization on that side of it
    assert len(summary.results["steps"]) == 5 + 6


def test_the_first_steps_are_equal_to_rounding(finished):
    out, summary = finished
    assert [check.verdict for check in summary.checks[:2]] == ["holds", "holds"]
    assert all(check.observed < 1e-11 for check in summary.checks[:2])
    written = json.loads((out / "summary.json").read_text())
    assert written["answer"]["verdict"] == "holds"
    assert written["answer"]["rule"] == first_step.RULE
    assert any("does not vanish" in sentence for sentence in written["answer"]["against"])


def pair(classes=3):
    model = PlainVGG(1, classes, WIDTHS, "full").double().train()
    draw_weights(model, "spread", 1)
    x = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(2)).double()
    return model, x, torch.arange(16) % classes


@pytest.mark.parametrize("head", [1, 2])
def test_the_twin_starts_as_the_same_function(head):
    model = PlainVGG(1, 3, WIDTHS, "full", head=head).double().train()
    draw_weights(model, "spread", 1)
    x = torch.randn(16, 1, 16, 16, generator=torch.Generator().manual_seed(2)).double()
    before = {name: w.clone() for name, w in model.state_dict().items()}
    twin, _ = nlms_twin(model, x)
    torch.testing.assert_close(twin(x), model(x), rtol=1e-9, atol=1e-9)
    assert all(torch.equal(w, before[name]) for name, w in model.state_dict().items())
    assert not model._forward_hooks
    assert not any(part._forward_pre_hooks for part in model.modules())


def test_the_twin_takes_the_step_of_batch_norm_in_effective_weights():
    model, x, y = pair()
    twin, adjust = nlms_twin(model, x)
    start = (model.classify.weight.detach().clone(), twin.classify.weight.detach().clone())
    s = start[0][0] / start[1][0]
    for net in (model, twin):
        nn.functional.cross_entropy(net(x), y).backward()
    adjust()
    for net in (model, twin):
        torch.optim.SGD(net.parameters(), lr=0.1).step()
    # the linear layer, which no other normalization comes behind: its error is the same
    torch.testing.assert_close(
        twin.classify.weight - start[1],
        (model.classify.weight - start[0]) / s,
        rtol=1e-8,
        atol=1e-12,
    )


def test_only_full_in_position_pre_has_a_twin():
    x = torch.zeros(2, 1, 8, 8)
    with pytest.raises(ValueError, match="full"):
        nlms_twin(PlainVGG(1, 2, WIDTHS, "none"), x)
    with pytest.raises(ValueError, match="pre"):
        nlms_twin(PlainVGG(1, 2, WIDTHS, "full", "post"), x)


@pytest.mark.parametrize(("position", "count"), [("pre", 5), ("post", 6)])
def test_every_layer_beside_a_normalization_is_compared(position, count):
    found = first_step.adjacent(PlainVGG(1, 2, WIDTHS, "full", position))
    first = 2 if position == "pre" else 1
    assert [layer for layer, _, _ in found] == [f"conv{i}" for i in range(first, 7)]
    assert len(found) == count


def test_exponents():
    assert first_step.slope([1, 10, 100], np.array([3.0, 30.0, 300.0])) == pytest.approx(1)
    assert first_step.slope([1, 10, 100], np.array([3.0, np.nan, 0.3])) == pytest.approx(-0.5)
    assert np.isnan(first_step.slope([1, 10], np.array([np.nan, 1.0])))


def test_horizon_is_where_the_losses_part():
    def result(loss):
        return {"loss": {"0.1": loss}, "state": {"0.1": "stable"}}

    found = first_step.Found(
        [],
        {},
        {
            "batch norm": {s: result([2.0] * 30) for s in (1, 2, 3)},
            "NLMS steps": {
                1: result([2.0] * 10 + [3.0] * 20),
                2: result([2.0] * 30),
                3: result([2.0] * 12),
            },
        },
    )
    parts, never, ended = first_step.horizon(found, "0.1")
    # averaged over 10 updates, one of 3 is 5 % of 2, and two are more
    assert 10 <= parts[0] == parts[1] <= 11
    assert never[1] == np.inf
    assert ended == (12.0, 12.0)


def test_what_is_refused(tmp_path):
    with pytest.raises(UserError, match="unknown preset"):
        first_step.configure("huge")
    with pytest.raises(UserError, match="no folder"):
        first_step.run(
            dataclasses.replace(TINY, data=f"folder:{tmp_path / 'absent'}"), tmp_path / "out"
        )
