import pytest
import torch
from torch import nn

from cnnbridge.learning.output_draws import output_draws


def covariance(loss, z, target):
    """E[w w'] over all signs at once: the draws are linear in them, so that a basis is enough."""
    outputs = [z.clone().requires_grad_()]
    value = loss(outputs[0], target)
    draw = output_draws(loss, (torch.zeros(len(z)), target), outputs, value)
    generator = torch.Generator().manual_seed(0)
    many = torch.stack([draw(generator)[0].flatten() for _ in range(20_000)])
    H = torch.autograd.functional.hessian(lambda x: loss(x, target), z).reshape(z.numel(), -1)
    return many.T @ many / len(many), H


def labels(*shape):
    return torch.randint(3, shape, generator=torch.Generator().manual_seed(1))


Z = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).double()
PLACES = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(0)).double()


@pytest.mark.parametrize(
    ("loss", "z", "target"),
    [
        (nn.CrossEntropyLoss(), Z, labels(4)),
        (nn.CrossEntropyLoss(reduction="sum"), Z, labels(4)),
        (nn.CrossEntropyLoss(label_smoothing=0.3), Z, labels(4)),
        (nn.CrossEntropyLoss(ignore_index=1), Z, torch.tensor([1, 2, 0, 2])),
        (nn.CrossEntropyLoss(), Z, Z.flip(0).softmax(dim=1)),
        (nn.CrossEntropyLoss(), PLACES, labels(2, 2)),
        (nn.CrossEntropyLoss(), PLACES, PLACES.flip(0).softmax(dim=1)),
        (nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]).double()), Z, labels(4)),
        (nn.MSELoss(), Z, Z.flip(0)),
        (nn.MSELoss(reduction="sum"), Z, Z.flip(0)),
        (nn.SmoothL1Loss(beta=9.0), Z, Z.flip(0)),
    ],
    ids=str,
)
def test_the_covariance_is_the_hessian(loss, z, target):
    found, wanted = covariance(loss, z, target)
    # 20,000 draws of entries whose spread is at most the largest of the Hessian
    assert float((found - wanted).abs().max()) < 5 * float(wanted.max()) / 20_000**0.5
