"""The study on a tiny preset, and its verdicts on made-up results."""

import dataclasses
import json
import math

import numpy as np
import pytest
from scipy import stats

from studies.chai2020 import two_effects
from studies.chai2020.two_effects import candidates as prediction
from studies.chai2020.two_effects import measure
from studies.chai2020.two_effects.groups import Group
from studies.chai2020.two_effects.judge import claim_checks
from studies.engine import runner
from studies.training.images import Images
from studies.training.rates import geometric_rates

TINY = two_effects.Config(
    "tiny",
    seed=0,
    seeds=1,
    control_seeds=0,
    setting_seeds=0,
    cell=two_effects.Cell(
        Images(limit=96, size=8),
        geometric_rates(0.05, octaves=4, per_octave=1),
        widths=(4, 4, 4, 4, 4, 4),
        low_steps=12,
        rate_steps=6,
    ),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("tiny")
    return out, runner.run(two_effects.STUDY, TINY, out, device="cpu", workers=1)


def test_every_candidate_is_drawn(finished):
    out, summary = finished
    assert summary.status == "complete", summary.problems
    drawn = {"effects", "losses", "spectra", "predictors_rate", "predictors_speed"}
    assert drawn <= {path.stem for path in out.glob("*.svg")}
    assert "What predicts the highest stable rate" in (out / "report.html").read_text()


def test_one_seed_decides_nothing(finished):
    out, _ = finished
    written = json.loads((out / "summary.json").read_text())
    assert written["answer"]["verdict"] == "inconclusive"
    assert len(written["checks"]) == 8
    # one seed cannot give a bound at 95 %
    paired = [c for c in written["checks"] if "bound of the median" in c["rule"]]
    assert {c["verdict"] for c in paired} == {"inconclusive"}


def test_a_cell_that_fails_leaves_the_other_variants(tmp_path, monkeypatch):
    real = measure.draw_weights

    def draw_weights(model, init, seed):
        if model.variant == "center":
            raise ArithmeticError("made up")
        real(model, init, seed)

    monkeypatch.setattr(measure, "draw_weights", draw_weights)
    quick = dataclasses.replace(TINY, cell=dataclasses.replace(TINY.cell, predict=False))
    summary = runner.run(two_effects.STUDY, quick, tmp_path, device="cpu", workers=1)
    assert summary.status == "incomplete"
    assert "1 of 5 cells failed" in summary.problems[0]
    assert len(summary.results["the-variants"]) == 4


def test_cells_of_the_laptop_preset():
    plan = two_effects.plan(runner.configure(two_effects.STUDY, "laptop", seed=4))
    assert len(plan) == 5 * 5 + 2 * 7 + 2 * 9 * 4
    assert len({cell for _, cell in plan}) == len(plan)
    assert min(cell.seed for _, cell in plan) == 5000
    assert {cell.images.seed for _, cell in plan} == {4}
    # the held-out groups are enough for the goal that was set
    held_out = {(setting, cell.variant) for setting, cell in plan if setting != "base"}
    assert len(held_out) >= prediction.GOAL_CELLS
    widths = {setting: cell.widths for setting, cell in plan}
    assert widths["half as wide"] == (8, 8, 16, 16, 16, 16)
    assert widths["twice as wide"] == (32, 32, 64, 64, 64, 64)
    assert {s for s, cell in plan if cell.network == "residual"} == {"residual"}
    # candidates are measured for two seeds of the base setting and one of each other
    predicted = {(setting == "base", cell.seed) for setting, cell in plan if cell.predict}
    assert predicted == {(True, 5000), (True, 5001), (False, 5000)}


def test_a_residual_network_is_measured_like_the_plain_one():
    plan = two_effects.plan(dataclasses.replace(TINY, setting_seeds=1))
    cell = next(c for s, c in plan if (s, c.variant) == ("residual", "suppress"))
    found = measure.measure(cell)
    assert [s["layer"] for s in found["spectra"]][:2] == ["first", "blocks.0.2"]
    assert len(found["spectra"]) == 7
    assert math.isfinite(found["predicted"]["Gauss-Newton, whole net"])


# --- verdicts on made-up results ---------------------------------------------------------------

RATES = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)


def group(variant, steps, indices, lowest=1.0, highest=1.0, setting="base", **options):
    spectrum = {"layer": "c", "lowest": lowest, "median": 1.0, "highest": highest}
    found = {
        seed: {
            "steps": n,
            "rate_index": k,
            "spectra": [spectrum] * 3,
            "tried": [],
            "rate_loss": 1.0,
            **options,
        }
        for seed, (n, k) in enumerate(zip(steps, indices, strict=True))
    }
    return (setting, variant), Group(setting, variant, 0.0, found, 400, RATES)


def made_up(**changes):
    groups = dict(
        [
            group("none", [100] * 5, [1] * 5),
            group("amplify", [20] * 5, [1] * 5, lowest=5.0),
            group("suppress", [200] * 5, [4] * 5, highest=0.2),
            group("full", [18] * 5, [4] * 5, lowest=5.0, highest=0.2),
        ]
    )
    return groups | {("base", k): v for k, v in changes.items()}


def verdicts(groups):
    return [check.verdict for check in claim_checks(groups)]


def test_a_clean_dissociation_holds():
    assert verdicts(made_up()) == ["holds"] * 6


