import warnings

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from cnnbridge import Geometry, group_weights, patch_autocorrelation, unfold_patches
from cnnbridge.layers.geometry import output_size
from cnnbridge.layers.patches import taps_per_output
from cnnbridge.statistics.autocorrelation import Moments
from tests.oracles import naive_patches as naive

# torch's remark on its own cost for even kernels
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")

MODES = ("zeros", "reflect", "replicate", "circular")


def images(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def oracle(x, conv, bias=False):
    """The loops, on a layer of any kind."""
    if isinstance(conv, nn.Linear):
        tokens = x.reshape(len(x), -1, x.shape[-1]).numpy()
        u = np.swapaxes(tokens, 1, 2)[:, None]
        return np.concatenate([u, np.ones_like(u[:, :, :1])], axis=2) if bias else u
    if conv.transposed:
        return naive.transposed_patches(
            x.numpy(),
            conv.kernel_size,
            conv.stride,
            conv.dilation,
            conv.padding,
            conv.output_padding,
            conv.groups,
            bias,
        )
    if conv.padding == "same":
        padding = naive.same(conv.kernel_size, conv.dilation)
    elif conv.padding == "valid":
        padding = ((0, 0),) * len(conv.kernel_size)
    else:
        padding = tuple((p, p) for p in conv.padding)
    return naive.patches(
        x.numpy(),
        conv.kernel_size,
        conv.stride,
        conv.dilation,
        padding,
        conv.padding_mode,
        conv.groups,
        bias,
    )


def check(conv, x):
    """Against the loops, and against the layer itself."""
    conv = conv.double()
    bias = conv.bias is not None
    u = unfold_patches(x, conv, bias=bias)
    expected = oracle(x, conv, bias)
    np.testing.assert_array_equal(u.numpy(), expected)
    geometry = Geometry.of(conv)
    y = conv(x)
    assert geometry.output_shape(tuple(x.shape)) == tuple(y.shape)
    ours = group_weights(conv, bias=bias) @ u
    theirs = geometry.channels_first(y).reshape(ours.flatten(1, 2).shape)
    torch.testing.assert_close(ours.flatten(1, 2), theirs, rtol=1e-12, atol=1e-12)
    if not isinstance(conv, nn.Linear):
        assert tuple(y.shape[2:]) == output_size(conv, *x.shape[2:])
    assert u.shape[2] == taps_per_output(conv, bias=bias)
    exact = np.einsum("ngap,ngbp->gab", expected, expected) / (len(x) * expected.shape[-1])
    for method in ("lags", "unfold", "auto"):
        R = patch_autocorrelation(x, conv, bias=bias, method=method)
        assert R.shape == ((geometry.groups,) if geometry.groups > 1 else ()) + (u.shape[2],) * 2
        np.testing.assert_allclose(R.reshape(exact.shape), exact, rtol=1e-12, atol=1e-13)
    # the layer's output serves as a desired response
    d = y.detach() + 1
    grouped = geometry.channels_first(d).reshape(len(x), geometry.groups, -1, u.shape[-1]).numpy()
    P = np.einsum("ngmp,nglp->gml", grouped, expected)
    for method in ("lags", "unfold"):
        moments = Moments.zeros(conv, bias=bias, device=x.device)
        moments.add(x, d, method=method)
        np.testing.assert_allclose(moments.P, P, rtol=1e-12, atol=1e-11)
        np.testing.assert_allclose(moments.d_power, (grouped**2).sum((0, 2, 3)), rtol=1e-12)
        np.testing.assert_allclose(moments.R / moments.count, exact, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": (2, 3), "stride": (2, 1), "padding": (0, 2)},
        {"kernel_size": 2, "dilation": 2, "padding": 1, "bias": False},
        {"kernel_size": 4, "padding": "same"},
        {"kernel_size": (2, 3), "dilation": (3, 1), "padding": "same", "bias": False},
        {"kernel_size": 3, "padding": "valid"},
        {"kernel_size": 1},
        {"kernel_size": 3, "padding": 1, "groups": 2},
        {"kernel_size": 2, "stride": 3, "groups": 4, "padding": 1},
        {"kernel_size": 3, "stride": 2, "dilation": 2, "padding": 3},
    ],
    ids=str,
)
def test_every_geometry_equals_the_loops(mode, settings):
    check(nn.Conv2d(4, 4, padding_mode=mode, **settings), images(2, 4, 6, 5))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 4, "padding": "same"},
        {"kernel_size": 3, "stride": 2, "dilation": 2, "groups": 2, "bias": False},
    ],
    ids=str,
)
def test_one_and_three_dimensions(mode, settings):
    check(nn.Conv1d(4, 4, padding_mode=mode, **settings), images(3, 4, 7))
    check(nn.Conv3d(2, 2, padding_mode=mode, **settings), images(2, 2, 5, 6, 5))


