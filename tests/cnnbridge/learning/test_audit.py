"""The parts of a prediction's error: they add up, and each is zero where its cause is absent."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.cnnbridge.learning.calls import audit, observe_network, predict_in_place
from tests.cnnbridge.learning.test_network import network
from tests.oracles.kinds import KINDS

CE = nn.CrossEntropyLoss()
SGD = [(0.0, 0.0), (0.9, 0.0), (0.8, 0.05)]


def largest(result, name):
    return result.sizes[:, result.parts.index(name)].max()


@pytest.mark.parametrize("curvature", ["gauss_newton", "kronecker", "scalar"])
@pytest.mark.parametrize(("momentum", "weight_decay"), SGD)
@pytest.mark.parametrize("trained", ["all", "layer"])
def test_the_parts_add_up(curvature, trained, momentum, weight_decay):
    model, x, y = network(nn.ReLU)
    kwargs = {"lr": 0.05, "steps": 30, "momentum": momentum, "weight_decay": weight_decay}
    result = audit(model, "3", x, y, CE, curvature=curvature, trained=trained, **kwargs)
    prediction = predict_in_place(model, "3", x, y, CE, curvature=curvature, **kwargs)
    np.testing.assert_allclose(result.predicted, prediction.displacement, atol=1e-6)
    run = observe_network(model, x, y, CE, layer=None if trained == "all" else "3", **kwargs)
    at = [i for i, n in enumerate(run.names) if n.startswith("3.")]
    sizes = [dict(model.named_parameters())[n].numel() for n in run.names]
    ends = np.cumsum([0, *sizes])
    mine = np.r_[ends[at[0]] : ends[at[-1] + 1]]
    np.testing.assert_allclose(result.observed, run.displacement[:, mine], atol=1e-12)
    whole = result.observed - result.predicted
    scale = np.abs(result.observed).max()
    np.testing.assert_allclose(result.contributions.sum(axis=1), whole, atol=1e-10 * scale)
    assert result.residue < 1e-10
    np.testing.assert_allclose(result.shares[2:].sum(axis=1), 1)
    np.testing.assert_allclose(
        result.error[1:],
        np.linalg.norm(whole, axis=1)[1:] / np.linalg.norm(result.observed, axis=1)[1:],
        atol=1e-9,
    )
    if curvature == "gauss_newton":
        assert largest(result, "approximation") < 1e-9
    else:
        assert largest(result, "approximation") > 1e-3
    others = [largest(result, name) for name in ("regressors", "desired response", "other layers")]
    if trained == "layer":
        assert max(others) < 1e-9
        assert result.drift.max() == 0
    else:
        assert min(others) > 1e-6
        assert result.drift.max() > 0


def test_one_step_by_the_definitions():
    """The first forces, against hybrid networks put together by hand."""
    model, x, y = network(nn.Tanh)
    lr = 0.1
    result = audit(model, "3", x, y, CE, lr=lr, steps=2)

    def gradients(net, at=None):
        return torch.autograd.grad(CE(net(x), y), list((at or net).parameters()))

    first = gradients(model)
    moved, _, _ = network(nn.Tanh)
    with torch.no_grad():
        for p, g in zip(moved.parameters(), first, strict=True):
            p -= lr * g
    front0, front1, tail0, tail1 = model[:3], moved[:3], model[4:], moved[4:]
    layer0, layer1 = model[3], moved[3]
    u0, u1 = front0(x).detach(), front1(x).detach()
    y0, y1 = layer0(u0).detach(), layer1(u1).detach()

    def delta(tail, out):
        leaf = out.clone().requires_grad_()
        return torch.autograd.grad(CE(tail(leaf), y), leaf)[0]

    def correlate(u, d):
        parts = torch.autograd.grad(layer0(u), list(layer0.parameters()), d)
        return torch.cat([p.flatten() for p in parts]).numpy()

    leaf = y0.clone().requires_grad_()
    z = tail0(leaf)
    J = torch.stack(
        [torch.autograd.grad(v, leaf, retain_graph=True)[0].flatten() for v in z.flatten()]
    )
    H = torch.autograd.functional.hessian(lambda t: CE(t.view_as(z), y), z.detach().flatten())

    def bend(change):
        return (J.T @ (H @ (J @ change.flatten()))).view_as(change)

    d0 = delta(tail0, y0)
    a1 = correlate(u0, d0 + bend(layer1(u0).detach() - y0))
    a2 = correlate(u1, d0 + bend(y1 - y0))
    a3 = correlate(u1, delta(tail0, y1))
    a4 = a3 + correlate(u1, delta(tail1, y0) - d0)
    a5 = torch.cat([g.flatten() for g in gradients(moved, moved[3])]).numpy()
    expected = np.stack([0 * a1, a2 - a1, a3 - a2, a4 - a3, a5 - a4])
    np.testing.assert_allclose(result.contributions[2], -lr * expected, atol=1e-14)
    assert (result.contributions[:2] == 0).all()


def test_a_linear_chain_has_no_curvature_to_drift():
    """MSE behind one linear map: the frozen layers are quadratic, so that part is nothing."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(32, 3)).double()
    x, y = torch.randn(6, 1, 6, 6).double(), torch.randn(6, 3).double()
    result = audit(model, "0", x, y, nn.MSELoss(), lr=0.05, steps=20)
    assert largest(result, "curvature") < 1e-12
    assert largest(result, "regressors") < 1e-12
    assert largest(result, "desired response") > 1e-3
    assert largest(result, "other layers") > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_of_every_kind(kind):
    make, shape = KINDS[kind]
    torch.manual_seed(0)
    x, y = torch.randn(6, *shape).double(), torch.randint(3, (6,))
    model = nn.Sequential(nn.Tanh(), make(), nn.Tanh(), nn.Flatten(), nn.LazyLinear(3)).double()
    model(x)
    alone = audit(model, "1", x, y, CE, lr=0.5, steps=8, trained="layer")
    assert alone.residue < 1e-10
    assert largest(alone, "curvature") > 1e-6
    for name in ("approximation", "regressors", "desired response", "other layers"):
        assert largest(alone, name) < 1e-9
    together = audit(model, "1", x, y, CE, lr=0.5, steps=8, curvature="kronecker")
    assert together.residue < 1e-10
    assert largest(together, "approximation") > 1e-6


