"""Trains one network and measures the conditioning and curvature of its layers on the way."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import nn

import cnnbridge
from studies.related.conditioning import Cell, Net
from studies.training.images import tensors
from studies.training.networks import PlainVGG, Position, conv_layers, draw_weights
from studies.training.probes import gauss_newton_edge
from studies.training.sgd import run_sgd

__all__ = ["condition", "layer_readings", "measure"]

Array = np.ndarray

# variant and position of PlainVGG
KINDS: dict[Net, tuple[str, Position]] = {
    "none": ("none", "post"),
    "after": ("full", "post"),
    "before": ("full", "pre"),
}
WORST = 1e12


def measure(cell: Cell) -> dict[str, Any]:
    """Train one network and read its layers at each time.

    Returns
    -------
    dict with ``readings``, a list by time of what ``layer_readings`` returns; ``loss``, the mean of
    the last ten; and ``state``, as in ``SgdRun``. Readings end when a run is no longer ``stable``.
    """
    images, labels, classes = tensors(cell.images)
    images, labels = images.to(cell.device), labels.to(cell.device)
    model = PlainVGG(images.shape[1], classes, cell.widths, *KINDS[cell.net])
    draw_weights(model, "he", cell.seed)
    model = model.to(cell.device).train()
    readings, state, loss, done = [], "stable", math.nan, 0
    for time in cell.times:
        if time > done:
            run = run_sgd(
                model,
                images,
                labels,
                lr=cell.lr,
                steps=time - done,
                batch_size=cell.batch_size,
                seed=cell.seed + time,
                classes=classes,
            )
            state, loss, done = run.state, float(np.mean(run.loss[-10:])), time
            if state != "stable":
                break
        probe = images[: cell.probe], labels[: cell.probe]
        readings.append(layer_readings(model, *probe, cell.curvature_images))
    return {"readings": readings, "state": state, "loss": loss}


def layer_readings(
    model: PlainVGG, images: torch.Tensor, labels: torch.Tensor, curvature_images: int
) -> list[dict[str, Any]]:
    """Condition numbers and curvature of every layer, convolutions first, in train mode.

    Parameters
    ----------
    model : left as it is, statistics included.
    images, labels : the batch; the gradients are of its mean cross-entropy.
    curvature_images : number of images of the batch on which the curvature is measured.

    Returns
    -------
    One mapping for each layer: ``layer``, its name; ``R``, ``G`` and ``R x G``, condition
    numbers; ``curvature``, the largest eigenvalue of its own Gauss-Newton matrix, in 1 / lr.
    """
    rows = []
    names = [*conv_layers(model), "classify"]
    for number, name in enumerate(names, start=1):
        layer: Any = model.get_submodule(name)
        with cnnbridge.capture(model, name) as tape:
            tape.run([(images, labels)], nn.functional.cross_entropy)
        gradients = tape.output_gradients.double()
        outputs = gradients.movedim(1, -1).reshape(-1, gradients.shape[1])
        R = _eigenvalues(cnnbridge.patch_autocorrelation(tape.inputs.double(), layer)).ravel()
        G = _eigenvalues(outputs.T @ outputs / len(outputs))
        edge = gauss_newton_edge(
            model, images[:curvature_images], parameters=list(layer.parameters())
        )
        rows.append(
            {
                "layer": "linear" if name == "classify" else f"conv{number}",
                "R": condition(R),
                "G": condition(G),
                "R x G": condition(np.outer(R, G)),
                "curvature": 2 / edge if edge > 0 else math.inf,
            }
        )
    return rows


def condition(eigenvalues: Array) -> float:
    """Largest over (lower) median eigenvalue of a semidefinite matrix, at most 1e12.

    The smallest eigenvalue would not do: it is zero for every singular matrix, whatever the rest.

    Examples
    --------
    >>> condition(np.array([0.0, 2.0, 5.0, 10.0]))
    5.0
    """
    ordered = np.sort(np.ravel(eigenvalues))
    largest, median = float(ordered[-1]), float(ordered[(len(ordered) - 1) // 2])
    return min(largest / median, WORST) if median > 0 else WORST


def _eigenvalues(matrix: torch.Tensor) -> Array:
    values: Array = torch.linalg.eigvalsh(matrix).cpu().numpy()
    return values
