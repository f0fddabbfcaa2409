"""The study on a tiny preset, and its verdicts on results that are made up."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

import cnnbridge
from studies.engine import runner
from studies.related import horizons
from studies.related.horizons.groups import exponent, horizon
from studies.related.horizons.judge import checks_of, evidence_against
from studies.related.horizons.measure import measure
from studies.related.horizons.tables import horizon_text
from studies.training.images import Images, tensors
from studies.training.networks import SmallCNN
from studies.training.sgd import train_below
from tests.cnnbridge.learning.calls import observe_network, predict_in_place, predict_network

TINY = horizons.Config(
    "tiny",
    seeds=1,
    widths=(2, 4),
    all_levels=(2,),
    cell=horizons.Cell(Images(limit=12, size=8), steps=8, until=1.8),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("tiny")
    return out, runner.run(horizons.STUDY, TINY, out, device="cpu", workers=1)


def test_every_width_and_level_is_reported(finished):
    out, summary = finished
    assert summary.status == "complete", summary.problems
    assert {"horizons", "readings"} == {path.stem for path in out.glob("*.svg")}
    written = json.loads((out / "summary.json").read_text())
    assert len(written["results"]["horizons-over-widths"]) == 2 * 2
    # at the one width with every level: level 3, three intervals, four layers
    assert len(written["results"]["every-level"]) == 2 * (1 + 3 + 4)


def test_so_few_seeds_decide_nothing(finished):
    _, summary = finished
    assert [check.verdict for check in summary.checks] == ["inconclusive"] * 9
    assert summary.answer.verdict == "inconclusive"


def test_a_cell_is_what_the_bridge_says():
    cell = next(c for c in horizons.cells(TINY, "cpu") if c.width == 2 and c.start == "checkpoint")
    found = measure(cell)
    images, labels, classes = tensors(TINY.cell.images)
    torch.manual_seed(cell.seed)
    model = SmallCNN(1, classes, 2)
    loss = nn.CrossEntropyLoss()
    assert found["trained"] == train_below(model, images, labels, 1.8) > 0
    assert found["loss"][0] == pytest.approx(loss(model(images), labels).item())
    assert found["loss"][0] < 1.8
    bound = 2 / cnnbridge.sharpness(model, images, labels, loss, kind="gauss_newton")
    assert found["bound"] == pytest.approx(bound)
    assert found["lr"] == pytest.approx(0.2 * bound)
    kwargs = {"lr": found["lr"], "steps": 8}
    run = observe_network(model, images, labels, loss, **kwargs)
    for name, h in (("level 3", None), ("h = 2", 2)):
        prediction = predict_network(model, images, labels, loss, relinearize=h, **kwargs)
        known, wanted = found["readings"][name], cnnbridge.compare(prediction, run)
        np.testing.assert_allclose(known["error"], wanted.displacement_error, atol=1e-6)
        np.testing.assert_allclose(known["skill"], wanted.skill, atol=1e-4)
        assert known["horizons"] == list(wanted.horizon.values())
    run = observe_network(model, images, labels, loss, layer="conv2", **kwargs)
    moved = np.linalg.norm(run.displacement[8])
    prediction = predict_in_place(model, "conv2", images, labels, loss, **kwargs)
    error = np.linalg.norm(prediction.displacement[8] - run.displacement[8]) / moved
    assert found["readings"]["conv2"]["error"][8] == pytest.approx(error, rel=1e-3)


def test_the_widest_come_first_and_seeds_are_not_those_of_the_docs():
    cells = horizons.cells(TINY, "cpu")
    assert [c.width for c in cells] == [4] * 2 + [2] * 2
    assert {c.seed for c in cells} == {1000}
    assert {(c.start, c.fraction) for c in cells} == {("fresh", 0.01), ("checkpoint", 0.2)}
    assert {(c.width, c.all_levels) for c in cells} == {(4, False), (2, True)}


# --- verdicts --------------------------------------------------------------------------------


def result(ten, fifty=None, ends=(0.4, 0.2, 0.1, 0.01), skill=0.5, steps=30):
    """What ``measure`` returns, made up; ``ends`` are the errors of level 3, h = 50, 10 and 2."""

    def reading(end):
        return {
            "error": np.linspace(0, end, steps + 1),
            "skill": np.full(steps + 1, skill),
            "horizons": [ten, fifty],
            "compared": steps + 1,
        }

    names = ["level 3", *(f"h = {h}" for h in horizons.EVERY), *horizons.LAYERS]
    values = [*ends, *[0.1] * len(horizons.LAYERS)]
    return {
        "trained": 0,
        "bound": 1.0,
        "lr": 0.1,
        "loss": np.linspace(2, 1, steps + 1),
        "readings": {n: reading(v) for n, v in zip(names, values, strict=True)},
    }


def found(make, seeds=8, widths=(8, 16, 32)):
    return {
        (start, width): {seed: make(start, width, seed) for seed in range(seeds)}
        for start in horizons.FRACTIONS
        for width in widths
    }


def verdicts(results):
    return {check.name: check.verdict for check in checks_of(results)}


def one(results, words):
    matching = [v for name, v in verdicts(results).items() if words in name]
    assert len(matching) == 1
    return matching[0]


def test_what_is_so_holds():
    growing = found(lambda _, width, seed: result(width + seed))
    assert set(verdicts(growing).values()) == {"holds"}
    assert len(verdicts(growing)) == 9


@pytest.mark.parametrize(
    ("steps", "verdict"),
    [
        (lambda width: 10, "fails"),
        (lambda width: 64 // width, "fails"),
        (lambda width: None if width == 32 else 5, "holds"),
        # it may have been long already, or not
        (lambda width: None, "inconclusive"),
        (lambda width: None if width == 8 else 12, "fails"),
    ],
)
def test_the_growth_of_the_horizon(steps, verdict):
    made = found(lambda start, width, seed: result(steps(width) if start == "fresh" else width))
    assert one(made, "fresh: exponent") == verdict
    assert one(made, "checkpoint: exponent") == "holds"


def test_seeds_that_disagree_decide_nothing():
    made = found(lambda _, width, seed: result(width if seed > 1 else 64 // width))
    assert one(made, "fresh: exponent") == "inconclusive"


def test_one_network_is_enough_for_a_fall_that_is_none():
    def make(ends):
        return found(
            lambda start, width, seed: result(
                width, ends=ends if (start, width, seed) == ("fresh", 16, 3) else (4, 3, 2, 1)
            )
        )

    for ends in ((0.4, 0.4, 0.1, 0.01), (0.4, 0.2, 0.1, 0.1), (0.4, math.nan, 0.1, 0.01)):
        assert one(make(ends), "fresh: networks") == "fails"
        assert one(make(ends), "checkpoint: networks") == "holds"
    assert one(make((0.4, 0.2, 0.1, 0.01)), "fresh: networks") == "holds"


def test_the_gain_of_ten_steps_is_judged_where_it_is_least():
    made = found(
        lambda start, width, seed: result(
            width, ends=(0.4, 0.35, 0.3 if width == 16 else 0.01, 0.001)
        )
    )
    check = next(c for c in checks_of(made) if "fresh: error at the end" in c.name)
    assert check.verdict == "fails"
    assert check.observed == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("reading", "level"), [("conv3", "level 2"), ("level 3", "level 3"), ("h = 50", "level 4")]
)
def test_skill_is_judged_where_it_is_least(reading, level):
    def make(_, width, seed):
        made = result(width)
        if width == 16:
            made["readings"][reading]["skill"] = np.full(31, -0.01)
            # later it may be what it likes
            made["readings"][reading]["skill"][horizons.LOOK + 1 :] = 1
        return made

    results = found(make)
    for other in ("level 2", "level 3", "level 4"):
        assert one(results, f"skill of {other}") == ("fails" if other == level else "holds")


def test_a_run_that_diverged_is_no_evidence():
    made = found(lambda _, width, seed: result(None, skill=math.nan))
    for results in made.values():
        for r in results.values():
            r["readings"]["level 3"]["compared"] = 7
    assert horizon(made["fresh", 8][0], 0) == (7.0, math.inf)
    assert one(made, "skill of level 3") == "inconclusive"
    assert one(made, "fresh: exponent") == "inconclusive"


def test_exponents_by_hand():
    widths = [8, 16, 64]
    exact = [(3 * w**0.4,) * 2 for w in widths]
    assert exponent(widths, exact) == pytest.approx((0.4, 0.4))
    # least squares of three points, against numpy's
    steps = [(7, 7), (9, 9), (8, 8)]
    wanted = np.polyfit(np.log(widths), np.log([7, 9, 8]), 1)[0]
    assert exponent(widths, steps) == pytest.approx((wanted, wanted))
    # an open end on the left lets the exponent fall, on the right rise
    low, high = exponent(widths, [(7, math.inf), (9, 9), (8, 8)])
    assert (low, high) == (-math.inf, pytest.approx(wanted))
    low, high = exponent(widths, [(7, 7), (9, 9), (8, math.inf)])
    assert (low, high) == (pytest.approx(wanted), math.inf)
    # the middle of three has no weight in it
    assert exponent([1, 2, 4], [(2, 2), (3, math.inf), (4, 4)]) == pytest.approx((0.5, 0.5))
    assert exponent([8], [(3, 3)]) == (-math.inf, math.inf)


def test_horizons_in_words():
    inf = math.inf
    assert horizon_text([(5, 5)]) == "5"
    assert horizon_text([(5, 5), (9, 9), (6, 6)]) == "6 (5 to 9)"
    assert horizon_text([(5, 5), (101, inf), (6, 6)]) == "6 (5 to beyond 100)"
    assert horizon_text([(5, 5), (101, inf), (101, inf)]) == "beyond 100 (5 to beyond 100)"
    assert horizon_text([(101, inf)] * 3) == "beyond 100"


def test_against_names_the_networks_where_the_line_is_as_good():
    made = found(
        lambda start, width, seed: result(
            width, skill=-0.1 if (start, width) == ("fresh", 8) else 0.3
        )
    )
    sentences = evidence_against(made)
    assert any(s.startswith("Fresh") and "in 8 of 24 networks" in s for s in sentences)
    assert any(s.startswith("Checkpoint") and "in 0 of 24 networks" in s for s in sentences)


def test_a_loss_that_does_not_fall_is_said():
    torch.manual_seed(0)
    model = SmallCNN(1, 2, 2)
    # alike, but of two classes: no loss below ln 2
    x, y = torch.zeros(4, 1, 8, 8), torch.tensor([0, 1, 0, 1])
    with pytest.raises(RuntimeError, match=r"below 0\.5 in 3 updates; it is 0\.\d"):
        train_below(model, x, y, 0.5, most=3)
