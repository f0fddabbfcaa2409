"""A paper's claims in one report, whatever its studies do."""

import dataclasses
import json
import shlex

import pytest

from studies.engine.errors import UserError
from studies.engine.reproduce import reproduce
from studies.engine.summary import Summary
from tests.studies import fake_study
from tests.studies.browser import look
from tests.studies.engine.test_report import assert_self_contained


@pytest.fixture(autouse=True)
def _fakes():
    fake_study.forget()


def run(out, preset="laptop", find=fake_study.STUDIES.__getitem__, **choices):
    choices = {"data": "mnist5k", "data_root": None, "seed": 0, "device": "cpu", **choices}
    return reproduce(fake_study.PAPER, find, preset, out, **choices)


def verdicts(summary):
    return [claim["verdict"] for claim in summary.results["claims"]]


def test_one_report_for_all_claims(tmp_path, capsys):
    summary = run(tmp_path, seed=4, workers=2)
    assert summary.status == "complete"
    assert verdicts(summary) == ["holds", "holds", "holds"]
    assert list(fake_study.NAMES) == fake_study.RUNS
    assert summary.config["studies"]["fake-a"] == {"preset": "laptop", "seed": 4}
    page = (tmp_path / "report.html").read_text()
    assert_self_contained(page)
    assert page.count("<img") == 4
    for words in (
        "ours, not the paper&#39;s",
        fake_study.EXPERIMENT,
        fake_study.RULE,
        "Nothing was looked at in fake-c.",
        "Claim 3: Least",
        "The error is 0.5.",
        "fake-d: error",
    ):
        assert words in page
    assert "regression check" not in page
    data = json.loads((tmp_path / "summary.json").read_text())
    assert data["results"]["claims"][1]["studies"][0]["against"]
    assert (tmp_path / "tables" / "the-claims.csv").exists()
    assert "2. Less" in capsys.readouterr().out


def test_report_in_a_browser(tmp_path):
    run(tmp_path)
    seen = look(tmp_path / "report.html", tmp_path)
    assert len(seen["pictures"]) == 4
    assert all("straight line" in picture["alt"] for picture in seen["pictures"])


def test_each_study_can_be_run_alone(tmp_path):
    run(tmp_path, seed=3)
    command = Summary.read(tmp_path / "fake-b" / "summary.json").command
    folder = shlex.quote(str(tmp_path / "fake-b"))
    wanted = f"naturalmodes run fake-b --preset laptop --seed 3 --device cpu --out {folder}"
    assert command == wanted


def test_smoke_is_no_evidence(tmp_path, capsys):
    run(tmp_path, preset="smoke")
    assert "regression check" in (tmp_path / "report.html").read_text()
    assert "regression check" in capsys.readouterr().out


def test_rules_are_on_disk_before_anything_runs(tmp_path):
    fake_study.BEHAVIOUR["fake-a"] = "stop"
    seen = []

    def spy(config, device):
        seen.append(json.loads((tmp_path / "summary.json").read_text()))
        return fake_study.STUDIES["fake-a"].cells(config, device)

    spied = {**fake_study.STUDIES}
    spied["fake-a"] = dataclasses.replace(spied["fake-a"], cells=spy)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, find=spied.__getitem__)
    studies = [s for claim in seen[0]["results"]["claims"] for s in claim["studies"]]
    assert [s["rule"] for s in studies] == [fake_study.RULE] * 4
    assert {s["verdict"] for s in studies} == {"inconclusive"}
    assert seen[0]["status"] == "running"


@pytest.mark.parametrize(
    ("behaviour", "halves", "whole"),
    [
        ({}, ["holds", "holds"], "holds"),
        ({"fake-b": "wrong"}, ["holds", "fails"], "fails"),
        ({"fake-a": "wrong"}, ["fails", "holds"], "fails"),
        ({"fake-b": "half"}, ["holds", "inconclusive"], "inconclusive"),
        ({"fake-b": "raise"}, ["holds", "inconclusive"], "inconclusive"),
    ],
)
def test_two_studies_of_one_claim(tmp_path, behaviour, halves, whole):
    fake_study.BEHAVIOUR.update(behaviour)
    summary = run(tmp_path, seed=1)
    claim = summary.results["claims"][0]
    assert verdicts(summary) == [whole, "holds", "holds"]
    assert [study["study"] for study in claim["studies"]] == ["fake-a", "fake-b"]
    assert [study["verdict"] for study in claim["studies"]] == halves
    page = (tmp_path / "report.html").read_text()
    assert f"fake-a: {halves[0]}, fake-b: {halves[1]}" in page
    assert "fake-b: Is fake-b so?" in page
    # a verdict is not a problem
    failing = {"half", "raise"} & set(behaviour.values())
    assert summary.status == ("incomplete" if failing else "complete")


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ("raise", "It raised ZeroDivisionError: by zero"),
        ("refuse", "there are no images"),
        ("half", "Study fake-c is incomplete"),
    ],
)
def test_a_study_that_fails_costs_only_itself(tmp_path, how, problem):
    fake_study.BEHAVIOUR["fake-c"] = how
    summary = run(tmp_path)
    assert summary.status == "incomplete"
    assert verdicts(summary) == ["holds", "inconclusive", "holds"]
    assert problem in " ".join(summary.problems)
    assert problem in (tmp_path / "report.html").read_text()
    if how == "raise":
        assert "by zero" in (tmp_path / "fake-c" / "traceback.txt").read_text()


def test_nothing_can_be_run(tmp_path):
    fake_study.BEHAVIOUR.update(dict.fromkeys(fake_study.NAMES, "refuse"))
    with pytest.raises(UserError, match="there are no images"):
        run(tmp_path)
    with pytest.raises(UserError, match="unknown preset 'huge'"):
        run(tmp_path, preset="huge")


def test_a_study_without_evidence_against_says_so(tmp_path):
    fake_study.BEHAVIOUR["fake-d"] = "silent"
    run(tmp_path)
    assert "recorded no evidence against" in (tmp_path / "report.html").read_text()


def test_interrupted_run_is_taken_up_again(tmp_path):
    fake_study.BEHAVIOUR["fake-c"] = "stop"
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert Summary.read(tmp_path / "summary.json").status == "interrupted"
    assert "interrupted" in (tmp_path / "report.html").read_text()
    fake_study.forget()
    summary = run(tmp_path)
    assert fake_study.RUNS == ["fake-c", "fake-d"]
    assert verdicts(summary) == ["holds", "holds", "holds"]
