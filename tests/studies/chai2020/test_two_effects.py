"""The study on a tiny preset, and its verdicts on made-up results."""

import dataclasses
import json
import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy import stats

from studies.chai2020 import two_effects
from studies.chai2020.two_effects import BARE, TORCH, measure
from studies.chai2020.two_effects import candidates as prediction
from studies.chai2020.two_effects.figures import settings
from studies.chai2020.two_effects.groups import Group
from studies.chai2020.two_effects.judge import CHECKS, claim_checks, spectrum_checks
from studies.chai2020.two_effects.tables import size_rows
from studies.engine import runner
from studies.engine.outcomes import Course, fails_text, learns_text
from studies.training.images import Images

TINY = two_effects.Config(
    "tiny",
    seed=0,
    seeds=1,
    control_seeds=0,
    form_seeds=0,
    setting_seeds=0,
    cell=two_effects.Cell(
        Images(limit=96, size=8),
        (0.05, 0.8, 1e6),
        widths=(4, 4),
        low_steps=12,
        steps=6,
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
    page = (out / "report.html").read_text()
    for heading in ("What a ceiling on the loss would say", "What the rule can distinguish"):
        assert heading in page


def test_one_seed_decides_nothing(finished):
    out, _ = finished
    written = json.loads((out / "summary.json").read_text())
    assert written["answer"]["verdict"] == "inconclusive"
    # twelve of the claim, four of the control, two of the predictors
    assert len(written["checks"]) == CHECKS + 4 + 2
    # one seed cannot give a bound at 95 %
    paired = [c for c in written["checks"] if "bound of the median" in c["rule"]]
    assert {c["verdict"] for c in paired} == {"inconclusive"}


def test_a_cell_that_fails_leaves_the_other_variants(tmp_path, monkeypatch):
    real = measure.draw_weights

    def draw_weights(model, init, seed):
        if model.variant == "amplify":
            raise ArithmeticError("made up")
        real(model, init, seed)

    monkeypatch.setattr(measure, "draw_weights", draw_weights)
    quick = dataclasses.replace(TINY, cell=dataclasses.replace(TINY.cell, predict=False))
    summary = runner.run(two_effects.STUDY, quick, tmp_path, device="cpu", workers=1)
    assert summary.status == "incomplete"
    assert "2 of 10 cells failed" in summary.problems[0]
    assert len(summary.results["outcomes-nothing-learned"]) == 4


def test_cells_of_the_laptop_preset():
    plan = two_effects.plan(runner.configure(two_effects.STUDY, "laptop", seed=4))
    assert len({cell for _, cell in plan}) == len(plan)
    assert min(cell.seed for _, cell in plan) == 5000
    # images, weights and order are drawn together
    assert all(cell.images.seed == cell.seed for _, cell in plan)
    for setting in (BARE, TORCH):
        for variant in two_effects.CORE:
            mine = [c for s, c in plan if s == setting and c.variant == variant]
            assert len(mine) == 8
    # enough for a bound that is corrected for all checks, and for the goal of the predictors
    assert 0.05 / CHECKS >= 0.5**8
    held_out = {(s, cell.variant) for s, cell in plan if s in two_effects.SETTINGS}
    assert len(held_out) >= prediction.GOAL_CELLS
    assert {s for s, cell in plan if cell.network == "residual"} == {"residual"}


def test_no_two_settings_are_the_same_network():
    """Without a normalization its position has no effect; such a setting would be a duplicate."""
    plan = two_effects.plan(runner.configure(two_effects.STUDY, "laptop"))
    seen = set()
    for _, cell in plan:
        key = dataclasses.replace(cell, predict=True, low_steps=0)
        if cell.variant == "none" and cell.affine == "none":
            key = dataclasses.replace(key, position="pre")
        assert key not in seen
        seen.add(key)


def test_a_residual_network_is_measured_like_the_plain_one():
    plan = two_effects.plan(dataclasses.replace(TINY, setting_seeds=1))
    cell = next(c for s, c in plan if (s, c.variant) == ("residual", "suppress"))
    found = measure.measure(cell)
    assert [s["layer"] for s in found["spectra"]][:2] == ["first", "blocks.0.2"]
    assert math.isfinite(found["predicted"]["Gauss-Newton, whole net"])
    assert len(found["courses"]) == len(cell.rates)


@pytest.mark.parametrize(
    ("variant", "affine", "expected"),
    [("none", "none", 3), ("full", "none", 1), ("full", "all", 2), ("full", "bounded", 1)],
)
def test_the_degree_says_what_explodes(variant, affine, expected):
    cell = dataclasses.replace(TINY.cell, variant=variant, affine=affine, predict=False, steps=20)
    found = measure.measure(dataclasses.replace(cell, low_steps=0))
    assert found["degree"] == pytest.approx(expected, abs=0.01)
    huge = Course.of(found["courses"][-1])
    # what may explode can die of its first step instead
    assert (huge.explodes() or huge.dies) == (expected > 1)


# --- verdicts on made-up results ---------------------------------------------------------------

RATES = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)


def made_course(lr, learns, fails):
    n = 30
    loss, accuracy = np.full(n, 1.0 if learns else 2.3), np.full(n, 0.9 if learns else 0.1)
    norm = np.full(n + 1, 1.0)
    norm[-1] = 1e9 if fails else 1.0
    values = (v.tolist() for v in (loss, accuracy, norm))
    record = dict(zip(("loss", "accuracy", "norm"), values, strict=True))
    return record | {"lr": lr, "dead_at": None, "steps": n}


def group(variant, steps, indices, lowest=1.0, highest=1.0, setting=BARE, **options):
    """A variant whose run at each seed learns up to RATES[index] and explodes from there on."""
    spectrum = {"layer": "c", "lowest": lowest, "median": 1.0, "highest": highest}
    made = Group(setting, variant, 0.0, 400, RATES)
    for seed, (n, k) in enumerate(zip(steps, indices, strict=True)):
        courses = [made_course(lr, i <= k, i > k) for i, lr in enumerate(RATES)]
        result = {"steps": n, "spectra": [spectrum] * 3, "degree": 1.0, "courses": courses}
        made.add(seed, result | options)
    return (setting, variant), made


def made_up(seeds=8, **changes):
    pairs = []
    for setting in (BARE, TORCH):
        pairs += [
            group("none", [100] * seeds, [0] * seeds, setting=setting),
            group("amplify", [20] * seeds, [0] * seeds, lowest=5.0, setting=setting),
            group("suppress", [110] * seeds, [4] * seeds, highest=0.2, setting=setting),
            group("full", [18] * seeds, [4] * seeds, lowest=5, highest=0.2, setting=setting),
            group("frozen", [18] * seeds, [0] * seeds, lowest=5, highest=0.2, setting=setting),
        ]
    return dict(pairs) | {(BARE, k): v for k, v in changes.items()}


def verdicts(groups):
    return [check.verdict for check in claim_checks(groups)]


def test_a_clean_dissociation_holds():
    assert verdicts(made_up()) == ["holds"] * CHECKS
    assert [c.verdict for c in spectrum_checks(made_up())] == ["fails"] * 4


@pytest.mark.parametrize(
    ("checks", "change"),
    [
        ({0, 2}, group("amplify", [90] * 8, [0] * 8, lowest=5.0)),
        ({1}, group("suppress", [50] * 8, [4] * 8, highest=0.2)),
        ({2}, group("amplify", [60] * 8, [0] * 8, lowest=5.0)),
        ({4, 6}, group("none", [100] * 8, [5] * 8)),
        ({5, 7}, group("amplify", [20] * 8, [5] * 8, lowest=5.0)),
        ({3}, group("amplify", [20] * 8, [0] * 8, lowest=0.9)),
    ],
)
def test_each_check_can_fail(checks, change):
    (_, variant), changed = change
    found = verdicts(made_up(**{variant: changed}))
    expected = {k for k, verdict in enumerate(found) if verdict != "holds"}
    assert expected == checks
    assert all(found[k] in ("fails", "inconclusive") for k in checks)
    assert found[min(checks)] == "fails" or min(checks) >= 4


def test_what_was_not_reached_is_not_made_up():
    never = group("none", [None] * 8, [0] * 8)[1]
    # nothing took longer than the run: amplifying is at least 20 times as fast
    found = verdicts(made_up(none=never))
    assert found[0] == "holds"
    # suppressing got there at 110, so it is at least 3.6 times as fast
    assert found[1] == "fails"
    slow = group("suppress", [None] * 8, [4] * 8, highest=0.2)[1]
    assert verdicts(made_up(none=never, suppress=slow))[1] == "inconclusive"
    both = size_rows(made_up(none=never, suppress=slow))
    assert next(row for row in both if row[0].endswith("suppress"))[1] == "not reached by either"
    beyond = group("suppress", [200] * 8, [5] * 8, highest=0.2)[1]
    assert verdicts(made_up(suppress=beyond))[4] == "holds"


def test_too_few_seeds_decide_nothing():
    assert verdicts(made_up(seeds=4)) == ["inconclusive"] * CHECKS


def test_five_seeds_can_hold_but_not_fail():
    assert set(verdicts(made_up(seeds=5))) == {"holds"}
    slow = group("amplify", [90] * 5, [0] * 5, lowest=5.0)[1]
    assert verdicts(made_up(seeds=5, amplify=slow))[0] == "inconclusive"


def test_outcomes_are_told_as_intervals():
    (_, made) = group("full", [1], [2])
    assert made.learns(0) == (0.4, 0.8)
    assert made.fails(0) == made.explodes(0) == (0.4, 0.8)
    assert made.dies(0) == (3.2, math.inf)
    assert fails_text([made.fails(0)]) == "0.4 to 0.8"
    assert fails_text([made.dies(0)]) == "not up to 3.2"
    assert learns_text([(0.0, 0.1)]) == "nowhere"
    assert learns_text([(3.2, math.inf)]) == "3.2 and more"


def points(predicted, observed, degree=1.0):
    return [
        prediction.Point(BARE if i < 10 else f"setting {i % 6}", degree, p, o)
        for i, (p, o) in enumerate(zip(predicted, observed, strict=True))
    ]


def test_candidates_are_judged_where_they_were_not_fitted():
    rng = np.random.default_rng(0)
    predicted = np.exp(rng.standard_normal(40))
    observed = 3 * predicted * np.exp(0.1 * rng.standard_normal(40))
    mine = points(predicted, observed)
    poor = points(np.exp(rng.standard_normal(40)), observed)
    found = prediction.assess("x", mine, poor)
    assert (found.train, found.test) == (10, 30)
    assert found.constant == pytest.approx(3, rel=0.2)
    assert 1 < found.factor < 1.2
    expected = stats.spearmanr(predicted[10:], observed[10:]).statistic
    assert found.spearman_test == pytest.approx(expected)
    assert found.within[0] == pytest.approx(expected)
    assert math.isnan(found.within[1])
    assert found.interval[0] < expected < found.interval[1]
    assert found.over_lookup > 0.3
    assert prediction.prediction_checks([found], [])[0].verdict == "holds"
    # as good as a table of the variants: nothing is explained
    same = prediction.assess("x", mine, mine)
    assert same.over_lookup == 0
    assert prediction.prediction_checks([same], [])[0].verdict == "fails"
    worse = dataclasses.replace(found, spearman_train=0.1, spearman_test=0.0, name="y")
    assert prediction.prediction_checks([worse, found], [])[0].note.startswith("x")
    few = dataclasses.replace(found, test=5)
    assert prediction.prediction_checks([few], [])[0].verdict == "inconclusive"
    # far off but for the order: enough for the speed, not for the rate
    far = dataclasses.replace(found, factor=3.0)
    assert [c.verdict for c in prediction.prediction_checks([far], [far])] == ["fails", "holds"]


def test_the_lookup_knows_only_the_variant():
    base = dict([group("none", [40], [1]), group("full", [10], [3])])
    base |= dict([group("full", [20], [2], setting="residual")])
    found = prediction.step_points(base, prediction.LOOKUP)
    assert [p.predicted for p in found] == pytest.approx([40, 10, 10])
    assert [p.observed for p in found] == [40, 10, 20]


def test_momentum_moves_the_edge():
    name = "Gauss-Newton, whole net"
    _, plain = group("none", [1], [1], predicted={name: 0.5})
    heavy = dataclasses.replace(plain, momentum=0.9)
    assert prediction.predicted_rate(plain, name) == pytest.approx(0.5)
    assert prediction.predicted_rate(heavy, name) == pytest.approx(1.9 * 0.5)


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


def test_settings_are_drawn_with_intervals_and_open_ends():
    groups = made_up()
    for variant, reached in (("none", None), ("amplify", 20), ("suppress", None), ("full", 18)):
        key, made = group(variant, [reached] * 8, [5] * 8, setting="residual")
        groups[key] = made
    figure = settings(groups)
    for plot in figure.plots:
        _, ax = plt.subplots()
        assert plot(ax)
        assert [label.get_text() for label in ax.get_yticklabels()] == [BARE, "residual"]
        plt.close()
