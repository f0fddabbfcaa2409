"""Measures one network: spectra at the start, updates to a target loss, highest stable rate."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from studies.chai2020.two_effects import Cell
from studies.training import probes
from studies.training.images import tensors
from studies.training.networks import (
    Classifier,
    PlainVGG,
    SmallResNet,
    conv_layers,
    draw_weights,
)
from studies.training.rates import highest_on_grid
from studies.training.sgd import SgdRun, run_sgd

__all__ = ["felt_edge", "growth", "measure", "probe"]

FELT = 0.05
SHORT = 8


@dataclass(frozen=True)
class _Task:
    """A cell with its images and labels on its device."""

    cell: Cell
    images: torch.Tensor
    labels: torch.Tensor
    classes: int

    def fresh(self) -> Classifier:
        """The network with its initial weights, the same at every call."""
        cell, channels = self.cell, self.images.shape[1]
        model: Classifier
        if cell.network == "residual":
            model = SmallResNet(channels, self.classes, cell.widths, cell.variant, cell.head)
        else:
            model = PlainVGG(
                channels, self.classes, cell.widths, cell.variant, cell.position, cell.head
            )
        draw_weights(model, cell.init, cell.seed)
        return model.to(cell.device).train()

    def train(
        self, lr: float, steps: int, stop_below: float | None = None
    ) -> tuple[Classifier, SgdRun]:
        """A fresh network after some updates, and the run that led there."""
        model, cell = self.fresh(), self.cell
        run = run_sgd(
            model,
            self.images,
            self.labels,
            lr=lr,
            steps=steps,
            batch_size=cell.batch_size,
            momentum=cell.momentum,
            seed=cell.seed,
            classes=self.classes,
            stop_below=stop_below,
        )
        return model, run


def measure(cell: Cell) -> dict[str, Any]:
    """Start, speed and highest stable rate of one cell.

    Returns
    -------
    dict with ``loss_start``; ``spectra``, one mapping per convolution (``LayerSpectrum``);
    ``steps`` (None if the threshold was not reached in ``low_steps``), ``low_state``,
    ``low_loss`` (of every update); ``rate_index`` of the highest stable rate in ``rates`` (-1 if
    none is), ``rate_loss``, the mean of the last losses there, and ``tried``, the runs of the
    search. With ``predict`` also ``predicted``, a mapping of candidates to learning rates, and
    three predictions of the updates to the threshold: ``level_3``, by the network linearised at
    the start (None if not in ``low_steps``); ``straight_on``, by the fall of the loss in the first
    8 updates (None if it did not fall); ``straight_line``, by the slope at the start.
    """
    x, y, classes = tensors(cell.images, badly_scaled=cell.badly_scaled)
    task = _Task(cell, x.to(cell.device), y.to(cell.device), classes)
    found = _speed(task) | _highest_rate(task)
    model = task.fresh()
    spectra = probes.input_spectra(model, task.images[: cell.probe])
    found["spectra"] = [vars(layer) for layer in spectra]
    if cell.predict:
        found |= _predictions(task, model, spectra)
    return found


def _speed(task: _Task) -> dict[str, Any]:
    cell = task.cell
    _, run = task.train(cell.low_rate, cell.low_steps, cell.threshold)
    return {
        "loss_start": float(run.loss[0]),
        "steps": run.steps_to(cell.threshold),
        "low_state": run.state,
        "low_loss": [round(float(loss), 5) for loss in run.loss],
    }


def _highest_rate(task: _Task) -> dict[str, Any]:
    cell, tried = task.cell, []

    def stable(lr: float) -> bool:
        _, run = task.train(lr, cell.rate_steps)
        end = float(np.mean(run.loss[-10:]))
        tried.append({"lr": lr, "state": run.state, "updates": len(run.loss), "loss": end})
        return bool(run.state == "stable")

    index = highest_on_grid(cell.rates, stable)
    loss = next((t["loss"] for t in tried if index >= 0 and t["lr"] == cell.rates[index]), None)
    return {"rate_index": index, "rate_loss": loss, "tried": tried}


def _predictions(
    task: _Task, model: Classifier, spectra: list[probes.LayerSpectrum]
) -> dict[str, Any]:
    """Every candidate, from the network at its start and from a few updates."""
    cell = task.cell
    batch, wanted = task.images[: cell.probe], task.labels[: cell.probe]
    found = probe(model, batch, wanted, threshold=cell.threshold, lr=cell.low_rate)
    found["level_3"] = run_sgd(
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
    ).steps_to(cell.threshold)
    after, _ = task.train(cell.low_rate, SHORT)
    found["straight_on"] = _straight_on(model, after, batch, wanted, cell.threshold)
    rates = found["predicted"]
    rates["R at the start"] = _bound_of_inputs(spectra)
    rates["R after 8 updates"] = _bound_of_inputs(probes.input_spectra(after, batch))
    rates |= _short_runs(task, model, (1 + cell.momentum) * rates["Gauss-Newton, whole net"])
    rates["last layer alone"] = _last_layer_alone(task, model)
    rates["the lesser of the last two"] = min(
        rates["Gauss-Newton times growth"], rates["last layer alone"]
    )
    return found


def probe(
    model: Classifier, images: torch.Tensor, labels: torch.Tensor, *, threshold: float, lr: float
) -> dict[str, Any]:
    """Candidates for the highest stable rate and for the speed, from one batch at the start."""
    edge = functools.partial(probes.gauss_newton_edge, model, images)
    with probes.without_statistics_gradient(model):
        constant = edge()
    loss = torch.nn.functional.cross_entropy(model(images), labels)
    slope = sum(
        float(g.square().sum()) for g in torch.autograd.grad(loss, list(model.parameters()))
    )
    gap = max(loss.item() - threshold, 0.0)
    return {
        "predicted": {
            "Gauss-Newton, whole net": edge(),
            "Gauss-Newton, statistics constant": constant,
            "Gauss-Newton, last linear layer": edge(parameters=list(model.classify.parameters())),
            "Gauss-Newton, filters whose length is felt": felt_edge(model, images),
        },
        "straight_line": gap / (lr * slope) if slope > 0 else None,
    }


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


def growth(before: Classifier, after: Classifier) -> float:
    """Growth factor of |w|^2 during training: median over the convolutions.

    The Gauss-Newton matrix of a scale-invariant layer is proportional to 1 / |w|^2, so its edge
    grows by this factor: the effective rate is lr / |w|^2, as the step of NLMS is mu / |u|^2.
    """
    pairs = zip(conv_layers(before).values(), conv_layers(after).values(), strict=True)
    with torch.no_grad():
        return float(
            np.median([float(b.weight.square().sum() / a.weight.square().sum()) for a, b in pairs])
        )


def _short_runs(task: _Task, start: Classifier, edge: float) -> dict[str, float]:
    """Candidates that make a few updates from the start at each rate they try."""
    short = functools.cache(lambda lr: task.train(lr, SHORT))
    longer = functools.cache(lambda lr: task.train(lr, 2 * SHORT)[1])

    def bounded(loss: np.ndarray) -> bool:
        # mean of three, not the smoothed loss; NaN counts as unbounded
        return bool(loss[-3:].mean() <= 2 * max(loss[0], math.log(task.classes)))

    def under_the_grown_edge(lr: float) -> bool:
        model, run = short(lr)
        return bool(np.isfinite(run.loss).all()) and lr <= edge * growth(start, model)

    highest = functools.partial(_highest, task.cell.rates)
    return {
        "8 updates at each rate": highest(lambda lr: bounded(short(lr)[1].loss)),
        "16 updates at each rate": highest(lambda lr: bounded(longer(lr).loss)),
        "16 updates, alive": highest(
            lambda lr: bounded(longer(lr).loss) and longer(lr).state == "stable"
        ),
        "Gauss-Newton times growth": highest(under_the_grown_edge),
    }


def _last_layer_alone(task: _Task, model: Classifier) -> float:
    """The highest stable rate of the linear layer while all layers before it keep their weights.

    Nothing normalizes the linear layer, whatever is done to those before it.
    """
    cell = task.cell
    inputs = probes.last_layer_inputs(model, task.images, cell.batch_size)

    def stable(lr: float) -> bool:
        run = run_sgd(
            copy.deepcopy(model.classify),
            inputs,
            task.labels[: len(inputs)],
            lr=lr,
            steps=cell.rate_steps,
            batch_size=cell.batch_size,
            momentum=cell.momentum,
            seed=cell.seed,
            classes=task.classes,
        )
        return bool(run.state == "stable")

    return _highest(cell.rates, stable)


def _highest(rates: tuple[float, ...], stable: Callable[[float], bool]) -> float:
    index = highest_on_grid(rates, stable)
    return rates[index] if index >= 0 else rates[0] / 2


@torch.no_grad()
def _straight_on(
    start: Classifier,
    after: Classifier,
    images: torch.Tensor,
    labels: torch.Tensor,
    threshold: float,
) -> float | None:
    """Updates to the threshold if the loss of one batch keeps falling as in the first few."""
    losses = [
        torch.nn.functional.cross_entropy(model(images), labels).item() for model in (start, after)
    ]
    if losses[0] <= threshold:
        return 0.0
    fall = losses[0] - losses[1]
    return SHORT * (losses[0] - threshold) / fall if fall > 0 else None


def _bound_of_inputs(spectra: list[probes.LayerSpectrum]) -> float:
    highest = max(layer.highest for layer in spectra)
    return 2 / highest if highest > 0 else math.inf
