"""Trains the network and one of its conv layers alone, and predicts how the layer learns."""

from __future__ import annotations

import copy
import dataclasses
import functools
from typing import Any

import numpy as np
import torch
from torch import nn

import cnnbridge
from cnnbridge.results import LayerPrediction, Observation
from studies.chai2020.conv_modes import EDGE_TOLERANCE, Cell
from studies.chai2020.conv_modes.records import Edge, Layer
from studies.training.images import tensors
from studies.training.networks import SmallCNN, conv_layers
from studies.training.sgd import TrainingRun, reproducible, train_classifier

__all__ = ["growth", "measure", "study_layer"]

Array = np.ndarray


def measure(cell: Cell) -> dict[str, Any]:
    """Study one layer of the trained network.

    Returns
    -------
    dict with ``layer``, the fields of ``Layer``, and ``network``: the number of images and of
    updates, the final loss and the accuracies of the network's training.
    """
    with reproducible(cell.seed, cell.threads):
        initial, trained, training = _network(dataclasses.replace(cell, layer=""))
        images = tensors(cell.images)[0]
        x, target = _recorded(trained, cell.layer, images[: cell.layer_images].to(cell.device))
        layer = study_layer(conv_layers(initial)[cell.layer], x, target, cell)
    return {
        "layer": dataclasses.asdict(layer),
        "network": {
            "images": len(images),
            "updates": len(training.loss),
            "final_loss": float(training.loss[-50:].mean()),
            "train_accuracy": training.train_accuracy,
            "test_accuracy": training.test_accuracy,
        },
    }


@functools.lru_cache(maxsize=1)
def _network(cell: Cell) -> tuple[nn.Module, nn.Module, TrainingRun]:
    """The network before training, after training, and its training; the same for all layers."""
    images, labels, classes = tensors(cell.images)
    images, labels = images.to(cell.device), labels.to(cell.device)
    initial = SmallCNN(images.shape[1], classes, cell.width).to(cell.device)
    trained = copy.deepcopy(initial)
    held_out = int(cell.test_fraction * len(images))
    cut = len(images) - held_out
    training = train_classifier(
        trained,
        images[:cut],
        labels[:cut],
        epochs=cell.epochs,
        batch_size=cell.batch_size,
        lr=cell.train_lr,
        momentum=cell.train_momentum,
        seed=cell.seed,
        test=(images[cut:], labels[cut:]) if held_out else None,
    )
    return initial, trained, training


