"""The first step is NLMS for layers of every kind, before and after, against plain sums."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from cnnbridge import Geometry, SplitBatchNorm, first_step_is_nlms, group_weights
from cnnbridge.normalization import nlms_departure
from tests.cnnbridge.layers.test_patches import oracle
from tests.oracles.kinds import KINDS

CE = nn.CrossEntropyLoss()


class Across(nn.Module):
    """BatchNorm1d over the features of tokens, between two transpositions."""

    def __init__(self, features):
        super().__init__()
        self.bn = nn.BatchNorm1d(features)

    def forward(self, x):
        return self.bn(x.transpose(1, 2)).transpose(1, 2)


def norm_for(layer, shape, channels):
    """A normalization of the layer's kind, and the name of it in the model."""
    if isinstance(layer, nn.Linear):
        return nn.BatchNorm1d(channels) if len(shape) == 1 else SplitBatchNorm(channels, axis=-1)
    return (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[len(shape) - 2](channels)


def data(shape, axis=0):
    torch.manual_seed(0)
    x = torch.randn(6, *shape).double()
    strength = torch.tensor([0.1, 1.0, 3.0, 10.0]).double()
    x = (x * (strength if axis == -1 else strength.view(-1, *(1,) * (len(shape) - 1)))) + 0.7
    return x, torch.randint(3, (6,))


def build(*parts, x):
    model = nn.Sequential(*parts, nn.ReLU(inplace=True), nn.Flatten(), nn.LazyLinear(3)).double()
    model(x)
    for part in model:
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | SplitBatchNorm):
            nn.init.uniform_(part.weight, -1.5, 1.5)
            nn.init.uniform_(part.bias, -1, 1)
    return model


def by_channel(x, channels_last):
    """(samples, C)."""
    x = x if channels_last else x.movedim(1, -1)
    return x.reshape(-1, x.shape[-1])


def patches(x, layer):
    """(groups, L, samples * positions) from the loops."""
    return np.concatenate(list(oracle(x, layer)), axis=-1)


def errors(model, place, x, y):
    """-dL of what part ``place`` gives, as (M, samples * positions), image by image."""
    kept = []

    def keep(module, args, out):
        kept.append(out)
        out.retain_grad()
        return out.clone()

    handle = model[place].register_forward_hook(keep)
    CE(model(x), y).backward()
    handle.remove()
    e = -kept[0].grad
    last = isinstance(model[place], nn.Linear) or getattr(model[place], "axis", 1) == -1
    return by_channel(e, last).T.numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_before_a_layer_of_every_kind(kind):
    make, shape = KINDS[kind]
    layer = make()
    last = isinstance(layer, nn.Linear)
    x, y = data(shape, -1 if last else 0)
    model = build(norm_for(layer, shape, 4), layer, x=x)
    norm = model[0]
    step = first_step_is_nlms(model, "0", "1", x, y, CE, lr=0.3)
    assert step.position == "before"
    assert step.difference < 1e-10
    assert step.minimum_norm < 1e-10
    # and from the definition: w+ = w + lr sum of e z', g = w gamma / s
    samples = by_channel(x, last)
    m, s = samples.mean(0), (samples.var(0, correction=0) + 1e-5).sqrt()
    np.testing.assert_allclose(step.s, s, rtol=1e-12)
    groups = Geometry.of(layer).groups
    wide = (-1, *(1,) * (x.ndim - 2))
    c = patches(x - (m if last else m.view(wide)), layer)
    b = patches(torch.ones_like(x), layer)
    taps = c.shape[1] * groups // 4
    gain, shift = (
        np.repeat(t.detach().numpy(), taps).reshape(groups, 1, -1)
        for t in (norm.weight / s, norm.bias)
    )
    e = errors(model, 1, x, y).reshape(groups, -1, c.shape[2])
    w = group_weights(layer).detach().numpy()
    change = gain**2 * (e @ c.swapaxes(1, 2)) + gain * shift * (e @ b.swapaxes(1, 2))
    np.testing.assert_allclose(step.g, w * gain, rtol=1e-12)
    scale = np.abs(change).max()
    assert scale > 1e-8
    np.testing.assert_allclose((step.g_sgd - step.g) / 0.3, change, atol=1e-10 * scale)


