"""``naturalmodes compare`` of two inspections."""

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import cnnbridge
from cnnbridge.results import Inspection
from studies.cli import app
from studies.inspecting.comparison import compare


def inspected(folder, scale=1.0, layers=None):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(64, 3))
    x = torch.randn(16, 1, 6, 6)
    return cnnbridge.inspect(model, (scale * x,), lr=0.1, layers=layers).save(folder)


def call(*arguments):
    return CliRunner().invoke(app, ["compare", *map(str, arguments)])


def test_numbers_are_those_of_the_inspections(tmp_path):
    a, b = inspected(tmp_path / "a"), inspected(tmp_path / "b", scale=3.0)
    found = compare(a, b)
    rows = {(layer, quantity): row for layer, quantity, *row in found.rows}
    first, second = (Inspection.load(folder)["0"] for folder in (a, b))
    shown = [float(value) for value in rows["0", "largest eigenvalue"]]
    wanted = [first.largest, second.largest, second.largest / first.largest]
    np.testing.assert_allclose(shown, wanted, rtol=1e-3)
    assert any("Largest eigenvalue: 2 of 2 layers changed" in each for each in found.sentences)
    # without a loss there is no curvature
    assert rows["0", "curvature along modes"] == ["–", "–", "–"]


def test_the_same_inspection_differs_nowhere(tmp_path):
    a = inspected(tmp_path / "a")
    found = compare(a, a)
    assert found.sentences[1:] == ["No quantity of a layer changed by a factor of 2."]
    assert {row[-1] for row in found.rows} <= {"1", "–"}


def test_one_command(tmp_path):
    a, b = inspected(tmp_path / "a"), inspected(tmp_path / "b", layers=["0"])
    result = call(a, b, "--out", tmp_path / "c.html")
    assert result.exit_code == 0, result.output
    assert "1 layers are in both inspections." in result.stdout
    assert "Only in A: 2." in result.stdout
    assert "Two inspections compared" in (tmp_path / "c.html").read_text()


@pytest.mark.parametrize("other", ["nothing", "broken"])
def test_a_folder_that_holds_none_is_one_sentence(other, tmp_path):
    a, b = inspected(tmp_path / "a"), tmp_path / "b"
    b.mkdir()
    if other == "broken":
        (b / "inspection.json").write_text("{}")
        (b / "arrays.npz").write_bytes(b"")
    result = call(a, b, "--out", tmp_path / "c.html")
    assert result.exit_code == 2
    assert "must hold an inspection" in result.stderr
