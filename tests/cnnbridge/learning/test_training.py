"""Prediction against real training: the claims that the package rests on."""

from itertools import cycle

import numpy as np
import pytest
import torch
from torch import nn

import adaptive
import cnnbridge
from cnnbridge import (
    compare,
    group_weights,
    layer_problem,
    layer_problems,
    learning_rate_bounds,
    observe_layer,
    predict_layer,
    unfold_patches,
)
from tests.cnnbridge.learning.calls import bisect_edge
from tests.oracles import naive_patches as naive

LAYERS = {
    "stride 2": (2, 4, 3, {"stride": 2, "padding": 1}),
    "dilation 2": (2, 4, 3, {"dilation": 2}),
    "groups 2": (4, 4, 3, {"groups": 2}),
    "circular": (2, 4, 3, {"padding": 1, "padding_mode": "circular"}),
    "1x1": (3, 4, 1, {}),
    "5x5": (2, 3, 5, {"padding": 2}),
    "first layer": (1, 6, 3, {"padding": 1}),
    "no bias": (2, 3, 3, {"bias": False}),
}
SGD = [(0.0, 0.0), (0.9, 0.0), (0.0, 0.1), (0.9, 0.01)]

# every kind of layer, with what sets it apart, and one input of it
KINDS = {
    "Conv1d": (lambda: nn.Conv1d(3, 4, 3, stride=2, padding=1, padding_mode="reflect"), (3, 9)),
    "depthwise": (lambda: nn.Conv2d(3, 6, 3, groups=3, padding="same"), (3, 5, 4)),
    "replicate": (
        lambda: nn.Conv2d(2, 3, 3, dilation=2, padding=2, padding_mode="replicate"),
        (2, 5, 5),
    ),
    "Conv3d": (
        lambda: nn.Conv3d(2, 3, (1, 2, 3), stride=(1, 2, 1), padding=(0, 1, 1)),
        (2, 2, 4, 4),
    ),
    "ConvTranspose1d": (
        lambda: nn.ConvTranspose1d(4, 6, 3, stride=2, output_padding=1, groups=2),
        (4, 6),
    ),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(2, 3, 3, padding=1, dilation=(1, 2)), (2, 5, 4)),
    "ConvTranspose3d": (
        lambda: nn.ConvTranspose3d(2, 2, 2, stride=(1, 2, 1), bias=False),
        (2, 3, 3, 3),
    ),
    "Linear": (lambda: nn.Linear(6, 4), (6,)),
    "tokens": (lambda: nn.Linear(6, 4), (5, 6)),
    "tokens on a grid": (lambda: nn.Linear(5, 3, bias=False), (3, 2, 5)),
}


def layer(name, images=6, size=(12, 11)):
    """A layer, non-negative images, and a target that no weights reach."""
    channels, outputs, kernel, settings = LAYERS[name]
    torch.manual_seed(0)
    conv = nn.Conv2d(channels, outputs, kernel, **settings).double()
    x = torch.rand(images, channels, *size, dtype=torch.float64)
    return conv, x, torch.randn_like(conv(x).detach())


def any_layer(kind, samples=12):
    """The same of a layer of any kind."""
    make, shape = KINDS[kind]
    torch.manual_seed(0)
    conv = make().double()
    x = torch.rand(samples, *shape, dtype=torch.float64)
    return conv, x, torch.randn_like(conv(x).detach())


def bound(conv, x, target, momentum=0.0, weight_decay=0.0):
    problems = layer_problems(conv, x, target)
    outputs = sum(len(p.P) for p in problems)
    return learning_rate_bounds(
        problems, outputs, momentum=momentum, weight_decay=weight_decay
    ).mean


@pytest.mark.parametrize(("momentum", "weight_decay"), SGD)
@pytest.mark.parametrize("name", LAYERS)
def test_every_mode_over_a_thousand_updates(name, momentum, weight_decay):
    conv, x, target = layer(name)
    sgd = {"momentum": momentum, "weight_decay": weight_decay}
    lr = 0.9 * bound(conv, x, target, **sgd)
    prediction = predict_layer(conv, x, target, lr=lr, steps=1000, **sgd)
    assert prediction.loss_min > 0.1
    assert prediction.stable
    observation = observe_layer(conv, x, target, lr=lr, steps=1000, **sgd)
    result = compare(prediction, observation)
    assert result.max_mode_error < 1e-9
    assert result.loss_error.max() < 1e-9
    assert result.displacement_error.max() < 1e-9
    assert result.horizon == {0.1: None, 0.5: None}


