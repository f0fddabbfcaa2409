"""Verdicts, and files that are whole whenever anybody looks."""

import json
import math
import os
import subprocess

import numpy as np
import pytest

from adaptive.files import plain
from studies.engine.checks import at_most, inconclusive, within, worst
from studies.engine.errors import UserError
from studies.engine.files import write_atomically, write_csv, write_json
from studies.engine.provenance import commit, versions
from studies.engine.summary import Answer, Summary


def test_verdicts():
    assert at_most("error", 1e-10, 1e-9, unit="").verdict == "holds"
    assert at_most("error", 1e-8, 1e-9, unit="").verdict == "fails"
    assert at_most("error", math.nan, 1e-9, unit="").verdict == "fails"
    assert at_most("error", math.inf, 1e-9, unit="").verdict == "fails"
    assert within("edge", 2.0, 2.0099, 0.005, unit="lr").verdict == "holds"
    assert within("edge", 2.0, 2.011, 0.005, unit="lr").verdict == "fails"
    assert within("edge", 2.0, math.nan, 0.005, unit="lr").verdict == "fails"
    undecided = inconclusive("edge", 0.005, "the run died")
    assert undecided.verdict == "inconclusive"
    assert undecided.note == "the run died"


def test_atomic_write_replaces_whole_or_not_at_all(tmp_path):
    target = tmp_path / "deep" / "result.json"
    write_json(target, {"a": 1})
    assert json.loads(target.read_text()) == {"a": 1}

    def dies(temporary):
        temporary.write_text("half a res")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        write_atomically(target, dies)
    assert json.loads(target.read_text()) == {"a": 1}
    assert os.listdir(target.parent) == ["result.json"]


def test_written_files_obey_the_umask(tmp_path):
    (tmp_path / "ordinary").touch()
    write_json(tmp_path / "ours.json", {})
    assert (tmp_path / "ours.json").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_plain_data_is_valid_json():
    data = plain({"inf": math.inf, "array": np.arange(3.0), "scalar": np.float32(2), "t": (1, "x")})
    assert data == {"inf": "inf", "array": [0.0, 1.0, 2.0], "scalar": 2.0, "t": [1, "x"]}
    json.dumps(data, allow_nan=False)


def test_summary_schema(tmp_path):
    summary = Summary(
        study="s",
        config={"steps": 3},
        seed=1,
        device="cpu",
        command="naturalmodes run s",
        versions=versions(),
        machine={},
        commit=None,
    )
    summary.checks.append(at_most("error", 0.0, 1e-9, unit="x"))
    summary.write(tmp_path / "summary.json")
    data = json.loads((tmp_path / "summary.json").read_text())
    assert data["status"] == "running"
    assert {"study", "config", "seed", "versions", "device", "commit", "duration"} <= set(data)
    assert {"name", "predicted", "observed", "tolerance", "verdict"} <= set(data["checks"][0])
    assert data["versions"]["numpy"] == np.__version__
    assert summary.count("holds") == 1


def git(folder, *arguments):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_commit_of_tracked_code_only(tmp_path):
    code = tmp_path / "code.py"
    code.write_text("1")
    assert commit(code) is None  # no repository at all
    git(tmp_path, "init")
    assert commit(code) is None  # inside one, but not part of it
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "--no-verify", "-m", "c")
    found = commit(code)
    assert found is not None
    assert len(found["sha"]) == 40
    assert not found["dirty"]
    code.write_text("2")
    assert commit(code)["dirty"]


def test_summary_comes_back_from_disk(tmp_path):
    answer = Answer("ours", "all hold", "holds", "it did", [("speed", "2")], "a.png", "c", "alt")
    summary = Summary("s", {"a": 1}, 0, "cpu", "c", {}, {}, None, answer=answer)
    summary.checks.append(at_most("error", 0.0, 1e-9, unit="x"))
    summary.write(tmp_path / "summary.json")
    assert Summary.read(tmp_path / "summary.json").to_dict() == summary.to_dict()


@pytest.mark.parametrize("text", ["", "[]", '{"study": "s"}', "null"])
def test_what_is_not_a_summary(tmp_path, text):
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(UserError, match="not the summary"):
        Summary.read(tmp_path / "summary.json")
    with pytest.raises(UserError, match=r"no summary\.json"):
        Summary.read(tmp_path / "absent" / "summary.json")


def test_one_verdict_for_several():
    assert worst(["holds", "holds"]) == "holds"
    assert worst(["holds", "inconclusive", "fails"]) == "fails"
    assert worst(["holds", "inconclusive"]) == "inconclusive"
    assert worst([]) == "inconclusive"


def test_csv(tmp_path):
    write_csv(tmp_path / "t.csv", ["a", "b"], [[1, "x, y"], [2.5, None]])
    assert (tmp_path / "t.csv").read_text().splitlines() == ["a,b", '1,"x, y"', "2.5,"]
