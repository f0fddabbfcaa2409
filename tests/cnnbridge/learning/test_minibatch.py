"""Mini-batch training of a layer: expectations against torch runs on real images."""

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import nn

from cnnbridge import group_weights, layer_problems, learning_rate_bounds, predict_layer
from tests.cnnbridge.learning.calls import (
    bisect_minibatch_edge,
    compare_minibatch,
    layer_edges,
    observe_layer_minibatch,
    predict_layer_minibatch,
)
from tests.cnnbridge.learning.test_replay import X as DIGITS
from tests.cnnbridge.learning.test_training import KINDS, any_layer, bound


def setting(images=16, outputs=2, **conv):
    """A first layer on digits; its target is a nonlinear map of what another layer says."""
    torch.manual_seed(0)
    layer = nn.Conv2d(1, outputs, 3, **conv).double()
    teacher = nn.Conv2d(1, outputs, 3, **conv).double()
    x = DIGITS[:images]
    return layer, x, torch.tanh(3 * teacher(x)).detach()


@pytest.mark.parametrize("sgd", [{}, {"momentum": 0.8, "weight_decay": 0.1}], ids=str)
def test_one_run_is_torchs_own_conv_layer(sgd):
    conv, x, target = setting(stride=2)
    seen = observe_layer_minibatch(
        conv, x, target, lr=0.2, batch=3, steps=20, runs=3, seed=5, **sgd
    )
    w, losses = [], []
    for r in range(3):
        layer = nn.Conv2d(1, 2, 3, stride=2).double()
        layer.load_state_dict(conv.state_dict())
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.2, **sgd)
        draw = np.random.default_rng((5, r))
        w.append([])
        losses.append([])
        for _ in range(21):
            tap = torch.cat([layer.weight.flatten(1), layer.bias[:, None]], 1)
            w[-1].append(tap.detach().numpy().copy())
            losses[-1].append(nn.MSELoss()(layer(x), target).item())
            rows = draw.choice(16, 3)
            optimizer.zero_grad()
            nn.MSELoss()(layer(x[rows]), target[rows]).backward()
            optimizer.step()
    np.testing.assert_allclose(seen.mean_weights, np.mean(w, axis=0), atol=1e-13)
    np.testing.assert_allclose(seen.loss, np.mean(losses, axis=0), rtol=1e-11)
    se = np.std(w, axis=0, ddof=1) / np.sqrt(3)
    np.testing.assert_allclose(seen.mean_weights_se, se, atol=1e-9)
    np.testing.assert_allclose(seen.loss_median, np.median(losses, axis=0), rtol=1e-11)


def every_draw(layer, x, target, batch, replace, steps, **sgd):
    """Loss and weights averaged over real training on every possible sequence of batches."""
    if replace:
        draws = list(itertools.product(range(len(x)), repeat=batch))
    else:
        draws = list(itertools.combinations(range(len(x)), batch))
    runs, loss, mean = [(layer, torch.optim.SGD(layer.parameters(), **sgd).state_dict())], [], []
    for _ in range(steps + 1):
        loss.append(np.mean([nn.MSELoss()(one(x), target).item() for one, _ in runs]))
        weights = [group_weights(one, bias=one.bias is not None).detach() for one, _ in runs]
        mean.append(torch.stack(weights).mean(dim=0).flatten(0, 1).numpy())
        following = []
        for (one, past), rows in itertools.product(runs, draws):
            after = copy.deepcopy(one)
            optimizer = torch.optim.SGD(after.parameters(), **sgd)
            optimizer.load_state_dict(copy.deepcopy(past))
            nn.MSELoss()(after(x[list(rows)]), target[list(rows)]).backward()
            optimizer.step()
            optimizer.zero_grad()
            following.append((after, optimizer.state_dict()))
        runs = following
    return np.array(loss), np.array(mean)


