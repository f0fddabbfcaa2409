import copy
import doctest
from pathlib import Path

import pytest
import torch
from torch import nn

from cnnbridge import SplitBatchNorm, convert_batch_norm
from cnnbridge.normalization import NORMALIZATION_VARIANTS, channel_divisor

# two weak channels, one strong one, none of them centred
SCALE = torch.tensor([0.1, 0.5, 10.0])
SHIFT = torch.tensor([1.0, -2.0, 30.0])


def images(n=6, size=(5, 4), dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, *size, generator=generator, dtype=torch.float64)
    shape = (1, 3, *(1,) * len(size))
    return (x * SCALE.double().reshape(shape) + SHIFT.double().reshape(shape)).to(dtype)


def by_hand(x, center, scale, eps=1e-5):
    """Channel by channel, from the definition."""
    z = torch.empty_like(x)
    for c in range(x.shape[1]):
        values = x[:, c].flatten().tolist()
        mean = sum(values) / len(values)
        s = (sum((v - mean) ** 2 for v in values) / len(values) + eps) ** 0.5
        divisor = {"full": s, "amplify": min(s, 1), "suppress": max(s, 1), "none": 1.0}[scale]
        z[:, c] = (x[:, c] - (mean if center else 0)) / divisor
    return z


@pytest.mark.parametrize("scale", ["full", "amplify", "suppress", "none"])
@pytest.mark.parametrize("center", [True, False])
def test_each_part_is_its_definition(center, scale):
    z = SplitBatchNorm(3, center=center, scale=scale, dtype=torch.float64)(images())
    torch.testing.assert_close(z, by_hand(images(), center, scale), rtol=1e-12, atol=1e-12)


def test_the_parts_compose_to_the_whole():
    x = images()
    divisors = {
        scale: channel_divisor(x.var(dim=(0, 2, 3), correction=0), scale=scale)
        for scale in ("full", "amplify", "suppress")
    }
    torch.testing.assert_close(divisors["amplify"] * divisors["suppress"], divisors["full"])
    assert (divisors["amplify"] <= 1).all()
    assert (divisors["suppress"] >= 1).all()