@pytest.mark.parametrize(("momentum", "weight_decay"), [(0.0, 0.0), (0.9, 0.01)])
@pytest.mark.parametrize("kind", KINDS)
def test_every_mode_of_every_kind(kind, momentum, weight_decay):
    conv, x, target = any_layer(kind)
    sgd = {"momentum": momentum, "weight_decay": weight_decay}
    lr = 0.9 * bound(conv, x, target, **sgd)
    prediction = predict_layer(conv, x, target, lr=lr, steps=300, **sgd)
    assert prediction.loss_min > 0.05
    observation = observe_layer(conv, x, target, lr=lr, steps=300, **sgd)
    result = compare(prediction, observation)
    assert result.max_mode_error < 1e-9
    assert result.loss_error.max() < 1e-9
    assert result.displacement_error.max() < 1e-9


@pytest.mark.parametrize(("momentum", "weight_decay"), [(0.0, 0.0), (0.9, 0.01)])
@pytest.mark.parametrize("name", LAYERS)
def test_every_mode_in_float32(name, momentum, weight_decay):
    conv, x, target = layer(name)
    conv, x, target = conv.float(), x.float(), target.float()
    sgd = {"momentum": momentum, "weight_decay": weight_decay}
    lr = 0.9 * bound(conv, x, target, **sgd)
    prediction = predict_layer(conv, x, target, lr=lr, steps=1000, **sgd)
    observation = observe_layer(conv, x, target, lr=lr, steps=1000, **sgd)
    assert observation.dtype == "float32"
    assert compare(prediction, observation).max_mode_error < 1e-3


@pytest.mark.parametrize("name", ["groups 2", "circular"])
def test_plain_sgd_is_the_power_of_the_factor(name):
    """(1 - mu lambda_k)^n, through the theory of ``adaptive`` instead of our recursion."""
    conv, x, target = layer(name)
    lr = 0.7 * bound(conv, x, target)
    prediction = predict_layer(conv, x, target, lr=lr, steps=1000)
    mu = cnnbridge.SGD(lr).mu(conv.out_channels)
    size = conv.out_channels // conv.groups
    for g, problem in enumerate(layer_problems(conv, x, target)):
        mine = slice(g * size, (g + 1) * size)
        modes = adaptive.natural_modes(problem.R)
        start = group_weights(conv, bias=True)[g].detach().numpy() - problem.w_o
        path = modes.trajectory(modes.to_modes(start), mu, 1000)
        scale = np.linalg.norm(start)
        np.testing.assert_allclose(prediction.modes[:, mine], path, atol=1e-11 * scale, rtol=0)
        np.testing.assert_allclose(prediction.w_star[mine], problem.w_o, atol=1e-11)
        np.testing.assert_allclose(
            prediction.time_constants[g], modes.time_constants(mu), rtol=1e-9
        )
        np.testing.assert_allclose(prediction.roots[0, g].real, modes.factors(mu), atol=1e-12)


@pytest.mark.parametrize("name", ["groups 2", "stride 2"])
def test_both_equal_plain_python(name):
    conv, x, target = layer(name, images=2, size=(6, 5))
    u = unfold_patches(x, conv, bias=True).permute(1, 2, 0, 3).flatten(2).numpy()
    d = target.transpose(0, 1).flatten(1).numpy()
    w = group_weights(conv, bias=True).detach().flatten(0, 1).numpy()
    path = naive.train(w, u, d, lr=0.2, momentum=0.8, weight_decay=0.05, steps=40)
    sgd = {"lr": 0.2, "momentum": 0.8, "weight_decay": 0.05, "steps": 40}
    prediction = predict_layer(conv, x, target, **sgd)
    np.testing.assert_allclose(prediction.weights, path, atol=1e-12)
    observation = observe_layer(conv, x, target, **sgd)
    np.testing.assert_allclose(prediction.project(observation), prediction.modes, atol=1e-12)


@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
def test_singular_input_leaves_modes_where_they_are(weight_decay):
    """A copied channel, a dead one, and a constant one beside the bias: three kinds of nothing."""
    conv, x, target = layer("stride 2")
    conv = nn.Conv2d(4, 4, 3, stride=2, padding=1, padding_mode="circular").double()
    x = torch.cat([x[:, :1], x[:, :1], torch.zeros_like(x[:, :1]), torch.ones_like(x[:, :1])], 1)
    sgd = {"lr": 0.1, "steps": 1000, "momentum": 0.5, "weight_decay": weight_decay}
    prediction = predict_layer(conv, x, target, **sgd)
    null = prediction.eigenvalues[0] < 1e-12
    assert null.sum() == 9 + 9 + 9
    assert (prediction.stationary[0] == (null & (weight_decay == 0))).all()
    if weight_decay == 0:
        assert np.isinf(prediction.time_constants[0][null]).all()
        assert (prediction.modes[:, :, null] == prediction.modes[:1, :, null]).all()
    observation = observe_layer(conv, x, target, **sgd)
    assert compare(prediction, observation).max_mode_error < 1e-9


