"""Tasks made and asked in one call, as the tests need them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from cnnbridge.layers.geometry import Geometry
from cnnbridge.layers.patches import check_input
from cnnbridge.learning import minibatch
from cnnbridge.learning.audit import Audit
from cnnbridge.learning.compare import Comparison, compare
from cnnbridge.learning.layer import LayerTask
from cnnbridge.learning.minibatch import MinibatchEdges, MinibatchObservation, MinibatchPrediction
from cnnbridge.learning.network_task import NetworkTask
from cnnbridge.learning.one_layer import CURVATURES
from cnnbridge.learning.records import Edge, Observation, Prediction
from cnnbridge.learning.replay import Stream
from cnnbridge.learning.sgd import SGD
from cnnbridge.learning.sharpness import SharpnessTrack


def _sgd(given: dict[str, Any]) -> SGD:
    names = ("lr", "momentum", "weight_decay")
    return SGD(**{name: given.pop(name) for name in names if name in given})


def bisect_edge(conv: Any, x: Any, target: Any, **given: Any) -> Edge:
    """``LayerTask.edge``."""
    sgd = _sgd({"lr": 0.01, **given})
    bias, device = given.pop("bias", None), given.pop("device", None)
    for name in ("lr", "momentum", "weight_decay"):
        given.pop(name, None)
    return LayerTask(conv, x, target, bias=bias, device=device).edge(sgd, **given)


def predict_network(model: Any, x: Any, y: Any, loss: Any, **given: Any) -> Prediction:
    """``NetworkTask.predict``, all layers learning."""
    sgd = _sgd(given)
    return NetworkTask(model, (x, y), loss).predict(sgd, **given)


def observe_network(
    model: Any, x: Any, y: Any, loss: Any, *, layer: str | None = None, **given: Any
) -> Observation:
    """``NetworkTask.observe``."""
    sgd = _sgd(given)
    return NetworkTask(model, (x, y), loss, layer=layer).observe(sgd, **given)


def predict_in_place(model: Any, layer: str, x: Any, y: Any, loss: Any, **given: Any) -> Prediction:
    """``NetworkTask.predict``, one layer learning."""
    sgd = _sgd(given)
    return NetworkTask(model, (x, y), loss, layer=layer).predict(sgd, **given)


@dataclass(frozen=True, eq=False)
class InPlaceComparison:
    """The readings of one layer's curvature against the same training."""

    observation: Observation
    predictions: dict[str, Prediction]
    comparisons: dict[str, Comparison]


def compare_in_place(
    model: Any, layer: str, x: Any, y: Any, loss: Any, **given: Any
) -> InPlaceComparison:
    """One layer's training and its predictions by each curvature."""
    sgd, steps = _sgd(given), given["steps"]
    curvatures = given.get("curvatures", CURVATURES)
    task = NetworkTask(model, (x, y), loss, layer=layer)
    seen = task.observe(sgd, steps)
    predictions = {str(c): task.predict(sgd, steps, curvature=c) for c in curvatures}
    limits = given.get("tolerances", (0.1, 0.5))
    return InPlaceComparison(
        seen, predictions, {n: compare(p, seen, limits) for n, p in predictions.items()}
    )


def audit(model: Any, layer: str, x: Any, y: Any, loss: Any, **given: Any) -> Audit:
    """``NetworkTask.audit``."""
    sgd = _sgd(given)
    return NetworkTask(model, (x, y), loss, layer=layer).audit(sgd, **given)


def track_sharpness(model: Any, x: Any, y: Any, loss: Any, **given: Any) -> SharpnessTrack:
    """``NetworkTask.track``."""
    sgd = _sgd(given)
    return NetworkTask(model, (x, y), loss).track(sgd, **given)


def record_stream(model: Any, layer: str, batches: Any, loss: Any, **given: Any) -> Stream:
    """``NetworkTask.stream``."""
    sgd = _sgd(given)
    return NetworkTask(model, batches, loss, layer=layer).stream(sgd, **given)


def _minibatch(conv: Any, x: Any, target: Any, given: dict[str, Any]) -> Any:
    batch, replace = given.pop("batch"), given.pop("replace", True)
    return LayerTask(conv, x, target, bias=given.pop("bias", None)).minibatch(
        batch, replace=replace
    )


def predict_layer_minibatch(conv: Any, x: Any, target: Any, **given: Any) -> MinibatchPrediction:
    """``MinibatchTask.predict``."""
    sgd = _sgd(given)
    return _minibatch(conv, x, target, given).predict(sgd, **given)


def observe_layer_minibatch(conv: Any, x: Any, target: Any, **given: Any) -> MinibatchObservation:
    """``MinibatchTask.observe``."""
    sgd = _sgd(given)
    return _minibatch(conv, x, target, given).observe(sgd, **given)


def compare_minibatch(prediction: Any, observation: Any) -> Any:
    """The comparison that ``MinibatchTask.compare`` makes."""
    return minibatch.compare_minibatch(prediction, observation)


def _without_target(conv: Any, x: Any, given: dict[str, Any]) -> Any:
    geometry = Geometry.of(conv)
    check_input("x", x, geometry)
    nothing = torch.zeros(geometry.output_shape(tuple(x.shape)), dtype=torch.float64)
    return _minibatch(conv, x, nothing, given)


def layer_edges(conv: Any, x: Any, **given: Any) -> MinibatchEdges:
    """``MinibatchTask.edges``; no target enters."""
    return _without_target(conv, x, given).edges(**given)


def bisect_minibatch_edge(conv: Any, x: Any, **given: Any) -> Edge:
    """``MinibatchTask.edge``; no target enters."""
    return _without_target(conv, x, given).edge(given.pop("lr", 0.01), **given)