@pytest.mark.parametrize(("batch", "replace"), [(1, True), (2, False)])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_the_average_over_every_draw(kind, batch, replace):
    conv, x, target = any_layer(kind, samples=3)
    kwargs = {"lr": 0.3 * bound(conv, x, target), "batch": batch, "replace": replace, "steps": 2}
    prediction = predict_layer_minibatch(conv, x, target, **kwargs)
    loss, mean = every_draw(conv, x, target, **kwargs)
    np.testing.assert_allclose(prediction.loss, loss, rtol=1e-10)
    np.testing.assert_allclose(prediction.mean_weights, mean, atol=1e-10)
    assert prediction.mean_edge == pytest.approx(bound(conv, x, target))


SGD = [(0.7, 0.0), (0.0, 0.2), (0.9, 0.05)]


@pytest.mark.parametrize(("momentum", "weight_decay"), SGD)
@pytest.mark.parametrize("kind", ["depthwise", "ConvTranspose1d", "tokens"])
def test_momentum_and_weight_decay_are_the_average_over_every_draw(kind, momentum, weight_decay):
    conv, x, target = any_layer(kind, samples=3)
    sgd = {"momentum": momentum, "weight_decay": weight_decay}
    kwargs = {"lr": 0.2 * bound(conv, x, target), "batch": 1, "replace": True, "steps": 4, **sgd}
    prediction = predict_layer_minibatch(conv, x, target, **kwargs)
    loss, mean = every_draw(conv, x, target, **kwargs)
    np.testing.assert_allclose(prediction.loss, loss, rtol=1e-10)
    np.testing.assert_allclose(prediction.mean_weights, mean, atol=1e-10)
    assert prediction.mean_edge == pytest.approx(bound(conv, x, target, **sgd))
    assert prediction.mean_square_edge < prediction.mean_edge


@pytest.mark.parametrize(("momentum", "weight_decay"), SGD)
def test_runs_with_momentum_and_weight_decay_are_inside_four_standard_errors(
    momentum, weight_decay
):
    layer, x, target = setting(stride=2)
    kwargs = {"batch": 4, "steps": 60, "momentum": momentum, "weight_decay": weight_decay}
    edge = predict_layer_minibatch(layer, x, target, lr=1.0, **kwargs).mean_square_edge
    prediction = predict_layer_minibatch(layer, x, target, lr=0.1 * edge, **kwargs)
    seen = observe_layer_minibatch(layer, x, target, lr=0.1 * edge, **kwargs, runs=300, seed=1)
    result = compare_minibatch(prediction, seen)
    assert max(result.largest, result.largest_pooled) < 4
    assert np.abs(result.weight_deviations).max() < 5
    assert seen.loss_se[-1] < 0.05 * seen.loss[-1]
    # what each of the two does is far beyond the standard errors that the runs are judged by
    for missing in ("momentum", "weight_decay"):
        if kwargs[missing]:
            without = predict_layer_minibatch(
                layer, x, target, lr=0.1 * edge, **(kwargs | {missing: 0.0})
            )
            assert np.abs((seen.loss - without.loss)[1:] / seen.loss_se[1:]).max() > 20
    assert prediction.stable
    long = predict_layer_minibatch(layer, x, target, lr=0.1 * edge, **(kwargs | {"steps": 3000}))
    assert long.loss[-1] == pytest.approx(prediction.loss_final, rel=1e-3)


@pytest.mark.parametrize("kind", ["Conv1d", "ConvTranspose2d", "tokens"])
def test_runs_of_other_kinds_are_inside_four_standard_errors(kind):
    conv, x, target = any_layer(kind)
    kwargs = {"batch": 2, "steps": 30}
    lr = 0.3 * predict_layer_minibatch(conv, x, target, lr=1.0, **kwargs).mean_square_edge
    prediction = predict_layer_minibatch(conv, x, target, lr=lr, **kwargs)
    # many runs: their loss is skewed, and the standard error of a few is not to be trusted
    seen = observe_layer_minibatch(conv, x, target, lr=lr, **kwargs, runs=1000, seed=0)
    assert compare_minibatch(prediction, seen).largest < 4
    assert (seen.loss_se[1:] > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_runs_of_every_kind_are_torchs_own(kind):
    conv, x, target = any_layer(kind)
    seen = observe_layer_minibatch(conv, x, target, lr=0.2, batch=3, steps=4, runs=2, seed=5)
    losses = []
    for r in range(2):
        layer = copy.deepcopy(conv)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.2)
        draw = np.random.default_rng((5, r))
        losses.append([])
        for _ in range(5):
            losses[-1].append(nn.MSELoss()(layer(x), target).item())
            rows = draw.choice(len(x), 3)
            optimizer.zero_grad()
            nn.MSELoss()(layer(x[rows]), target[rows]).backward()
            optimizer.step()
    np.testing.assert_allclose(seen.loss, np.mean(losses, axis=0), rtol=1e-11)


