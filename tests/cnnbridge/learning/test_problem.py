import numpy as np
import pytest
import torch
from torch import nn

import adaptive
from cnnbridge import (
    SGD,
    Geometry,
    group_weights,
    layer_problem,
    layer_problems,
    learning_rate_bounds,
    unfold_patches,
)
from cnnbridge.statistics import autocorrelation
from cnnbridge.statistics.autocorrelation import Moments
from tests.cnnbridge.layers.test_patches import images

uncached_chunks = autocorrelation._unfolded_at_once.__wrapped__


def setting(groups=1, bias=True, seed=0):
    torch.manual_seed(seed)
    conv = nn.Conv2d(2 * groups, 3 * groups, 3, padding=1, groups=groups, bias=bias).double()
    x = images(4, 2 * groups, 6, 5, seed=seed)
    target = images(4, 3 * groups, 6, 5, seed=seed + 1)
    return conv, x, target


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("bias", [False, True])
def test_the_mse_of_the_problem_is_torchs_loss(groups, bias):
    conv, x, target = setting(groups, bias)
    problems = layer_problems(conv, x, target)
    weights = group_weights(conv, bias=bias).detach().numpy()
    mse = sum(p.mse(w) for p, w in zip(problems, weights, strict=True))
    loss = nn.MSELoss()(conv(x), target).item()
    assert mse / conv.out_channels == pytest.approx(loss, rel=1e-12)


def test_equals_the_problem_of_the_unfolded_patches():
    conv, x, target = setting()
    u = unfold_patches(x, conv, bias=True)[:, 0].transpose(1, 2).reshape(-1, 19)
    d = target.permute(0, 2, 3, 1).reshape(-1, 3)
    expected = adaptive.WienerProblem.from_data(u.numpy(), d.numpy())
    problem = layer_problem(conv, x, target)
    np.testing.assert_allclose(problem.R, expected.R, atol=1e-13)
    np.testing.assert_allclose(problem.P, expected.P, atol=1e-13)
    assert problem.d_power == pytest.approx(expected.d_power)
    assert problem.J_min == pytest.approx(expected.J_min)
    assert problem.J_min > 1


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2),
        nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular", bias=False),
        nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1),
        # more output padding than the stride allows, by dilation
        nn.ConvTranspose1d(4, 2, 3, stride=1, dilation=3, padding=2, output_padding=2),
        nn.Conv3d(4, 2, 2),
    ],
    ids=str,
)
@pytest.mark.parametrize("budget", [None, 2000])
def test_the_target_by_chunks_and_bands(layer, budget, monkeypatch):
    """However little goes at once, what comes out is the gradient of the weights."""
    if budget is not None:
        monkeypatch.setitem(autocorrelation.CHUNK_BYTES, "cpu", budget)
        monkeypatch.setattr(autocorrelation, "SMALL_BYTES", 0)
        monkeypatch.setattr(autocorrelation, "_unfolded_at_once", uncached_chunks)
    layer = layer.double()
    x = images(3, 4, *(9 for _ in layer.kernel_size))
    d = images(*layer(x).shape, seed=1)
    bias = layer.bias is not None
    (layer(x) * d).sum().backward()
    gradient = Geometry.of(layer).by_group(layer.weight.grad)
    for method in ("lags", "unfold"):
        moments = Moments.zeros(layer, bias=bias, device=x.device)
        moments.add(x, d, method=method)
        taps = gradient.shape[-1]
        torch.testing.assert_close(moments.P[..., :taps], gradient, rtol=1e-12, atol=1e-12)
        if bias:
            sums = layer.bias.grad.reshape(len(gradient), -1)
            torch.testing.assert_close(moments.P[..., -1], sums, rtol=1e-12, atol=1e-12)
    layer.zero_grad()


def test_a_large_layer_goes_by_lags():
    conv = nn.Conv2d(32, 4, 3, padding=1)
    x, d = images(8, 32, 32, 32), images(8, 4, 32, 32, seed=1)
    geometry = Geometry.of(conv)
    assert autocorrelation._chosen(geometry, tuple(x.shape), 8, None, x.device, True) == "lags"
    moments = Moments.zeros(geometry, bias=True, device=x.device)
    moments.add(x, d, method="unfold")
    problem = layer_problem(conv, x, d, bias=True)
    np.testing.assert_allclose(problem.R, moments.R[0] / moments.count, atol=1e-13)
    np.testing.assert_allclose(problem.P, moments.P[0] / moments.count, atol=1e-13)


def test_many_small_terms_of_the_target_are_not_lost():
    """Sums in float32 stall once the sum is 2^24 times the term; these must not."""
    x = torch.cat([torch.full((1, 1, 1, 1), 2.0**12), torch.ones(1000, 1, 1, 1)])
    for method in ("lags", "unfold"):
        moments = Moments.zeros(nn.Conv2d(1, 1, 1), bias=False, device=x.device)
        moments.add(x, x, method=method, chunk_size=1)
        assert float(moments.P) == float(moments.d_power) == 2.0**24 + 1000


@pytest.mark.parametrize("apart", [1.0, 1e-3, 1e-6, 1e-8])
def test_as_many_taps_as_patches_explain_everything(apart):
    """Two patches that hardly differ can be met exactly, however weak their difference is."""
    for seed in range(60):
        torch.manual_seed(seed)
        x = torch.randn(2, 2).double()
        x = torch.cat([x[:1], x[:1] + apart * x[1:]])
        target = torch.randn(2, 1).double()
        problem = layer_problem(nn.Linear(2, 1, bias=False), x, target)
        assert 0 <= problem.J_min <= problem.d_power


