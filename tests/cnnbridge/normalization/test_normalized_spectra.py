import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cnnbridge import (
    Geometry,
    SplitBatchNorm,
    compare_normalizations,
    patch_autocorrelation,
    patch_moments,
    unfold_patches,
)
from cnnbridge.normalization import (
    NORMALIZATION_VARIANTS,
    NORMALIZATIONS,
    channel_divisor,
    interlacing_bounds,
    ostrowski_interval,
    pixel_weights,
    trace_ceiling,
    van_der_sluis_factor,
    weight_standardization,
    zca_whitening,
)
from tests.cnnbridge.layers.test_patches import oracle
from tests.oracles.kinds import KINDS

few = settings(max_examples=30, deadline=None, derandomize=True)


def images(n=5, channels=4, size=(7, 6), seed=0, scale=(0.2, 0.9, 3.0, 0.05)):
    """Correlated channels, none centred, and a power that differs from pixel to pixel."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, channels, *size, generator=generator, dtype=torch.float64)
    x = x + 0.5 * x.roll(1, dims=1) + 0.5 * x.roll(1, dims=3)
    x = x * torch.linspace(0.5, 1.5, size[1], dtype=torch.float64)
    shape = (1, channels, 1, 1)
    shift = torch.arange(1.0, 1 + channels, dtype=torch.float64).reshape(shape)
    return x * torch.tensor(scale[:channels], dtype=torch.float64).reshape(shape) + shift


CONVS = {
    "valid": {},
    "zeros": {"padding": 1},
    "same": {"padding": "same", "kernel_size": (2, 3)},
    "strided": {"padding": 2, "stride": 2},
    "dilated": {"padding": 2, "dilation": 2},
    "reflect": {"padding": 1, "padding_mode": "reflect"},
    "replicate": {"padding": 2, "padding_mode": "replicate"},
    "circular": {"padding": 1, "padding_mode": "circular"},
    "grouped": {"padding": 1, "groups": 2},
    "depthwise": {"padding": 1, "groups": 4},
}


def conv(kind):
    return nn.Conv2d(4, 4, **{"kernel_size": 3, **CONVS[kind]}).double()


@pytest.mark.parametrize("kind", CONVS)
def test_predicted_is_measured_for_every_geometry(kind):
    for name, spectrum in compare_normalizations(images(), conv(kind)).items():
        assert spectrum.name == name
        if name == "channel_layer_norm":
            assert spectrum.predicted is None
            assert np.isnan(spectrum.max_error)
            assert "measured only" in spectrum.rule
            continue
        assert spectrum.max_error < 1e-12, name


def other(kind):
    """A layer of that kind, and correlated input with channels of unlike power and mean."""
    make, shape = KINDS[kind]
    torch.manual_seed(0)
    layer, last = make().double(), isinstance(make(), nn.Linear)
    x = torch.randn(5, *shape).double().cumsum(-1)
    where = (-1,) if last else (-1, *(1,) * (len(shape) - 1))
    x = x * torch.tensor([0.2, 0.9, 3.0, 0.05]).double().view(where)
    return layer, x + torch.arange(1.0, 5.0).double().view(where), last


def normalized(x, last, name, groups=2):
    """The same in torch's own words: what the layer gets."""
    first = x.movedim(-1, 1) if last else x
    if name in NORMALIZATION_VARIANTS:
        options = dict(NORMALIZATION_VARIANTS[name])
        bn = SplitBatchNorm(4, affine=False, dtype=x.dtype, axis=-1 if last else 1, **options)
        return bn(x)
    if name == "channel_layer_norm":
        z = nn.functional.layer_norm(first.movedim(1, -1), (4,)).movedim(-1, 1)
    elif name == "whitening":
        rows = first.movedim(1, -1).reshape(-1, 4)
        cov = torch.cov(rows.T, correction=0) + 1e-5 * torch.eye(4)
        values, vectors = torch.linalg.eigh(cov)
        z = ((first.movedim(1, -1) - rows.mean(0)) @ vectors / values.sqrt() @ vectors.T).movedim(
            -1, 1
        )
    else:
        parts = {"group_norm": groups, "layer_norm": 1, "instance_norm": 4}[name]
        z = nn.functional.group_norm(first, parts)
    return z.movedim(1, -1) if last else z


