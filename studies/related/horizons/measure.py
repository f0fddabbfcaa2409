"""Trains one network and compares every prediction of its training with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

import cnnbridge
from cnnbridge.results import Comparison
from studies.related.horizons import EVERY, LAYERS, TOLERANCES, Cell
from studies.training.images import tensors
from studies.training.networks import SmallCNN
from studies.training.sgd import reproducible, train_below

__all__ = ["measure"]


def measure(cell: Cell) -> dict[str, Any]:
    """Train one network and compare each prediction with it.

    Returns
    -------
    dict with ``trained``, the updates to the checkpoint (0 for a fresh start); ``bound`` of level
    3 and the learning rate ``lr``; ``loss`` (steps + 1,) of the training; and ``readings``, by
    name ("level 3", "h = 10", "conv1"): ``error`` and ``skill``, (steps + 1,), ``horizons``, one
    for each of ``TOLERANCES`` and None where it is not reached, and ``compared``, the steps with a
    finite training.
    """
    images, labels, classes = tensors(cell.images)
    x, y = images.to(cell.device), labels.to(cell.device)
    with reproducible(cell.seed):
        model = SmallCNN(x.shape[1], classes, cell.width).to(cell.device)
        trained = 0
        if cell.start == "checkpoint":
            trained = train_below(model, x, y, cell.until)
        task = cnnbridge.NetworkTask(model, (x, y), nn.CrossEntropyLoss())
        bound = 2 / task.sharpness("gauss_newton")
        lr, steps = cell.fraction * bound, cell.steps
        run = task.observe(lr, steps)
        found = {}
        for name, h in _readings(cell.all_levels):
            prediction = task.predict(lr, steps, relinearize=h)
            found[name] = _compared(cnnbridge.compare(prediction, run, TOLERANCES))
        losses = run.loss
        for layer in LAYERS if cell.all_levels else ():
            alone = task.layer(layer)
            run = alone.observe(lr, steps)
            prediction = alone.predict(lr, steps, full_modes=False)
            found[layer] = _compared(cnnbridge.compare(prediction, run, TOLERANCES))
    return {"trained": trained, "bound": bound, "lr": lr, "loss": losses, "readings": found}


def _readings(all_levels: bool) -> Iterator[tuple[str, int | None]]:
    """Names of levels 3 and 4 and the number of steps between linearisations."""
    yield "level 3", None
    for h in EVERY if all_levels else ():
        yield f"h = {h}", h


def _compared(comparison: Comparison) -> dict[str, Any]:
    return {
        "error": comparison.displacement_error,
        "skill": comparison.skill,
        "horizons": [comparison.horizon[t] for t in TOLERANCES],
        "compared": comparison.steps_compared,
    }