@pytest.mark.parametrize(("momentum", "weight_decay"), SGD)
@pytest.mark.parametrize("weak", [1e-5, 1e-7, 1e-8])
def test_nearly_singular_input(weak, momentum, weight_decay):
    """Two channels that hardly differ: eigenvalues on either side of what rounding can tell."""
    conv, x, target = layer("circular")
    x = torch.cat([x[:, :1], x[:, :1] + weak * x[:, 1:]], 1)
    sgd = {"lr": 0.1, "steps": 1000, "momentum": momentum, "weight_decay": weight_decay}
    prediction = predict_layer(conv, x, target, **sgd)
    assert prediction.eigenvalues.min() < 1e-10 * prediction.eigenvalues.max()
    observation = observe_layer(conv, x, target, **sgd)
    result = compare(prediction, observation)
    assert result.max_mode_error < 1e-9
    # the initial error reaches 1e6 times the distance moved, and its last digit bounds this one
    assert result.displacement_error.max() < 1e-8


def test_a_bias_held_fixed():
    conv, x, target = layer("stride 2")
    sgd = {"lr": 0.3, "steps": 300, "bias": False}
    prediction = predict_layer(conv, x, target, **sgd)
    assert prediction.modes.shape == (301, 4, 18)
    result = compare(prediction, observe_layer(conv, x, target, **sgd))
    assert result.max_mode_error < 1e-12
    assert result.loss_error.max() < 1e-12


@pytest.mark.parametrize("name", ["stride 2", "groups 2", "first layer"])
@pytest.mark.parametrize(("momentum", "weight_decay"), SGD)
def test_training_diverges_where_predicted(name, momentum, weight_decay):
    conv, x, target = layer(name, images=4, size=(9, 9))
    sgd = {"momentum": momentum, "weight_decay": weight_decay}
    edge = bisect_edge(conv, x, target, steps=300, **sgd)
    assert edge.lr == pytest.approx(bound(conv, x, target, **sgd), rel=5e-3)
    assert (edge.upper - edge.lower) / edge.upper <= 1e-3


@pytest.mark.parametrize(("kind", "sgd"), [*zip(KINDS, cycle(SGD), strict=False)])
def test_every_kind_diverges_where_predicted(kind, sgd):
    conv, x, target = any_layer(kind)
    settings = {"momentum": sgd[0], "weight_decay": sgd[1]}
    expected = bound(conv, x, target, **settings)
    edge = bisect_edge(
        conv, x, target, steps=200, tolerance=4e-3, lr=0.7 * expected,
        **settings,
    )  # fmt: skip
    assert edge.lr == pytest.approx(expected, rel=5e-3)


@pytest.mark.parametrize("lr", [1.0, 1e-3, 50.0])
def test_wherever_the_search_begins(lr):
    conv, x, target = layer("1x1", images=2, size=(5, 5))
    edge = bisect_edge(conv, x, target, steps=128, tolerance=0.01, lr=lr)
    assert edge.lr == pytest.approx(bound(conv, x, target), rel=0.01)