@pytest.mark.parametrize(
    ("batch", "replace", "conv"),
    [
        (1, True, {}),
        (4, True, {}),
        (4, False, {"stride": 2}),
        (8, True, {"padding": 1, "bias": False}),
    ],
    ids=str,
)
def test_the_curve_is_inside_four_standard_errors(batch, replace, conv):
    layer, x, target = setting(**conv)
    edges = layer_edges(layer, x, batch=batch, replace=replace, seed=0)
    kwargs = {"lr": 0.3 * edges.mean_square, "batch": batch, "steps": 60, "replace": replace}
    prediction = predict_layer_minibatch(layer, x, target, **kwargs)
    assert prediction.mean_square_edge == pytest.approx(edges.mean_square)
    seen = observe_layer_minibatch(layer, x, target, **kwargs, runs=200, seed=1)
    result = compare_minibatch(prediction, seen)
    assert max(result.largest, result.largest_pooled) < 4
    np.testing.assert_allclose(
        result.deviations[1:], (seen.loss - prediction.loss)[1:] / seen.loss_se[1:]
    )
    near = np.sqrt((seen.loss_se[25:36] ** 2).mean())
    assert result.pooled[30] == pytest.approx((seen.loss - prediction.loss)[30] / near)
    assert np.abs(result.weight_deviations).max() < 5
    assert seen.loss_se[-1] < 0.05 * seen.loss[-1]
    assert prediction.stable


def test_groups_are_problems_of_their_own():
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 4, 3, groups=2).double()
    x = torch.stack([DIGITS[:12, 0], DIGITS[12:24, 0] ** 2], dim=1)
    target = torch.randn(12, 4, 9, 9).double()
    kwargs = {"lr": 0.2, "batch": 2, "steps": 40}
    prediction = predict_layer_minibatch(conv, x, target, **kwargs)
    assert prediction.mean_weights.shape == (41, 4, 10)
    seen = observe_layer_minibatch(conv, x, target, **kwargs, runs=150, seed=0)
    assert compare_minibatch(prediction, seen).largest < 4
    edges = layer_edges(conv, x, batch=2, seed=0)
    assert edges.mean == pytest.approx(prediction.mean_edge)


def test_the_mean_is_full_batch_training_and_its_edge():
    conv, x, target = setting()
    prediction = predict_layer_minibatch(conv, x, target, lr=0.2, batch=2, steps=30)
    full = predict_layer(conv, x, target, lr=0.2, steps=30)
    np.testing.assert_allclose(prediction.mean_weights, full.weights, atol=1e-9)
    assert prediction.loss_min == pytest.approx(full.loss_min)
    assert prediction.mean_edge == pytest.approx(full.bounds.mean)
    assert (prediction.loss[1:] > full.loss[1:]).all()


@pytest.mark.parametrize("sgd", [{}, {"momentum": 0.8, "weight_decay": 0.1}], ids=str)
def test_the_full_batch_without_replacement_is_full_batch_training(sgd):
    conv, x, target = setting()
    kwargs = {"lr": 0.2, "batch": 16, "steps": 30, "replace": False, **sgd}
    full = predict_layer(conv, x, target, lr=0.2, steps=30, **sgd)
    np.testing.assert_allclose(
        predict_layer_minibatch(conv, x, target, **kwargs).loss, full.loss, rtol=1e-9
    )
    seen = observe_layer_minibatch(conv, x, target, **kwargs, runs=2, seed=0)
    np.testing.assert_allclose(seen.loss, full.loss, rtol=1e-9)
    if sgd:
        return
    edges = layer_edges(conv, x, batch=16, replace=False, seed=0)
    mean = learning_rate_bounds(layer_problems(conv, x, target), 2).mean
    assert edges.mean_square == pytest.approx(mean)
    assert edges.almost_sure == pytest.approx(mean)