@pytest.mark.parametrize(
    ("check", "change"),
    [
        (0, group("amplify", [90] * 5, [1] * 5, lowest=5.0)),
        (1, group("suppress", [50] * 5, [4] * 5, highest=0.2)),
        (2, group("amplify", [60] * 5, [1] * 5, lowest=5.0)),
        (3, group("suppress", [200] * 5, [2] * 5, highest=0.2)),
        (4, group("amplify", [20] * 5, [3] * 5, lowest=5.0)),
        (5, group("amplify", [20] * 5, [1] * 5, lowest=0.9)),
    ],
)
def test_each_check_can_fail(check, change):
    (_, variant), changed = change
    assert verdicts(made_up(**{variant: changed}))[check] == "fails"


def test_what_was_not_reached_is_not_made_up():
    never = group("none", [None] * 5, [1] * 5)[1]
    # nothing took longer than the run: amplifying is at least 20 times as fast
    found = verdicts(made_up(none=never))
    assert found[0] == "holds"
    # suppressing got there at 200, so it is at least twice as fast
    assert found[1] == "fails"
    slow = group("suppress", [None] * 5, [4] * 5, highest=0.2)[1]
    assert verdicts(made_up(none=never, suppress=slow))[1] == "inconclusive"
    beyond = group("suppress", [200] * 5, [5] * 5, highest=0.2)[1]
    assert verdicts(made_up(suppress=beyond))[3] == "holds"


def test_too_few_seeds_decide_nothing():
    groups = dict(
        [
            group("none", [100] * 4, [1] * 4),
            group("amplify", [20] * 4, [1] * 4, lowest=5.0),
            group("suppress", [200] * 4, [4] * 4, highest=0.2),
            group("full", [18] * 4, [4] * 4),
        ]
    )
    assert verdicts(groups) == ["inconclusive"] * 6


def test_a_missing_seed_is_left_out_of_every_pair():
    groups = made_up()
    del groups["base", "amplify"].results[0]
    # pairs that are matched by seed leave four, too few for a bound
    assert verdicts(groups) == [
        "inconclusive",
        "holds",
        "inconclusive",
        "holds",
        "inconclusive",
        "inconclusive",
    ]
    assert claim_checks(groups)[-1].predicted == 4


def test_candidates_are_judged_where_they_were_not_fitted():
    rng = np.random.default_rng(0)
    predicted = np.exp(rng.standard_normal(40))
    observed = 3 * predicted * np.exp(0.1 * rng.standard_normal(40))
    points = [(i >= 10, p, o) for i, (p, o) in enumerate(zip(predicted, observed, strict=True))]
    points += [(True, math.nan, 1.0), (False, 0.0, 1.0)]
    found = prediction.assess("x", points)
    assert (found.train, found.test) == (10, 30)
    assert found.constant == pytest.approx(3, rel=0.2)
    assert found.factor_raw == pytest.approx(3, rel=0.2)
    assert 1 < found.factor < 1.2
    expected = stats.spearmanr(predicted[10:], observed[10:]).statistic
    assert found.spearman_test == pytest.approx(expected)
    check = prediction.prediction_checks([found], [])[0]
    assert check.verdict == "holds"
    worse = dataclasses.replace(found, spearman_train=0.1, spearman_test=0.0, name="y")
    assert prediction.prediction_checks([worse, found], [])[0].note.startswith("x")
    few = dataclasses.replace(found, test=5)
    assert prediction.prediction_checks([few], [])[0].verdict == "inconclusive"
    # far off but for the order: enough for the speed, not for the rate
    far = dataclasses.replace(found, factor=3.0)
    assert [c.verdict for c in prediction.prediction_checks([far], [far])] == ["fails", "holds"]
    late = dataclasses.replace(found, name=prediction.ADDED_AFTER_SEED_0[0])
    assert prediction.prediction_checks([late], []) == []
    assert prediction.prediction_checks([late], [], seed=1)[0].verdict == "holds"
    unordered = dataclasses.replace(found, spearman_test=0.8)
    assert [c.verdict for c in prediction.prediction_checks([], [unordered])] == ["fails"]


def test_momentum_moves_the_edge():
    name, tried = "Gauss-Newton, whole net", "16 updates at each rate"
    _, plain = group("none", [1], [1], predicted={name: 0.5, tried: 0.5})
    heavy = dataclasses.replace(plain, momentum=0.9)
    assert prediction.predicted_rate(plain, name) == pytest.approx(0.5)
    assert prediction.predicted_rate(heavy, name) == pytest.approx(1.9 * 0.5)
    # the short runs were made with the momentum
    assert prediction.predicted_rate(heavy, tried) == pytest.approx(0.5)


def test_updates_that_are_predicted():
    found = {"level_3": 30, "straight_on": 0.0, "straight_line": 50.0}
    _, plain = group("none", [1], [1], lowest=0.25, **found)
    heavy = dataclasses.replace(plain, momentum=0.9)
    assert prediction.predicted_steps(plain, "level 3") == pytest.approx(30)
    # nobody gets anywhere in less than an update, or in more than the run has
    assert prediction.predicted_steps(plain, "8 updates, straight on") == pytest.approx(1)
    _, never = group("none", [1], [1], level_3=None, straight_line=1e5)
    assert prediction.predicted_steps(never, "level 3") == pytest.approx(400)
    assert prediction.predicted_steps(never, "slope at the start") == pytest.approx(400)
    assert prediction.predicted_steps(heavy, "level 3") == pytest.approx(30)
    assert prediction.predicted_steps(heavy, "slope at the start") == pytest.approx(5)
    assert prediction.predicted_steps(plain, "1 / smallest eigenvalue of R") == pytest.approx(4)
    _, unmeasured = group("none", [1], [1])
    assert math.isnan(prediction.predicted_steps(unmeasured, "level 3"))