def test_the_edge_separates_growing_loss_from_falling():
    conv, x, target = layer("dilation 2")
    edge = bisect_edge(conv, x, target, steps=300)
    below = observe_layer(conv, x, target, lr=0.99 * edge.lower, steps=1000)
    above = observe_layer(conv, x, target, lr=1.01 * edge.upper, steps=1000)
    assert below.loss[-1] < below.loss[0] < above.loss[-1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_divergence_is_a_value(dtype):
    conv, x, target = layer("stride 2")
    x, target = x.to(dtype), target.to(dtype)
    lr = 1e3 * bound(conv, x, target)
    observation = observe_layer(conv, x, target, lr=lr, steps=200)
    n = observation.diverged_at
    assert n is not None
    assert 5 < n < 150
    assert np.isfinite(observation.displacement[:n]).all()
    assert np.isnan(observation.displacement[n:]).all()
    assert np.isnan(observation.loss[n:]).all()
    prediction = predict_layer(conv, x, target, lr=lr, steps=200)
    assert not prediction.stable
    assert (prediction.time_constants < 0).any()
    assert np.isinf(prediction.loss[-1])
    result = compare(prediction, observation)
    assert result.steps_compared == n
    assert result.displacement_error[:n].max() < 1e-3
    assert np.isnan(result.displacement_error[n:]).all()
    assert result.horizon[0.1] is None


@pytest.mark.parametrize("kind", KINDS)
def test_the_layer_given_is_not_touched(kind):
    conv, x, target = any_layer(kind)
    conv.weight.requires_grad_(False)
    calls = []
    conv.register_forward_hook(lambda *_: calls.append(1))
    before = {k: v.clone() for k, v in conv.state_dict().items()}
    random = torch.get_rng_state()
    predict_layer(conv, x, target, lr=0.1, steps=3)
    observe_layer(conv, x, target, lr=0.1, steps=3)
    bisect_edge(conv, x, target, steps=64, tolerance=0.3)
    assert all(torch.equal(v, before[k]) for k, v in conv.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert not calls
    assert all(p.grad is None for p in conv.parameters())
    assert not conv.weight.requires_grad


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_trains_inside_no_grad(mode):
    conv, _, _ = layer("1x1")
    with mode():
        x = torch.rand(2, 3, 4, 4)
        target = torch.randn(2, 4, 4, 4)
        observation = observe_layer(conv, x, target, lr=0.1, steps=5)
    assert observation.loss[-1] < observation.loss[0]


def test_trains_in_its_own_precision_inside_autocast():
    conv, x, target = layer("1x1")
    conv, x, target = conv.float(), x.float(), target.float()
    outside = observe_layer(conv, x, target, lr=0.1, steps=20)
    with torch.autocast("cpu", torch.bfloat16):
        inside = observe_layer(conv, x, target, lr=0.1, steps=20)
    np.testing.assert_array_equal(inside.loss, outside.loss)


@pytest.mark.parametrize("kind", ["depthwise", "ConvTranspose1d", "tokens"])
def test_a_parametrized_layer_is_one_with_its_weights(kind):
    conv, x, target = any_layer(kind)
    plain = observe_layer(conv, x, target, lr=0.1, steps=10)
    nn.utils.parametrizations.weight_norm(conv)
    normed = observe_layer(conv, x, target, lr=0.1, steps=10)
    np.testing.assert_allclose(normed.loss, plain.loss, rtol=1e-12)


def test_progress_hears_every_step():
    conv, x, target = layer("1x1")
    heard = []
    observe_layer(conv, x, target, lr=0.1, steps=5, progress=heard.append)
    assert heard == list(range(6))


def test_no_steps_is_the_start():
    conv, x, target = layer("1x1")
    prediction = predict_layer(conv, x, target, lr=0.1, steps=0)
    observation = observe_layer(conv, x, target, lr=0.1, steps=0)
    assert prediction.modes.shape == (1, 4, 4)
    assert prediction.loss[0] == pytest.approx(nn.MSELoss()(conv(x), target).item())
    assert compare(prediction, observation).max_mode_error == 0


def test_predictions_say_what_they_are():
    conv, x, target = layer("groups 2")
    prediction = predict_layer(conv, x, target, lr=0.1, steps=4, momentum=0.9)
    assert prediction.level == "1: layer MSE, full batch"
    assert "gradient over all images" in prediction.assumption
    assert prediction.steps == 4
    assert prediction.eigenvalues.shape == prediction.factors.shape == (2, 19)
    assert prediction.eigenvectors.shape == (2, 19, 19)
    assert prediction.roots.shape == (2, 2, 19)
    np.testing.assert_allclose(np.prod(prediction.roots, axis=0), 0.9, atol=1e-12)
    minimum = sum(p.J_min for p in layer_problems(conv, x, target)) / 4
    assert prediction.loss_min == pytest.approx(minimum)
    with pytest.raises(AttributeError):
        prediction.momentum = 0.0


CONV, X, TARGET = layer("1x1", images=2, size=(4, 4))
BARE = nn.Conv2d(3, 4, 1, bias=False)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"lr": 0.0}, ValueError, "lr must be positive; got 0.0"),
        ({"lr": "fast"}, TypeError, "lr must be a real number; got 'fast'"),
        ({"lr": float("nan")}, ValueError, "lr must be finite; got nan"),
        ({"steps": -1}, ValueError, "steps must be at least 0; got -1"),
        ({"steps": 1.5}, TypeError, "steps must be a whole number; got 1.5"),
        ({"momentum": 1.0}, ValueError, "momentum must be less than 1; got 1.0"),
        ({"momentum": -0.1}, ValueError, "momentum must be zero or positive; got -0.1"),
        ({"weight_decay": -1.0}, ValueError, "weight_decay must be zero or positive; got -1.0"),
        ({"conv": BARE, "bias": True}, ValueError, "bias must be False or None for a layer with"),
        ({"conv": nn.MaxPool2d(2)}, TypeError, "conv must be a torch.nn.Conv1d, .* got MaxPool2d"),
        ({"conv": nn.Linear(3, 4)}, ValueError, "x must have the layer's 3 input features"),
        ({"conv": nn.Conv1d(3, 4, 1)}, ValueError, r"x must be 3-D \(sequences, channels, length"),
        ({"x": X[:, :2]}, ValueError, "x must have the layer's 3 input channels"),
        ({"x": X * float("nan")}, ValueError, "x must be finite; got nan"),
        ({"target": TARGET[:1]}, ValueError, "target must have the shape of the layer's output"),
        ({"target": TARGET.long()}, TypeError, "target must be a real floating-point tensor"),
    ],
    ids=lambda value: str(value)[:40],
)
@pytest.mark.parametrize("function", [predict_layer, observe_layer])
def test_errors(function, change, error, message):
    arguments = {"conv": CONV, "x": X, "target": TARGET, "lr": 0.1, "steps": 2} | change
    with pytest.raises(error, match=message):
        function(**arguments)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"steps": 10}, ValueError, "steps must be at least 64; got 10"),
        ({"tolerance": 0}, ValueError, "tolerance must be positive; got 0"),
        ({"tolerance": 1.0}, ValueError, "tolerance must be less than 1; got 1.0"),
        ({"lr": 0.0}, ValueError, "lr must be positive; got 0.0"),
        ({"momentum": 2}, ValueError, "momentum must be less than 1"),
        ({"conv": BARE, "x": 0 * X}, RuntimeError, "diverges: the input is silent"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_edge_errors(change, error, message):
    arguments = {"conv": CONV, "x": X, "target": TARGET} | change
    with pytest.raises(error, match=message):
        bisect_edge(**arguments)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-3)])