@pytest.mark.parametrize("kind", KINDS)
def test_after_a_layer_of_every_kind(kind):
    make, shape = KINDS[kind]
    layer = make()
    last = isinstance(layer, nn.Linear)
    x, y = data(shape, -1 if last else 0)
    geometry = Geometry.of(layer)
    norm = norm_for(layer, shape, geometry.out_channels)
    model = build(layer, norm, x=x)
    step = first_step_is_nlms(model, "1", "0", x, y, CE, lr=0.3)
    assert step.position == "after"
    assert step.difference < 1e-10
    assert step.radial < 1e-2
    norm.eps = 1e-20
    assert first_step_is_nlms(model, "1", "0", x, y, CE, lr=0.3).radial < 1e-10
    norm.eps = 1e-5
    # s is the deviation of the layer's own output, and the change of g its projected NLMS step
    out = by_channel(layer(x).detach(), last)
    s = (out.var(0, correction=0) + 1e-5).sqrt().numpy()
    np.testing.assert_allclose(step.s, s, rtol=1e-10)
    groups = geometry.groups
    s, gamma = (t.reshape(groups, -1, 1) for t in (s, norm.weight.detach().numpy()))
    c = patches(x, layer)
    c = c - c.mean(axis=2, keepdims=True)
    R_c = c @ c.swapaxes(1, 2) / c.shape[2]
    e = errors(model, 1, x, y).reshape(groups, -1, c.shape[2])
    g = group_weights(layer).detach().numpy() / s
    v = e @ c.swapaxes(1, 2)
    change = (gamma / s) ** 2 * (v - (g * v).sum(axis=2, keepdims=True) * (g @ R_c))
    scale = np.abs(change).max()
    assert scale > 1e-10
    np.testing.assert_allclose((step.g_sgd - step.g) / 0.3, change, atol=1e-9 * scale)


def test_tokens_normalized_by_batch_norm_between_transpositions():
    x, y = data((5, 4), -1)
    torch.manual_seed(1)
    across, plain = Across(4), SplitBatchNorm(4, axis=-1)
    linear = nn.Linear(4, 6)
    steps = []
    for norm, name in ((across, "0.bn"), (plain, "0")):
        model = build(norm, linear, x=x)
        torch.manual_seed(2)
        nn.init.uniform_(model[-1].weight, -0.3, 0.3)
        nn.init.zeros_(model[-1].bias)
        for p in norm.parameters():
            nn.init.ones_(p)
        steps.append(first_step_is_nlms(model, name, "1", x, y, CE, lr=0.3))
    np.testing.assert_allclose(steps[0].g_sgd, steps[1].g_sgd, rtol=1e-10)
    assert max(step.difference for step in steps) < 1e-10
    model = build(nn.Linear(4, 6), Across(6), x=x)
    step = first_step_is_nlms(model, "1.bn", "0", x, y, CE, lr=0.3)
    assert (step.position, step.difference < 1e-10) == ("after", True)


@pytest.mark.parametrize("order", ["before", "after"])
def test_channels_last_in_memory_is_no_other_order(order):
    x, y = data((4, 5, 6))
    parts = (nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, groups=2))
    model = build(*(parts if order == "before" else parts[::-1]), x=x)
    norm, conv = ("0", "1") if order == "before" else ("1", "0")
    plain = first_step_is_nlms(model, norm, conv, x, y, CE, lr=0.3)
    turned = model.to(memory_format=torch.channels_last)
    x = x.to(memory_format=torch.channels_last)
    step = first_step_is_nlms(turned, norm, conv, x, y, CE, lr=0.3)
    assert step.position == order
    np.testing.assert_allclose(step.g_sgd, plain.g_sgd, rtol=1e-9, atol=1e-12)
    assert step.difference < 1e-10


def test_maps_flattened_on_the_way_to_a_linear_layer():
    """One deviation of the normalization for each pixel of its channel."""
    x, y = data((4, 3, 2))
    model = nn.Sequential(nn.BatchNorm2d(4, affine=False), nn.Flatten(), nn.Linear(24, 3)).double()
    step = first_step_is_nlms(model, "0", "2", x, y, CE, lr=0.3)
    assert step.difference < 1e-10
    assert step.minimum_norm < 1e-10
    s = (x.var(dim=(0, 2, 3), correction=0) + 1e-5).sqrt().repeat_interleave(6)
    np.testing.assert_allclose(step.g[0], model[2].weight.detach() / s, rtol=1e-12)
    departure = nlms_departure(model, "0", "2", [(x, y)] * 3, CE, lr=0.1)
    assert departure.scale.shape == (2, 4)
    assert departure.step.max() < 1e-10