@pytest.mark.parametrize("kind", KINDS)
def test_every_normalization_in_front_of_every_kind_of_layer(kind):
    layer, x, last = other(kind)
    spectra = compare_normalizations(x, layer)
    missing = {"instance_norm"} if x.ndim == 2 else set()
    missing |= {"whitening"} if getattr(layer, "groups", 1) > 1 else set()
    assert set(spectra) == set(NORMALIZATIONS) - missing
    for name, spectrum in spectra.items():
        assert spectrum.predicted is None or spectrum.max_error < 1e-12, name
        if name == "weight_standardization":
            assert len(spectrum.measured) == Geometry.of(layer).out_channels
            continue
        u = oracle(normalized(x, last, name), layer)
        for g, values in enumerate(spectrum.measured):
            samples = np.moveaxis(u[:, g], 1, 0).reshape(u.shape[2], -1)
            R = samples @ samples.T / samples.shape[1]
            np.testing.assert_allclose(values, np.linalg.eigvalsh(R), atol=1e-11 * values.max())
        if spectrum.low is not None:
            # eigenvalues are rounded in units of the largest, here times the largest gain
            slack = 1e-14 * spectrum.high.max() + 1e-12 * spectrum.measured.max()
            assert (spectrum.low <= spectrum.measured + slack).all(), name
            assert (spectrum.measured <= spectrum.high + slack).all(), name


