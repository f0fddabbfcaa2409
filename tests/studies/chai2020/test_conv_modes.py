"""The study end to end on a tiny preset, and what is left when parts of it fail."""

import dataclasses
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from studies.chai2020.conv_modes import figures as conv_modes_figures
from studies.chai2020.conv_modes import measure as conv_modes
from studies.cli import app
from tests.studies.engine.test_report import assert_self_contained

TINY = conv_modes.Config(
    "tiny",
    images=300,
    image_size=12,
    epochs=1,
    batch_size=32,
    width=2,
    layer_images=4,
    steps=60,
    edge_steps=128,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(conv_modes.PRESETS, "tiny", TINY)
        words = ["run", "conv-modes", "--preset", "tiny", "--seed", "3", "--device", "cpu"]
        result = CliRunner().invoke(app, [*words, "--out", str(out)])
    assert result.exit_code == 0, result.output
    return out, result


def test_everything_is_there(finished):
    out, result = finished
    names = {path.name for path in out.iterdir()}
    figures = {f"{name}.{kind}" for name in conv_modes_figures.FIGURES for kind in ("png", "svg")}
    layers = {f"conv{i}.npz" for i in (1, 2, 3)}
    assert names == figures | layers | {"summary.json", "report.html", "tables"}
    assert "observed edge" in result.stdout
    assert str(out / "report.html") in result.stdout


def test_summary_of_a_run(finished):
    out, _ = finished
    summary = json.loads((out / "summary.json").read_text())
    assert summary["status"] == "complete"
    assert summary["study"] == "conv-modes"
    assert summary["seed"] == 3
    assert summary["device"] == "cpu"
    assert summary["duration"] > 0
    assert summary["config"] == {**dataclasses.asdict(TINY), "seed": 3, "edge_momenta": [0.0, 0.9]}
    assert {"python", "numpy", "scipy", "numba", "torch", "torchvision", "naturalmodes"} <= set(
        summary["versions"]
    )
    assert "--preset tiny --data mnist5k --device cpu --seed 3" in summary["command"]
    assert len(summary["checks"]) == 3 * 4
    for check in summary["checks"]:
        assert check["verdict"] == "holds", check
        assert check["observed"] is not None
    assert [row["groups"] for row in summary["results"]["layers"]] == [1, 1, 2]


def test_arrays_are_those_of_the_checks(finished):
    out, _ = finished
    with np.load(out / "conv2.npz") as arrays:
        assert arrays["predicted_modes"].shape == (TINY.steps + 1, len(arrays["selected"]))
        np.testing.assert_allclose(
            arrays["observed_modes"], arrays["predicted_modes"], rtol=0, atol=1e-9
        )
        assert arrays["mode_error"].max() < 1e-9
        np.testing.assert_allclose(
            arrays["edge_momentum_0.9_observed_growth"],
            arrays["edge_momentum_0.9_predicted_growth"],
            rtol=1e-6,
        )


def test_report_of_a_run(finished):
    out, _ = finished
    page = (out / "report.html").read_text()
    assert_self_contained(page)
    assert page.count("<img") == len(conv_modes_figures.FIGURES)
    assert "naturalmodes run conv-modes --preset tiny" in page
    assert "conv3: edge of stability, momentum 0.9" in page


def test_a_layer_that_fails_costs_only_itself(tmp_path, monkeypatch):
    real = conv_modes.study_layer

    def study_layer(name, *arguments, **options):
        if name == "conv2":
            raise RuntimeError("no rate converges")
        return real(name, *arguments, **options)

    monkeypatch.setattr(conv_modes, "study_layer", study_layer)
    quick = dataclasses.replace(TINY, edge_momenta=(0.0,))
    summary = conv_modes.run(quick, tmp_path, device="cpu")
    assert summary.status == "incomplete"
    written = json.loads((tmp_path / "summary.json").read_text())
    verdicts = {check["name"].split(":")[0]: check["verdict"] for check in written["checks"]}
    assert verdicts == {"conv1": "holds", "conv2": "inconclusive", "conv3": "holds"}
    assert "no rate converges" in written["problems"][0]
    assert "RuntimeError" in (tmp_path / "conv2-traceback.txt").read_text()
    assert (tmp_path / "conv3.npz").exists()
    assert not (tmp_path / "conv2.npz").exists()
    assert "conv2 could not be studied" in (tmp_path / "report.html").read_text()


def test_an_interrupted_run_keeps_what_it_had(tmp_path, monkeypatch):
    real = conv_modes.study_layer

    def study_layer(name, *arguments, **options):
        if name == "conv2":
            raise KeyboardInterrupt
        return real(name, *arguments, **options)

    monkeypatch.setattr(conv_modes, "study_layer", study_layer)
    quick = dataclasses.replace(TINY, edge_momenta=(), steps=20)
    with pytest.raises(KeyboardInterrupt):
        conv_modes.run(quick, tmp_path, device="cpu")
    written = json.loads((tmp_path / "summary.json").read_text())
    assert written["status"] == "interrupted"
    assert [row["layer"] for row in written["results"]["layers"]] == ["conv1"]
    assert (tmp_path / "conv1.npz").exists()
    assert "interrupted" in (tmp_path / "report.html").read_text()


def test_growth_is_the_larger_root():
    roots = np.array([-1.01, -0.9])
    path = (roots ** np.arange(12)[:, None]).sum(1)[:, None]
    assert conv_modes._growth(path, order=2) == pytest.approx(1.01, rel=1e-9)
    halves = 0.5 ** np.arange(12)[:, None]
    assert conv_modes._growth(halves, order=1) == pytest.approx(0.5, rel=1e-12)


def test_a_run_that_diverges_does_not_pass(tmp_path, monkeypatch):
    # above the bound the observation ends in overflow: a prefix that agrees is not agreement
    wild = dataclasses.replace(TINY, lr_fraction=4.0, steps=700, edge_momenta=())
    summary = conv_modes.run(wild, tmp_path, device="cpu")
    assert {check.verdict for check in summary.checks} == {"fails"}
