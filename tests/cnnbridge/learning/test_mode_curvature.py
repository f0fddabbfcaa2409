"""Curvature along the modes of R against the dense Gauss-Newton matrix."""

import numpy as np
import pytest
import torch
from torch import nn

from cnnbridge import mode_curvature, patch_autocorrelation
from cnnbridge.layers.geometry import Geometry
from cnnbridge.learning.objective import Objective
from cnnbridge.learning.records import weight_order
from tests.oracles.kinds import KINDS

CE = nn.CrossEntropyLoss()


class Around(nn.Module):
    """A normalization in front of the layer, an activation and a linear layer behind it."""

    def __init__(self, layer, shape, uses=1):
        super().__init__()
        self.layer, self.uses = layer, uses
        with torch.no_grad():
            width = self.features(torch.zeros(2, *shape)).flatten(1).shape[1]
        self.leave = nn.Linear(width, 3)

    def features(self, x):
        for _ in range(self.uses):
            x = torch.tanh(self.layer(1.1 * x))
        return x

    def forward(self, x):
        return self.leave(self.features(x).flatten(1))


def data(shape, images=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(images, *shape, generator=generator).double() + 0.3
    return x, torch.randint(3, (images,), generator=generator)


def traced(model, layer, batches, loss, name):
    """C (groups, L, L): the dense Gauss-Newton matrix, its blocks summed over outputs."""
    objective = Objective(model, batches, loss, layer=name)
    with objective.kept():
        matrix = objective.matrix()
    order = weight_order(layer, Geometry.of(layer), bias=layer.bias is not None)
    return np.stack([sum(matrix[np.ix_(i, i)] for i in outputs) for outputs in order])


def errors(found, C):
    """Distance of each curvature from the definition, in standard errors."""
    exact = np.einsum("glk,glh,ghk->gk", found.eigenvectors, C, found.eigenvectors)
    return np.abs(found.curvature - exact) / (found.standard_error + 1e-9 * exact.max())


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_layer_agrees_with_the_dense_matrix(kind):
    torch.manual_seed(0)
    make, shape = KINDS[kind]
    model = Around(make(), shape).double()
    x, y = data(shape)
    found = mode_curvature(model, (x, y), CE, layers=["layer"], draws=300)["layer"]
    assert errors(found, traced(model, model.layer, (x, y), CE, "layer")).max() < 4.5


@pytest.mark.parametrize("training", [True, False])
def test_batch_statistics_couple_images(training):
    torch.manual_seed(1)
    layers = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 2), nn.Flatten()
    model = nn.Sequential(*layers, nn.Linear(8, 3)).double().train(training)
    x, y = data((2, 5, 5), images=8)
    found = mode_curvature(model, (x, y), CE, draws=300)
    assert list(found) == ["0", "3", "5"]
    for name, reading in found.items():
        assert errors(reading, traced(model, model[int(name)], (x, y), CE, name)).max() < 4.5


def test_a_layer_used_twice_and_batches_of_unequal_size():
    torch.manual_seed(2)
    model = Around(nn.Conv2d(2, 2, 3, padding=1), (2, 4, 4), uses=2).double()
    x, y = data((2, 4, 4), images=5)
    batches = [(x[:3], y[:3]), (x[3:], y[3:])]
    found = mode_curvature(model, batches, CE, layers=["layer"], draws=300)["layer"]
    assert errors(found, traced(model, model.layer, batches, CE, "layer")).max() < 4.5


