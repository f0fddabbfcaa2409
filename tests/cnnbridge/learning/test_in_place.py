"""The Kronecker reading of a layer of any kind, however often it is used."""

import numpy as np
import pytest
import torch
from torch import nn

from cnnbridge import Geometry, compare
from cnnbridge.learning.objective import Objective
from cnnbridge.learning.one_layer import kronecker_factors
from tests.cnnbridge.layers.test_patches import oracle
from tests.cnnbridge.learning.calls import compare_in_place, observe_network, predict_in_place
from tests.oracles.kinds import KINDS

CE = nn.CrossEntropyLoss()


class Around(nn.Module):
    """Something in front of the layer under test, and something behind it."""

    def __init__(self, layer, uses=1, inplace=False):
        super().__init__()
        self.layer, self.uses = layer, uses
        self.relu = nn.ReLU(inplace=inplace)
        self.leave = nn.LazyLinear(3)

    def forward(self, x):
        x = 1.1 * x
        for _ in range(self.uses):
            x = self.relu(self.layer(x))
        return self.leave(x.flatten(1))


def data(shape, samples=6, seed=0):
    torch.manual_seed(seed)
    return torch.randn(samples, *shape).double() + 0.3, torch.randint(3, (samples,))


def built(model, x):
    model = model.double()
    model(x[:1])
    return model


