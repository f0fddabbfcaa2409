"""Updates w <- w + gain u e* whose gain follows the error, on one compiled loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from adaptive import _kernels_gain
from adaptive.algorithms.base import Algorithm
from adaptive.regressors import Regressors
from adaptive.streaming import Block, Memory


@dataclass(frozen=True, kw_only=True)
class ErrorControlled(Algorithm):
    """Shared half of the algorithms that ``_kernels_gain.error_controlled`` runs."""

    linear: ClassVar[bool] = False
    rule: ClassVar[int]

    def parameters(self, taps: int) -> tuple[float, ...]:
        """What the rule calls its settings."""
        raise NotImplementedError

    def start(self) -> float:
        """The first entry of the running state before the first sample."""
        return 0.0

    @property
    def scale_free(self) -> bool:
        """Never: a setting is in the units of d or of u."""
        return False

    def allocate(self, memory: Memory, lines: Regressors, dtype: np.dtype) -> None:
        """A running state for each output."""
        memory["state"] = np.zeros((memory["w"].shape[0], 4))
        memory["state"][:, 0] = self.start()

    def advance(self, memory: Memory, block: Block) -> int:
        """Run the compiled loop."""
        w, lines = memory["w"], block.lines
        settings = np.array(self.parameters(w.shape[1]))
        x = np.concatenate([memory["regressors"], lines.buffer]) if self.lookback else lines.buffer
        return block.per_output(
            lambda m, d, error: _kernels_gain.error_controlled(
                self.rule, settings, x, self.lookback, lines.hop, d, block.mu, memory["state"][m],
                w[m], error, m, *block.record,
            )
        )  # fmt: skip
