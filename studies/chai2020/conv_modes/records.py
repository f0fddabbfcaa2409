"""What the study records of one layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Edge", "Layer"]

Array = np.ndarray


@dataclass(frozen=True)
class Edge:
    """Growth per update of the strongest mode, at learning rates around the predicted bound.

    Attributes
    ----------
    momentum : torch's heavy-ball momentum.
    bound : predicted largest stable learning rate.
    observed : learning rate at which training starts to diverge, by bisection.
    rates : (K,) learning rates.
    predicted_growth, observed_growth : (K,) factor per update; above 1 the error grows.
    """

    momentum: float
    bound: float
    observed: float
    rates: Array
    predicted_growth: Array
    observed_growth: Array


@dataclass(frozen=True)
class Layer:
    """Prediction and observation of one layer.

    Attributes
    ----------
    name : of the layer in the network.
    geometry : the convolution in words.
    inputs : shape of the layer's input.
    taps : L, weights per output channel, the bias included.
    eigenvalues : (G, L) of R, one row per group, ascending.
    stationary : (G, L) True where the input does not excite the mode, so that it never moves.
    lr : torch's learning rate of the comparison.
    bound : predicted largest stable learning rate, momentum 0.
    selected : (output channel, mode) of the trajectories that are kept.
    selected_labels : words for these modes.
    selected_tau : their time constants in updates.
    predicted_modes, observed_modes : (steps + 1, len(selected)) natural modes, float64.
    predicted_loss, observed_loss : (steps + 1,) mean squared error of the layer, float64.
    mode_error : (M, L) largest error of each mode over the run in float64, relative to the norm
        of the initial weight error.
    mode_error_float32 : the same for the run in float32.
    fastest, slowest : shortest and longest time constant of the modes that move, in updates.
    edges : one per momentum.
    """

    name: str
    geometry: str
    inputs: tuple[int, ...]
    taps: int
    eigenvalues: Array
    stationary: Array
    lr: float
    bound: float
    selected: tuple[tuple[int, int], ...]
    selected_labels: tuple[str, ...]
    selected_tau: Array
    predicted_modes: Array
    observed_modes: Array
    predicted_loss: Array
    observed_loss: Array
    mode_error: Array
    mode_error_float32: Array
    fastest: float
    slowest: float
    edges: tuple[Edge, ...]

    @classmethod
    def restored(cls, data: Mapping[str, Any]) -> Layer:
        """The record from its fields as plain data, as they are read back from disk."""
        edges = tuple(Edge(**edge) for edge in data["edges"])
        return cls(**{**data, "edges": edges})

    @property
    def spread(self) -> float:
        """lambda_max / lambda_min over the modes that move."""
        moving = self.eigenvalues[~self.stationary]
        return float(moving.max() / moving.min())

    def arrays(self) -> dict[str, Array]:
        """Everything but the words, by name."""
        kept = {
            field.name: np.asarray(getattr(self, field.name))
            for field in dataclasses.fields(self)
            if field.name not in ("name", "geometry", "edges")
        }
        for edge in self.edges:
            for field in dataclasses.fields(edge):
                key = f"edge_momentum_{edge.momentum:g}_{field.name}"
                kept[key] = np.asarray(getattr(edge, field.name))
        return kept

    def row(self) -> dict[str, Any]:
        """The scalars, for the summary and the tables."""
        return {
            "layer": self.name,
            "geometry": self.geometry,
            "inputs": list(self.inputs),
            "groups": len(self.eigenvalues),
            "taps": self.taps,
            "stationary_modes": int(self.stationary.sum()),
            "modes": int(self.stationary.size),
            "eigenvalue_spread": self.spread,
            "lr": self.lr,
            "lr_bound": self.bound,
            "fastest_time_constant": self.fastest,
            "slowest_time_constant": self.slowest,
            "loss_start": float(self.observed_loss[0]),
            "loss_end": float(self.observed_loss[-1]),
            "max_mode_error_float64": float(np.max(self.mode_error)),
            "max_mode_error_float32": float(np.max(self.mode_error_float32)),
            "edges": [
                {"momentum": e.momentum, "predicted": e.bound, "observed": e.observed}
                for e in self.edges
            ],
        }
