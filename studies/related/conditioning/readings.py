"""The measurements of all networks as arrays by network, seed, time and layer."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from studies.engine.protocol import Measured
from studies.related.conditioning import NETS, Config, Net

__all__ = ["MEASURES", "Readings", "median"]

Array = np.ndarray

MEASURES = ("R", "G", "R x G", "curvature")


@dataclass(frozen=True)
class Readings:
    """Condition numbers and curvature of every layer.

    Attributes
    ----------
    layers : their names, the linear one last.
    values : for each net and measure, (seeds, times, layers), log10; NaN where a network was not
        measured or did not stay stable. The measures are those of ``MEASURES``.
    losses : for each net, (measured seeds,) loss at the end.
    """

    layers: tuple[str, ...]
    values: dict[tuple[Net, str], Array]
    losses: dict[Net, Array]

    @classmethod
    def of(cls, config: Config, measured: Sequence[Measured]) -> Readings:
        """Sort the networks that were measured; others leave NaN."""
        layers = (*(f"conv{i}" for i in range(1, len(config.cell.widths) + 1)), "linear")
        seeds = sorted({m.cell.seed for m in measured})
        values: dict[tuple[Net, str], Array] = {}
        losses = {}
        for net in NETS:
            mine = {
                m.cell.seed: m.result for m in measured if m.cell.net == net and m.error is None
            }
            for name in MEASURES:
                table = np.full((len(seeds), len(config.cell.times), len(layers)), np.nan)
                for seed, result in mine.items():
                    for t, rows in enumerate(result["readings"]):
                        numbers = [max(row[name], 1e-300) for row in rows]
                        table[seeds.index(seed), t] = np.log10(numbers)
                values[net, name] = table
            losses[net] = np.array([result["loss"] for result in mine.values()], dtype=float)
        return cls(layers, values, losses)

    def hidden(self, net: Net, measure: str = "R x G") -> Array:
        """(seeds,) mean log10 of one measure over hidden convolutions and times."""
        mean: Array = self.values[net, measure][:, :, 1:-1].mean(axis=(1, 2))
        return mean

    def last_over_others(self, net: Net, measure: str) -> Array:
        """(seeds,) log10 of the linear layer's over the largest convolution's, mean over times."""
        table = self.values[net, measure]
        over: Array = (table[:, :, -1] - table[:, :, :-1].max(axis=2)).mean(axis=1)
        return over


def median(values: Array) -> Array:
    """Median over the first axis, NaN ignored; NaN where there is nothing else."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        middle: Array = np.nanmedian(values, axis=0)
    return middle
