"""A paper's claims in one report, whatever its studies do."""

import json
import shlex

import pytest

from studies import STUDIES
from studies.engine import summary as results
from studies.engine.errors import UserError
from studies.engine.summary import Summary
from studies.reproduce import PAPERS, accepted, reproduce
from tests.studies import fake_study
from tests.studies.browser import look
from tests.studies.engine.test_report import assert_self_contained

CLEAN = {"sha": "c" * 40, "dirty": False}


@pytest.fixture(autouse=True)
def fakes(monkeypatch):
    fake_study.install(monkeypatch)
    monkeypatch.setattr(results, "commit", lambda source=None: CLEAN)


def run(out, letters="ABCD", preset="laptop", **choices):
    choices = {"data": "mnist5k", "data_root": None, "seed": 0, "device": "cpu", **choices}
    return reproduce("chai2020", preset, out, studies=fake_study.registry(letters), **choices)


def verdicts(summary):
    return [claim["verdict"] for claim in summary.results["claims"]]


def test_one_report_for_all_claims(tmp_path, capsys):
    summary = run(tmp_path, seed=4, workers=2)
    assert summary.status == "complete"
    assert verdicts(summary) == ["holds", "holds", "holds"]
    assert list("ABCD") == fake_study.RUNS
    assert summary.config["studies"]["fake-a"] == {"preset": "laptop", "seed": 4}
    page = (tmp_path / "report.html").read_text()
    assert_self_contained(page)
    assert page.count("<img") == 4
    for words in (
        "ours, not the paper&#39;s",
        fake_study.EXPERIMENT,
        fake_study.RULE,
        "Nothing was looked at in C.",
        "Claim 3: NLMS at the first step",
        "The error is 0.5.",
        "D fake-d: error",
    ):
        assert words in page
    assert "regression check" not in page
    data = json.loads((tmp_path / "summary.json").read_text())
    assert data["results"]["claims"][1]["studies"][0]["against"]
    assert (tmp_path / "tables" / "the-claims.csv").exists()
    assert "2. Two distinct effects" in capsys.readouterr().out


def test_report_in_a_browser(tmp_path):
    run(tmp_path)
    seen = look(tmp_path / "report.html", tmp_path)
    assert len(seen["pictures"]) == 4
    assert all("straight line" in picture["alt"] for picture in seen["pictures"])


def test_each_study_can_be_run_alone(tmp_path):
    run(tmp_path, seed=3)
    command = Summary.read(tmp_path / "B-fake-b" / "summary.json").command
    folder = shlex.quote(str(tmp_path / "B-fake-b"))
    wanted = f"naturalmodes run fake-b --preset laptop --seed 3 --device cpu --out {folder}"
    assert command == wanted


def test_smoke_is_no_evidence(tmp_path, capsys):
    run(tmp_path, preset="smoke")
    assert "regression check" in (tmp_path / "report.html").read_text()
    assert "regression check" in capsys.readouterr().out


def test_rules_are_on_disk_before_anything_runs(tmp_path, monkeypatch):
    seen = []

    def spy(config, out, **options):
        seen.append(json.loads((tmp_path / "summary.json").read_text()))
        raise KeyboardInterrupt

    monkeypatch.setattr(fake_study.A, "run", spy)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    studies = [s for claim in seen[0]["results"]["claims"] for s in claim["studies"]]
    assert [s["rule"] for s in studies] == [fake_study.RULE] * 4
    assert {s["verdict"] for s in studies} == {"inconclusive"}
    assert seen[0]["status"] == "running"


def test_a_claim_that_fails(tmp_path):
    fake_study.BEHAVIOUR["B"] = "wrong"
    summary = run(tmp_path)
    assert verdicts(summary) == ["fails", "holds", "holds"]
    assert summary.status == "complete"  # a verdict is not a problem
    assert summary.count("fails") == 1