@pytest.mark.parametrize("name", LAYERS)
def test_on_cuda(name, dtype, tolerance):
    conv, x, target = layer(name)
    x, target = x.to("cuda", dtype), target.to("cuda", dtype)
    lr = 0.9 * bound(conv, x, target)
    prediction = predict_layer(conv, x, target, lr=lr, steps=1000)
    # TF32 rounds products to ten bits: not what a float32 claim is about
    with torch.backends.cudnn.flags(allow_tf32=False):
        observation = observe_layer(conv, x, target, lr=lr, steps=1000)
    assert observation.device.startswith("cuda")
    assert compare(prediction, observation).max_mode_error < tolerance


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_edge_on_cuda():
    conv, x, target = layer("stride 2")
    edge = bisect_edge(conv, x, target, steps=300, momentum=0.9, device="cuda")
    assert edge.lr == pytest.approx(bound(conv, x, target, momentum=0.9), rel=5e-3)


def test_layer_problem_agrees_with_the_predicted_rest():
    conv, x, target = layer("no bias")
    prediction = predict_layer(conv, x, target, lr=0.1, steps=1)
    np.testing.assert_allclose(prediction.w_star, layer_problem(conv, x, target).w_o, atol=1e-11)


def test_a_mode_without_power_that_still_correlates_drifts():
    """Power lost in rounding, correlation not: no mode of that kind is called stationary."""
    conv, x, target = nn.Linear(2, 1, bias=False).double(), torch.eye(2), torch.zeros(2, 1)
    task = cnnbridge.LayerTask(conv, x.double(), target.double())
    problem = adaptive.WienerProblem(R=np.diag([1e-20, 1.0]), P=[[1e-9, 0.5]], d_power=1.0)
    task.__dict__["problems"] = (problem,)
    prediction = task.predict(0.1, steps=10)
    assert not prediction.stationary.any()
    moved = prediction.modes[:, 0, 0] - prediction.modes[0, 0, 0]
    np.testing.assert_allclose(np.abs(moved), 0.2e-9 * np.arange(11), atol=1e-15)


def test_the_loss_of_an_overflow_is_infinite_and_not_nan():
    """A channel without input decays at a rate that overflows: 0 times inf is no loss."""
    conv = nn.Conv2d(2, 1, 1, bias=False).double()
    x, target = torch.rand(3, 2, 4, 4).double(), torch.rand(3, 1, 4, 4).double()
    x[:, 1] = 0
    prediction = predict_layer(conv, x, target, lr=1e3, steps=300, weight_decay=1.0)
    assert prediction.loss[-1] == np.inf
    assert not np.isnan(prediction.loss).any()