def test_standardized_weights_of_a_transposed_layer():
    layer, x, _ = other("ConvTranspose2d, groups")
    R, weight = patch_moments(x, layer).R, layer.weight.detach()
    spectrum = compare_normalizations(x, layer, ["weight_standardization"])
    for m in range(6):
        # output m of group m // 3: two channels in, the kernel turned round
        w = weight[2 * (m // 3) : 2 * (m // 3) + 2, m % 3].flip(1, 2).flatten()
        J = weight_standardization(R[m // 3], w[None])[0]
        values = spectrum["weight_standardization"].measured[m]
        np.testing.assert_allclose(values, np.linalg.eigvalsh(J), atol=1e-10 * values.max())


@pytest.mark.parametrize("kind", KINDS)
def test_pixel_weights_and_the_ceiling_of_every_kind(kind):
    layer, x, last = other(kind)
    size = x.shape[1:-1] if last else x.shape[2:]
    groups = Geometry.of(layer).groups
    weights = pixel_weights(layer, *size)
    assert tuple(weights.shape) == tuple(size)
    power = (x**2).mean(dim=0)
    power = (power.movedim(-1, 0) if last else power).reshape(groups, -1, *size).sum(dim=1)
    moments = patch_moments(x, layer)
    traces = moments.R.diagonal(dim1=1, dim2=2).sum(dim=1)
    torch.testing.assert_close((weights * power).reshape(groups, -1).sum(dim=1), traces)
    ceiling = trace_ceiling(layer, *size)
    full = moments.normalized().diagonal(dim1=1, dim2=2).sum(dim=1)
    assert float(full.max()) <= ceiling.guaranteed * (1 + 1e-9)
    assert ceiling.uniform <= ceiling.nominal * (1 + 1e-9)
    assert ceiling.nominal == Geometry.of(layer).taps


def test_matrices_too_and_not_only_their_spectra():
    x = images()
    for kind in CONVS:
        moments = patch_moments(x, conv(kind))
        for options in ({}, {"scale": "amplify"}, {"center": False, "per": "equal_power"}):
            predicted = moments.normalized(**options)
            z = SplitBatchNorm(4, affine=False, dtype=torch.float64, **options)(x)
            measured = patch_autocorrelation(z, conv(kind))
            torch.testing.assert_close(predicted.reshape(measured.shape), measured)


def test_the_formula_of_centring_without_padding():
    """R - m ubar' - ubar m' + m m', with ubar and not m where it stands."""
    x, layer = images(), conv("valid")
    u = unfold_patches(x, layer)[:, 0].transpose(0, 1).flatten(1)
    m = x.mean(dim=(0, 2, 3)).repeat_interleave(9)
    ubar = u.mean(dim=1)
    R = u @ u.T / u.shape[1]
    R_c = R - torch.outer(m, ubar) - torch.outer(ubar, m) + torch.outer(m, m)
    torch.testing.assert_close(patch_moments(x, layer).normalized(scale="none")[0], R_c)
    # on a map this small the channel's mean is not a stand-in for the patches'
    wrong = R - torch.outer(m, m)
    assert float((wrong - R_c).abs().max() / R_c.abs().max()) > 1e-3


def test_learned_weight_and_bias_are_one_more_affine_map():
    x = images()
    bn = nn.BatchNorm2d(4).double()
    nn.init.uniform_(bn.weight, -2, 2)
    nn.init.uniform_(bn.bias, -2, 2)
    gain = bn.weight / channel_divisor(x.var(dim=(0, 2, 3), correction=0))
    shift = bn.bias - gain * x.mean(dim=(0, 2, 3))
    for kind in CONVS:
        predicted = patch_moments(x, conv(kind)).affine(gain.detach(), shift.detach())
        measured = patch_autocorrelation(bn(x).detach(), conv(kind))
        torch.testing.assert_close(predicted.reshape(measured.shape), measured)


def test_what_each_does_to_the_ends_of_the_spectrum():
    spectra = compare_normalizations(images(), conv("valid"))
    ends = {k: (s.measured[0, 0], s.measured[0, -1]) for k, s in spectra.items()}
    assert ends["amplify"][0] > ends["center"][0]
    assert ends["suppress"][1] < ends["center"][1]
    assert ends["amplify_uncentered"][0] > ends["none"][0]
    assert ends["suppress_uncentered"][1] < ends["none"][1]
    # a scalar and centring alone leave the spread of the centred spectrum
    spread = {k: high / low for k, (low, high) in ends.items()}
    assert spread["layer"] == pytest.approx(spread["center"], rel=1e-9)
    assert spread["equal_power"] == pytest.approx(spread["full"], rel=1e-3)


@pytest.mark.parametrize("kind", ["valid", "zeros", "grouped"])
def test_every_eigenvalue_lies_in_its_interval(kind):
    for spectrum in compare_normalizations(images(), conv(kind)).values():
        if spectrum.low is None:
            continue
        slack = 1e-12 * spectrum.measured.max()
        assert (spectrum.low <= spectrum.measured + slack).all(), spectrum.name
        assert (spectrum.measured <= spectrum.high + slack).all(), spectrum.name


def test_traces():
    x, layer = images(20, size=(12, 12)), conv("zeros")
    spectra = compare_normalizations(x, layer, eps=0.0)
    ceiling = trace_ceiling(layer, 12, 12)
    for name in ("full", "whitening", "instance_norm", "group_norm", "layer_norm"):
        trace = spectra[name].trace[0]
        assert 0.8 * ceiling.nominal < trace < ceiling.guaranteed, name
        assert spectra[name].measured[0, -1] < ceiling.guaranteed
    assert spectra["channel_layer_norm"].trace[0] == pytest.approx(ceiling.uniform)


def test_pixel_weights_give_the_trace_exactly():
    x = images()
    for kind in CONVS:
        layer = conv(kind)
        power = (x**2).mean(dim=0).reshape(layer.groups, -1, 7, 6).sum(dim=1)
        traces = (pixel_weights(layer, 7, 6) * power).sum(dim=(1, 2))
        measured = patch_moments(x, layer).R.diagonal(dim1=1, dim2=2).sum(dim=1)
        torch.testing.assert_close(traces, measured)


@few
@given(
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(sorted(CONVS)),
    size=st.tuples(st.integers(5, 9), st.integers(5, 9)),
    power=st.lists(st.floats(-3, 3), min_size=4, max_size=4),
)
def test_the_ceiling_holds_whatever_the_data(seed, kind, size, power):
    x = images(3, size=size, seed=seed, scale=tuple(10.0**p for p in power))
    # all the power on one pixel is the worst case
    if seed % 2:
        spike = torch.zeros_like(x)
        spike[0, :, size[0] // 2, size[1] // 2] = x[0, :, 0, 0]
        x = spike
    layer = conv(kind)
    ceiling = trace_ceiling(layer, *size)
    R = patch_moments(x, layer).normalized()
    assert float(R.diagonal(dim1=1, dim2=2).sum(dim=1).max()) <= ceiling.guaranteed * (1 + 1e-9)
    assert float(torch.linalg.eigvalsh(R).max()) <= ceiling.guaranteed * (1 + 1e-9)


def random_R(seed, L, rank):
    factor = np.random.default_rng(seed).standard_normal((L, rank))
    return factor @ factor.T / rank


@few
@given(seed=st.integers(0, 10_000), L=st.integers(1, 12), rank=st.integers(1, 15))
def test_ostrowski(seed, L, rank):
    R = random_R(seed, L, rank)
    generator = np.random.default_rng(seed + 1)
    for T in (np.diag(10.0 ** generator.uniform(-2, 2, L)), generator.standard_normal((L, L))):
        low, high = ostrowski_interval(np.linalg.eigvalsh(R), np.linalg.svd(T, compute_uv=False))
        after = np.linalg.eigvalsh(T @ R @ T.T)
        slack = 1e-9 * max(high.max(), 1e-300)
        assert (low <= after + slack).all()
        assert (after <= high + slack).all()


@few
@given(
    seed=st.integers(0, 10_000),
    channels=st.integers(1, 5),
    taps=st.integers(1, 5),
    rank=st.integers(1, 30),
)
def test_interlacing(seed, channels, taps, rank):
    R = random_R(seed, channels * taps, rank)
    highest_min, lowest_max, highest_max = interlacing_bounds(R, channels)
    values = np.linalg.eigvalsh(R)
    slack = 1e-12 * values[-1]
    assert values[0] <= highest_min + slack
    assert lowest_max - slack <= values[-1] <= highest_max + slack


@few
@given(seed=st.integers(0, 10_000), L=st.integers(2, 8))
def test_van_der_sluis(seed, L):
    R = random_R(seed, L, L + 5) + 1e-3 * np.eye(L)
    generator = np.random.default_rng(seed)
    factor = van_der_sluis_factor(R)
    for _ in range(5):
        d = 10.0 ** generator.uniform(-2, 2, L)
        assert np.linalg.cond(R) <= factor * np.linalg.cond(d * R * d[:, None]) * (1 + 1e-9)
    # after scaling to equal power the factor is the number of taps
    s = np.sqrt(np.diag(R))
    assert van_der_sluis_factor(R / s / s[:, None]) == pytest.approx(L)


def test_whitening_leaves_nothing_at_lag_zero():
    layer = nn.Conv2d(4, 2, 1).double()
    spectrum = compare_normalizations(images(40), layer, ["whitening"], eps=0.0)["whitening"]
    np.testing.assert_allclose(spectrum.measured, 1, rtol=1e-9)
    W = zca_whitening(images(), eps=0.1)
    torch.testing.assert_close(W, W.T)
    values = torch.linalg.eigvalsh(W)
    assert float(values.max()) <= 0.1**-0.5


def test_weight_standardization_is_autograd():
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(2, 6, generator=generator, dtype=torch.float64) + 1
    R = torch.from_numpy(random_R(0, 6, 9))

    def used(v):
        return (v - v.mean()) / (v.var(correction=0) + 0.3).sqrt()

    for m, matrix in enumerate(weight_standardization(R, w, eps=0.3)):
        J = torch.autograd.functional.jacobian(used, w[m])
        torch.testing.assert_close(matrix, J.T @ R @ J)
    twice = weight_standardization(torch.stack([R, 2 * R]), w, eps=0.3)
    torch.testing.assert_close(twice[1], 2 * weight_standardization(R, w, eps=0.3)[1])


def test_group_norm_groups():
    default = compare_normalizations(images(), conv("valid"), ["group_norm"])["group_norm"]
    two = compare_normalizations(images(), conv("valid"), ["group_norm"], num_groups=2)
    one = compare_normalizations(images(), conv("valid"), ["layer_norm"])["layer_norm"]
    np.testing.assert_array_equal(default.measured, two["group_norm"].measured)
    again = compare_normalizations(images(), conv("valid"), ["group_norm"], num_groups=1)
    np.testing.assert_array_equal(again["group_norm"].measured, one.measured)


def test_results_are_frozen_and_groups_have_no_whitening():
    spectra = compare_normalizations(images(), conv("grouped"))
    assert set(spectra) == set(NORMALIZATIONS) - {"whitening"}
    assert spectra["full"].measured.shape == (2, 18)
    assert spectra["weight_standardization"].measured.shape == (4, 18)
    with pytest.raises(dataclasses.FrozenInstanceError):
        spectra["full"].name = "x"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda x: patch_moments(x, nn.Linear(4, 4)),
            ValueError,
            "4 input features on its last axis; got shape",
        ),
        (
            lambda x: patch_moments(x, nn.ReLU()),
            TypeError,
            r"conv must be a torch.nn.Conv1d, .*; got ReLU",
        ),
        (
            lambda x: compare_normalizations(x[:, :, 0, 0], nn.Linear(4, 4), ["instance_norm"]),
            ValueError,
            "names must not hold 'instance_norm' where a channel has a single value in each image",
        ),
        (
            lambda x: patch_moments(x[:, :3], conv("valid")),
            ValueError,
            "4 input channels on axis 1",
        ),
        (
            lambda x: patch_moments(x, conv("valid")).affine(torch.ones(3), torch.ones(4)),
            ValueError,
            r"gain must have shape \(4,\) or \(4, 4\); got \(3,\)",
        ),
        (
            lambda x: patch_moments(x, conv("valid")).affine(torch.ones(4), torch.ones(1)),
            ValueError,
            r"shift must have shape \(4,\); got \(1,\)",
        ),
        (
            lambda x: patch_moments(x, conv("grouped")).affine(torch.eye(4), torch.ones(4)),
            ValueError,
            r"gain must have shape \(4,\) for a layer with 2 groups, .*; got \(4, 4\)",
        ),
        (
            lambda x: compare_normalizations(x, conv("valid"), ["batch"]),
            ValueError,
            "names must be one of none, center, .*; got 'batch'",
        ),
        (
            lambda x: compare_normalizations(x, conv("grouped"), ["whitening"]),
            ValueError,
            "names must not hold 'whitening' for a layer with 2 groups",
        ),
        (
            lambda x: compare_normalizations(x, conv("valid"), num_groups=3),
            ValueError,
            "num_groups must divide the 4 channels; got 3",
        ),
        (
            lambda x: compare_normalizations(x, conv("valid"), eps=-1.0),
            ValueError,
            "eps must be zero or positive; got -1.0",
        ),
        (
            lambda x: weight_standardization(torch.eye(3), torch.ones(2, 4)),
            ValueError,
            r"weight must have shape \(M, L\) .*; got \(2, 4\) and R \(3, 3\)",
        ),
        (
            lambda x: weight_standardization(torch.ones(3, 4, 4), torch.ones(2, 4)),
            ValueError,
            r"R must have shape \(L, L\), or .* with M = 2 outputs; got \(3, 4, 4\)",
        ),
        (lambda x: zca_whitening(x[0, 0, 0]), ValueError, r"x must be \(N, C, ...\); got shape"),
        (
            lambda x: zca_whitening(torch.ones(5, 2, 3), eps=0.0),
            ValueError,
            "eps must be positive for channels whose covariance is singular; got 0",
        ),
        (
            lambda x: ostrowski_interval([2.0, 1.0], [1.0]),
            ValueError,
            "eigenvalues must be ascending; got",
        ),
        (lambda x: interlacing_bounds(np.eye(4), 3), ValueError, "channels must divide the 4 taps"),
        (lambda x: interlacing_bounds(np.eye(4), 0), ValueError, "channels must be at least 1"),
        (
            lambda x: van_der_sluis_factor(np.zeros((2, 2))),
            ValueError,
            "R must have positive diagonal entries; got 0.0",
        ),
        (lambda x: pixel_weights(conv("valid"), 2, 2), ValueError, "x must be at least as large"),
        (
            lambda x: trace_ceiling("conv", 2, 2),
            TypeError,
            "conv must be a torch.nn.Conv1d, .*; got str",
        ),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call(images())


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", ["zeros", "grouped"])
def test_on_cuda(kind):
    host = compare_normalizations(images(), conv(kind))
    layer = conv(kind).cuda()
    with torch.no_grad():
        layer.weight.copy_(conv(kind).weight)
    for name, spectrum in compare_normalizations(images().cuda(), layer).items():
        if name != "weight_standardization":
            np.testing.assert_allclose(spectrum.measured, host[name].measured, atol=1e-9)
        if spectrum.predicted is not None:
            assert spectrum.max_error < 1e-10
