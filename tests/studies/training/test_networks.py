"""The networks of the studies: what variants share, and how they are drawn."""

import pytest
import torch

from cnnbridge.normalization import NORMALIZATION_VARIANTS
from studies.training.networks import (
    AFFINES,
    PlainVGG,
    SmallCNN,
    SmallResNet,
    conv_layers,
    draw_weights,
)

WIDTHS = (3, 3, 4, 4, 4, 4)


def drawn(variant="none", init="spread", seed=0, **options):
    model = PlainVGG(2, 5, WIDTHS, variant, **options)
    draw_weights(model, init, seed)
    return model


@pytest.mark.parametrize("init", ["spread", "he", "default"])
def test_variants_start_from_the_same_weights(init):
    reference = dict(drawn(init=init).named_parameters())
    assert len(reference) == 14
    for variant in NORMALIZATION_VARIANTS:
        for name, w in drawn(variant, init).named_parameters():
            assert torch.equal(w, reference[name]), (variant, name)


def test_seeds_differ_and_leave_the_generator_alone():
    model = drawn()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    draws = []
    for seed in (1, 2, 1):
        draw_weights(model, "spread", seed)
        draws.append(model.features[0].weight.detach().clone())
    assert torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], draws[1])
    assert torch.equal(torch.get_rng_state(), before)


def test_spread_keeps_the_power_of_a_layer():
    model = PlainVGG(16, 5, (64, 64, 64, 64, 64, 64))
    draw_weights(model, "spread", 0)
    for conv in list(conv_layers(model).values())[1:]:
        power = conv.weight.detach().square().sum(dim=(1, 2, 3))
        # 64 filters of 576 draws each: the mean power is 2 within a few percent
        assert float(power.mean()) == pytest.approx(2, rel=0.1)
        assert float(power.max() / power.min()) > 20
        assert not conv.bias.any()


@pytest.mark.parametrize("position", ["pre", "post"])
def test_batch_norm_stands_where_it_is_said_to(position):
    model = drawn("full", position=position).train()
    x = torch.randn(16, 2, 16, 16)
    seen = []
    conv_layers(model)["features.3"].register_forward_pre_hook(
        lambda _, args: seen.append(args[0].detach())
    )
    assert model(x).shape == (16, 5)
    entered = seen[0]
    if position == "pre":
        torch.testing.assert_close(entered.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    else:
        assert entered.min() >= 0


def test_head_and_size():
    assert drawn(head=2).classify.in_features == 16
    assert drawn()(torch.randn(2, 2, 8, 8)).shape == (2, 5)


def residual(variant="none", init="spread", seed=0):
    model = SmallResNet(2, 5, WIDTHS, variant)
    draw_weights(model, init, seed)
    return model.train()


def test_a_block_adds_to_its_input():
    model = residual("suppress")
    x = torch.randn(8, 2, 8, 8)
    with torch.no_grad():
        for block in model.blocks:
            block[-1].weight.zero_()
        alone = torch.nn.functional.max_pool2d(model.first(x), 8).flatten(1)
        # what is left of the blocks is the shortcut, with channels of zeros where it is too narrow
        wider = torch.nn.functional.pad(alone, (0, 1))[:, :, None, None]
        expected = model.classify(model.last(wider).flatten(1))
        torch.testing.assert_close(model(x), expected)


def test_residual_variants_share_weights_and_condition_each_layer_behind_one():
    reference = dict(residual().named_parameters())
    assert len(reference) == 16
    seen = {}
    for variant in NORMALIZATION_VARIANTS:
        model = residual(variant)
        for name, w in model.named_parameters():
            assert torch.equal(w, reference[name]), (variant, name)
        for name, layer in conv_layers(model).items():
            layer.register_forward_pre_hook(
                lambda _, args, key=(variant, name): seen.__setitem__(key, args[0].detach())
            )
        assert model(torch.randn(16, 2, 16, 16)).shape == (16, 5)
    entered = [x for (variant, name), x in seen.items() if variant == "full" and name != "first"]
    assert len(entered) == 6
    for x in entered:
        torch.testing.assert_close(
            x.mean(dim=(0, 2, 3)), torch.zeros(x.shape[1]), atol=1e-5, rtol=0
        )


def test_what_is_refused():
    with pytest.raises(ValueError, match="variant"):
        PlainVGG(1, 2, WIDTHS, "batchnorm")
    with pytest.raises(ValueError, match="variant"):
        SmallResNet(1, 2, WIDTHS, "batchnorm")
    with pytest.raises(ValueError, match="fall from block"):
        SmallResNet(1, 2, (4, 4, 4, 3, 4, 4))
    with pytest.raises(ValueError, match="position"):
        PlainVGG(1, 2, WIDTHS, position="between")
    with pytest.raises(ValueError, match="init"):
        draw_weights(PlainVGG(1, 2, WIDTHS), "xavier", 0)


def test_small_cnn_normalizes_between_convolution_and_relu():
    plain, normed = SmallCNN(1, 5, 4), SmallCNN(1, 5, 4, batch_norm=True).train()
    assert [n for n, _ in plain.named_parameters() if "norm" in n] == []
    assert all(conv.bias is None for conv in conv_layers(normed).values())
    x, seen = torch.randn(8, 1, 8, 8), {}
    for name, part in normed.named_modules():
        if name.startswith(("conv", "norm")):
            part.register_forward_hook(lambda m, a, z, name=name: seen.update({name: (a[0], z)}))
    normed(x)
    for number in (1, 2, 3):
        assert seen[f"norm{number}"][0] is seen[f"conv{number}"][1]
        # the statistics of this very batch
        mean = seen[f"norm{number}"][1].mean(dim=(0, 2, 3))
        torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        seen["conv3"][0], torch.nn.functional.max_pool2d(torch.relu(seen["norm2"][1]), 2)
    )


@pytest.mark.parametrize("affine", AFFINES)
@pytest.mark.parametrize("variant", ["none", "full", "frozen"])
def test_gains_and_shifts_change_nothing_at_the_start(variant, affine):
    x = torch.randn(16, 2, 16, 16)
    plain, learned = drawn(variant).train(), drawn(variant, affine=affine).train()
    torch.testing.assert_close(learned(x), plain(x))
    here = {
        name: p.shape[0]
        for name, p in learned.named_parameters()
        if p.requires_grad and name not in dict(plain.named_parameters())
    }
    expected = {"none": 0, "all": 12, "last": 2, "inner": 10, "gain": 6, "shift": 6, "bounded": 6}
    assert len(here) == expected[affine]


def test_no_such_affine():
    with pytest.raises(ValueError, match="affine must be one of none, all"):
        drawn(affine="some")
