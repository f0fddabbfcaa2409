"""Recursive least squares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from adaptive import _kernels
from adaptive import checks as _checks
from adaptive.algorithms.base import Algorithm, Regularisation, run, setting
from adaptive.regressors import Regressors
from adaptive.results import FilterRun
from adaptive.streaming import Block, Memory, Record


@dataclass(frozen=True, kw_only=True)
class RLS(Algorithm):
    """Recursive least squares, in a form that rounding cannot destabilise.

    After n samples w minimises sum_i forgetting^(n-i) |e_i|^2 + delta forgetting^n |w - w0|^2.
    The inverse correlation matrix is kept in factors (Bierman's update), so it stays positive.
    In a network: full whitening of a layer's input.

    Parameters
    ----------
    forgetting : in (0, 1]; 1 never forgets.
    delta : initial regularisation in units of input power; None takes 1e-2 of the mean |u_k|^2.

    Notes
    -----
    Haykin, Adaptive Filter Theory, RLS; Bierman 1977 for the factors. O(L^2) per sample.
    """

    name: ClassVar[str] = "rls"
    edgeless: ClassVar[str | None] = "it has no step size"
    regularisation: ClassVar[Regularisation | None] = Regularisation("delta", 1e-2)

    forgetting: float = setting("weight of the past, in (0, 1]", 1.0)
    delta: float | None = setting("initial regularisation, in units of input power", None)

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        if self.delta is not None:
            object.__setattr__(self, "delta", _checks.positive("delta", self.delta))
        object.__setattr__(self, "forgetting", _checks.positive("forgetting", self.forgetting))
        if self.forgetting > 1:
            raise ValueError(f"forgetting must be at most 1; got {self.forgetting}")

    def allocate(self, memory: Memory, lines: Regressors, dtype: np.dtype) -> None:
        """Factors of the inverse correlation matrix."""
        assert self.delta is not None
        memory["V"] = np.zeros((lines.taps, lines.taps), dtype)
        memory["D"] = np.full(lines.taps, 1 / self.delta, memory["w"].real.dtype)

    def advance(self, memory: Memory, block: Block) -> int:
        """Run the compiled loop."""
        assert self.delta is not None
        lines = block.lines
        stop: int = _kernels.recursive_least_squares(
            lines.buffer, lines.hop, block.d, block.mu, self.forgetting, 1e12 / self.delta,
            memory["w"], memory["V"], memory["D"], block.error, *block.record,
        )  # fmt: skip
        return stop


def rls(
    u: ArrayLike,
    d: ArrayLike,
    *,
    forgetting: float = 1.0,
    delta: float | None = None,
    taps: int | None = None,
    w0: ArrayLike | None = None,
    record: Record = "last",
    adapt: ArrayLike | None = None,
    delay: int = 0,
) -> FilterRun:
    """Recursive least squares, in a form that rounding cannot destabilise.

    Parameters
    ----------
    u, d, taps, w0, record, adapt, delay : as in :func:`adaptive.lms`.
    forgetting, delta : as for :class:`RLS`.

    Returns
    -------
    FilterRun

    Raises
    ------
    TypeError, ValueError : as :func:`adaptive.lms`;
        forgetting outside (0, 1], delta <= 0, silence without delta.

    Examples
    --------
    >>> u = np.cumsum(np.random.default_rng(0).standard_normal(400))
    >>> d = np.convolve(u, [1.0, -0.5, 0.25])[:400]
    >>> rls(u, d, delta=1e-9, taps=3).weights.round(6).tolist()
    [1.0, -0.5, 0.25]
    """
    return run(
        RLS(forgetting=forgetting, delta=delta),
        u,
        d,
        taps=taps,
        w0=w0,
        record=record,
        adapt=adapt,
        delay=delay,
    )
