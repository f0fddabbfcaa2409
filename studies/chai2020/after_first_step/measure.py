"""Trains one network of ``after-first-step`` and compares its steps with those of NLMS."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

import cnnbridge
from studies.chai2020.after_first_step import Cell
from studies.chai2020.after_first_step.twin import nlms_twin
from studies.chai2020.nlms import adjacent, compare
from studies.training.course import train_course
from studies.training.images import tensors
from studies.training.networks import PlainVGG, draw_weights
from studies.training.sgd import batch_order

__all__ = ["measure"]

Adjust = Callable[[], None]
TWINS = ("NLMS steps", "NLMS steps, rescaled")
# above every allowance by which a run is judged
END_BEYOND = 300.0


def measure(cell: Cell) -> dict[str, Any]:
    """Run one experiment on one network.

    Returns
    -------
    dict, whose keys depend on ``cell.part``:

    - "steps": ``steps``, the rows of ``nlms.compare``, each with its ``update``;
    - "departure": the name of the ``layer``; ``scale`` and ``same_batch_scale``, each (rates, batch
      sizes), medians over the steps;
    - "path": ``loss`` (updates,) by algorithm; ``distance`` (updates,) of the outputs by twin;
      ``whole_step`` (visits,) by twin;
    - "training": ``courses``, one for each rate of the grid, and ``loss`` by each of the other
      rates asked for.
    """
    images, labels, classes = tensors(cell.images)
    images, labels = images.to(cell.device), labels.to(cell.device)
    variant = "none" if cell.algorithm == "nothing" else "full"
    model = PlainVGG(images.shape[1], classes, cell.widths, variant, cell.position)
    draw_weights(model, "spread", cell.seed)
    model.to(cell.device).train()
    if cell.part == "training":
        return _training(cell, model, images, labels)
    if cell.part == "path":
        return _path(cell, model, images, labels)
    return {"steps": _steps, "departure": _departure}[cell.part](
        cell, model.double(), images.double(), labels
    )


def _steps(
    cell: Cell, model: PlainVGG, images: torch.Tensor, labels: torch.Tensor
) -> dict[str, Any]:
    """Compare gradient steps, each on the batch that training then takes it from."""
    optimiser = torch.optim.SGD(model.parameters(), lr=cell.step_rate)
    rows = []
    batches = batch_order(len(images), cell.step_images, max(cell.visits) + 1, cell.seed)
    for update, chosen in enumerate(batches):
        x, wanted = images[chosen.to(images.device)], labels[chosen.to(images.device)]
        if update in cell.visits:
            rows += [{"update": update} | row for row in compare(model, x, wanted)]
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), wanted).backward()
        optimiser.step()
    return {"steps": rows}


def _departure(
    cell: Cell, model: PlainVGG, images: torch.Tensor, labels: torch.Tensor
) -> dict[str, Any]:
    """Measure how far whole steps of the middle layer depart from NLMS."""
    pairs = adjacent(model)
    layer, norm, conv = pairs[len(pairs) // 2]
    with np.errstate(all="ignore"):
        grid = cnnbridge.nlms_departures(
            model,
            norm,
            conv,
            images,
            labels,
            nn.functional.cross_entropy,
            lrs=cell.departure_rates,
            batch_sizes=cell.departure_batches,
            steps=cell.departure_steps,
            seed=cell.seed,
        )
    return {"layer": layer} | {
        name: np.median(getattr(grid, name), axis=-1) for name in ("scale", "same_batch_scale")
    }


def _first_batch(cell: Cell, images: torch.Tensor) -> torch.Tensor:
    chosen = next(batch_order(len(images), cell.batch_size, 1, cell.seed))
    return images[chosen.to(images.device)]


def _path(
    cell: Cell, model: PlainVGG, images: torch.Tensor, labels: torch.Tensor
) -> dict[str, Any]:
    """Train BatchNorm and its twins at the low rate, on the same batches, and compare outputs."""
    probe = _first_batch(cell, images)
    start = _outputs(model, probe)
    nets: dict[str, Any] = {name: _twin(model, probe, name) for name in TWINS}
    nets["batch norm"] = (model, None)
    optimisers = {
        name: torch.optim.SGD(net.parameters(), lr=cell.low_rate) for name, (net, _) in nets.items()
    }
    loss: dict[str, list[float]] = {name: [] for name in nets}
    distance: dict[str, list[float]] = {name: [] for name in TWINS}
    whole: dict[str, list[float]] = {name: [] for name in TWINS}
    batches = batch_order(len(images), cell.batch_size, cell.low_steps, cell.seed)
    for update, chosen in enumerate(batches):
        chosen = chosen.to(images.device)
        x, y = images[chosen], labels[chosen]
        if update in cell.visits:
            for name, value in _whole_steps(model, x, y, cell.low_rate).items():
                whole[name].append(value)
        for name, (net, adjust) in nets.items():
            loss[name].append(_step(net, adjust, optimisers[name], x, y))
        # always on the first batch, so that another batch's noise does not count as movement
        now = {name: _outputs(net, probe) for name, (net, _) in nets.items()}
        ours = now["batch norm"]
        for name in TWINS:
            distance[name].append(float((now[name] - ours).norm() / (ours - start).norm()))
    return {"loss": loss, "distance": distance, "whole_step": whole}


def _twin(model: PlainVGG, images: torch.Tensor, name: str) -> tuple[PlainVGG, Adjust]:
    return nlms_twin(model, images, rescale=name == "NLMS steps, rescaled")


def _step(
    net: PlainVGG,
    adjust: Adjust | None,
    optimiser: torch.optim.Optimizer,
    x: torch.Tensor,
    y: torch.Tensor,
) -> float:
    """One update; returns the loss before it."""
    optimiser.zero_grad()
    value = nn.functional.cross_entropy(net(x), y)
    value.backward()
    if adjust is not None:
        adjust()
    optimiser.step()
    return value.item()


def _whole_steps(model: PlainVGG, x: torch.Tensor, y: torch.Tensor, lr: float) -> dict[str, float]:
    """|df_BN - df_NLMS| / |df_BN| of one step from the present weights, by twin."""
    before = _outputs(model, x)
    nets: dict[str, Any] = {name: _twin(model, x, name) for name in TWINS}
    nets["batch norm"] = (copy.deepcopy(model), None)
    moved = {}
    for name, (net, adjust) in nets.items():
        _step(net, adjust, torch.optim.SGD(net.parameters(), lr=lr), x, y)
        moved[name] = _outputs(net, x) - before
    ours = moved.pop("batch norm")
    return {name: float((ours - theirs).norm() / ours.norm()) for name, theirs in moved.items()}


@torch.no_grad()
def _outputs(net: PlainVGG, x: torch.Tensor) -> torch.Tensor:
    """Logits less their mean over classes, which the softmax does not see."""
    logits = net(x)
    centred: torch.Tensor = logits - logits.mean(dim=1, keepdim=True)
    return centred


def _training(
    cell: Cell, start: PlainVGG, images: torch.Tensor, labels: torch.Tensor
) -> dict[str, Any]:
    first = _first_batch(cell, images)

    def train(lr: float) -> dict[str, Any]:
        model: PlainVGG = copy.deepcopy(start)
        adjust: Adjust | None = None
        if cell.algorithm in TWINS:
            model, adjust = _twin(start, first, cell.algorithm)
        return train_course(
            model,
            images,
            labels,
            optimizer=partial(torch.optim.SGD, lr=lr),
            steps=cell.rate_steps,
            batch_size=cell.batch_size,
            seed=cell.seed,
            features=model.pool,
            before_step=adjust,
            end_beyond=END_BEYOND,
        )

    courses = [train(lr) for lr in cell.rates]
    losses = {f"{c['lr']:g}": c["loss"] for c in courses}
    losses |= {f"{lr:g}": train(lr)["loss"] for lr in cell.loss_rates if lr not in cell.rates}
    return {"courses": courses, "loss": {f"{lr:g}": losses[f"{lr:g}"] for lr in cell.loss_rates}}
