"""A few layers looked at closely: their largest curvature, normalizations, and horizons."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from cnnbridge.inspection.curvature import largest_of_layer
from cnnbridge.inspection.record import LayerHorizon, LayerInspection
from cnnbridge.layers.capture import capture
from cnnbridge.learning.batch_loss import Loss
from cnnbridge.learning.network_task import NetworkTask
from cnnbridge.normalization.spectra import compare_normalizations

__all__ = ["looked_at_closely"]

# the parts of a normalization
NORMALIZATIONS = ("none", "center", "amplify", "suppress", "full")
# steps that a prediction is compared with training for, and the error that ends its horizon
STEPS = 50
TOLERANCE = 0.1


def looked_at_closely(
    model: nn.Module,
    batch: Any,
    loss: Loss,
    layer: LayerInspection,
    run: Callable[[nn.Module, Any], object],
    skipped: dict[str, str],
) -> LayerInspection:
    """The layer with all three; what cannot be had is named in ``skipped``."""
    name = layer.name
    for part, add in (
        ("largest curvature", lambda known: largest_of_layer(model, batch, loss, known)),
        ("normalization", lambda known: _normalization(model, batch, known, run)),
        ("horizon", lambda known: _horizon(model, batch, loss, known)),
    ):
        try:
            layer = add(layer)
        except (TypeError, ValueError, RuntimeError) as error:
            skipped[f"{part} of {name}"] = str(error)
    return layer


def _normalization(
    model: nn.Module, batch: Any, layer: LayerInspection, run: Callable[[nn.Module, Any], object]
) -> LayerInspection:
    with capture(model, layer.name) as tape, torch.no_grad():
        run(model, batch)
    found = compare_normalizations(tape.inputs, tape.layer, NORMALIZATIONS)  # type: ignore[arg-type]
    spectra = {name: spectrum.measured for name, spectrum in found.items()}
    return replace(layer, normalization=spectra)


def _horizon(model: nn.Module, batch: Any, loss: Loss, layer: LayerInspection) -> LayerInspection:
    if layer.sgd is None:
        raise ValueError("a horizon needs the rate that the layer is trained at: give lr=")
    task = NetworkTask(model, batch, loss).layer(layer.name)
    found = task.compare(layer.sgd, STEPS, tolerances=(TOLERANCE,))
    reached = found.horizon[TOLERANCE]
    error = float(found.displacement_error[found.steps_compared - 1])
    horizon = LayerHorizon(2, STEPS, STEPS if reached is None else reached, error)
    return replace(layer, horizons=(horizon,))
