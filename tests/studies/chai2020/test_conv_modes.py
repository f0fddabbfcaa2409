"""The study on a tiny preset, and what is left when a layer of it fails."""

import dataclasses
import json

import numpy as np
import pytest

from studies.chai2020 import conv_modes
from studies.chai2020.conv_modes import measure
from studies.chai2020.conv_modes.figures import FIGURES
from studies.engine.runner import run
from studies.training.images import Images

TINY = conv_modes.Config(
    "tiny",
    seed=3,
    cell=conv_modes.Cell(
        images=Images(limit=300, size=12, seed=3),
        epochs=1,
        batch_size=32,
        width=2,
        layer_images=4,
        steps=60,
        edge_steps=128,
    ),
)


def with_cell(**changes):
    return dataclasses.replace(TINY, cell=dataclasses.replace(TINY.cell, **changes))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("tiny")
    return out, run(conv_modes.STUDY, TINY, out, device="cpu", workers=1)


def test_summary_of_a_run(finished):
    out, summary = finished
    assert summary.status == "complete", summary.problems
    written = json.loads((out / "summary.json").read_text())
    assert len(written["checks"]) == 3 * 4
    for check in written["checks"]:
        assert check["verdict"] == "holds", check
        assert check["observed"] is not None
    assert written["answer"]["verdict"] == "holds"
    assert [row["groups"] for row in written["results"]["layers"]] == [1, 1, 2]
    assert [row["layer"] for row in written["results"]["the-layers"]] == list(conv_modes.LAYERS)
    assert written["results"]["network"]["images"] == 300
    assert {path.stem for path in out.glob("*.svg")} == set(FIGURES)


def test_arrays_are_those_of_the_checks(finished):
    out, _ = finished
    with np.load(out / "conv2.npz") as arrays:
        assert arrays["predicted_modes"].shape == (TINY.cell.steps + 1, len(arrays["selected"]))
        np.testing.assert_allclose(
            arrays["observed_modes"], arrays["predicted_modes"], rtol=0, atol=1e-9
        )
        assert arrays["mode_error"].max() < 1e-9
        np.testing.assert_allclose(
            arrays["edge_momentum_0.9_observed_growth"],
            arrays["edge_momentum_0.9_predicted_growth"],
            rtol=1e-6,
        )


def test_a_layer_that_fails_costs_only_itself(tmp_path, monkeypatch):
    real = measure.study_layer

    def study_layer(student, x, target, cell):
        if cell.layer == "conv2":
            raise RuntimeError("no rate converges")
        return real(student, x, target, cell)

    monkeypatch.setattr(measure, "study_layer", study_layer)
    quick = with_cell(edge_momenta=(0.0,))
    summary = run(conv_modes.STUDY, quick, tmp_path, device="cpu", workers=1)
    assert summary.status == "incomplete"
    assert summary.answer.verdict == "inconclusive"
    written = json.loads((tmp_path / "summary.json").read_text())
    names = [check["name"] for check in written["checks"]]
    assert names == [
        f"{layer}: {what}"
        for layer in conv_modes.LAYERS
        for what in (
            "largest mode error, float64",
            "largest mode error, float32",
            "edge of stability, momentum 0",
        )
    ]
    verdicts = {check["name"].split(":")[0]: check["verdict"] for check in written["checks"]}
    assert verdicts == {"conv1": "holds", "conv2": "inconclusive", "conv3": "holds"}
    assert "no rate converges" in written["problems"][0]
    assert (tmp_path / "conv3.npz").exists()
    assert not (tmp_path / "conv2.npz").exists()


def test_all_layers_are_of_one_network():
    measure._network.cache_clear()
    for cell in conv_modes.cells(with_cell(edge_momenta=(), steps=5), "cpu"):
        measure.measure(cell)
    assert measure._network.cache_info().misses == 1


def test_growth_is_the_larger_root():
    roots = np.array([-1.01, -0.9])
    path = (roots ** np.arange(12)[:, None]).sum(1)[:, None]
    assert measure.growth(path, order=2) == pytest.approx(1.01, rel=1e-9)
    halves = 0.5 ** np.arange(12)[:, None]
    assert measure.growth(halves, order=1) == pytest.approx(0.5, rel=1e-12)


def test_a_run_that_diverges_does_not_pass(tmp_path):
    # above the bound the observation ends in overflow: a prefix that agrees is not agreement
    wild = with_cell(lr_fraction=4.0, steps=700, edge_momenta=())
    summary = run(conv_modes.STUDY, wild, tmp_path, device="cpu", workers=1)
    assert {check.verdict for check in summary.checks} == {"fails"}
    assert not summary.problems