@pytest.mark.parametrize(
    ("behaviour", "halves", "whole"),
    [
        ({}, ["holds", "holds"], "holds"),
        ({"D after": "wrong"}, ["holds", "fails"], "fails"),
        ({"D": "wrong"}, ["fails", "holds"], "fails"),
        ({"D after": "half"}, ["holds", "inconclusive"], "inconclusive"),
        ({"D after": "raise"}, ["holds", "inconclusive"], "inconclusive"),
    ],
)
def test_two_halves_of_one_claim(tmp_path, behaviour, halves, whole):
    fake_study.BEHAVIOUR.update(behaviour)
    summary = reproduce("chai2020", "laptop", tmp_path, studies=fake_study.with_halves(), seed=1)
    claim = summary.results["claims"][2]
    assert claim["verdict"] == whole
    assert [study["study"] for study in claim["studies"]] == ["fake-d", "fake-d-after"]
    assert [study["verdict"] for study in claim["studies"]] == halves
    page = (tmp_path / "report.html").read_text()
    assert f"D fake-d: {halves[0]}, D fake-d-after: {halves[1]}" in page
    assert "D, fake-d-after: Is D still so?" in page


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ("raise", "It raised ZeroDivisionError: by zero"),
        ("refuse", "there are no images"),
        ("half", "Study fake-c is incomplete"),
    ],
)
def test_a_study_that_fails_costs_only_itself(tmp_path, how, problem):
    fake_study.BEHAVIOUR["C"] = how
    summary = run(tmp_path)
    assert summary.status == "incomplete"
    assert verdicts(summary) == ["holds", "inconclusive", "holds"]
    assert problem in " ".join(summary.problems)
    assert problem in (tmp_path / "report.html").read_text()
    if how == "raise":
        assert "by zero" in (tmp_path / "C-fake-c" / "traceback.txt").read_text()


def test_nothing_can_be_run(tmp_path):
    fake_study.BEHAVIOUR.update(dict.fromkeys("ABCD", "refuse"))
    with pytest.raises(UserError, match="there are no images"):
        run(tmp_path)
    with pytest.raises(UserError, match="no study stands for"):
        run(tmp_path, letters="")
    with pytest.raises(UserError, match="unknown preset 'huge'"):
        run(tmp_path, preset="huge")
    with pytest.raises(UserError, match="no paper 'chai2021'; there is: chai2020"):
        reproduce("chai2021", "smoke", tmp_path)


def test_a_study_that_is_not_written_yet(tmp_path):
    summary = run(tmp_path, letters="ACD")
    assert verdicts(summary) == ["inconclusive", "holds", "holds"]
    assert summary.problems == ["Claim 1: there is no study B yet."]
    assert summary.status == "incomplete"


def test_a_study_without_an_answer_is_judged_by_its_checks(tmp_path):
    fake_study.BEHAVIOUR["D"] = "silent"
    summary = run(tmp_path)
    assert verdicts(summary) == ["holds", "holds", "holds"]
    page = (tmp_path / "report.html").read_text()
    assert "1 of 1 checks hold." in page
    assert "recorded no evidence against" in page


def test_interrupted_run_is_taken_up_again(tmp_path):
    fake_study.BEHAVIOUR["C"] = "stop"
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert Summary.read(tmp_path / "summary.json").status == "interrupted"
    assert "interrupted" in (tmp_path / "report.html").read_text()
    fake_study.BEHAVIOUR.clear()
    fake_study.RUNS.clear()
    summary = run(tmp_path)
    assert fake_study.RUNS == ["C", "D"]
    assert verdicts(summary) == ["holds", "holds", "holds"]
    assert "kept from an earlier run" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("change", ["seed", "commit", "dirty", "versions", "device", "damage"])
def test_what_has_changed_is_run_again(tmp_path, monkeypatch, change):
    run(tmp_path)
    fake_study.RUNS.clear()
    changed = {"commit": {**CLEAN, "sha": "d" * 40}, "dirty": {**CLEAN, "dirty": True}}
    if change in changed:
        monkeypatch.setattr(results, "commit", lambda source=None: changed[change])
    elif change == "versions":
        monkeypatch.setattr(results, "versions", lambda: {"numpy": "0"})
    elif change == "device":
        monkeypatch.setattr("studies.reproduce._device_type", lambda device: "cuda")
    elif change == "damage":
        for path in tmp_path.glob("*/summary.json"):
            path.write_text("{")
    run(tmp_path, seed=int(change == "seed"))
    assert list("ABCD") == fake_study.RUNS


def test_options_that_mean_nothing_are_left_out():
    options = {"data": "x", "seed": 1}
    assert accepted(lambda preset, *, seed: None, options) == {"seed": 1}
    assert accepted(lambda **anything: None, options) == options


def test_registry():
    letters = set("".join(claim.letters for claim in PAPERS["chai2020"].claims))
    assert letters == set("ABCD")
    assert {study.claim for study in STUDIES.values()} <= letters | {"", "E"}
    # the halves of the third claim, in their order
    third = [name for name, study in STUDIES.items() if study.claim == "D"]
    assert third == ["first-step", "after-first-step"]
