"""Measures one network: spectra at the start, updates to a target loss, a course at each rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from cnnbridge import degree
from studies.chai2020.two_effects import ALLOWANCES, Cell
from studies.training import probes
from studies.training.course import train_course
from studies.training.images import tensors
from studies.training.networks import Classifier, PlainVGG, SmallResNet, draw_weights
from studies.training.sgd import reproducible, run_sgd

__all__ = ["felt_edge", "measure"]

FELT = 0.05
SHORT = 8


@dataclass(frozen=True)
class _Task:
    """A cell with its images and labels on its device."""

    cell: Cell
    images: torch.Tensor
    labels: torch.Tensor
    classes: int

    @property
    def batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The images and labels on which the start is measured."""
        return self.images[: self.cell.probe], self.labels[: self.cell.probe]

    def fresh(self) -> Classifier:
        """The network with its initial weights, the same at every call."""
        cell, channels = self.cell, self.images.shape[1]
        model: Classifier
        if cell.network == "residual":
            model = SmallResNet(channels, self.classes, cell.widths, cell.variant, cell.head)
        else:
            options = cell.variant, cell.position, cell.head, cell.affine
            model = PlainVGG(channels, self.classes, cell.widths, *options)
        draw_weights(model, cell.init, cell.seed)
        return model.to(cell.device).train()


def measure(cell: Cell) -> dict[str, Any]:
    """Start, speed and a course at each rate of one cell.

    Returns
    -------
    dict with ``spectra``, one mapping per convolution (``LayerSpectrum``); ``courses``, one for
    each rate, as ``studies.engine.outcomes.Course`` reads them; ``degree`` of the loss in all
    learned parameters. Where speed is measured, ``steps`` (None if the threshold was not reached in
    ``low_steps``) and ``low_loss`` of every update. With ``predict`` also ``predicted``, a mapping
    of candidates to learning rates, and three predictions of the updates to the threshold:
    ``level_3``, by the network linearised at the start (None if not in ``low_steps``);
    ``straight_on``, by the fall of the loss in the first 8 updates (None if it did not fall);
    ``straight_line``, by the slope at the start.
    """
    x, y, classes = tensors(cell.images, badly_scaled=cell.badly_scaled)
    task = _Task(cell, x.to(cell.device), y.to(cell.device), classes)
    with reproducible(cell.seed):
        model = task.fresh()
        spectra = probes.input_spectra(model, task.images[: cell.probe])
        found: dict[str, Any] = {
            "spectra": [vars(layer) for layer in spectra],
            "degree": _degree(task),
            "courses": [_course(task, lr) for lr in cell.rates],
        }
        if cell.low_steps:
            found |= _speed(task)
        if cell.predict:
            found |= _predictions(task, model, spectra)
    return found


def _degree(task: _Task) -> float:
    loss = torch.nn.functional.cross_entropy
    model = task.fresh()
    model(task.batch[0])  # statistics that freeze at the first batch are frozen here
    return degree(model, task.batch, loss, groups=False).value


def _course(task: _Task, lr: float) -> dict[str, Any]:
    cell, model = task.cell, task.fresh()
    return train_course(
        model,
        task.images,
        task.labels,
        optimizer=partial(torch.optim.SGD, lr=lr, momentum=cell.momentum),
        steps=cell.steps,
        batch_size=cell.batch_size,
        seed=cell.seed,
        features=model.pool,
        # momentum makes each step longer by at most 1 / (1 - momentum)
        end_beyond=max(ALLOWANCES) / (1 - cell.momentum),
    )


def _speed(task: _Task) -> dict[str, Any]:
    cell = task.cell
    run = run_sgd(
        task.fresh(),
        task.images,
        task.labels,
        lr=cell.low_rate,
        steps=cell.low_steps,
        batch_size=cell.batch_size,
        momentum=cell.momentum,
        seed=cell.seed,
        classes=task.classes,
        stop_below=cell.threshold,
    )
    loss = [round(float(value), 5) for value in run.loss]
    return {"steps": run.steps_to(cell.threshold), "low_loss": loss}


def _predictions(
    task: _Task, model: Classifier, spectra: list[probes.LayerSpectrum]
) -> dict[str, Any]:
    """Every candidate, from the network at its start and from a few updates at the low rate."""
    cell, (batch, wanted) = task.cell, task.batch
    edge = partial(probes.gauss_newton_edge, model, batch)
    with probes.without_statistics_gradient(model):
        constant = edge()
    loss = torch.nn.functional.cross_entropy(model(batch), wanted)
    learned = [p for p in model.parameters() if p.requires_grad]
    slope = sum(float(g.square().sum()) for g in torch.autograd.grad(loss, learned))
    gap = max(loss.item() - cell.threshold, 0.0)
    return {
        "predicted": {
            "Gauss-Newton, whole net": edge(),
            "Gauss-Newton, statistics constant": constant,
            "Gauss-Newton, last linear layer": edge(parameters=list(model.classify.parameters())),
            "Gauss-Newton, filters whose length is felt": felt_edge(model, batch),
            "R at the start": _bound_of_inputs(spectra),
        },
        "straight_line": gap / (cell.low_rate * slope) if slope > 0 else None,
        "level_3": _linearised(task).steps_to(cell.threshold),
        "straight_on": _straight_on(task, loss.item()),
    }


def _linearised(task: _Task) -> Any:
    cell = task.cell
    return run_sgd(
        probes.Linearised(task.fresh()),
        task.images,
        task.labels,
        lr=cell.low_rate,
        steps=cell.low_steps,
        batch_size=cell.batch_size,
        momentum=cell.momentum,
        seed=cell.seed,
        classes=task.classes,
        stop_below=cell.threshold,
    )


def felt_edge(model: Classifier, images: torch.Tensor) -> float:
    """The Gauss-Newton edge without the filters whose length the output does not feel.

    A step along such a filter's gradient is at right angles to the filter and lengthens it, and a
    longer filter turns less per step. This is NLMS, which diverges at no rate. So the filter and
    its bias are left out; the linear layer never is.
    """
    parameters = dict(model.named_parameters())
    shares = dict(zip(parameters, probes.length_felt(model, images), strict=True))
    masks = []
    for name, w in parameters.items():
        filter_name = name.removesuffix("bias") + "weight" if name.endswith("bias") else name
        mask = (shares[filter_name] > FELT) | name.startswith("classify.")
        masks.append(mask.to(w).reshape(-1, *(1,) * (w.ndim - 1)))
    return probes.gauss_newton_edge(model, images, masks=masks)


def _straight_on(task: _Task, before: float) -> float | None:
    """Updates to the threshold if the loss of one batch keeps falling as in the first few."""
    threshold = task.cell.threshold
    if before <= threshold:
        return 0.0
    model = task.fresh()
    train = partial(torch.optim.SGD, lr=task.cell.low_rate, momentum=task.cell.momentum)
    train_course(
        model,
        task.images,
        task.labels,
        optimizer=train,
        steps=SHORT,
        batch_size=task.cell.batch_size,
        seed=task.cell.seed,
    )
    with torch.no_grad():
        x, y = task.batch
        fall = before - torch.nn.functional.cross_entropy(model(x), y).item()
    return SHORT * (before - threshold) / fall if fall > 0 else None


def _bound_of_inputs(spectra: list[probes.LayerSpectrum]) -> float:
    highest = max(layer.highest for layer in spectra)
    return 2 / highest if highest > 0 else math.inf