@pytest.mark.parametrize(
    ("bn", "size"),
    [
        (nn.BatchNorm1d, ()),
        (nn.BatchNorm1d, (7,)),
        (nn.BatchNorm2d, (5, 4)),
        (nn.BatchNorm3d, (2, 3, 4)),
    ],
)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": None},
        {"affine": False},
        {"track_running_stats": False},
        {"eps": 0.1, "momentum": 0.7},
    ],
)
def test_full_is_batch_norm(bn, size, options):
    theirs = bn(3, **options).double()
    if theirs.affine:
        nn.init.uniform_(theirs.weight, -2, 2)
        nn.init.uniform_(theirs.bias, -2, 2)
    ours = SplitBatchNorm(3, dtype=torch.float64, **options)
    assert set(ours.state_dict()) == set(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    for training in (True, False):
        theirs.train(training)
        ours.train(training)
        for seed in range(3):
            results = []
            for module in (theirs, ours):
                module.zero_grad()
                x = images(size=size, seed=seed).requires_grad_()
                z = module(x)
                # not the plain sum, which has no gradient here
                (z**3).sum().backward()
                results.append([z.detach(), x.grad, *(p.grad for p in module.parameters())])
            for a, b in zip(*results, strict=True):
                torch.testing.assert_close(b, a, rtol=1e-10, atol=1e-9)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("size", [(), (7,), (2, 5)])
def test_tokens_have_their_channels_last(size):
    x = images(size=size) if size else images(size=(1,))[..., 0]
    theirs = SplitBatchNorm(3, dtype=torch.float64)
    ours = SplitBatchNorm(3, axis=-1, dtype=torch.float64)
    for module in (theirs, ours):
        nn.init.constant_(module.weight, 1.5)
        nn.init.constant_(module.bias, -0.5)
    for _ in range(2):
        torch.testing.assert_close(ours(x.movedim(1, -1)), theirs(x).movedim(1, -1))
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(x.movedim(1, -1)), theirs(x).movedim(1, -1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_its_dtype_and_float32_statistics(dtype):
    x = images().to(dtype)
    ours, theirs = SplitBatchNorm(3), nn.BatchNorm2d(3)
    z = ours(x)
    assert z.dtype == dtype
    torch.testing.assert_close(z, theirs(x), rtol=0.02, atol=0.02)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean, rtol=1e-5, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ours(images(dtype=torch.float32)).dtype == torch.float32


def test_frozen_statistics_are_those_of_the_first_batch():
    module = SplitBatchNorm(3, statistics="frozen", dtype=torch.float64)
    first, second = images(seed=1), 5 * images(seed=2)
    mean, var = first.mean(dim=(0, 2, 3)), first.var(dim=(0, 2, 3), correction=0)
    x = first.clone().requires_grad_()
    torch.testing.assert_close(module(x), by_hand(first, True, "full"))
    (module(x) ** 3).sum().backward()
    gain = 1 / (var + 1e-5).sqrt()
    expected = 3 * ((first - mean[:, None, None]) * gain[:, None, None]) ** 2 * gain[:, None, None]
    torch.testing.assert_close(x.grad, expected)
    frozen = (second - mean[:, None, None]) * gain[:, None, None]
    torch.testing.assert_close(module(second), frozen)
    torch.testing.assert_close(module.eval()(second), frozen)
    torch.testing.assert_close(module.running_var, var)
    other = SplitBatchNorm(3, statistics="frozen", dtype=torch.float64)
    other.load_state_dict(module.state_dict())
    torch.testing.assert_close(other(second), frozen)
    other.reset_running_stats()
    torch.testing.assert_close(other(second), by_hand(second, True, "full"))


def test_detached_statistics_change_the_gradient_only():
    live, detached = (
        SplitBatchNorm(3, grad_through_statistics=g, dtype=torch.float64) for g in (True, False)
    )
    x, y = images().requires_grad_(), images().requires_grad_()
    torch.testing.assert_close(live(x), detached(y))
    live(x).sum().backward()
    detached(y).sum().backward()
    # the sum of a centred channel is zero whatever the input, unless the mean is a constant
    assert float(x.grad.abs().max()) < 1e-12
    s = channel_divisor(images().var(dim=(0, 2, 3), correction=0))
    torch.testing.assert_close(y.grad, (1 / s)[:, None, None].expand_as(y))


def test_one_scalar_per_layer_keeps_the_ratios():
    x = images()
    var = x.var(dim=(0, 2, 3), correction=0)
    z = SplitBatchNorm(3, per="layer", eps=0.0, dtype=torch.float64)(x)
    after = z.var(dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(after / after[0], var / var[0])
    assert float(after.mean().detach()) == pytest.approx(1)


def test_equal_power_keeps_the_power_of_the_layer():
    x = images()
    z = SplitBatchNorm(3, per="equal_power", eps=0.0, dtype=torch.float64)(x)
    after = z.var(dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(after, after.mean().expand(3))
    assert float(after.sum().detach()) == pytest.approx(
        float(x.var(dim=(0, 2, 3), correction=0).sum())
    )


def test_gradients_against_finite_differences():
    for options in NORMALIZATION_VARIANTS.values():
        if options.get("statistics") == "frozen" or "grad_through_statistics" in options:
            continue
        module = SplitBatchNorm(3, track_running_stats=False, dtype=torch.float64, **options)
        assert torch.autograd.gradcheck(module, images(3, (2, 2)).requires_grad_())


@pytest.mark.parametrize("variant", NORMALIZATION_VARIANTS)
def test_under_torch_compile(variant):
    options = NORMALIZATION_VARIANTS[variant]
    plain = SplitBatchNorm(3, dtype=torch.float64, **options)
    copied = copy.deepcopy(plain)
    # one code object serves all variants, and dynamo gives up after a few recompilations of one
    torch.compiler.reset()
    compiled = torch.compile(copied, backend="aot_eager", fullgraph=True)
    for seed in range(2):
        x, y = (images(seed=seed).requires_grad_() for _ in range(2))
        z, w = plain(x), compiled(y)
        torch.testing.assert_close(w, z)
        (z**3).sum().backward()
        (w**3).sum().backward()
        torch.testing.assert_close(y.grad, x.grad)
    torch.testing.assert_close(copied.state_dict(), plain.state_dict())


def test_conversion_of_a_model():
    shared = nn.BatchNorm2d(3)
    inner = nn.Sequential(nn.Conv2d(3, 3, 1), shared)
    model = nn.Sequential(nn.BatchNorm2d(3, eps=0.5, momentum=None), inner, shared)
    model(images(dtype=torch.float32))
    model.eval()
    model[0].train()
    parameters = list(model.parameters())
    expected = {k: v.clone() for k, v in model.state_dict().items()}
    assert convert_batch_norm(model, "suppress", affine=True) is model
    assert isinstance(model[0], SplitBatchNorm)
    assert (model[0].scale, model[0].eps, model[0].momentum) == ("suppress", 0.5, None)
    assert model[0].training
    assert not model[2].training
    assert model[1][1] is model[2]
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    torch.testing.assert_close(model.state_dict(), expected)


def test_conversion_of_one_layer():
    bn = nn.BatchNorm1d(3, affine=False, track_running_stats=False)
    split = convert_batch_norm(bn, "detached", eps=0.25)
    assert isinstance(split, SplitBatchNorm)
    assert split.eps == 0.25
    assert split.weight is None
    assert split.running_mean is None


class ActivatedBatchNorm(nn.BatchNorm2d):
    """As in timm: normalize, drop, activate."""

    def __init__(self, channels, act):
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), act

    def forward(self, x):
        return self.act(self.drop(super().forward(x)))


class Shifted(ActivatedBatchNorm):
    def forward(self, x):
        return super().forward(x) + 1


class Renamed(nn.BatchNorm2d):
    """A subclass that computes what its base computes."""


def small(norm):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.Conv2d(4, 2, 1))
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.uniform_(-1, 1)
    return model


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "norm", [lambda: ActivatedBatchNorm(4, nn.SiLU(inplace=True)), lambda: Renamed(4)]
)
def test_conversion_keeps_what_a_layer_adds(norm, training):
    model, x = small(norm()), images(dtype=torch.float32)
    model(x)
    model.train(training)
    twin = convert_batch_norm(copy.deepcopy(model))
    assert isinstance(twin[1], SplitBatchNorm)
    torch.testing.assert_close(twin(x), model(x))
    torch.testing.assert_close(twin.state_dict(), model.state_dict())
    converted = convert_batch_norm(twin, "suppress")
    assert converted[1].scale == "suppress"
    torch.testing.assert_close(converted.state_dict(), model.state_dict())


def test_conversion_of_a_converted_model():
    model = small(nn.BatchNorm2d(4))
    convert_batch_norm(model, "amplify", eps=0.25)
    first = model[1]
    convert_batch_norm(model, "frozen")
    assert (model[1].scale, model[1].statistics, model[1].eps) == ("full", "frozen", 0.25)
    assert model[1].weight is first.weight
    assert model[1].running_mean is first.running_mean


@pytest.mark.parametrize(
    ("norm", "error", "message"),
    [
        (lambda: Shifted(4, nn.ReLU()), TypeError, "'1' must compute what torch.nn.BatchNorm2d co"),
        (lambda: nn.SyncBatchNorm(4), TypeError, "module '1' must be a BatchNorm of one process"),
        (nn.LazyBatchNorm2d, ValueError, "module '1' must know its channels; got a lazy"),
    ],
)
def test_a_model_that_cannot_be_converted_is_left_as_it_was(norm, error, message):
    model = nn.Sequential(nn.BatchNorm2d(3), norm())
    before = list(model.modules())
    with pytest.raises(error, match=message):
        convert_batch_norm(model, "suppress")
    assert list(model.modules()) == before
    wrapped = nn.BatchNorm2d(3)
    wrapped.forward = lambda x: x
    with pytest.raises(TypeError, match="model must compute what"):
        convert_batch_norm(wrapped)


@pytest.mark.parametrize("name", ["efficientnet_b0", "densenet121"])
@pytest.mark.slow
def test_networks_of_timm_compute_the_same(name):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10).eval()
    x = torch.randn(2, 3, 64, 64)
    expected = model(x)
    converted = convert_batch_norm(model)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in converted.modules())
    torch.testing.assert_close(converted(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("per", ["layer", "equal_power"])
def test_eps_enters_the_pooled_root_too(per):
    var = torch.tensor([0.5, 1.5, 4.0], dtype=torch.float64)
    layer = (var.mean() + 0.25).sqrt()
    expected = layer.expand(3) if per == "layer" else (var + 0.25).sqrt() / layer
    torch.testing.assert_close(channel_divisor(var, per=per, eps=0.25), expected)
    x = images(dtype=torch.float64)
    module = SplitBatchNorm(3, per=per, eps=0.25, affine=False).double()
    var, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0, keepdim=True)
    layer = (var.mean() + 0.25).sqrt()
    divisor = layer if per == "layer" else (var + 0.25).sqrt() / layer
    torch.testing.assert_close(module(x), (x - mean) / divisor)


def test_its_print_says_which_variant():
    assert "scale='amplify', per='layer'" in repr(SplitBatchNorm(3, scale="amplify", per="layer"))


def test_reset():
    module = SplitBatchNorm(3)
    module(images(dtype=torch.float32))
    nn.init.zeros_(module.weight)
    module.reset_parameters()
    fresh = SplitBatchNorm(3)
    torch.testing.assert_close(module.state_dict(), fresh.state_dict())
    SplitBatchNorm(3, affine=False, track_running_stats=False).reset_parameters()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"channels": 0}, ValueError, "channels must be at least 1; got 0"),
        ({"channels": 2.5}, TypeError, "channels must be a whole number; got 2.5"),
        ({"center": 1}, TypeError, "center must be True or False; got 1"),
        ({"scale": "half"}, ValueError, "scale must be one of full, amplify, .*; got 'half'"),
        ({"per": "image"}, ValueError, "per must be one of channel, layer, .*; got 'image'"),
        ({"statistics": "x"}, ValueError, "statistics must be one of batch, frozen; got 'x'"),
        ({"grad_through_statistics": 0}, TypeError, "grad_through_statistics must be True"),
        ({"eps": -1.0}, ValueError, "eps must be zero or positive; got -1.0"),
        ({"momentum": 2.0}, ValueError, "momentum must be at most 1, or None; got 2.0"),
        ({"affine": None}, TypeError, "affine must be True or False; got None"),
        ({"axis": 2}, ValueError, "axis must be 1 or -1; got 2"),
        ({"track_running_stats": 1}, TypeError, "track_running_stats must be True or False"),
        (
            {"statistics": "frozen", "track_running_stats": False},
            ValueError,
            "track_running_stats must be True for statistics='frozen'",
        ),
    ],
)
def test_errors_of_construction(options, error, message):
    with pytest.raises(error, match=message):
        SplitBatchNorm(**{"channels": 3, **options})


