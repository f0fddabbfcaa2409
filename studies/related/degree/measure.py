"""Measures the degree of a network, then trains it at one or several learning rates."""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import Any

import torch
from torch import nn

from cnnbridge import degree
from studies.related.degree import Cell
from studies.related.degree.networks import Network, build, loss_of
from studies.training.course import train_course
from studies.training.images import tensors
from studies.training.sgd import batch_order, reproducible

__all__ = ["conv_degree", "head_bound", "measure"]

BATCH = 32
# Between these factors a slope in the convolutions is read for the baseline.
CONV_SCALES = (30.0, 300.0)


def measure(cell: Cell) -> dict[str, Any]:
    """Degree, exponent, baseline and courses of one network.

    Returns
    -------
    ``degree`` and ``exponent``, see ``cnnbridge.Degree``; ``conv_degree``, that of the features in
    the convolutions; ``head_bound``, 2 / (largest curvature of the head), for squared error only;
    ``relative_steps``, for degrees above 2, see ``relative_step``; ``courses``, one for each rate,
    as ``studies.engine.outcomes.Course`` reads them.
    """
    images, labels, classes = tensors(cell.images)
    images, labels = images.to(cell.device), labels.to(cell.device)
    with reproducible(cell.seed, threads=1):
        torch.manual_seed(cell.seed)
        start = build(cell.form, images.shape[1], classes, cell.widths).to(cell.device)
        first = next(batch_order(len(images), BATCH, 1, cell.seed)).to(images.device)
        x, y = images[first], labels[first]
        start(x)  # statistics that are frozen at the first batch are frozen here
        loss = loss_of(cell.form)
        found = degree(start, (x, y), loss, weight_decay=cell.form.decay, groups=False)
        grid = cell.rates if cell.task == "rate" and found.value > 2.5 else ()
        return {
            "degree": found.value,
            "exponent": found.exponent,
            "conv_degree": conv_degree(start, x),
            "head_bound": head_bound(start, x) if cell.form.loss == "mse" else None,
            "relative_steps": [relative_step(cell, start, images, labels, lr) for lr in grid],
            "courses": [_course(cell, start, images, labels, lr) for lr in cell.rates],
        }


def _course(
    cell: Cell, start: Network, images: torch.Tensor, labels: torch.Tensor, lr: float
) -> dict[str, Any]:
    model = copy.deepcopy(start)
    return train_course(
        model,
        images,
        labels,
        optimizer=partial(torch.optim.SGD, lr=lr, weight_decay=cell.form.decay),
        steps=cell.steps,
        loss=loss_of(cell.form),
        batch_size=BATCH,
        seed=cell.seed,
        features=model.features,
    )


def relative_step(
    cell: Cell, start: Network, images: torch.Tensor, labels: torch.Tensor, lr: float
) -> float:
    """lr |g| / |w| of the layer where it is largest, at the third gradient of a run.

    A network of degree D whose parameters grow by a factor a has a gradient larger by a^(D - 1):
    once a step is of the size of the weights, the next is larger still.
    """
    model = copy.deepcopy(start).train()
    learned = [p for p in model.parameters() if p.requires_grad]
    sgd = torch.optim.SGD(learned, lr=lr, weight_decay=cell.form.decay)
    loss = loss_of(cell.form)
    for update, chosen in enumerate(batch_order(len(images), BATCH, 3, cell.seed)):
        sgd.zero_grad()
        chosen = chosen.to(images.device)
        loss(model(images[chosen]), labels[chosen]).backward()
        if update < 2:
            sgd.step()
    layers = [(p.grad, p.detach()) for p in learned if p.ndim > 1 and p.grad is not None]
    ratios = [lr * float(gradient.norm() / p.norm()) for gradient, p in layers]
    return max(ratios) if all(map(math.isfinite, ratios)) else math.inf


@torch.no_grad()
def conv_degree(model: Network, x: torch.Tensor) -> float:
    """The baseline: degree of the features in the convolutions' weights, from two passes."""
    sizes = []
    for a in CONV_SCALES:
        scaled = copy.deepcopy(model).double().train()
        for p in scaled.features.parameters():
            if p.requires_grad and p.ndim >= 3:
                p.mul_(a)
        sizes.append(float(scaled.features(x.double()).norm()))
    if not 0 < min(sizes) <= max(sizes) < math.inf:
        return math.nan
    return math.log(sizes[1] / sizes[0]) / math.log(CONV_SCALES[1] / CONV_SCALES[0])


@torch.no_grad()
def head_bound(model: Network, x: torch.Tensor) -> float:
    """Learning rate at which a linear head under squared error, summed over classes, diverges.

    The head is an LMS filter of the features h with a tap for its bias: its curvature is
    2 lambda_max(E[h h']).
    """
    h = copy.deepcopy(model).features(x).double()
    if isinstance(model.head, nn.Linear) and model.head.bias is not None:
        h = torch.cat([h, torch.ones_like(h[:, :1])], dim=1)
    return 1 / float(torch.linalg.eigvalsh(h.T @ h / len(h))[-1])