def test_a_power_less_than_explained_is_still_refused():
    with pytest.raises(ValueError, match="d_power must be at least the power that R and P explain"):
        adaptive.WienerProblem(R=np.eye(3), P=[1.0, 0.5, 0.0], d_power=1.2499)


def test_the_constant_tap_is_last():
    conv, x, _ = setting()
    problem = layer_problem(conv, x, conv(x).detach())
    np.testing.assert_allclose(problem.w_o[:, -1], conv.bias.detach(), atol=1e-11)
    assert problem.R[-1, -1] == 1


def test_a_bias_held_fixed_leaves_the_desired_response():
    conv, x, _ = setting()
    problem = layer_problem(conv, x, conv(x).detach(), bias=False)
    assert problem.J_min < 1e-12
    np.testing.assert_allclose(problem.w_o, conv.weight.detach().reshape(3, -1), atol=1e-11)


def test_a_constant_tap_for_a_layer_without_bias():
    conv, x, target = setting(bias=False)
    assert (
        layer_problem(conv, x, target + 5, bias=True).J_min
        < layer_problem(conv, x, target + 5).J_min
    )


def test_a_group_is_picked():
    conv, x, target = setting(groups=2)
    picked = layer_problem(conv, x, target, group=1)
    np.testing.assert_array_equal(picked.R, layer_problems(conv, x, target)[1].R)


def test_float32_input_gives_float64_statistics():
    conv, x, target = setting()
    problem = layer_problem(conv, x.float(), target.float())
    exact = layer_problem(conv, x.float().double(), target.float().double())
    np.testing.assert_array_equal(problem.R, exact.R)
    assert problem.P.dtype == np.float64


def test_units():
    assert SGD(0.3).mu(6) == pytest.approx(0.1)
    assert SGD.from_mu(SGD(0.3).mu(7), 7).lr == pytest.approx(0.3)


def test_bounds():
    conv, x, target = setting(groups=2)
    problems = layer_problems(conv, x, target)
    largest = max(np.linalg.eigvalsh(p.R)[-1] for p in problems)
    plain = learning_rate_bounds(problems, 6)
    assert plain.mean == pytest.approx(6 / largest)
    assert plain.trace == pytest.approx(6 / max(np.trace(p.R) for p in problems))
    assert learning_rate_bounds(problems, 6, momentum=0.9).mean == pytest.approx(1.9 * plain.mean)
    decayed = learning_rate_bounds(problems, 6, momentum=0.9, weight_decay=0.5)
    assert decayed.mean == pytest.approx(3.8 / (2 * largest / 6 + 0.5))
    single = learning_rate_bounds(problems[0], 6)
    assert single.mean == pytest.approx(
        SGD.from_mu(adaptive.stability_bounds(problems[0].R).mean, 6).lr
    )


def test_silence_bounds_nothing_but_decay_does():
    silent = adaptive.WienerProblem(R=np.zeros((2, 2)), P=np.zeros((1, 2)), d_power=1.0)
    assert learning_rate_bounds(silent, 1).mean == np.inf
    assert learning_rate_bounds(silent, 1, weight_decay=0.5).mean == 4.0


CONV, X, TARGET = setting()
GROUPED = nn.Conv2d(2, 2, 1, groups=2)
PROBLEM = layer_problem(CONV, X, TARGET)

BAD = [
    (lambda: layer_problem(None, X, TARGET), TypeError, "conv must be a torch.nn.Conv1d"),
    (lambda: layer_problem(CONV, X[:, :1], TARGET), ValueError, "x must have the layer's 2 input"),
    (lambda: layer_problem(CONV, X, TARGET[:2]), ValueError, "target must have the shape of the"),
    (lambda: layer_problem(CONV, X, TARGET.numpy()), TypeError, "target must be a torch.Tensor"),
    (lambda: layer_problem(CONV, X, TARGET / 0), ValueError, "target must be finite"),
    (lambda: layer_problem(CONV, X, TARGET, bias=1), TypeError, "bias must be True, False or None"),
    (lambda: layer_problem(CONV, X, TARGET, group=1), ValueError, "group must be less than the"),
    (lambda: layer_problem(CONV, X, TARGET, group=-1), ValueError, "group must be at least 0"),
    (
        lambda: layer_problem(GROUPED, X, X),
        ValueError,
        "group must be given for a layer with 2 groups; got None: each .* layer_problems returns",
    ),
    (lambda: SGD(0).mu(3), ValueError, "lr must be positive; got 0"),
    (lambda: SGD(0.1).mu(0), ValueError, "out_channels must be at least 1; got 0"),
    (lambda: SGD.from_mu(-1, 3), ValueError, "mu must be positive; got -1"),
    (lambda: learning_rate_bounds([], 3), ValueError, "problems must hold at least one"),
    (
        lambda: learning_rate_bounds(PROBLEM, 3, momentum=1),
        ValueError,
        "momentum must be less than",
    ),
    (
        lambda: learning_rate_bounds(PROBLEM, 3, weight_decay=-1),
        ValueError,
        "weight_decay must be zero or positive",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=[b[2][:40] for b in BAD])
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
