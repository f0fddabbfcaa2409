"""The curvatures along one training run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

__all__ = ["Course"]

Array = np.ndarray


@dataclass(frozen=True)
class Course:
    """One training run, measured K times; curvatures are in units of 1 / lr.

    Attributes
    ----------
    lr, steps : learning rate, and the steps that were asked for.
    at : (K,) steps at which it was measured.
    hessian, gauss_newton : (K,) largest eigenvalue of each for the whole network.
    layers : for each layer, (K,) largest eigenvalue of its own Gauss-Newton block.
    inputs : for each layer, (K,) ``lms_curvature`` of its input.
    loss : (steps + 1,) at every step; NaN after a divergence.
    """

    lr: float
    steps: int
    at: Array
    hessian: Array
    gauss_newton: Array
    layers: Mapping[str, Array]
    inputs: Mapping[str, Array]
    loss: Array

    @property
    def edge(self) -> float:
        """2 / lr, the sharpness up to which a quadratic loss is stable."""
        return 2 / self.lr

    @property
    def relative(self) -> Array:
        """(K,) sharpness of the Hessian over 2 / lr."""
        ratio: Array = self.hessian / self.edge
        return ratio

    @property
    def last_third(self) -> Array:
        """(K,) whether a measurement belongs to the last third of the run."""
        late: Array = self.at >= 2 * self.steps / 3
        return late

    @property
    def reached_at(self) -> int | None:
        """First measured step with the Hessian's sharpness at 2 / lr or above, or None."""
        reached = self.at[self.hessian >= self.edge]
        return int(reached[0]) if len(reached) else None

    @property
    def diverged(self) -> bool:
        """Whether the loss stopped being finite."""
        return not bool(np.isfinite(self.loss).all())

    def late_mean(self, values: Array) -> float:
        """Mean of (K,) curvatures over the last third, over 2 / lr; NaN if it was not reached."""
        late = self.last_third
        return float(values[late].mean()) / self.edge if late.any() else float("nan")
