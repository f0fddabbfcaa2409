import numpy as np
import pytest
import torch
from torch import nn

from cnnbridge import sharpness
from tests.cnnbridge.learning.calls import track_sharpness
from tests.cnnbridge.learning.test_network import explicit, network
from tests.cnnbridge.learning.test_replay import X as DIGITS
from tests.cnnbridge.learning.test_replay import Y as LABELS

CE = nn.CrossEntropyLoss()


def hessian(model, x, y, loss, layer=None):
    """All of it, in plain torch."""
    part = model if layer is None else model.get_submodule(layer)
    parameters = list(part.parameters())
    grads = torch.autograd.grad(loss(model(x), y), parameters, create_graph=True)
    rows = [
        torch.cat([g.flatten() for g in torch.autograd.grad(v, parameters, retain_graph=True)])
        for v in torch.cat([g.flatten() for g in grads])
    ]
    return torch.stack(rows).numpy()


@pytest.mark.parametrize("layer", [None, "3"])
@pytest.mark.parametrize("norm", [False, True])
def test_against_the_whole_matrices(layer, norm):
    model, x, y = network(norm=norm)
    expected = np.linalg.eigvalsh(hessian(model, x, y, CE, layer))[-1]
    assert sharpness(model, x, y, CE, layer=layer, tolerance=1e-8) == pytest.approx(expected)
    _, J, H, _ = explicit(model, x, y, CE, layer)
    expected = np.linalg.eigvalsh(J.T @ H @ J)[-1]
    found = sharpness(model, x, y, CE, layer=layer, kind="gauss_newton", tolerance=1e-8)
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(("momentum", "weight_decay"), [(0.0, 0.0), (0.5, 0.1)])
def test_a_track_is_sharpness_along_the_training(momentum, weight_decay):
    model, x, y = network()
    sgd = {"momentum": momentum, "weight_decay": weight_decay}
    track = track_sharpness(
        model, x, y, CE, lr=0.1, steps=20, every=10, layers=["0", "3"], tolerance=1e-7, **sgd
    )
    assert track.edge == pytest.approx(20 * (1 + momentum) - weight_decay)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, **sgd)
    for n in range(21):
        if n % 10 == 0:
            i = n // 10
            assert track.steps[i] == n
            assert track.hessian[i] == pytest.approx(sharpness(model, x, y, CE, tolerance=1e-7))
            for name, row in (("0", track.layers["0"]), ("3", track.layers["3"])):
                wanted = sharpness(model, x, y, CE, kind="gauss_newton", layer=name, tolerance=1e-7)
                assert row[i] == pytest.approx(wanted)
        loss = CE(model(x), y)
        assert track.loss[n] == pytest.approx(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_training_sharpens_to_the_edge_and_hovers_there():
    """Cohen et al. 2021 on sixty digits: the sharpness rises to 2 / lr and stays about it."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 5, stride=2), nn.Tanh(), nn.Conv2d(4, 6, 3), nn.Tanh(), nn.Flatten(),
        nn.Linear(24, 10),
    ).double()  # fmt: skip
    x = (DIGITS - DIGITS.mean()) / DIGITS.std()
    y = nn.functional.one_hot(LABELS, 10).double()
    track = track_sharpness(model, x, y, nn.MSELoss(), lr=1.0, steps=600, every=50)
    ratio = track.hessian / track.edge
    assert ratio[0] < 0.8
    assert track.reached_at is not None
    hovering = ratio[track.steps > track.reached_at + 50]
    assert hovering.size >= 4
    assert (np.abs(hovering - 1) < 0.15).all()
    assert track.loss[-1] < 0.5 * track.loss[0]
    assert str(track).count("\n") == 13


def test_divergence_ends_it():
    model, x, _ = network(nn.Identity)
    track = track_sharpness(
        model, x, torch.randn(7, 3).double(), nn.MSELoss(), lr=50.0, steps=60, every=5
    )
    assert len(track.steps) < 13
    assert np.isnan(track.loss[-1])


def test_errors():
    model, x, y = network()
    with pytest.raises(ValueError, match="kind must be one of hessian, gauss_newton; got 'trace'"):
        sharpness(model, x, y, CE, kind="trace")
    with pytest.raises(ValueError, match="tolerance must be positive; got 0"):
        sharpness(model, x, y, CE, tolerance=0)
    with pytest.raises(ValueError, match="every must be at least 1; got 0"):
        track_sharpness(model, x, y, CE, lr=0.1, steps=2, every=0)
    with pytest.raises(ValueError, match="layer_name must name a layer"):
        track_sharpness(model, x, y, CE, lr=0.1, steps=2, layers=["9"])
