"""Every conv and linear layer of real architectures, against indexing in NumPy."""

import functools
import itertools

import numpy as np
import pytest
import torch
from torch import nn

from cnnbridge import Geometry, group_weights, patch_autocorrelation, unfold_patches

torchvision = pytest.importorskip("torchvision")

MODELS = [
    "resnet18",
    "vgg11_bn",
    "mobilenet_v3_small",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
]
# R of vgg's first linear layer would take 5 GB: of wider layers, the first channels are looked at
MOST_TAPS = 1500


def brute_force(x, layer):
    """(groups, L, samples) from the layer's own settings, one tap at a time."""
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, x.shape[-1]).T[None]
    assert not layer.transposed
    assert layer.padding_mode == "zeros"
    (kh, kw), (sh, sw), (dh, dw), (ph, pw) = (
        layer.kernel_size,
        layer.stride,
        layer.dilation,
        layer.padding,
    )
    x = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)))
    rows = np.arange(0, x.shape[2] - dh * (kh - 1), sh)
    columns = np.arange(0, x.shape[3] - dw * (kw - 1), sw)
    taps = [
        x[:, :, (rows + i * dh)[:, None], columns + j * dw]
        for i, j in itertools.product(range(kh), range(kw))
    ]
    u = np.stack(taps, axis=2)
    u = u.transpose(1, 2, 0, 3, 4).reshape(layer.groups, -1, u[:, 0, 0].size)
    return u


def narrowed(layer, x):
    """The layer on its first channels, if it is too wide to look at as a whole."""
    geometry = Geometry.of(layer)
    if geometry.taps <= MOST_TAPS:
        return layer, x
    assert geometry.groups == 1
    few = MOST_TAPS // (geometry.taps // geometry.in_channels)
    if isinstance(layer, nn.Linear):
        return nn.Linear(few, layer.out_features), x[..., :few]
    return nn.Conv2d(
        few,
        layer.out_channels,
        layer.kernel_size,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
    ), x[:, :few]


@functools.cache
def layers(name):
    """Each layer with the input and output that it has in the network, equal ones once."""
    torch.manual_seed(0)
    # odd sizes, so that strides leave a remainder
    model = torchvision.models.get_model(name, weights=None).double().eval()
    seen = {}

    def record(layer, args, output):
        # later layers may write into either
        (x,) = args
        seen.setdefault((Geometry.of(layer), tuple(x.shape)), (layer, x.clone(), output.clone()))

    kinds = (nn.Conv2d, nn.Linear)
    handles = [m.register_forward_hook(record) for m in model.modules() if isinstance(m, kinds)]
    with torch.no_grad():
        model(torch.randn(2, 3, 45, 38).double())
    for handle in handles:
        handle.remove()
    assert len(handles) > 8
    return list(seen.values())


@pytest.mark.parametrize("name", MODELS)
def test_the_output_is_weights_times_patches(name):
    for layer, x, output in layers(name):
        bias = layer.bias is not None
        with torch.no_grad():
            y = group_weights(layer, bias=bias) @ unfold_patches(x, layer, bias=bias)
        theirs = Geometry.of(layer).channels_first(output)
        torch.testing.assert_close(y.reshape(theirs.shape), theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", MODELS)
def test_every_layer_equals_brute_force(name):
    for whole, every in {(layer, x) for layer, x, _ in layers(name)}:
        layer, x = narrowed(whole, every)
        u = brute_force(x.numpy(), layer)
        exact = np.einsum("gap,gbp->gab", u, u, optimize=True) / u.shape[-1]
        if len(exact) == 1:
            exact = exact[0]
        scale = np.abs(exact).max()
        for method in ("lags", "unfold", "auto"):
            R = patch_autocorrelation(x, layer, method=method)
            assert np.abs(R.numpy() - exact).max() <= 1e-10 * scale, (method, layer)
        R = patch_autocorrelation(x.float(), layer)
        assert np.abs(R.numpy() - exact).max() <= 1e-5 * scale, layer