@pytest.mark.parametrize("batch", [1, 4])
def test_the_median_run_diverges_at_the_lyapunov_edge(batch):
    conv, x, _ = setting(images=12, stride=3)
    edges = layer_edges(conv, x, batch=batch, seed=0)
    found = bisect_minibatch_edge(conv, x, batch=batch, seed=1, steps=400, tolerance=0.02)
    assert found.lr == pytest.approx(edges.almost_sure, rel=0.05)
    assert found.lr > 1.02 * edges.mean_square
    assert (found.upper - found.lower) / found.upper <= 0.02
    text = str(edges)
    assert all(word in text for word in ("mean square", "almost sure", "mean:"))


@pytest.mark.parametrize("kind", ["tokens", "ConvTranspose1d"])
def test_the_median_run_of_other_kinds_diverges_there_too(kind):
    conv, x, _ = any_layer(kind)
    edges = layer_edges(conv, x, batch=1, seed=0)
    target = torch.zeros_like(conv(x))
    predicted = predict_layer_minibatch(conv, x, target, lr=1.0, batch=1, steps=0)
    assert edges.mean_square == pytest.approx(predicted.mean_square_edge)
    assert edges.mean == pytest.approx(bound(conv, x, target))
    guess = (0.8 * edges.almost_sure, 1.3 * edges.almost_sure)
    found = bisect_minibatch_edge(
        conv, x, batch=1, seed=1, runs=16, steps=300, tolerance=0.02, lr=guess[0]
    )
    assert found.lr == pytest.approx(edges.almost_sure, rel=0.05)


@pytest.mark.parametrize("kind", ["tokens", "ConvTranspose1d"])
def test_a_bias_of_another_kind_held_fixed(kind):
    conv, x, target = any_layer(kind)
    kwargs = {"lr": 0.05, "batch": 12, "steps": 9, "replace": False, "bias": False}
    full = predict_layer(conv, x, target, lr=0.05, steps=9, bias=False)
    prediction = predict_layer_minibatch(conv, x, target, **kwargs)
    np.testing.assert_allclose(prediction.loss, full.loss, rtol=1e-9)
    seen = observe_layer_minibatch(conv, x, target, **kwargs, runs=2, seed=0)
    np.testing.assert_allclose(seen.loss, full.loss, rtol=1e-9)


def test_a_bias_held_fixed():
    conv, x, target = setting()
    kwargs = {"lr": 0.2, "batch": 2, "steps": 20, "bias": False}
    prediction = predict_layer_minibatch(conv, x, target, **kwargs)
    assert prediction.mean_weights.shape == (21, 2, 9)
    start = nn.MSELoss()(conv(x), target).item()
    assert prediction.loss[0] == pytest.approx(start)
    seen = observe_layer_minibatch(conv, x, target, **kwargs, runs=100, seed=0)
    assert compare_minibatch(prediction, seen).largest < 4


def test_above_the_edge():
    conv, x, target = setting()
    prediction = predict_layer_minibatch(conv, x, target, lr=20.0, batch=1, steps=500)
    assert not prediction.stable
    assert prediction.loss_final == np.inf
    assert prediction.loss[-1] == np.inf
    seen = observe_layer_minibatch(conv, x, target, lr=20.0, batch=1, steps=500, runs=3, seed=0)
    assert seen.diverged == 3


def test_a_run_does_not_depend_on_how_many_there_are():
    conv, x, target = setting()
    kwargs = {"lr": 0.2, "batch": 2, "steps": 10, "seed": 3}
    two = observe_layer_minibatch(conv, x, target, runs=2, **kwargs)
    three = observe_layer_minibatch(conv, x, target, runs=3, **kwargs)
    third = 3 * three.loss - 2 * two.loss
    assert (third > 0).all()
    again = observe_layer_minibatch(conv, x, target, runs=2, **kwargs)
    np.testing.assert_array_equal(two.loss, again.loss)


