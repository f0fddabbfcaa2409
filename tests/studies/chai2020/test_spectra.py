"""The study end to end on a tiny preset, and what its checks notice."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import nn

from cnnbridge import SplitBatchNorm, patch_autocorrelation
from studies.chai2020.spectra import measure as spectra
from studies.engine.errors import UserError
from studies.training.networks import PlainVGG, draw_weights
from tests.studies.engine.test_report import assert_self_contained

TINY = spectra.Config(
    "tiny",
    images=64,
    image_size=8,
    seeds=1,
    widths=(3, 3, 4, 4, 4, 4),
    probe=16,
    checkpoints=(0, 2),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("tiny")
    return out, spectra.run(TINY, out, device="cpu", workers=1)


def test_everything_is_there(finished):
    out, summary = finished
    assert summary.status == "complete"
    names = {path.name for path in out.iterdir()}
    assert {f"{name}.{kind}" for name in spectra.FIGURES for kind in ("png", "svg")} <= names
    assert_self_contained((out / "report.html").read_text())
    written = json.loads((out / "summary.json").read_text())
    assert written["answer"]["rule"] == spectra.RULE
    # two networks at two checkpoints; each of them in two positions
    assert len(written["results"]["sites"]) == 4
    assert len(written["results"]["networks"]) == 8


def test_a_repeated_run_measures_nothing_again(finished, monkeypatch):
    out, summary = finished

    def refuse(cell):
        raise AssertionError(cell)

    monkeypatch.setattr(spectra, "_follow", refuse)
    again = spectra.run(TINY, out, device="cpu", workers=1)
    assert again.status == "complete"
    assert again.results == summary.results


def test_theorems_hold(finished):
    _, summary = finished
    assert [check.verdict for check in summary.checks[:3]] == ["holds"] * 3
    assert summary.checks[0].observed < 1e-12


def site(seed=0, layer=2):
    generator = torch.Generator().manual_seed(seed)
    x = (
        torch.rand(16, 4, 6, 6, generator=generator).double()
        * torch.tensor([0.1, 0.5, 2, 8])[:, None, None]
    )
    conv = nn.Conv2d(4, 2, 3, padding=1).double()
    return x, conv, spectra.study_site(x, conv, network="none", seed=0, update=0, layer=layer)


def test_a_site_is_what_the_layer_gets():
    x, conv, found = site()
    with torch.no_grad():
        z = SplitBatchNorm(4, scale="suppress", affine=False)(x)
    expected = np.linalg.eigvalsh(patch_autocorrelation(z, conv).numpy())
    np.testing.assert_allclose(found.eigenvalues["suppress"], expected, rtol=1e-9)
    assert found.over_none("none", 0) == 1
    assert found.over_none("full", -1) == pytest.approx(
        found.eigenvalues["full"][-1] / found.eigenvalues["none"][-1]
    )


def test_checks_notice():
    _, _, good = site()
    verdicts = [check.verdict for check in spectra.checks_of([good])]
    assert verdicts[:3] == ["holds"] * 3
    swapped = good.eigenvalues | {"amplify": good.eigenvalues["none"] / 2}
    swapped["suppress"] = good.eigenvalues["none"] * 2
    swapped["full"] = np.full(36, 99.0)
    bad = dataclasses.replace(good, error=1e-3, outside=1e-3, eigenvalues=swapped)
    assert [check.verdict for check in spectra.checks_of([good, bad])] == ["fails"] * 5


def test_null_against_null_moves_nothing():
    _, _, found = site()
    null = {name: np.concatenate([[0.0], v[1:]]) for name, v in found.eigenvalues.items()}
    assert dataclasses.replace(found, eigenvalues=null).over_none("amplify", 0) == 1


@pytest.mark.parametrize("variant", ["none", "full"])
def test_raw_inputs_are_those_in_front_of_the_normalization(variant):
    model = PlainVGG(1, 3, TINY.widths, variant).train()
    draw_weights(model, "he", 0)
    found = spectra.raw_inputs(model, torch.randn(8, 1, 8, 8))
    assert [conv.in_channels for conv, _ in found] == [3, 3, 4, 4, 4]
    assert [x.shape[1:] for _, x in found][:2] == [(3, 8, 8), (3, 4, 4)]
    # behind a ReLU, and not normalized
    assert all(float(x.detach().min()) >= 0 for _, x in found)


def test_what_is_refused():
    with pytest.raises(UserError, match="unknown preset"):
        spectra.configure("huge")