def factors_by_definition(model, layer, x, y, loss):
    """R and G from the definition: the Hessian by a change of each output, place by place.

    With ReLU and Linear behind the layer the Hessian by its output is its Gauss-Newton matrix.
    """
    geometry, inputs, outputs = Geometry.of(layer), [], []

    def look(module, args, out):
        inputs.append(args[0].detach().clone())
        outputs.append(out)

    handle = layer.register_forward_hook(look)
    model(x)
    handle.remove()
    sizes = [out.numel() for out in outputs]

    def moved(changes):
        parts = iter(changes.split(sizes))
        handle = layer.register_forward_hook(lambda m, a, out: out + next(parts).view_as(out))
        value = loss(model(x), y)
        handle.remove()
        return value

    hessian = torch.autograd.functional.hessian(moved, torch.zeros(sum(sizes)).double())
    groups, M = geometry.groups, geometry.out_channels
    G = np.zeros((groups, M // groups, M // groups))
    first = 0
    for out in outputs:
        # the flat place of every output channel, one row for each sample and position
        places = first + torch.arange(out.numel()).view_as(out)
        for row in geometry.channels_first(places).flatten(2).transpose(1, 2).flatten(0, 1):
            for g, own in enumerate(row.view(groups, -1)):
                G[g] += hessian[own][:, own].numpy()
        first += out.numel()
    bias = layer.bias is not None and layer.bias.requires_grad
    samples = [
        u for t in inputs for image in oracle(t, layer, bias) for u in np.moveaxis(image, 2, 0)
    ]  # each (groups, L)
    return np.mean([u[:, :, None] * u[:, None, :] for u in samples], axis=0), G


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, atol=1e-12 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("kind", KINDS)
def test_factors_of_every_kind_by_their_definition(kind):
    make, shape = KINDS[kind]
    x, y = data(shape)
    model = built(Around(make(), inplace=True), x)
    R, G = kronecker_factors(Objective(model, (x, y), CE, "layer"))
    expected = factors_by_definition(model, model.layer, x, y, CE)
    assert np.abs(expected[1]).max() > 1e-4
    close(R, expected[0])
    close(G, expected[1])


@pytest.mark.parametrize("curvature", ["gauss_newton", "kronecker", "scalar"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_of_every_kind_alone_on_its_mse(kind, curvature):
    """Nothing is downstream: every reading is exact, and is what torch does."""
    make, shape = KINDS[kind]
    x, _ = data(shape)
    model = nn.Sequential(make().double())
    d = torch.randn_like(model(x))
    kwargs = {"lr": 0.3, "steps": 15, "momentum": 0.5, "weight_decay": 0.02}
    run = observe_network(model, x, d, nn.MSELoss(), layer="0", **kwargs)
    p = predict_in_place(model, "0", x, d, nn.MSELoss(), curvature=curvature, **kwargs)
    assert np.abs(run.displacement[-1]).max() > 0.01
    assert compare(p, run).displacement_error.max() < 1e-10
    close(p.basis.to_displacement(p.basis.to_modes(run.displacement)), run.displacement)


SHARED = {
    "Conv1d": (lambda: nn.Conv1d(2, 2, 3, padding=1, padding_mode="circular"), (2, 5)),
    "Conv2d, groups": (lambda: nn.Conv2d(4, 4, 3, padding=1, groups=2), (4, 3, 3)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(2, 2, 2), (2, 2, 2)),
    "tokens": (lambda: nn.Linear(3, 3), (4, 3)),
}


@pytest.mark.parametrize("kind", SHARED)
def test_factors_of_a_layer_in_a_loop_are_summed_over_its_uses(kind):
    make, shape = SHARED[kind]
    x, y = data(shape, samples=4)
    model = built(Around(make(), uses=3, inplace=True), x)
    R, G = kronecker_factors(Objective(model, (x, y), CE, "layer"))
    expected = factors_by_definition(model, model.layer, x, y, CE)
    close(R, expected[0])
    close(G, expected[1])


class Siblings(nn.Module):
    """Two uses side by side, on maps of two sizes; what a third one gives is dropped."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Conv2d(1, 2, 3)

    def forward(self, x):
        self.shared(3 * x)
        return torch.cat([self.shared(x).flatten(1), self.shared(x[:, :, 1:, 2:]).flatten(1)], 1)


@pytest.mark.parametrize("curvature", ["gauss_newton", "kronecker"])
def test_uses_side_by_side_are_exact(curvature):
    """No output sees two uses, so summing over them is the whole curvature, and torch's path."""
    x, _ = data((1, 6, 6))
    model = Siblings().double()
    d = torch.randn_like(model(x))
    kwargs = {"lr": 0.2, "steps": 20, "momentum": 0.5}
    run = observe_network(model, x, d, nn.MSELoss(), layer="shared", **kwargs)
    p = predict_in_place(model, "shared", x, d, nn.MSELoss(), curvature=curvature, **kwargs)
    assert compare(p, run).displacement_error.max() < 1e-10


def test_a_frozen_bias_is_no_tap():
    x, _ = data((2, 5, 5))
    model = nn.Sequential(nn.Conv2d(2, 3, 3)).double()
    model[0].bias.requires_grad_(False)
    d = torch.randn_like(model(x))
    run = observe_network(model, x, d, nn.MSELoss(), layer="0", lr=0.3, steps=9)
    result = compare_in_place(model, "0", x, d, nn.MSELoss(), lr=0.3, steps=9)
    assert result.observation.names == run.names == ("0.weight",)
    assert all(c.displacement_error.max() < 1e-10 for c in result.comparisons.values())


def test_what_has_no_kronecker_reading_is_refused():
    x, y = data((1, 6, 6))

    def refuses(model, layer, message, error=ValueError):
        with pytest.raises(error, match=message):
            predict_in_place(model, layer, x, y, CE, lr=0.1, steps=2, curvature="kronecker")

    model = built(Around(nn.Conv2d(1, 2, 3)), x)
    refuses(nn.Sequential(model), "0", "layer '0' must be a torch.nn.Conv1d.*got Around", TypeError)
    model.unused = nn.Conv2d(1, 2, 3).double()
    refuses(model, "unused", "the loss must depend on layer 'unused'; it does not")
    model.unused.weight = model.layer.weight
    refuses(model, "layer", "layer 'layer' must have its weight to itself; .* 'unused' shares")
    del model.unused
    model.layer.weight.requires_grad_(False)
    refuses(model, "layer", "layer 'layer' must learn its weight; got one with requires_grad=False")
    model.layer.weight.requires_grad_(True)
    nn.utils.parametrizations.weight_norm(model.layer)
    refuses(model, "layer", "layer 'layer' must learn its own weight; got one that is computed")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda():
    x, y = data((2, 4, 4))
    model = built(Around(nn.Conv2d(2, 2, 3, padding=1), uses=2, inplace=True), x)
    host = kronecker_factors(Objective(model, (x, y), CE, "layer"))
    device = kronecker_factors(Objective(model.cuda(), (x.cuda(), y.cuda()), CE, "layer"))
    for mine, theirs in zip(device, host, strict=True):
        close(mine, theirs)
