import json
import math
from dataclasses import replace

import numpy as np
import pytest

from cnnbridge import SGD
from cnnbridge.inspection.record import COLUMNS, Inspection, LayerCurvature, LayerInspection


def a_layer(name="features.0", **changes):
    values = np.array([[0.0, 0.5, 2.0]])
    fields = {
        "name": name,
        "kind": "Conv1d",
        "in_channels": 1,
        "out_channels": 4,
        "groups": 1,
        "kernel": (2,),
        "stride": (1,),
        "bias": True,
        "taps": 2,
        "calls": 1,
        "seen": 40,
        "patches": 40,
        "exact": True,
        "sgd": SGD(0.1),
        "eigenvalues": values,
        "rounding": np.array([1e-12]),
        "strongest": np.ones((1, 1, 1, 2)) / 2,
        "weakest": np.ones((1, 1, 1, 2)) / 2,
        "strongest_bias": np.zeros((1, 1)),
        "weakest_bias": np.zeros((1, 1)),
        "largest_low": math.nan,
        "mean_share": 0.25,
        "dead_channels": (),
        "constant_channels": (),
        "unseen_taps": 0,
    }
    return LayerInspection(**fields | changes)


def an_inspection(*layers, **changes):
    layers = layers or (a_layer(),)
    fields = {
        "layers": {each.name: each for each in layers},
        "warnings": ("Lower the rate.",),
        "skipped": {"head": "it was not called"},
        "notes": (),
        "sgd": SGD(0.1),
        "loss": 0.5,
        "batches": 2,
        "images": 20,
    }
    return Inspection(**fields | changes)


def test_a_layer_derives_its_numbers_from_the_spectrum():
    layer = a_layer()
    assert (layer.largest, layer.smallest, layer.rank) == (2.0, 0.5, 2)
    shares = np.array([0.2, 0.8])
    assert layer.effective_rank == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    # curvature 2 lambda / M = 1, plain SGD
    assert layer.bound == pytest.approx(2.0)
    slow, fast = layer.time_constants[0, 1:]
    assert slow == pytest.approx(-1 / math.log(1 - 0.1 * 0.25))
    assert fast == pytest.approx(-1 / math.log(1 - 0.1))
    assert layer.time_constants[0, 0] == math.inf
    assert layer.slowest == slow


def test_without_a_rate_there_are_no_time_constants_but_a_bound():
    layer = a_layer(sgd=None)
    assert np.isnan(layer.time_constants).all()
    assert layer.bound == pytest.approx(2.0)


def test_a_layer_without_input_has_no_bound_and_no_rank():
    layer = a_layer(eigenvalues=np.zeros((1, 3)), rounding=np.zeros(1))
    assert (layer.rank, layer.effective_rank, layer.smallest) == (0, 0.0, 0.0)
    assert layer.bound == math.inf
    assert math.isnan(layer.slowest)


def test_the_rate_at_the_bound_does_not_decay():
    layer = a_layer(sgd=SGD(2.5))
    assert layer.time_constants[0, -1] == math.inf


def test_the_table_has_a_row_a_layer_and_documented_columns():
    pytest.importorskip("pandas")
    table = an_inspection(a_layer("a"), a_layer("b")).table()
    assert list(table.index) == ["a", "b"]
    assert ["layer", *table.columns] == list(COLUMNS)
    assert table.loc["a", "bound"] == pytest.approx(2.0)


def test_a_layer_that_was_left_out_says_why():
    found = an_inspection()
    assert found["features.0"].name == "features.0"
    with pytest.raises(KeyError, match="was left out: it was not called"):
        found["head"]
    with pytest.raises(KeyError, match=r"is no layer that was inspected; these are features\.0"):
        found["nothing"]


def test_saved_files_hold_the_same_numbers(tmp_path):
    curved = LayerCurvature(
        np.array([[2.0, 0.5]]), np.array([[1.0, 0.25]]), np.array([[0.1, 0.1]]), math.nan, 2.0
    )
    layer = replace(a_layer(), curvature=curved)
    found = an_inspection(layer)
    folder = found.save(tmp_path / "new" / "folder")
    assert sorted(p.name for p in folder.iterdir()) == [
        "arrays.npz",
        "inspection.json",
        "layers.csv",
        "report.html",
    ]
    data = json.loads((folder / "inspection.json").read_text())
    assert data["layers"]["features.0"]["eigenvalues"] == [[0.0, 0.5, 2.0]]
    assert data["layers"]["features.0"]["curvature"]["curvature"] == [[1.0, 0.25]]
    assert data["sgd"]["lr"] == 0.1
    with np.load(folder / "arrays.npz") as arrays:
        assert np.array_equal(arrays["features.0/strongest"], layer.strongest)
        assert np.array_equal(arrays["features.0/curvature"], curved.curvature)
    header, row = (folder / "layers.csv").read_text().splitlines()
    assert header.split(",") == list(COLUMNS)
    assert row.startswith("features.0,Conv1d,2,4,40,2,0.5,2,")
