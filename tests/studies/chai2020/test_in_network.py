"""``in-network``: a tiny run, what is measured against plain torch, verdicts on made-up results."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from studies.chai2020.in_network import (
    PRESETS,
    READ_AT,
    RELINEARIZE,
    STUDY,
    Cell,
    Config,
    cells,
)
from studies.chai2020.in_network import measure as measuring
from studies.chai2020.in_network.groups import Group, at
from studies.chai2020.in_network.judge import claim_checks
from studies.chai2020.in_network.measure import measure
from studies.chai2020.in_network.tables import level_rows, top_part
from studies.engine.runner import run
from studies.training.images import Images
from studies.training.networks import SmallCNN, draw_weights
from tests.cnnbridge.learning.calls import observe_network, predict_in_place
from tests.studies.engine.test_report import assert_self_contained

IMAGES = Images(limit=64, size=8)
TINY = Config(
    "tiny",
    seeds=1,
    audit_seeds=1,
    fresh_seeds=1,
    cell=Cell(
        IMAGES, width=2, checkpoint_loss=2.29, batch=16, steps=20, relinearize=(10,), audit_steps=2
    ),
)


def test_a_run(tmp_path):
    summary = run(STUDY, TINY, tmp_path, device="cpu", workers=1)
    assert summary.status == "complete"
    for name in ("errors", "horizons", "modes", "audit", "audit-plain"):
        assert (tmp_path / f"{name}.png").exists()
    page = (tmp_path / "report.html").read_text()
    assert_self_contained(page)
    assert "Every level, with BatchNorm, fresh" in page
    # 3 layers in 3 readings and 2 levels of the whole network, in 4 kinds of network
    levels = [rows for name, rows in summary.results.items() if name.startswith("every-level")]
    assert [len(rows) for rows in levels] == [9 + 2] * 4
    checkpoints = summary.results["checkpoints"]
    assert {row["updates"] > 0 for row in checkpoints} == {True, False}
    assert all(row["loss_end"] < row["loss_start"] for row in checkpoints)
    # one seed cannot give a bound at 95 %, and nothing pretends that it does
    assert summary.answer.verdict == "inconclusive"
    assert [c.verdict for c in summary.checks] == ["inconclusive"] * 14 + ["holds"]
    # three sentences for each kind of network at its checkpoints, one for each fresh kind
    assert len(summary.answer.against) == 2 * 3 + 2


def test_a_checkpoint_that_is_not_reached_is_a_problem_of_the_run(tmp_path):
    cell = dataclasses.replace(TINY.cell, checkpoint_loss=0.1, train_steps=2)
    short = dataclasses.replace(TINY, fresh_seeds=0, cell=cell)
    summary = run(STUDY, short, tmp_path, device="cpu", workers=1)
    assert summary.status == "incomplete"
    assert "2 of 2 cells failed" in summary.problems[0]
    assert "must fall below 0.1 in 2 updates; it is stable" in summary.problems[0]
    assert (tmp_path / "report.html").exists()


def test_networks_follow_from_the_seed():
    trained = [c for c in cells(dataclasses.replace(PRESETS["laptop"], seed=4), "cpu") if c.trained]
    assert {cell.seed for cell in trained} == set(range(5000, 5009))
    assert {cell.images.seed for cell in trained} == {4}
    assert [cell.audit_steps for cell in trained] == [20] * 4 + [0] * 14


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_presets_measure_what_the_rule_asks_for(preset):
    assert preset.cell.steps >= READ_AT
    assert RELINEARIZE in preset.cell.relinearize


# --- what is measured ----------------------------------------------------------------------------


def test_the_device_goes_everywhere(monkeypatch):
    """Network and batch are on the cell's device when the levels get them."""
    seen = []

    def levels(cell, model, x, y):
        seen.append({t.device.type for t in (x, y, *model.parameters(), *model.buffers())})
        return {}

    monkeypatch.setattr(measuring, "_levels", levels)
    # meta tensors hold no data, but their device is one that nothing else uses
    for device in ("cpu", "meta"):
        measure(Cell(IMAGES, 1, True, trained=False, device=device, width=2))
    assert seen == [{"cpu"}, {"meta"}]


def test_a_layer_of_the_whole_training_is_that_of_torch():
    torch.manual_seed(0)
    model = SmallCNN(1, 3, 2, batch_norm=True).double().train()
    x, y = torch.randn(6, 1, 8, 8).double(), torch.arange(6) % 3
    run = observe_network(model, x, y, nn.CrossEntropyLoss(), lr=0.1, steps=3)
    part = measuring._part(run, model, "conv2", ("conv2.weight",))
    start = model.conv2.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for n in range(1, 4):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        moved = (model.conv2.weight.detach() - start).flatten().numpy()
        np.testing.assert_allclose(part.displacement[n], moved, rtol=1e-9, atol=1e-12)
    assert part.layer == "conv2"


