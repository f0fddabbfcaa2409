"""Compares SGD's step next to a normalization with the NLMS step of the same batch, by layer.

``first-step`` does so at the start of training, ``after-first-step`` later on.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

import cnnbridge
from cnnbridge import SplitBatchNorm
from cnnbridge.results import FirstStep
from studies.training.networks import PlainVGG

LR = 0.1

__all__ = ["adjacent", "compare", "distance_from_lms"]


def adjacent(model: PlainVGG) -> list[tuple[str, str, str]]:
    """List (layer in words, name of the normalization, name of the adjacent convolution)."""
    names = [(f"features.{i}", part) for i, part in enumerate(model.features)]
    if model.position == "post":
        names.reverse()
    convs = [name for name, part in names if isinstance(part, nn.Conv2d)]
    numbers = {name: i for i, name in enumerate(sorted(convs, key=lambda n: int(n[9:])), start=1)}
    found = []
    for i, (name, part) in enumerate(names):
        if isinstance(part, SplitBatchNorm) and i + 1 < len(names):
            conv = names[i + 1][0]
            found.append((f"conv{numbers[conv]}", name, conv))
    return found if model.position == "pre" else found[::-1]


def compare(model: PlainVGG, images: torch.Tensor, labels: torch.Tensor) -> list[dict[str, Any]]:
    """Take both steps of one batch in every layer next to a normalization, and compare them.

    Parameters
    ----------
    model : left as it is; in float64 the two steps agree to rounding.
    images, labels : the batch.

    Returns
    -------
    One mapping for each layer: ``position``, ``layer``; ``difference``, ``minimum_norm`` and
    ``radial`` as in ``cnnbridge.results.FirstStep``; ``lms``, see ``distance_from_lms``.
    """
    rows = []
    for layer, norm, conv in adjacent(model):
        step = cnnbridge.first_step_is_nlms(
            model, norm, conv, images, labels, nn.functional.cross_entropy, lr=LR
        )
        energy = step.energy.ravel()
        rows.append(
            {
                "position": model.position,
                "layer": layer,
                "difference": step.difference,
                "radial": step.radial,
                "lms": distance_from_lms(step),
                "variation": float(energy.std() / energy.mean()) if energy.size else None,
                "step_sizes": (LR * np.quantile(energy, (0.1, 0.9))).tolist()
                if energy.size
                else None,
            }
        )
    return rows


def distance_from_lms(step: FirstStep) -> float:
    """Relative distance of SGD's step from the nearest multiple of the LMS step: the control.

    The step of LMS is that of NLMS without the division by the power s^2. Where all channels have
    the same power, the two differ only by a factor, and equality with NLMS says nothing; the larger
    this distance, the more it says.
    """
    taken = torch.from_numpy(step.g_sgd - step.g)
    power = torch.from_numpy(step.s).square()
    if step.position == "before":
        groups, _, taps = taken.shape
        power = power.repeat_interleave(groups * taps // len(power)).reshape(groups, 1, taps)
    else:
        power = power.reshape(taken.shape[0], -1, 1)
    lms = taken * power
    along = (taken * lms).sum() / lms.square().sum() * lms
    return float((taken - along).norm() / taken.norm())