def test_errors_of_use():
    with pytest.raises(
        ValueError, match=r"x must have 3 channels on axis -1; got shape \(2, 3, 4\)"
    ):
        SplitBatchNorm(3, axis=-1)(torch.ones(2, 3, 4))
    with pytest.raises(ValueError, match=r"x must have 3 channels on axis 1; got shape \(2, 4\)"):
        SplitBatchNorm(3)(torch.ones(2, 4))
    with pytest.raises(ValueError, match="x must have more than one value per channel in train"):
        SplitBatchNorm(3)(torch.ones(1, 3, 1, 1))
    SplitBatchNorm(3).eval()(torch.ones(1, 3, 1, 1))
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module; got str"):
        convert_batch_norm("model")
    with pytest.raises(ValueError, match=r"variant must be one of none, center, .*; got 'half'"):
        convert_batch_norm(nn.Identity(), "half")
    with pytest.raises(ValueError, match=r"per must be one of channel, layer, .*; got 'x'"):
        channel_divisor(torch.ones(2), per="x")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("variant", NORMALIZATION_VARIANTS)
def test_on_cuda(variant):
    options = NORMALIZATION_VARIANTS[variant]
    host = SplitBatchNorm(3, dtype=torch.float64, **options)
    device = SplitBatchNorm(3, dtype=torch.float64, device="cuda", **options)
    for seed in range(2):
        torch.testing.assert_close(device(images(seed=seed).cuda()).cpu(), host(images(seed=seed)))
    state = {k: v.cpu() for k, v in device.state_dict().items()}
    torch.testing.assert_close(state, host.state_dict())


def test_the_page_in_the_docs():
    page = Path(__file__).parents[3] / "docs" / "normalization.md"
    results = doctest.testfile(str(page), module_relative=False)
    assert results.attempted > 10
    assert results.failed == 0