def _recorded(
    model: nn.Module, name: str, images: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Input and output of a layer of the trained network on the images."""
    with cnnbridge.capture(model, name) as tape:
        tape.run(images.split(256))
    return tape.inputs.to(images.device), tape.outputs.to(images.device)


def study_layer(student: nn.Conv2d, x: torch.Tensor, target: torch.Tensor, cell: Cell) -> Layer:
    """Predict how one conv layer learns a desired response, train it, and record both.

    Parameters
    ----------
    student : the layer at its start; on the device of x. It is not changed.
    x : (N, C, H, W) inputs, float32.
    target : (N, M, H', W') desired response, float32.
    cell : of the study.
    """
    exact = copy.deepcopy(student).double()
    inputs, wanted = x.double(), target.double()
    task = cnnbridge.LayerTask(exact, inputs, wanted)
    bound = task.bounds().mean
    lr = cell.lr_fraction * bound
    prediction = task.predict(lr, cell.steps)
    float64 = task.observe(lr, cell.steps)
    float32 = cnnbridge.LayerTask(student, x, target).observe(lr, cell.steps)
    tau, stationary = prediction.time_constants, prediction.stationary
    selected, labels = _select(
        prediction.eigenvalues, stationary, tau, prediction.modes[0], cell.steps
    )
    outputs, modes = np.transpose(selected)
    share = exact.out_channels // exact.groups
    return Layer(
        name=cell.layer,
        geometry=_geometry(student),
        inputs=tuple(x.shape),
        taps=prediction.eigenvalues.shape[1],
        eigenvalues=prediction.eigenvalues,
        stationary=stationary,
        lr=lr,
        bound=bound,
        selected=selected,
        selected_labels=labels,
        selected_tau=tau[outputs // share, modes],
        predicted_modes=prediction.modes[:, outputs, modes],
        observed_modes=prediction.project(float64)[:, outputs, modes],
        predicted_loss=prediction.loss,
        observed_loss=float64.loss,
        mode_error=_mode_error(prediction, float64),
        mode_error_float32=_mode_error(prediction, float32),
        fastest=float(tau[~stationary].min()),
        slowest=float(tau[~stationary].max()),
        edges=tuple(_edge(task, beta, cell) for beta in cell.edge_momenta),
    )


def _mode_error(prediction: LayerPrediction, observation: Observation) -> Array:
    """(M, L) largest error of each mode over the whole run; inf if the run diverged."""
    if observation.diverged_at is not None:
        return np.full(prediction.modes.shape[1:], np.inf)
    return cnnbridge.compare(prediction, observation).mode_error


def _edge(task: cnnbridge.LayerTask, momentum: float, cell: Cell) -> Edge:
    """The learning rate at which training starts to diverge, and the growth around it."""
    sgd = cnnbridge.SGD(0.01, momentum)
    found = task.edge(sgd, steps=cell.edge_steps, tolerance=EDGE_TOLERANCE / 2)
    bound = task.bounds(sgd).mean
    # denser near the edge, where the growth with momentum changes abruptly
    offsets = np.array([0.0025, 0.005, 0.01, 0.03])
    rates = bound * np.concatenate([1 - offsets[::-1], [1.0], 1 + offsets])
    predicted, observed = [], []
    for lr in rates:
        near = task.predict(sgd.at(lr), cell.growth_steps)
        seen = near.project(task.observe(sgd.at(lr), cell.growth_steps))
        group, mode = np.unravel_index(np.argmax(near.eigenvalues), near.eigenvalues.shape)
        share = task.geometry.out_channels // task.geometry.groups
        path = seen[:, group * share : (group + 1) * share, mode]
        predicted.append(near.factors[group, mode])
        observed.append(growth(path, order=1 if momentum == 0 else 2))
    return Edge(momentum, bound, found.lr, rates, np.asarray(predicted), np.asarray(observed))


def growth(path: Array, order: int) -> float:
    """Factor per update of a mode that obeys a linear recurrence of the given order.

    The recurrence v(n+1) = a v(n) + b v(n-1) is fitted to the observed mode by least squares over
    updates and outputs; the root of larger magnitude is the growth. A ratio of magnitudes would
    contain the other root of the momentum for dozens of updates.

    Parameters
    ----------
    path : (updates, outputs) of the mode.
    order : 1 without momentum, 2 with it.
    """
    past = np.stack([path[order - 1 - lag : len(path) - 1 - lag].ravel() for lag in range(order)])
    coefficients = np.linalg.lstsq(past.T, path[order:].ravel(), rcond=None)[0]
    return float(np.abs(np.roots([1.0, *-coefficients])).max())


def _select(
    eigenvalues: Array, stationary: Array, tau: Array, start: Array, steps: int
) -> tuple[tuple[tuple[int, int], ...], tuple[str, ...]]:
    """A strong, a middle and a slow mode to draw, each in the output where it starts largest.

    The strongest mode has the largest eigenvalue. The slow one has the time constant closest to the
    length of the run, so that the run can show it. The middle one lies between them on a log scale.
    """
    groups = len(eigenvalues)
    share = len(start) // groups
    wanted = [("strongest", np.unravel_index(np.argmax(eigenvalues), eigenvalues.shape))]
    decays = ~stationary & (tau > 0) & np.isfinite(tau)
    if decays.any():
        # a mode that is gone after one update has tau = 0
        log_tau = np.log(np.maximum(tau, 0.1), where=decays, out=np.full(tau.shape, np.nan))
        slow = np.nanargmin(np.abs(log_tau - np.log(steps)))
        halfway = (np.nanmin(log_tau) + log_tau.flat[slow]) / 2
        middle = np.nanargmin(np.abs(log_tau - halfway))
        wanted += [
            (label, np.unravel_index(k, tau.shape))
            for label, k in (("middle", middle), ("slow", slow))
        ]
    chosen: dict[tuple[int, int], str] = {}
    for label, (group, mode) in wanted:
        outputs = slice(group * share, (group + 1) * share)
        output = group * share + int(np.argmax(np.abs(start[outputs, mode])))
        chosen.setdefault((int(output), int(mode)), label)
    return tuple(chosen), tuple(chosen.values())


def _geometry(conv: nn.Conv2d) -> str:
    height, width = conv.kernel_size
    words = f"{height}x{width}, {conv.in_channels} to {conv.out_channels} channels"
    words += f", {conv.groups} groups" if conv.groups > 1 else ""
    return words + (", bias" if conv.bias is not None else "")
