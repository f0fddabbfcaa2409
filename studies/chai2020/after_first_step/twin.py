"""Replaces BatchNorm by explicit NLMS steps on effective weights, to test the claim by training.

In effective weights g = w / s the step behind a normalization is power-normalised NLMS at the s of
that batch. The twin does exactly this at every step: its channels are centred, its weights are g,
and each gradient is divided by s^2 of the channel that the layer reads, with s from the batch at
hand. At the first batch it is the same function as the network with BatchNorm. It leaves out two
things: BatchNorm rescales g whenever s changes, and the gradient through s reaches the layers
before. The rescaling can be put back.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from cnnbridge import SplitBatchNorm
from cnnbridge.normalization import channel_divisor
from studies.training.networks import PlainVGG

__all__ = ["effective_weights", "nlms_twin"]


def nlms_twin(
    model: PlainVGG, images: torch.Tensor, *, rescale: bool = False
) -> tuple[PlainVGG, Callable[[], None]]:
    """Make the twin of a network with BatchNorm, and what to call between backward and step.

    Parameters
    ----------
    model : variant "full", position "pre", in train mode; left as it is.
    images : the batch at which the two are the same function: the first one of training.
    rescale : at each batch, multiply g by s(n) / s(n+1), as BatchNorm does. The twin then is
        the same function as BatchNorm at every batch, and differs only in its gradient.

    Returns
    -------
    (twin, adjust). ``adjust()`` divides the gradients by s^2 of the last forward pass.

    Raises
    ------
    ValueError : another variant or position.
    """
    if (model.variant, model.position) != ("full", "pre"):
        raise ValueError(
            "model must have the variant 'full' in position 'pre'; "
            f"got {model.variant!r} in {model.position!r}"
        )
    twin = PlainVGG(*model.shape, variant="center", position="pre", head=model.head)
    first = next(model.parameters())
    twin.to(first.device, first.dtype).train()
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        for layer, (g, _) in zip(_readers(twin), effective_weights(model, images), strict=True):
            layer.weight.copy_(g)
    live = _watch(twin, rescale=rescale)
    live.deviations = _deviations(model, images)

    def adjust() -> None:
        for layer, s in zip(_readers(twin), live.deviations, strict=True):
            if layer.weight.grad is not None:
                layer.weight.grad /= _per_input(s, layer).square()

    return twin, adjust


@torch.no_grad()
def effective_weights(
    model: PlainVGG, images: torch.Tensor
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Effective weights and scale (g, s) behind each normalization: g = w / s, a copy.

    In a twin, whose variant only centres, g is the weights themselves; if it rescales, they are
    those that it uses on these images.

    Parameters
    ----------
    model : position "pre", in train mode.
    images : one batch, from which s is taken.

    Returns
    -------
    g in the shape of the layer's weights, s of each input channel in a shape that broadcasts to it.
    """
    found = []
    for s, layer in zip(_deviations(model, images), _readers(model), strict=True):
        per_input = _per_input(s, layer)
        w = layer.weight.clone()
        found.append((w / per_input if model.variant == "full" else w, per_input))
    return found


@torch.no_grad()
def _deviations(model: PlainVGG, images: torch.Tensor) -> list[torch.Tensor]:
    """Deviation of each channel that enters each normalization, on a batch."""
    seen = _watch(model)
    try:
        model(images)
    finally:
        for handle in seen.handles:
            handle.remove()
    return seen.deviations


class _watch:
    """Records the deviation of each channel that enters each normalization, at every forward."""

    def __init__(self, model: PlainVGG, *, rescale: bool = False) -> None:
        norms = [part for part in model.features if isinstance(part, SplitBatchNorm)]
        self.deviations: list[torch.Tensor] = [torch.ones(norm.channels) for norm in norms]
        self.readers = _readers(model) if rescale else None
        self.handles = [
            norm.register_forward_pre_hook(self._keep(i)) for i, norm in enumerate(norms)
        ]

    def _keep(self, index: int) -> Callable[..., None]:
        def hook(norm: SplitBatchNorm, args: tuple[torch.Tensor, ...]) -> None:
            var = args[0].detach().var(dim=(0, 2, 3), correction=0)
            s = channel_divisor(var, eps=norm.eps)
            if self.readers is not None:
                # before this pass reads the weights, so that autograd sees only one value of them
                reader = self.readers[index]
                with torch.no_grad():
                    reader.weight *= _per_input(self.deviations[index] / s, reader)
            self.deviations[index] = s

        return hook


def _readers(model: PlainVGG) -> list[nn.Conv2d | nn.Linear]:
    """List the layer behind each normalization."""
    convs = [part for part in model.features if isinstance(part, nn.Conv2d)]
    return [*convs[1:], model.classify]


def _per_input(s: torch.Tensor, layer: nn.Conv2d | nn.Linear) -> torch.Tensor:
    """Shape one value per channel so that it broadcasts to a layer's weights."""
    if isinstance(layer, nn.Linear):
        return s.repeat_interleave(layer.in_features // len(s))[None, :]
    return s[None, :, None, None]