def test_gradients_that_the_model_already_had_do_not_count():
    x, y = data((4, 5, 5))
    model = build(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3), x=x)
    clean = first_step_is_nlms(model, "0", "1", x, y, CE, lr=0.3)
    CE(model(x), y).backward()
    kept = copy.deepcopy(model[1].weight.grad)
    again = first_step_is_nlms(model, "0", "1", x, y, CE, lr=0.3)
    np.testing.assert_array_equal(again.g_sgd, clean.g_sgd)
    assert torch.equal(model[1].weight.grad, kept)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_inside_no_grad(mode):
    model = build(nn.BatchNorm1d(4), nn.Linear(4, 6), x=data((4,))[0])
    with mode():
        x, y = data((4,))
        assert first_step_is_nlms(model, "0", "1", x, y, CE, lr=0.3).difference < 1e-10
        nlms_departure(model, "0", "1", [(x, y)] * 2, CE, lr=0.3)


def test_what_is_not_adjacent_or_normalizes_something_else():
    def refuses(model, norm, conv, x, message):
        with pytest.raises(ValueError, match=message):
            first_step_is_nlms(model.double(), norm, conv, x, None, lambda z, _: z.sum(), lr=0.1)

    maps, rows = data((4, 5, 5))[0], data((4, 9))[0]
    # in-place layers hand on the same tensor, written over
    between = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 1))
    refuses(between, "0", "2", maps, "norm and conv must be adjacent, .*; got '0' and '2'")
    after = nn.Sequential(nn.Conv2d(4, 2, 1), nn.ReLU(inplace=True), nn.BatchNorm2d(2))
    refuses(after, "2", "0", maps, "norm and conv must be adjacent, .*; got '2' and '0'")
    # channels of a sequence, and a layer that runs along its positions
    along = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(9, 2))
    refuses(along, "0", "1", rows, "each channel of conv's input must lie in one channel of norm")
    behind = nn.Sequential(nn.Linear(9, 2), nn.BatchNorm1d(4))
    refuses(behind, "1", "0", rows, "each channel of conv's output must be one channel of norm")
    pooled = nn.Sequential(nn.Linear(4, 8), nn.Unflatten(1, (2, 2, 2)), nn.BatchNorm2d(2))
    refuses(pooled, "2", "0", data((4,))[0], "each channel of conv's output must be one channel")

    class Part(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2)

        def forward(self, x):
            return self.bn(self.conv(x)[:, :, 1:])

    refuses(Part(), "bn", "conv", maps, "norm and conv must be adjacent")


def test_a_compiled_model_is_refused():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 6))
    compiled = torch.compile(model, backend="eager")
    with pytest.raises(TypeError, match=r"model must not be compiled.*pass the model from before"):
        first_step_is_nlms(compiled, "0", "1", torch.ones(2, 4), None, CE, lr=0.1)


def test_under_autocast_the_rounding_of_bfloat16_stays():
    x, y = data((4, 5, 5))
    model = build(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3), x=x).float()
    exact = first_step_is_nlms(model, "0", "1", x.float(), y, CE, lr=0.3)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = first_step_is_nlms(model, "0", "1", x.float(), y, CE, lr=0.3)
    assert exact.difference < 1e-4
    assert 1e-4 < rounded.difference < 4 * torch.finfo(torch.bfloat16).eps


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("order", ["before", "after"])
def test_on_cuda(order):
    x, y = data((5, 4), -1)
    parts = (SplitBatchNorm(4, axis=-1), nn.Linear(4, 4))
    parts = parts if order == "before" else parts[::-1]
    model = build(*parts, x=x).cuda()
    norm = "0" if order == "before" else "1"
    step = first_step_is_nlms(model, norm, str(1 - int(norm)), x.cuda(), y.cuda(), CE, lr=0.3)
    assert (step.position, step.difference < 1e-9) == (order, True)
