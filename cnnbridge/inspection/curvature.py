"""Curvature of the loss that is trained: along the modes of every layer, and over all weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from cnnbridge import _checks
from cnnbridge.inspection.record import LayerCurvature, LayerInspection, Sharpness
from cnnbridge.layers.isolation import find_module, own_weights
from cnnbridge.learning.batch_loss import Loss
from cnnbridge.learning.mode_curvature import gradients_along
from cnnbridge.learning.objective import Objective
from cnnbridge.learning.one_layer import learns_bias
from cnnbridge.learning.sgd import SGD
from cnnbridge.learning.sharpness import largest_curvatures

__all__ = ["along_modes", "largest_of_layer", "sharpest"]

# random draws, each a backward pass: about a tenth of noise for a layer of 64 outputs
DRAWS = 4
# relative accuracy of the largest eigenvalues
TOLERANCE = 0.01
# eigenvalues of the network that are looked at
TOP = 3


def along_modes(
    model: nn.Module,
    batch: Any,
    loss: Loss,
    layers: Mapping[str, LayerInspection],
    skipped: dict[str, str],
    seed: int,
) -> dict[str, LayerInspection]:
    """The layers with the curvature of the loss along the modes that they show.

    Layers whose weights are frozen, shared or computed, and those that the batch's loss cannot be
    read for, keep theirs out; ``skipped`` says why under "curvature of NAME".

    Raises
    ------
    ValueError, TypeError : the loss has no Gauss-Newton matrix that can be drawn from.
    """
    objective = Objective(model, batch, loss)
    directions: dict[str, torch.Tensor] = {}
    for name, layer in layers.items():
        try:
            module = _checks.layer(name, find_module(objective.model, name))
            own_weights("the layer", module, objective.model, frozen_bias=True)
        except (TypeError, ValueError) as error:
            if layer.kind != "MultiheadAttention":
                skipped[f"curvature of {name}"] = str(error)
            continue
        directions[name] = _directions(layer, learns_bias(module)).to(module.weight.device)
    if not directions:
        raise ValueError("no layer has learned weights of its own")
    with objective.kept():
        drawn = gradients_along(objective, directions, draws=DRAWS, seed=seed)
    found = dict(layers)
    for name, g in drawn.items():
        # mean over the outputs of the group
        each = (g**2).mean(dim=2).cpu().numpy()
        found[name] = replace(layers[name], curvature=_curvature(layers[name], each))
    return found


def _directions(layer: LayerInspection, bias: bool) -> torch.Tensor:
    """(groups, L, k): the modes as unit vectors; a bias that does not learn takes no part."""
    pictures = np.concatenate([layer.strongest, layer.weakest], axis=1)
    rows = pictures.reshape(*pictures.shape[:2], -1)
    if bias:
        biases = np.concatenate([layer.strongest_bias, layer.weakest_bias], axis=1)
        rows = np.concatenate([rows, biases[..., None]], axis=2)
    return torch.from_numpy(rows).mT.contiguous().double()


def _curvature(layer: LayerInspection, each: Any) -> LayerCurvature:
    """The record of (draws, groups, k) squared gradients."""
    curvature = each.mean(axis=0)
    shown = layer.strongest.shape[1]
    values = np.concatenate(
        [
            layer.eigenvalues[:, ::-1][:, :shown],
            layer.eigenvalues[:, : layer.weakest.shape[1]],
        ],
        axis=1,
    )
    sgd = layer.sgd or SGD(1.0)
    return LayerCurvature(
        eigenvalues=values,
        curvature=curvature,
        standard_error=each.std(axis=0, ddof=1) / math.sqrt(len(each)),
        largest=math.nan,
        bound=sgd.highest_rate(float(curvature.max())),
    )


def largest_of_layer(
    model: nn.Module, batch: Any, loss: Loss, layer: LayerInspection
) -> LayerInspection:
    """The layer with the largest eigenvalue of its block of the Gauss-Newton matrix.

    Raises
    ------
    ValueError, TypeError : the layer does not learn, or the loss has no such matrix.
    """
    objective = Objective(model, batch, loss, layer.name)
    with objective.kept():
        values, _ = largest_curvatures(objective, "gauss_newton", TOLERANCE)
    largest = float(values[0])
    bound = (layer.sgd or SGD(1.0)).highest_rate(largest)
    none = np.zeros((layer.groups, 0))
    known = layer.curvature or LayerCurvature(none, none, none, largest, bound)
    return replace(layer, curvature=replace(known, largest=largest, bound=bound))


def sharpest(
    model: nn.Module, batches: Sequence[Any], loss: Loss, sgd: SGD | None, say: Callable[[str], Any]
) -> Sharpness:
    """The largest eigenvalues of the Hessian over all learned parameters.

    Raises
    ------
    ValueError, TypeError : nothing learns, or the loss is not finite or changes from pass to pass.
    """
    objective = Objective(model, list(batches), loss)
    with objective.kept():
        objective.check_start()
        say("sharpness: Lanczos iterations on the Hessian")
        values, _ = largest_curvatures(objective, "hessian", TOLERANCE, top=TOP)
    bound = (sgd or SGD(1.0)).highest_rate(max(0.0, float(values[0])))
    return Sharpness(largest=np.asarray(values), bound=bound, batches=len(batches))
