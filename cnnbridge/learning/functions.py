"""The functions that tasks replace, until their last callers are gone."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from adaptive.checks import Array
from cnnbridge.learning import layer as layer_module
from cnnbridge.learning.audit import Audit
from cnnbridge.learning.compare import Comparison, compare
from cnnbridge.learning.layer import LayerTask
from cnnbridge.learning.network_task import NetworkTask
from cnnbridge.learning.one_layer import CURVATURES
from cnnbridge.learning.records import Edge, LayerPrediction, Observation, Prediction
from cnnbridge.learning.sgd import SGD
from cnnbridge.learning.sharpness import SharpnessTrack

EdgeObservation = Edge
NetworkPrediction = Prediction
NetworkObservation = Observation


@dataclass(frozen=True, eq=False)
class LayerObservation(Observation):
    """An observation with the modes of a prediction."""

    modes: Array = field(repr=False, kw_only=True)


def _sgd(given: dict[str, Any]) -> SGD:
    names = ("lr", "momentum", "weight_decay")
    return SGD(**{name: given.pop(name) for name in names if name in given})


def observe_layer(conv: Any, x: Any, target: Any, *, basis: Any = None, **given: Any) -> Any:
    """``observe_layer``, with modes where a basis is given."""
    seen = layer_module.observe_layer(conv, x, target, **given)
    if not isinstance(basis, LayerPrediction):
        return seen
    values = {f.name: getattr(seen, f.name) for f in fields(seen)}
    return LayerObservation(**values, modes=basis.project(seen))


observe_layer.__doc__ = layer_module.observe_layer.__doc__


def bisect_edge(conv: Any, x: Any, target: Any, **given: Any) -> Edge:
    """``LayerTask.edge``."""
    lower = given.pop("bracket", (0.01, 0.02))[0]
    sgd = _sgd({"lr": lower, **given})
    bias, device = given.pop("bias", None), given.pop("device", None)
    for name in ("momentum", "weight_decay"):
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
