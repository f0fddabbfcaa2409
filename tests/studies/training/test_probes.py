"""The candidates against explicit matrices and against what scale invariance says."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from cnnbridge import SplitBatchNorm
from studies.training import probes as predictors
from studies.training.networks import PlainVGG, draw_weights
from studies.training.sgd import batch_order, run_sgd

WIDTHS = (3, 3, 4, 4, 4, 4)


def network(variant, position="pre"):
    model = PlainVGG(1, 4, WIDTHS, variant, position).double()
    draw_weights(model, "he", 1)
    return model.train()


def images(count=6):
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(2)).double()


def dense_edge(model, x, keep=None):
    """The Gauss-Newton matrix written out: one row of the Jacobian for each logit."""
    logits = model(x)
    p = logits.detach().softmax(1)
    parameters = list(model.parameters())
    rows = []
    for value in logits.flatten():
        found = torch.autograd.grad(value, parameters, retain_graph=True)
        rows.append(torch.cat([g.flatten() for g in found]))
    J = torch.stack(rows).reshape(len(x), p.shape[1], -1)
    if keep is not None:
        J = J * keep
    H = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    G = torch.einsum("nci,ncd,ndj->ij", J, H, J) / len(x)
    return 2 / float(torch.linalg.eigvalsh(G)[-1])


@pytest.mark.parametrize("variant", ["none", "full", "suppress", "frozen"])
def test_edge_is_that_of_the_explicit_matrix(variant):
    model, x = network(variant), images()
    found = predictors.gauss_newton_edge(model, x)
    assert found == pytest.approx(dense_edge(model, x), rel=2e-3)


def test_edge_of_some_parameters():
    model, x = network("full"), images()
    sizes = [w.numel() for w in model.parameters()]
    keep = torch.zeros(sum(sizes)).double()
    keep[-(sizes[-1] + sizes[-2]) :] = 1
    expected = dense_edge(model, x, keep)
    last = list(model.classify.parameters())
    assert predictors.gauss_newton_edge(model, x, parameters=last) == pytest.approx(expected, 2e-3)
    masks = [
        part.reshape(w.shape) for part, w in zip(keep.split(sizes), model.parameters(), strict=True)
    ]
    assert predictors.gauss_newton_edge(model, x, masks=masks) == pytest.approx(expected, 2e-3)


def test_nothing_felt_means_no_edge():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    assert (
        predictors.gauss_newton_edge(model, torch.zeros(5, 2, 2), parameters=[model[1].weight])
        == math.inf
    )


def test_a_network_that_has_blown_up_bears_nothing():
    model = network("none")
    with torch.no_grad():
        model.classify.weight.fill_(math.nan)
    assert predictors.gauss_newton_edge(model, images()) == 0


def test_length_is_not_felt_behind_live_batch_norm():
    x = images(16)
    full = predictors.length_felt(network("full"), x)
    none = predictors.length_felt(network("none"), x)
    assert [len(s) for s in full] == [len(w) for w in network("full").parameters()]
    for share in full[:12:2]:
        assert float(share.max()) < 1e-3
    assert all(float(share.max()) > 0.05 for share in none[:12:2])
    # biases always, and so the constants that no normalization is behind
    assert all(torch.equal(share, torch.ones_like(share)) for share in full[1::2])


def test_a_gradient_that_ignores_the_statistics_feels_the_length():
    model, x = network("full"), images(16)
    with predictors.without_statistics_gradient(model):
        assert not any(n.grad_through_statistics for n in norms(model))
        felt = predictors.length_felt(model, x)
    assert all(n.grad_through_statistics for n in norms(model))
    assert float(felt[0].max()) > 0.05


def norms(model):
    return [m for m in model.modules() if isinstance(m, SplitBatchNorm)]


def test_spectra_are_those_of_the_unfolded_patches():
    model, x = network("full"), images()
    found = predictors.input_spectra(model, x)
    assert len(found) == 6
    u = torch.nn.functional.unfold(x, 3, padding=1).transpose(1, 2).reshape(-1, 9)
    values = np.linalg.eigvalsh((u.T @ u / len(u)).numpy())
    assert found[0].lowest == pytest.approx(values[0], rel=1e-9)
    assert found[0].highest == pytest.approx(values[-1], rel=1e-9)
    assert found[0].median == pytest.approx(values[4], rel=1e-9)


def test_frozen_statistics_are_not_set_by_looking():
    model, x = network("frozen"), images()
    predictors.input_spectra(model, x)
    predictors.gauss_newton_edge(model, x)
    predictors.length_felt(model, x)
    assert all(int(norm.num_batches_tracked) == 0 for norm in norms(model))


def test_a_linear_network_is_its_own_linearisation():
    x, labels = images(24), torch.arange(24) % 4
    options = {"lr": 0.3, "steps": 20, "batch_size": 8, "momentum": 0.5, "seed": 3}
    start = nn.Sequential(nn.Flatten(), nn.Linear(64, 4)).double()
    found = run_sgd(predictors.Linearised(start), x, labels, **options)
    expected = run_sgd(start, x, labels, **options)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-9)
    stopped = run_sgd(
        predictors.Linearised(start), x, labels, **options, stop_below=expected.loss[0]
    )
    assert len(stopped.loss) < 20


@pytest.mark.parametrize("variant", ["none", "full", "frozen"])
def test_linearised_losses_are_those_of_the_explicit_jacobian(variant):
    model, x, labels = network(variant), images(16), torch.arange(16) % 4
    before = [w.detach().clone() for w in model.parameters()]
    found = run_sgd(predictors.Linearised(model), x, labels, lr=0.5, steps=2, batch_size=8, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    first, second = batch_order(16, 8, 2, 3)
    again = network(variant)
    loss = nn.functional.cross_entropy(again(x[first]), labels[first])
    change = [-0.5 * g for g in torch.autograd.grad(loss, list(again.parameters()))]
    logits = again(x[second])
    moved = torch.stack(
        [
            sum(
                (g * d).sum()
                for g, d in zip(
                    torch.autograd.grad(value, list(again.parameters()), retain_graph=True),
                    change,
                    strict=True,
                )
            )
            for value in logits.flatten()
        ]
    ).reshape(logits.shape)
    expected = nn.functional.cross_entropy(logits + moved, labels[second])
    assert found.loss == pytest.approx([loss.item(), expected.item()], rel=1e-9)


def test_a_linearisation_may_diverge():
    model, x, labels = network("none"), images(16), torch.arange(16) % 4
    with torch.no_grad():
        model.classify.weight.fill_(math.inf)
    run = run_sgd(predictors.Linearised(model), x, labels, lr=1.0, steps=3, batch_size=8)
    assert (run.state, len(run.loss)) == ("diverged", 1)