def test_one_image_with_one_output_needs_no_luck():
    """With a single sign there is nothing random."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(1, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 1)).double()
    x = torch.randn(1, 1, 3, 3).double()
    found = mode_curvature(model, (x, torch.zeros(1, 1).double()), nn.MSELoss(), draws=2)["0"]
    C = traced(model, model[0], (x, torch.zeros(1, 1).double()), nn.MSELoss(), "0")
    exact = np.einsum("glk,glh,ghk->gk", found.eigenvectors, C, found.eigenvectors)
    np.testing.assert_allclose(found.curvature, exact, atol=1e-12 * exact.max())
    assert np.all(found.standard_error <= 1e-12 * exact.max())


def test_squared_error_of_a_last_layer_curves_as_r():
    """Mean squared error of a linear layer: C is 2 R exactly, so slope 1, and gain 2."""
    torch.manual_seed(4)
    x = torch.randn(200, 6).double() * torch.logspace(-2, 1, 6).double()
    target = torch.zeros(200, 40).double()
    model = nn.Linear(6, 40, bias=False).double()
    found = mode_curvature(model, (x, target), nn.MSELoss(), draws=50)[""]
    R = patch_autocorrelation(x, model)
    np.testing.assert_allclose(found.eigenvalues[0], torch.linalg.eigvalsh(R), rtol=1e-9)
    assert errors(found, 2 * R.numpy()[None]).max() < 4.5
    assert found.slope == pytest.approx(1, abs=0.02)
    assert found.gain == pytest.approx(2, rel=0.05)
    assert found.r_squared > 0.999
    assert "slope 1.0" in str(found)


def test_the_strongest_modes_are_the_last_of_all():
    torch.manual_seed(5)
    model = Around(nn.Conv2d(2, 2, 2), (2, 4, 4)).double()
    x, y = data((2, 4, 4))
    every = mode_curvature(model, (x, y), CE, draws=5)["layer"]
    some = mode_curvature(model, (x, y), CE, draws=5, modes=3)["layer"]
    np.testing.assert_allclose(some.curvature, every.curvature[:, -3:])
    np.testing.assert_allclose(some.eigenvalues, every.eigenvalues[:, -3:])


def test_modes_without_power_are_not_in_the_fit():
    torch.manual_seed(6)
    x = torch.randn(64, 4)
    x[:, 1] = x[:, 0]
    model = nn.Linear(4, 30, bias=False)
    found = mode_curvature(model, (x, torch.zeros(64, 30)), nn.MSELoss(), draws=20)[""]
    assert found.resolved.tolist() == [[False, True, True, True]]
    assert np.isfinite(found.slope)


def test_layers_that_cannot_be_read_are_left_out_unless_named():
    torch.manual_seed(7)
    model = Around(nn.Conv2d(2, 2, 2), (2, 4, 4)).double()
    model.unused = nn.Linear(2, 2).double()
    x, y = data((2, 4, 4))
    assert list(mode_curvature(model, (x, y), CE, draws=2)) == ["layer", "leave"]
    with pytest.raises(ValueError, match="the loss must depend on layer 'unused'"):
        mode_curvature(model, (x, y), CE, layers=["unused"])
    model.layer.weight.requires_grad_(False)
    assert list(mode_curvature(model, (x, y), CE, draws=2)) == ["leave"]
    with pytest.raises(ValueError, match="'layer' must learn its weight"):
        mode_curvature(model, (x, y), CE, layers=["layer"])


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"draws": 1}, ValueError, "draws"),
        ({"modes": 0}, ValueError, "modes"),
        ({"layers": "leave"}, TypeError, "layers must be a list of names"),
        ({"layers": ["nowhere"]}, ValueError, "layer_name must name a layer"),
        ({"seed": -1}, ValueError, "seed"),
    ],
)
def test_bad_requests_are_named(given, error, message):
    model = Around(nn.Conv2d(2, 2, 2), (2, 4, 4)).double()
    with pytest.raises(error, match=message):
        mode_curvature(model, data((2, 4, 4)), CE, **given)


def test_models_that_cannot_be_read():
    with pytest.raises(ValueError, match="must have a convolution or linear layer"):
        mode_curvature(nn.BatchNorm1d(3), data((3,)), CE)
    wide = nn.Linear(2, 3000).double()
    with pytest.raises(ValueError, match="got 3000"):
        mode_curvature(
            wide, (torch.ones(2, 2).double(), torch.zeros(2, 3000).double()), nn.SmoothL1Loss()
        )

    def hidden(model, batch):
        return sum((p**2).sum() for p in model.parameters())

    with pytest.raises(ValueError, match="the loss must depend on layer ''"):
        mode_curvature(nn.Linear(2, 3).double(), data((2,)), hidden)
