"""The spectra of a site against the layer's own input, and what the checks notice."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from cnnbridge import SplitBatchNorm, patch_autocorrelation
from studies.chai2020.spectra import PRESETS, Cell, cells
from studies.chai2020.spectra.judge import checks_of, judge
from studies.chai2020.spectra.measure import measure, raw_inputs, study_site
from studies.engine.protocol import Measured
from studies.training.images import Images
from studies.training.networks import PlainVGG, draw_weights

TINY = dataclasses.replace(
    PRESETS["smoke"],
    cell=Cell(
        images=Images(limit=64, size=8), widths=(3, 3, 4, 4, 4, 4), probe=16, checkpoints=(0, 2)
    ),
)


@pytest.fixture(scope="module")
def measured():
    return [Measured(cell, measure(cell)) for cell in cells(TINY, "cpu")]


def test_theorems_hold(measured):
    findings = judge(TINY, measured)
    assert [check.verdict for check in findings.checks[:3]] == ["holds"] * 3
    assert findings.checks[0].observed < 1e-12
    # two networks at two checkpoints; each of them in two positions
    assert [len(table.rows) for table in findings.tables] == [0, 4, 8]
    assert "over 20 sites" in findings.reason


def test_a_failed_network_is_left_out(measured):
    failed = [Measured(m.cell, error="lost") if m.cell.variant == "none" else m for m in measured]
    findings = judge(TINY, failed)
    assert "over 10 sites" in findings.reason
    assert [row[0] for row in findings.tables[1].rows] == ["full", "full"]
    only_post = [m for m in measured if m.cell.position == "post"]
    findings = judge(TINY, only_post)
    assert (findings.verdict, findings.answer) == ("inconclusive", None)
    assert [len(table.rows) for table in findings.tables] == [0, 4]


def site(seed=0, layer=2):
    generator = torch.Generator().manual_seed(seed)
    x = (
        torch.rand(16, 4, 6, 6, generator=generator).double()
        * torch.tensor([0.1, 0.5, 2, 8])[:, None, None]
    )
    conv = nn.Conv2d(4, 2, 3, padding=1).double()
    return x, conv, study_site(x, conv, network="none", seed=0, update=0, layer=layer)


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
    verdicts = [check.verdict for check in checks_of([good])]
    assert verdicts[:3] == ["holds"] * 3
    swapped = good.eigenvalues | {"amplify": good.eigenvalues["none"] / 2}
    swapped["suppress"] = good.eigenvalues["none"] * 2
    swapped["full"] = np.full(36, 99.0)
    bad = dataclasses.replace(good, error=1e-3, outside=1e-3, eigenvalues=swapped)
    assert [check.verdict for check in checks_of([good, bad])] == ["fails"] * 5


def test_null_against_null_moves_nothing():
    _, _, found = site()
    null = {name: np.concatenate([[0.0], v[1:]]) for name, v in found.eigenvalues.items()}
    assert dataclasses.replace(found, eigenvalues=null).over_none("amplify", 0) == 1


@pytest.mark.parametrize("variant", ["none", "full"])
def test_raw_inputs_are_those_in_front_of_the_normalization(variant):
    model = PlainVGG(1, 3, TINY.cell.widths, variant).train()
    draw_weights(model, "he", 0)
    found = raw_inputs(model, torch.randn(8, 1, 8, 8))
    assert [conv.in_channels for conv, _ in found] == [3, 3, 4, 4, 4]
    assert [x.shape[1:] for _, x in found][:2] == [(3, 8, 8), (3, 4, 4)]
    # behind a ReLU, and not normalized
    assert all(float(x.detach().min()) >= 0 for _, x in found)