def test_the_sentence():
    model, x, y = network(nn.ReLU)
    result = audit(model, "3", x, y, CE, lr=0.1, steps=40)
    text = result.sentence()
    assert text.startswith("Layer '3', gauss_newton curvature, all layers learning: at step 40 ")
    assert "% of the distance moved, because " in text
    assert text.endswith("%.") or ". It left 10% at step " in text
    assert result.sentence(0) == "Layer '3': at step 0 the prediction is exact."
    assert "It never left 1000%." in result.sentence(tolerance=10)
    with pytest.raises(ValueError, match="step must be one with a finite error, 0 to 40; got 41"):
        result.sentence(41)


def test_divergence_ends_it():
    model, x, _ = network(nn.Identity)
    result = audit(model, "3", x, torch.randn(7, 3).double(), nn.MSELoss(), lr=50.0, steps=60)
    finite = np.isfinite(result.observed).all(axis=1)
    assert not finite.all()
    assert "at step" in result.sentence()


def test_model_and_errors():
    model, x, y = network(nn.ReLU, norm=True)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    audit(model, "3", x, y, CE, lr=0.1, steps=3)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not model[3]._forward_hooks
    with pytest.raises(
        TypeError, match=r"layer '1' must be a torch.nn.Conv1d, .*; got BatchNorm2d"
    ):
        audit(model, "1", x, y, CE, lr=0.1, steps=3)
    with pytest.raises(ValueError, match="trained must be one of all, layer; got 'some'"):
        audit(model, "3", x, y, CE, lr=0.1, steps=3, trained="some")
    with pytest.raises(ValueError, match="curvature must be one of"):
        audit(model, "3", x, y, CE, lr=0.1, steps=3, curvature="hessian")