CONV, IMAGES, TARGET = setting()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"lr": 0}, ValueError, "lr must be positive; got 0"),
        ({"momentum": 1}, ValueError, "momentum must be less than 1; got 1"),
        ({"weight_decay": -1}, ValueError, "weight_decay must be zero or positive; got -1"),
        ({"batch": 0}, ValueError, "batch must be at least 1; got 0"),
        ({"batch": 17, "replace": False}, ValueError, "batch must be at most the 16"),
        ({"steps": -1}, ValueError, "steps must be at least 0; got -1"),
        ({"conv": nn.Flatten()}, TypeError, "conv must be a torch.nn.Conv1d, .* got Flatten"),
        ({"conv": nn.Linear(2, 2)}, ValueError, "x must have the layer's 2 input features"),
        ({"x": IMAGES[:, :, :2]}, ValueError, "x must be at least as large as the layer's kernel"),
        ({"target": TARGET[:3]}, ValueError, "target must have the shape of the layer's output"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_errors(change, error, message):
    arguments = {"conv": CONV, "x": IMAGES, "target": TARGET, "lr": 0.1, "batch": 2, "steps": 3}
    arguments |= change
    with pytest.raises(error, match=message):
        predict_layer_minibatch(**arguments)
    with pytest.raises(error, match=message):
        observe_layer_minibatch(**arguments, runs=2, seed=0)


def test_more_errors():
    kwargs = {"lr": 0.1, "batch": 2, "steps": 3}
    for function in (layer_edges, bisect_minibatch_edge):
        with pytest.raises(TypeError, match=r"conv must be a torch.nn.Conv1d, .* got Flatten"):
            function(nn.Flatten(), IMAGES, batch=2, seed=0)
    with pytest.raises(ValueError, match="runs must be at least 2; got 1"):
        observe_layer_minibatch(CONV, IMAGES, TARGET, **kwargs, runs=1, seed=0)
    with pytest.raises(ValueError, match="tolerance must be less than 1; got 2"):
        bisect_minibatch_edge(CONV, IMAGES, batch=1, seed=0, tolerance=2)
    with pytest.raises(TypeError, match="replace must be True or False; got 1"):
        layer_edges(CONV, IMAGES, batch=1, seed=0, replace=1)
    with pytest.raises(ValueError, match="steps must be at least 20; got 5"):
        bisect_minibatch_edge(CONV, IMAGES, batch=1, seed=0, steps=5)
    prediction = predict_layer_minibatch(CONV, IMAGES, TARGET, **kwargs)
    other = observe_layer_minibatch(CONV, IMAGES, TARGET, lr=0.1, batch=2, steps=4, runs=2, seed=0)
    with pytest.raises(ValueError, match="observation must have the prediction's steps"):
        compare_minibatch(prediction, other)
    settled = predict_layer_minibatch(CONV, IMAGES, TARGET, **kwargs, momentum=0.5)
    seen = observe_layer_minibatch(CONV, IMAGES, TARGET, **kwargs, runs=2, seed=0)
    with pytest.raises(ValueError, match=r"prediction's sgd, .*momentum=0.5.*; got .*momentum=0.0"):
        compare_minibatch(settled, seen)
    with pytest.raises(ValueError, match="observation must have the prediction's batch, 2; got 3"):
        compare_minibatch(
            prediction,
            observe_layer_minibatch(CONV, IMAGES, TARGET, lr=0.1, batch=3, steps=3, runs=2, seed=0),
        )


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda():
    kwargs = {"lr": 0.1, "batch": 2, "steps": 10, "runs": 4, "seed": 0}
    host = observe_layer_minibatch(CONV, IMAGES, TARGET, **kwargs)
    device = observe_layer_minibatch(CONV, IMAGES.cuda(), TARGET.cuda(), **kwargs)
    np.testing.assert_allclose(device.loss, host.loss, rtol=1e-9)
