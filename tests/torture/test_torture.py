"""A short round of ``make torture``, and that it would see what it looks for."""

import os
import random
import subprocess
import sys

import pytest

from tests.torture.torture import MARK, Round, cells, differences, lost, nothing_survives, rounds

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def test_a_killed_sweep_loses_nothing(tmp_path):
    (of,) = rounds(1, 0, tmp_path, runs=("sweep",), strikes=("SIGKILL",))
    assert not of.faults


def test_losses_are_seen(tmp_path):
    folder = tmp_path / "cells"
    folder.mkdir()
    for name in ("a.json", "a.1.npz", "b.json", "c.json", "d.1.npz", ".unfinished-e.json"):
        (folder / name).write_text(name)
    kept = cells(tmp_path)
    assert {path.name for path in kept} == {"a.json", "a.1.npz", "b.json", "c.json"}
    (folder / "a.1.npz").write_text("other")
    (folder / "b.json").unlink()
    assert lost(kept, kept, set()) == []
    found = lost(kept, cells(tmp_path), set())
    assert found == ["a finished cell is lost: a.1.npz", "a finished cell is lost: b.json"]
    assert lost(kept, cells(tmp_path), {folder / "a.json", folder / "b.json"}) == []


def test_other_numbers_are_seen():
    found = list(differences({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 3, "d": 4}))
    assert found == ["b differs", "c is missing", "d is new"]


def test_survivors_are_seen(tmp_path):
    of = Round("survivor", tmp_path, [], random.Random(0))
    sleeper = [sys.executable, "-c", "print(flush=True); import time; time.sleep(600)"]
    with subprocess.Popen(
        sleeper, env={**os.environ, MARK: of.name}, stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        nothing_survives(of, seconds=0.2)
    assert of.faults == ["1 processes survive"]
    assert not of.living()