@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": 3},
        {"kernel_size": 2, "stride": 2},
        {"kernel_size": 4, "stride": 2, "padding": 1, "bias": False},
        {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1, "groups": 2},
        {"kernel_size": 2, "stride": 3, "dilation": 2, "output_padding": 1},
        # a negative padding of the equivalent correlation: pixels are cut off
        {"kernel_size": 1, "padding": 1},
        {"kernel_size": 2, "padding": 2},
        {"kernel_size": 1, "stride": 2, "output_padding": 1},
    ],
    ids=str,
)
def test_transposed_layers(settings):
    check(nn.ConvTranspose1d(4, 6, **settings), images(2, 4, 6))
    check(nn.ConvTranspose2d(4, 6, **settings), images(2, 4, 6, 5))
    check(nn.ConvTranspose3d(2, 2, **settings), images(1, 2, 4, 4, 4))


@pytest.mark.parametrize("shape", [(5, 3), (2, 7, 3), (2, 3, 2, 3)])
@pytest.mark.parametrize("bias", [False, True])
def test_linear_layers_take_any_leading_axes(shape, bias):
    check(nn.Linear(3, 4, bias=bias), images(*shape))


def test_depthwise_and_pointwise():
    check(nn.Conv2d(6, 12, 5, padding=2, groups=6), images(2, 6, 7, 6))
    check(nn.Conv2d(6, 4, 1, stride=2), images(2, 6, 7, 6))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_geometry_equals_the_loops(data):
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    groups = data.draw(st.integers(1, 2))
    kernel, stride, dilation = data.draw(pair), data.draw(pair), data.draw(pair)
    numbers = st.tuples(st.integers(0, 2), st.integers(0, 2))
    padding = data.draw(st.one_of(numbers, st.sampled_from(["same", "valid"])))
    assume(padding != "same" or stride == (1, 1))
    conv = nn.Conv2d(
        groups,
        2 * groups,
        kernel,
        stride=stride,
        dilation=dilation,
        padding=padding,
        groups=groups,
        bias=data.draw(st.booleans()),
        padding_mode=data.draw(st.sampled_from(MODES)),
    )
    size = data.draw(st.tuples(st.integers(2, 7), st.integers(2, 7)))
    x = images(2, groups, *size)
    try:
        output_size(conv, *size)
    except ValueError:
        # what we refuse, torch refuses too
        with pytest.raises(RuntimeError):
            conv.double()(x)
        return
    check(conv, x)


def test_patches_are_differentiable():
    x = images(2, 2, 5, 5).requires_grad_()
    conv = nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular").double()
    assert torch.autograd.gradcheck(lambda x: unfold_patches(x, conv, bias=True), (x,))


def test_the_bias_tap_of_a_layer_without_bias_is_zero():
    weights = group_weights(nn.Conv2d(2, 4, 3, groups=2, bias=False), bias=True)
    assert weights.shape == (2, 2, 10)
    assert (weights[..., -1] == 0).all()


def layer(**settings):
    return nn.Conv2d(2, 3, 3, **settings)


