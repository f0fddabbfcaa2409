"""The NLMS twin against BatchNorm itself."""

import pytest
import torch
from torch import nn

from studies.chai2020.after_first_step.twin import effective_weights, nlms_twin
from studies.training.networks import PlainVGG, draw_weights

WIDTHS = (3, 3, 4, 4, 4, 4)


def pair(classes=3, head=1, size=8):
    model = PlainVGG(1, classes, WIDTHS, "full", head=head).double().train()
    draw_weights(model, "spread", 1)
    x = torch.randn(16, 1, size, size, generator=torch.Generator().manual_seed(2)).double()
    return model, x, torch.arange(16) % classes


@pytest.mark.parametrize("head", [1, 2])
@pytest.mark.parametrize("rescale", [False, True])
def test_the_twin_starts_as_the_same_function(head, rescale):
    model, x, _ = pair(head=head, size=16)
    before = {name: w.clone() for name, w in model.state_dict().items()}
    twin, _ = nlms_twin(model, x, rescale=rescale)
    torch.testing.assert_close(twin(x), model(x), rtol=1e-9, atol=1e-9)
    assert all(torch.equal(w, before[name]) for name, w in model.state_dict().items())
    assert not any(part._forward_pre_hooks for part in model.modules())


def test_the_twin_takes_the_step_of_batch_norm_in_effective_weights():
    model, x, y = pair()
    twin, adjust = nlms_twin(model, x)
    start, s = effective_weights(model, x)[-1]
    for net in (model, twin):
        nn.functional.cross_entropy(net(x), y).backward()
    adjust()
    before = model.classify.weight.detach().clone()
    for net in (model, twin):
        torch.optim.SGD(net.parameters(), lr=0.1).step()
    # the linear layer, which no other normalization comes behind: its error is the same
    torch.testing.assert_close(
        twin.classify.weight - start,
        (model.classify.weight - before) / s,
        rtol=1e-8,
        atol=1e-12,
    )


def test_effective_weights_of_the_twin_are_its_own():
    model, x, _ = pair()
    twin, _ = nlms_twin(model, x)
    pairs = zip(effective_weights(model, x), effective_weights(twin, x[:7]), strict=True)
    for (ours, _), (theirs, _) in pairs:
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


def test_effective_weights_by_hand():
    model, x, _ = pair()
    (g, s), *others = effective_weights(model, x)
    # what enters the first normalization
    seen = model.features[1](model.features[0](x))
    by_hand = (seen.var(dim=(0, 2, 3), correction=0) + model.features[2].eps).sqrt()
    torch.testing.assert_close(s.flatten(), by_hand, rtol=1e-12, atol=0)
    conv = model.features[3]
    torch.testing.assert_close(g, conv.weight / by_hand[None, :, None, None], rtol=1e-12, atol=0)
    assert len(others) == 5


@pytest.mark.parametrize("rescale", [False, True])
def test_rescaling_is_what_separates_the_last_layer_from_batch_norm(rescale):
    """With the other layers held there is no gradient through s to miss."""
    model, x, y = pair()
    twin, adjust = nlms_twin(model, x, rescale=rescale)
    generator = torch.Generator().manual_seed(3)
    for _ in range(4):
        outputs = []
        for net in (model, twin):
            net.zero_grad()
            outputs.append(net(x))
            nn.functional.cross_entropy(outputs[-1], y).backward()
        adjust()
        for net in (model, twin):
            torch.optim.SGD(net.classify.parameters(), lr=1.0).step()
        x = torch.randn(16, 1, 8, 8, generator=generator).double()
    same = torch.allclose(outputs[0], outputs[1], rtol=1e-9, atol=1e-10)
    assert same is rescale


def test_the_rescaled_twin_is_the_function_of_batch_norm_at_every_batch():
    model, x, _ = pair()
    twin, _ = nlms_twin(model, x, rescale=True)
    other = torch.randn(9, 1, 8, 8, generator=torch.Generator().manual_seed(5)).double()
    for batch in (3 * other, x[:5], other):
        torch.testing.assert_close(twin(batch), model(batch), rtol=1e-9, atol=1e-9)


def test_only_full_in_position_pre_has_a_twin():
    x = torch.zeros(2, 1, 8, 8)
    with pytest.raises(ValueError, match="full"):
        nlms_twin(PlainVGG(1, 2, WIDTHS, "none"), x)
    with pytest.raises(ValueError, match="pre"):
        nlms_twin(PlainVGG(1, 2, WIDTHS, "full", "post"), x)
