"""Trains the network at one rate and measures the curvatures on the way."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from torch import nn

import cnnbridge
from studies.related.edge_of_stability import Cell
from studies.training.images import tensors
from studies.training.sgd import reproducible

__all__ = ["follow", "lms_curvature", "measure", "network"]


def measure(cell: Cell) -> dict[str, Any]:
    """Train at one rate; the fields of a ``Course``, but for ``lr`` and ``steps``."""
    images, labels, classes = tensors(cell.images)
    # one thread: the layers are too small for more to be faster
    with reproducible(cell.seed, threads=1 if cell.device == "cpu" else 0):
        return follow(images.to(cell.device), labels.to(cell.device), classes, cell)


def follow(images: torch.Tensor, labels: torch.Tensor, classes: int, cell: Cell) -> dict[str, Any]:
    """Train on given images and measure on the way.

    Parameters
    ----------
    images, labels, classes : (N, C, H, W), (N,) and how many there are.
    cell : the settings; its images are not looked at.

    Returns
    -------
    See ``measure``.
    """
    inputs: dict[str, list[float]] = {name: [] for name in cell.layers}

    def watch(n: int, model: nn.Module) -> None:
        for name, values in inputs.items():
            values.append(lms_curvature(model, name, images))

    wanted = nn.functional.one_hot(labels, classes).to(images)
    model = network(images, classes, cell.widths, cell.seed)
    track = cnnbridge.NetworkTask(model, (images, wanted), nn.MSELoss()).track(
        cell.lr,
        cell.steps,
        every=max(cell.steps // cell.measurements, 1),
        layers=cell.layers,
        watch=watch,
    )
    return {
        "at": track.steps,
        "hessian": track.hessian,
        "gauss_newton": track.gauss_newton,
        "layers": dict(track.layers),
        "inputs": {name: np.array(values) for name, values in inputs.items()},
        "loss": track.loss,
    }


@torch.no_grad()
def network(images: torch.Tensor, classes: int, widths: tuple[int, int], seed: int) -> nn.Module:
    """The network for (N, C, H, W) images, its weights half of torch's, on their device."""
    with reproducible(seed):
        body = OrderedDict(
            conv1=nn.Conv2d(images.shape[1], widths[0], 5, stride=2),
            tanh1=nn.Tanh(),
            conv2=nn.Conv2d(widths[0], widths[1], 3),
            tanh2=nn.Tanh(),
            flatten=nn.Flatten(),
        )
        features = nn.Sequential(body)(images[:1].cpu()).shape[1]
        model = nn.Sequential(OrderedDict(body, linear=nn.Linear(features, classes)))
    for part in model.parameters():
        part.mul_(0.5)
    return model.to(images.device)


def lms_curvature(model: nn.Module, name: str, images: torch.Tensor) -> float:
    """2 λmax(R) / M of a layer's input, with the constant tap of the bias.

    This is the curvature of the layer's mean squared error if its M outputs had desired responses
    of their own; the layer would learn them at any lr below M / λmax(R). For the last layer of a
    network with the mean squared error it is exactly the layer's own sharpness.
    """
    layer: Any = model.get_submodule(name)
    with cnnbridge.capture(model, name) as tape:
        tape.run([images])
    R = cnnbridge.patch_autocorrelation(tape.inputs.double(), layer, bias=True)
    return 2 * float(torch.linalg.eigvalsh(R).max()) / int(layer.weight.shape[0])
