"""``naturalmodes inspect --checkpoints``: a sweep over the files of a run."""

import csv

import pytest
import torch

from studies.inspecting.checkpoints import found_files, look_at
from tests.studies.inspecting.test_command import call, refused


@pytest.fixture
def run(nets):
    """Three checkpoints, each with a larger first layer."""
    import nets as module

    (nets / "run").mkdir()
    torch.manual_seed(0)
    model = module.build()
    for step in (2, 10, 1):
        state = {k: v * step if k == "0.weight" else v for k, v in model.state_dict().items()}
        torch.save(state, nets / "run" / f"step{step}.pt")
    return nets


ARGUMENTS = ("nets:build", "--data", "nets:loader", "--lr", "0.1", "--out", "o", "--workers", "1")


def rows(folder):
    with (folder / "o" / "checkpoints.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_checkpoint_in_the_order_of_its_number(run):
    result = call(*ARGUMENTS, "--checkpoints", "run/*.pt")
    assert result.exit_code == 0, result.output
    found = rows(run)
    assert [row["checkpoint"] for row in found if row["layer"] == "0"] == [
        "step1",
        "step2",
        "step10",
    ]
    # the input of the first layer is the data; that of the last grows with the weights
    first = {row["largest"] for row in found if row["layer"] == "0"}
    last = [float(row["largest"]) for row in found if row["layer"] == "4"]
    assert len(first) == 1
    assert last[0] < last[1] < last[2]
    page = (run / "o" / "report.html").read_text()
    assert "3 of 3 checkpoints were inspected" in page
    assert "data:image/png" in page


def test_what_is_done_is_not_done_again(run):
    call(*ARGUMENTS, "--checkpoints", "run/*.pt")
    before = {path: path.stat().st_mtime_ns for path in (run / "o" / "cells").glob("*.json")}
    torch.save(torch.load(run / "run" / "step2.pt"), run / "run" / "step2b.pt")
    changed = torch.load(run / "run" / "step1.pt")
    changed["4.bias"] += 1
    torch.save(changed, run / "run" / "step1.pt")
    assert call(*ARGUMENTS, "--checkpoints", "run/*.pt").exit_code == 0
    after = {path: path.stat().st_mtime_ns for path in (run / "o" / "cells").glob("*.json")}
    assert before.items() <= after.items()
    assert len(after) == len(before) + 2


def test_a_checkpoint_that_does_not_fit_is_named(run):
    torch.save({"9.weight": torch.zeros(1)}, run / "run" / "step99.pt")
    result = call(*ARGUMENTS, "--checkpoints", "run/*.pt")
    assert result.exit_code == 1
    assert "1 of 4 checkpoints failed" in result.stderr
    assert "step99.pt" in result.stderr
    assert len(rows(run)) == 6


def test_bad_requests_are_one_sentence(run):
    refused(call(*ARGUMENTS, "--checkpoints", "no/*.pt"), "--checkpoints no/*.pt names no file")
    refused(call(*ARGUMENTS, "--checkpoints", "run/*.pt", "--weights", "x"), "leave out --weights")
    refused(
        call(*ARGUMENTS, "--checkpoints", "run/*.pt", "--cluster", "tcp://x"),
        "a cluster has its own workers",
    )


def test_files_are_sorted_by_number(run):
    assert [p.stem for p in found_files("run/*")] == ["step1", "step2", "step10"]


def test_a_cell_is_plain_numbers(run):
    import dataclasses

    from studies.inspecting.targets import Request

    fields = dataclasses.asdict(Request(target="nets:build", data="nets:loader", loss="model"))
    found = look_at({"request": fields, "digest": ""})
    assert list(found["layers"]) == ["0", "4"]
    assert found["layers"]["0"]["quantiles"].shape == (5,)
