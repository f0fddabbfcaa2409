"""Trains one network of ``after-first-step`` and compares its steps with those of NLMS."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import nn

import cnnbridge
from studies.chai2020.after_first_step import Cell
from studies.chai2020.after_first_step.twin import effective_weights, nlms_twin
from studies.chai2020.nlms import adjacent, compare
from studies.training.images import tensors
from studies.training.networks import PlainVGG, draw_weights
from studies.training.rates import highest_on_grid
from studies.training.sgd import SgdRun, batch_order, run_sgd

__all__ = ["measure"]


def measure(cell: Cell) -> dict[str, Any]:
    """Run one experiment on one network.

    Returns
    -------
    dict, whose keys depend on ``cell.part``:

    - "steps": ``steps``, the rows of ``nlms.compare``, each with its ``update``;
    - "departure": the name of the ``layer``; ``scale``, ``same_batch_scale``, ``step`` and
      ``same_batch``, each (rates, batch sizes), medians over the steps;
    - "path": ``loss`` (updates,) by algorithm; ``distance`` and ``distance_by_s`` (updates,) by
      twin;
    - "training": ``loss`` and ``state`` by learning rate; ``rate_index`` of the highest stable
      rate on the grid.
    """
    images, labels, classes = tensors(cell.images)
    images, labels = images.to(cell.device), labels.to(cell.device)
    variant = "none" if cell.algorithm == "nothing" else "full"
    model = PlainVGG(images.shape[1], classes, cell.widths, variant, cell.position)
    draw_weights(model, "spread", cell.seed)
    model.to(cell.device).train()
    if cell.part == "training":
        return _training(cell, model, images, labels, classes)
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
        name: np.median(getattr(grid, name), axis=-1)
        for name in ("scale", "same_batch_scale", "step", "same_batch")
    }


def _first_batch(cell: Cell, images: torch.Tensor) -> torch.Tensor:
    chosen = next(batch_order(len(images), cell.batch_size, 1, cell.seed))
    return images[chosen.to(images.device)]


def _path(
    cell: Cell, model: PlainVGG, images: torch.Tensor, labels: torch.Tensor
) -> dict[str, Any]:
    """Train BatchNorm and its twins at the low rate, on the same batches, and compare weights."""
    probe = _first_batch(cell, images)
    start = effective_weights(model, probe)
    nets: dict[str, Any] = {
        "NLMS steps": nlms_twin(model, probe),
        "NLMS steps, rescaled": nlms_twin(model, probe, rescale=True),
    }
    nets["batch norm"] = (model, lambda: None)
    optimisers = {
        name: torch.optim.SGD(net.parameters(), lr=cell.low_rate) for name, (net, _) in nets.items()
    }
    loss: dict[str, list[float]] = {name: [] for name in nets}
    twins = [name for name in nets if name != "batch norm"]
    distance: dict[str, list[float]] = {name: [] for name in twins}
    by_s: dict[str, list[float]] = {name: [] for name in twins}
    for chosen in batch_order(len(images), cell.batch_size, cell.low_steps, cell.seed):
        chosen = chosen.to(images.device)
        now = {}
        for name, (net, adjust) in nets.items():
            optimisers[name].zero_grad()
            value = nn.functional.cross_entropy(net(images[chosen]), labels[chosen])
            value.backward()
            adjust()
            optimisers[name].step()
            loss[name].append(value.item())
            # always on the first batch, so that sampling noise of s does not count as movement
            now[name] = effective_weights(net, probe)
        for name in twins:
            layers = list(zip(now[name], now["batch norm"], start, strict=True))
            distance[name].append(_apart((g, ours, at) for (g, _), (ours, _), (at, _) in layers))
            by_s[name].append(
                _apart((g * s, ours * s, at * s) for (g, _), (ours, _), (at, s) in layers)
            )
    return {"loss": loss, "distance": distance, "distance_by_s": by_s}


def _apart(layers: Iterable[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]) -> float:
    """Distance between two ends over the distance from start to the second, median over layers."""
    return float(
        np.median([float((g - ours).norm() / (ours - at).norm()) for g, ours, at in layers])
    )


def _training(
    cell: Cell, start: PlainVGG, images: torch.Tensor, labels: torch.Tensor, classes: int
) -> dict[str, Any]:
    first = _first_batch(cell, images)

    def train(lr: float, steps: int) -> SgdRun:
        model, adjust = copy.deepcopy(start), None
        if cell.algorithm.startswith("NLMS"):
            rescale = cell.algorithm == "NLMS steps, rescaled"
            model, adjust = nlms_twin(model, first, rescale=rescale)
        return run_sgd(
            model,
            images,
            labels,
            lr=lr,
            steps=steps,
            batch_size=cell.batch_size,
            seed=cell.seed,
            classes=classes,
            adjust=adjust,
        )

    losses = {f"{lr:g}": train(lr, cell.loss_steps) for lr in cell.loss_rates}
    index = highest_on_grid(cell.rates, lambda lr: train(lr, cell.rate_steps).state == "stable")
    return {
        "loss": {lr: [round(float(v), 6) for v in run.loss] for lr, run in losses.items()},
        "state": {lr: run.state for lr, run in losses.items()},
        "rate_index": index,
    }