def test_where_the_plain_reading_is_exact_so_are_the_modes():
    """A conv layer trained on a squared error is an LMS filter and nothing else."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 2)).double()
    x, y = torch.randn(5, 2, 4, 4).double(), torch.randn(5, 3, 3, 3).double()
    settings = {"lr": 0.3, "steps": 200}
    plain = predict_in_place(model, "0", x, y, nn.MSELoss(), curvature="scalar", **settings)
    run = observe_network(model, x, y, nn.MSELoss(), **settings)
    found = measuring._natural_modes(plain, run)
    assert len(found["eigenvalues"]) == 9
    np.testing.assert_allclose(found["half_time"], found["predicted_half_time"], rtol=1e-6)
    assert found["order"] == found["predicted_order"] == pytest.approx(1)
    # by hand: the largest mode is half-way after half_time updates
    rate = 2 * 0.3 / 3 * np.linalg.eigvalsh(covariance(x))[-1]
    n = np.arange(201)
    course = 1 - (1 - rate) ** n
    by_hand = np.interp(course[-1] / 2, course, n)
    assert found["half_time"][np.argmax(found["eigenvalues"])] == pytest.approx(by_hand)


def covariance(x):
    patches = nn.functional.unfold(x, 2).movedim(1, -1).flatten(0, 1).numpy()
    u = np.hstack([patches, np.ones((len(patches), 1))])
    return u.T @ u / len(u)


def test_fresh_networks_start_as_they_were_drawn(monkeypatch):
    seen = {}

    def levels(cell, model, x, y):
        seen.update(weights=[p.clone() for p in model.parameters()], training=model.training)
        return {}

    monkeypatch.setattr(measuring, "_levels", levels)
    cell = Cell(IMAGES, 7, True, trained=False, width=2)
    assert measure(cell) == {"updates": 0}
    model = SmallCNN(1, 10, 2, batch_norm=True)
    draw_weights(model, "default", 7)
    assert all(map(torch.equal, seen["weights"], model.parameters()))
    assert seen["training"]


# --- verdicts on made-up results -----------------------------------------------------------------

LAYERS = ("conv1", "conv2")


def outcome(skill=0.5, error=0.2, horizon=30):
    return {
        "error": np.full(31, error),
        "skill": np.full(31, skill),
        "loss_error": np.full(31, error),
        "horizon": {"0.1": horizon, "0.5": None},
    }


def result(exact=0.5, level_3=0.5, end=None, gain=0.4, plain=0.3, horizon=12, order=0.8):
    """Make up one seed; each argument is what one check looks at."""
    whole = outcome(level_3)
    if end is not None:
        whole["skill"][-1] = end
    worst = {
        "gauss_newton": outcome(exact),
        "kronecker": outcome(),
        "scalar": outcome(plain, horizon=horizon),
    }
    good = dict.fromkeys(worst, outcome())

    def layer(readings, order):
        modes = {"order": order, "reach_order": 0.5, "eigenvalues": np.array([0.1, 1.0])}
        return {"frozen": readings, "learning": readings, "modes": modes}

    return {
        "updates": 9,
        "network": {"level 3": whole, "level 4, every 10": outcome(error=0.2 * gain)},
        "layers": {"conv1": layer(good, 1.0), "conv2": layer(worst, order)},
    }


def groups(seeds=9, norm=None):
    """Make up both kinds of network, the one with BatchNorm as asked."""
    return {
        (batch_norm, True): Group(
            batch_norm,
            True,
            {s: result(**(norm or {}) if batch_norm else {}) for s in range(seeds)},
        )
        for batch_norm in (False, True)
    }


def verdicts(found):
    return [check.verdict for check in claim_checks(found)]


def test_a_network_of_lms_filters_holds():
    assert verdicts(groups()) == ["holds"] * 14


@pytest.mark.parametrize(
    ("check", "change"),
    [
        (0, {"exact": -0.1}),
        (1, {"level_3": -0.1, "end": 0.1}),
        (2, {"end": -0.1}),
        (3, {"gain": 0.6}),
        (4, {"plain": -0.1}),
        (5, {"horizon": 9}),
        (6, {"order": 0.3}),
    ],
)
def test_each_check_can_fail_alone(check, change):
    expected = ["holds"] * 14
    expected[7 + check] = "fails"
    assert verdicts(groups(norm=change)) == expected


def test_two_bad_seeds_of_nine_leave_it_open():
    found = groups()
    for seed in (3, 7):
        found[True, True].results[seed] = result(exact=-0.1)
    assert verdicts(found)[7] == "inconclusive"


def test_what_is_not_known_is_not_made_up():
    unknown = dict.fromkeys(("exact", "level_3", "gain", "plain", "order"), math.nan)
    assert verdicts(groups(norm=unknown)) == [*["holds"] * 7, *["inconclusive"] * 5, "holds",
                                              "inconclusive"]  # fmt: skip
    # a horizon that was never reached is beyond the run
    assert verdicts(groups(norm={"horizon": None}))[12] == "holds"
    assert verdicts(groups(seeds=4)) == ["inconclusive"] * 14
    assert verdicts({}) == ["inconclusive"] * 14


def test_runs_that_are_too_short_have_no_value_to_read():
    assert math.isnan(at(outcome(), "skill", 31))
    assert at(outcome(0.25), "skill", 30) == 0.25


def test_tables_of_made_up_results():
    group = groups()[True, True]
    rows = level_rows(group)
    assert rows[0][:2] == ["2, conv1, Gauss-Newton", "20.0 %"]
    assert rows[-1][0] == "level 4, every 10"
    assert rows[-1][-2:] == ["30", "over 30"]


def test_error_by_mode_counts_the_modes_of_largest_curvature():
    eigenvalues = np.arange(20.0)
    mode_error = np.where(eigenvalues >= 18, 3.0, 1.0)
    found = top_part({"eigenvalues": eigenvalues, "mode_error": mode_error})
    assert found == pytest.approx(18 / (18 + 18))
