"""What is recorded of the input of one convolution of one network at one time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Ends", "Site"]

Array = np.ndarray


@dataclass(frozen=True)
class Site:
    """Spectra of R at one input, behind each normalization variant.

    Attributes
    ----------
    network : variant that the network itself was trained with.
    seed : of the network.
    update : of training.
    layer : number of the convolution, 2 to 6.
    eigenvalues : (L,) measured, by variant, ascending.
    error : largest difference between predicted and measured, over the largest eigenvalue.
    outside : how far the worst eigenvalue lies outside Ostrowski's interval, over the largest one.
    low, high : (L,) that interval, by variant.
    deviations : (C,) standard deviations of the channels.
    ceiling : upper bound from the trace on the largest eigenvalue behind full BatchNorm.
    """

    network: str
    seed: int
    update: int
    layer: int
    eigenvalues: dict[str, Array]
    error: float
    outside: float
    low: dict[str, Array]
    high: dict[str, Array]
    deviations: Array
    ceiling: float

    def over_none(self, variant: str, index: int) -> float:
        """Ratio of one eigenvalue behind a variant to the one behind nothing; 1 if both are 0."""
        above, below = (self.eigenvalues[v][index] for v in (variant, "none"))
        floor = 1e-12 * self.eigenvalues["none"][-1]
        return 1.0 if above <= floor and below <= floor else float(above / max(below, floor))


@dataclass(frozen=True)
class Ends:
    """Smallest and largest eigenvalue of R as the network itself has it.

    Attributes
    ----------
    network, seed, update, layer : as in ``Site``.
    position : of the network's own normalization.
    lowest, highest : eigenvalues.
    """

    network: str
    position: str
    seed: int
    update: int
    layer: int
    lowest: float
    highest: float