BAD = [
    (nn.ReLU(), images(1, 2, 5, 5), TypeError, "conv must be a torch.nn.Conv1d, .* got ReLU"),
    (nn.Linear(2, 3), images(5), ValueError, r"x must be at least 2-D .* got shape \(5,\)"),
    (nn.Linear(2, 3), images(2, 5), ValueError, "x must have the layer's 2 input features on its"),
    (nn.Conv1d(2, 3, 3), images(2, 5, 5, 5), ValueError, "x must be 3-D"),
    (nn.Conv3d(2, 3, 3), images(2, 2, 5, 5), ValueError, "x must be 5-D"),
    (nn.Conv1d(2, 3, 3), images(2, 2, 2), ValueError, "kernel, 3 with its dilation; got a size of"),
    (layer(), np.zeros((1, 2, 5, 5)), TypeError, "x must be a torch.Tensor"),
    (layer(), torch.ones(1, 2, 5, 5).int(), TypeError, "x must be a real floating-point tensor"),
    (layer(), images(1, 2, 5, 5) * 1j, TypeError, "got torch.complex128"),
    (layer(), images(2, 5, 5), ValueError, r"x must be 4-D .*; got shape \(2, 5, 5\)"),
    (layer(), images(0, 2, 5, 5), ValueError, "x must not be empty"),
    (layer(), images(1, 3, 5, 5), ValueError, "x must have the layer's 2 input channels on axis 1"),
    (layer(), images(1, 2, 5, 5) / 0, ValueError, r"x must be finite; got .*inf at index \(0, 0,"),
    (layer(), images(1, 2, 5, 5) * torch.nan, ValueError, "x must be finite; got nan"),
    (layer(), images(1, 2, 5, 2), ValueError, "x must be at least as large as the layer's kernel"),
    (
        layer(padding=5, padding_mode="reflect"),
        images(1, 2, 5, 5),
        ValueError,
        "x must be larger than the layer's reflect padding, 5 by 5; got images of 5 by 5",
    ),
    (
        layer(padding=6, padding_mode="circular"),
        images(1, 2, 5, 5),
        ValueError,
        "x must be larger than the layer's circular padding",
    ),
]


@pytest.mark.parametrize("function", [unfold_patches, patch_autocorrelation])
@pytest.mark.parametrize(("conv", "x", "error", "message"), BAD, ids=[b[3][:40] for b in BAD])
def test_errors_name_the_argument(function, conv, x, error, message):
    with pytest.raises(error, match=message):
        function(x, conv)


def test_a_lazy_layer_is_refused():
    with warnings.catch_warnings():
        # some versions of torch remark that lazy modules are new
        warnings.simplefilter("ignore")
        lazy = nn.LazyConv2d(3, 3)
    with pytest.raises(ValueError, match="conv must know its shape"):
        taps_per_output(lazy)
    lazy(torch.ones(1, 2, 5, 5))
    assert taps_per_output(lazy) == 18


def test_a_subclass_that_computes_something_else_is_refused():
    class Same(nn.Conv2d):
        def forward(self, x):
            return super().forward(nn.functional.pad(x, (1, 1, 1, 1)))

    class Named(nn.Conv2d):
        """A subclass for its name only."""

    with pytest.raises(TypeError, match="got Same, which has a forward of its own"):
        Geometry.of(Same(2, 3, 3))
    check(Named(2, 3, 3), images(2, 2, 5, 5))


@pytest.mark.parametrize(
    "wrap", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm]
)
def test_a_parametrized_layer_is_the_layer_it_computes(wrap):
    layer = wrap(nn.Conv2d(2, 3, 3).double()).eval()
    check(layer, images(2, 2, 5, 5))


def test_reading_the_geometry_leaves_a_parametrized_layer_alone():
    """Spectral norm takes a step of its power iteration whenever the weight is read."""
    layer = nn.utils.parametrizations.spectral_norm(nn.Conv2d(2, 3, 3))
    before = {k: v.clone() for k, v in layer.state_dict().items()}
    patch_autocorrelation(images(1, 2, 5, 5), layer)
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name])


def test_output_size_wants_every_axis():
    with pytest.raises(ValueError, match="size must have one number for each of the layer's 2"):
        output_size(nn.Conv2d(1, 1, 3), 5)


def test_large_finite_values_are_not_taken_for_inf():
    x = torch.full((1, 1, 3, 3), 3e38)
    assert torch.isfinite(unfold_patches(x, nn.Conv2d(1, 1, 2))).all()
