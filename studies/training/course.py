"""Training a network at one learning rate, and writing down what its outcome is judged by."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from cnnbridge.layers.isolation import unchanged
from studies.training.sgd import batch_order

__all__ = ["features_are_constant", "train_course"]

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Optimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]

# images of the fixed batch on which death is looked for
PROBE = 64


def train_course(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    optimizer: Optimizer,
    steps: int,
    loss: Loss = nn.functional.cross_entropy,
    batch_size: int = 32,
    seed: int = 0,
    features: nn.Module | None = None,
    probe_every: int = 10,
    before_step: Callable[[], None] | None = None,
    after: Callable[[int], None] | None = None,
    end_beyond: float | None = None,
) -> dict[str, Any]:
    """Train ``model`` in place and return its course as plain data, for ``Course.of``.

    Parameters
    ----------
    model : on the device of the images; trained in training mode, in its own precision.
    images, labels : (N, C, H, W) and (N,).
    optimizer : from a list of the parameters that learn to an optimizer of torch.
    steps : updates; the run ends early where loss or parameters are no longer finite.
    loss : from outputs and labels to a scalar.
    batch_size, seed : see ``studies.training.sgd.batch_order``.
    features : module whose output is looked at for death; the model's own output by default.
    probe_every : updates from one look for death to the next.
    before_step : called between the backward pass and the step.
    after : called with the number of updates made, after each.
    end_beyond : end the run once its outcome is decided: the norm has passed |theta_0| +
        ``end_beyond`` lr t, an allowance no smaller than any that will be asked of the course, or
        the features were constant at three looks in a row.

    Returns
    -------
    ``lr``, ``steps``, ``loss``, ``accuracy``, ``norm`` and ``dead_at``, see ``Course``.
    """
    learned = [p for p in model.parameters() if p.requires_grad]
    made = optimizer(learned)
    losses, accuracies, norms = [], [], [_norm(learned)]
    dead_at: int | None = None
    model.train()
    for done, chosen in enumerate(batch_order(len(images), batch_size, steps, seed), 1):
        x, y = images[chosen.to(images.device)], labels[chosen.to(images.device)]
        made.zero_grad()
        output = model(x)
        value = loss(output, y)
        losses.append(value.item())
        accuracies.append(float((output.argmax(1) == y).float().mean()))
        value.backward()
        if before_step is not None:
            before_step()
        made.step()
        norms.append(_norm(learned))
        if after is not None:
            after(done)
        if not (math.isfinite(losses[-1]) and math.isfinite(norms[-1])):
            break
        if done % probe_every == 0 or done == steps:
            dead = features_are_constant(model, images[:PROBE], features)
            dead_at = None if not dead else done if dead_at is None else dead_at
        if end_beyond is not None:
            gone = norms[-1] > norms[0] + end_beyond * made.param_groups[0]["lr"] * done
            if gone or (dead_at is not None and done >= dead_at + 2 * probe_every):
                break
    return {
        "lr": float(made.param_groups[0]["lr"]),
        "steps": steps,
        "loss": losses,
        "accuracy": accuracies,
        "norm": norms,
        "dead_at": dead_at,
    }


@torch.no_grad()
def features_are_constant(
    model: nn.Module, images: torch.Tensor, features: nn.Module | None = None
) -> bool:
    """Whether the output of a module, or of the model, is the same for every image of a batch.

    The model is left as it was, running statistics and random numbers included.
    """
    seen: list[torch.Tensor] = []
    handle = (features or model).register_forward_hook(lambda _, __, out: seen.append(out))
    try:
        with unchanged(model):
            model(images)
    finally:
        handle.remove()
    out = seen[-1].flatten(1)
    spread = (out.amax(0) - out.amin(0)).max()
    return bool(spread <= 1e-6 * out.abs().max().clamp(min=1e-6))


def _norm(parameters: list[nn.Parameter]) -> float:
    """Euclidean norm of all parameters, summed in float64 so that it does not overflow first."""
    return math.sqrt(sum(float(p.detach().double().square().sum()) for p in parameters))
