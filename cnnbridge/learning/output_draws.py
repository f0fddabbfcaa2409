"""Random vectors at a network's outputs whose covariance is the Hessian of the loss by them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from cnnbridge.learning.batch_loss import Batch, Loss
from cnnbridge.learning.one_layer import roots_of_hessian

__all__ = ["MOST_OUTPUTS", "output_draws"]

# the Hessian by the outputs is factored image by image, which costs the cube of their number
MOST_OUTPUTS = 2048

Draw = Callable[[torch.Generator], list[torch.Tensor]]


def output_draws(
    loss: Loss, batch: Batch, outputs: Sequence[torch.Tensor], value: torch.Tensor
) -> Draw:
    """A function that draws w, one tensor for each output, with E[w w'] the Hessian of the loss.

    For torch's cross-entropy (unweighted) and mean squared error the root of the Hessian is known
    and costs nothing. For any other loss it is factored image by image; the loss of one image may
    then depend on the outputs for that image only.

    Raises
    ------
    ValueError : there are no outputs; more than 2048 for an image, where the Hessian is factored.
    """
    if not outputs:
        raise ValueError(
            "model must be called by the loss and return the outputs that the loss is made of, "
            "for a Gauss-Newton matrix; got no such output"
        )
    z = outputs[0].detach()
    if len(outputs) == 1 and isinstance(batch, tuple):
        target = batch[-1]
        if type(loss) is nn.CrossEntropyLoss and loss.weight is None and z.ndim > 1:
            return _cross_entropy(loss, z, target)
        if type(loss) is nn.MSELoss and target.shape == z.shape:
            scale = (2 / (z.numel() if loss.reduction == "mean" else 1)) ** 0.5
            return lambda generator: [_signs(z, generator) * scale]
    return _factored(list(outputs), value)


def _cross_entropy(loss: nn.CrossEntropyLoss, z: torch.Tensor, target: torch.Tensor) -> Draw:
    """Each row's Hessian is diag(p) - p p' = B B' with B = (I - p 1') diag(p)^(1/2)."""
    p = z.softmax(dim=1)
    root = p.sqrt()
    if target.is_floating_point():
        # probabilities: a row counts by their sum
        weight = target.sum(dim=1, keepdim=True).clamp(min=0)
        rows = weight.numel()
    else:
        counted = target != loss.ignore_index
        weight, rows = counted.unsqueeze(1), int(counted.sum())
    scale = (weight.to(z) / (max(rows, 1) if loss.reduction == "mean" else 1)).sqrt()

    def draw(generator: torch.Generator) -> list[torch.Tensor]:
        along = root * _signs(z, generator)
        return [(along - p * along.sum(dim=1, keepdim=True)) * scale]

    return draw


def _factored(outputs: list[torch.Tensor], value: torch.Tensor) -> Draw:
    width = sum(z[0].numel() for z in outputs)
    if width > MOST_OUTPUTS:
        raise ValueError(
            f"model must have at most {MOST_OUTPUTS} outputs for each image, since the loss's "
            f"Hessian by them is factored; got {width}"
        )
    S = roots_of_hessian(outputs, value)
    widths = [z[0].numel() for z in outputs]

    def draw(generator: torch.Generator) -> list[torch.Tensor]:
        signs = torch.randint(0, 2, S.shape[::2], generator=generator).to(S) * 2 - 1
        drawn = torch.einsum("ncd,nd->nc", S, signs).split(widths, dim=1)
        return [v.view_as(z) for v, z in zip(drawn, outputs, strict=True)]

    return draw


def _signs(z: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return torch.randint(0, 2, z.shape, generator=generator).to(z) * 2 - 1
