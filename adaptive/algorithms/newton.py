"""LMS-Newton: LMS in the coordinates in which the input is white, as far as it is known."""

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
from adaptive.streaming import Block, Memory, Record, StepSize


@dataclass(frozen=True, kw_only=True)
class LMSNewton(Algorithm):
    """LMS-Newton: w(n+1) = w(n) + mu R(n)^-1 u(n) e*(n), R(n) the running autocorrelation.

    R(n) = forgetting R(n-1) + (1 - forgetting) u(n) u(n)^H, from R(-1) = delta I. All modes
    converge alike, 1 - mu a sample once R(n) is settled. With mu = 1 - forgetting this is
    :class:`RLS`; here the speed mu and the memory of R(n) are chosen apart.

    Parameters
    ----------
    mu : step size, a pure number; of the order of 1 / L or less.
    forgetting : of R(n), in (0, 1).
    delta : initial power of R, in units of input power; None takes the mean |u_k|^2.

    Notes
    -----
    Widrow and Stearns 1985, Adaptive Signal Processing, on the LMS/Newton algorithm; Diniz,
    Adaptive Filtering, on the estimate of R^-1. The factors are those of RLS (Bierman 1977).
    O(L^2) per sample.
    """

    name: ClassVar[str] = "lms_newton"
    normalized: ClassVar[bool] = True
    regularisation: ClassVar[Regularisation | None] = Regularisation("delta", 1.0)

    mu: StepSize = setting("step size")
    forgetting: float = setting("weight of the past, in (0, 1)", 0.99)
    delta: float | None = setting("initial power of R, in units of input power", None)

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        if self.delta is not None:
            object.__setattr__(self, "delta", _checks.positive("delta", self.delta))
        object.__setattr__(self, "forgetting", _checks.positive("forgetting", self.forgetting))
        if self.forgetting >= 1:
            raise ValueError(f"forgetting must be less than 1; got {self.forgetting}")

    def allocate(self, memory: Memory, lines: Regressors, dtype: np.dtype) -> None:
        """Factors of (1 - forgetting) R(-1)^-1."""
        assert self.delta is not None
        memory["V"] = np.zeros((lines.taps, lines.taps), dtype)
        start = (1 - self.forgetting) / self.delta
        memory["D"] = np.full(lines.taps, start, memory["w"].real.dtype)

    def advance(self, memory: Memory, block: Block) -> int:
        """Run the loop of RLS, with the steps mu / (1 - forgetting) in place of 1."""
        assert self.delta is not None
        lines, new = block.lines, 1 - self.forgetting
        stop: int = _kernels.recursive_least_squares(
            lines.buffer, lines.hop, block.d, block.mu / block.mu.dtype.type(new), self.forgetting,
            1e12 * new / self.delta, memory["w"], memory["V"], memory["D"], block.error,
            *block.record,
        )  # fmt: skip
        return stop


def lms_newton(
    u: ArrayLike,
    d: ArrayLike,
    *,
    mu: StepSize,
    forgetting: float = 0.99,
    delta: float | None = None,
    taps: int | None = None,
    w0: ArrayLike | None = None,
    record: Record = "last",
    adapt: ArrayLike | None = None,
    delay: int = 0,
) -> FilterRun:
    """LMS-Newton: w(n+1) = w(n) + mu R(n)^-1 u(n) e*(n), R(n) the running autocorrelation.

    Parameters
    ----------
    u, d, taps, w0, record, adapt, delay : as in :func:`adaptive.lms`.
    mu, forgetting, delta : as for :class:`LMSNewton`.

    Returns
    -------
    FilterRun

    Raises
    ------
    TypeError, ValueError : as :func:`adaptive.lms`; forgetting outside (0, 1), delta <= 0,
        silence without delta.

    Examples
    --------
    >>> u = np.cumsum(np.random.default_rng(0).standard_normal(4000))
    >>> d = np.convolve(u, [1.0, -0.5, 0.25])[:4000]
    >>> lms_newton(u, d, mu=0.05, taps=3).weights.round(6).tolist()
    [1.0, -0.5, 0.25]
    """
    algorithm = LMSNewton(mu=mu, forgetting=forgetting, delta=delta)
    return run(algorithm, u, d, taps=taps, w0=w0, record=record, adapt=adapt, delay=delay)
