"""Affine projection: NLMS on the last few regressors together."""

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
class AffineProjection(Algorithm):
    """Affine projection: w(n+1) = w(n) + mu U (U^H U + eps I)^-1 e*, U = [u(n) .. u(n-order+1)].

    e holds the a priori errors of the last ``order`` samples; the first samples of a run are
    projected on as many as there were. Order 1 is NLMS. In a network: a step of the Kaczmarz kind
    on the last few examples together.

    Parameters
    ----------
    mu : step size, a pure number; stable for 0 < mu < 2.
    order : number of regressors projected on, 1 to about L.
    eps : in units of |u|^2; None takes 1e-3 of its mean, as for :class:`NLMS`.

    Notes
    -----
    Ozeki and Umeda 1984; Haykin, Adaptive Filter Theory. O(order^2 L) per sample.
    """

    name: ClassVar[str] = "affine_projection"
    normalized: ClassVar[bool] = True
    regularisation: ClassVar[Regularisation | None] = Regularisation("eps", 1e-3, whole=True)

    mu: StepSize = setting("step size")
    order: int = setting("regressors projected on")
    eps: float | None = setting("regularisation, in units of |u|^2", None)

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        object.__setattr__(self, "order", _checks.count("order", self.order))
        if self.eps is not None:
            object.__setattr__(self, "eps", _checks.nonnegative("eps", self.eps))

    @property
    def lookback(self) -> int:
        """Regressors before the present one."""
        return self.order - 1

    def allocate(self, memory: Memory, lines: Regressors, dtype: np.dtype) -> None:
        """Samples before the present one whose desired responses may be projected on."""
        # before a signal there is silence, which takes no part in a projection; before the first
        # sample of a draw there are regressors whose desired response nobody knows
        memory["known"] = np.array(0 if memory.has_past else self.lookback)

    def hold(self, memory: Memory, block: Block) -> int:
        """Filter only; later projections leave these samples and those before out."""
        memory["known"] = np.array(0)
        return super().hold(memory, block)

    def advance(self, memory: Memory, block: Block) -> int:
        """Run the compiled loop; at first on as many regressors as there have been."""
        lines = block.lines
        x = np.concatenate([memory["regressors"], lines.buffer])
        d = np.concatenate([memory["desired"], block.d])
        n, known = 0, int(memory["known"])
        while n < lines.samples and known < self.lookback:
            stop = self._advance(memory, block, x, d, slice(n, n + 1), known + 1)
            if stop >= 0:
                return n + stop
            n, known = n + 1, known + 1
        memory["known"] = np.array(known)
        if n == lines.samples:
            return -1
        stop = self._advance(memory, block, x, d, slice(n, lines.samples), self.order)
        return stop if stop < 0 else n + stop

    def _advance(
        self, memory: Memory, block: Block, x: np.ndarray, d: np.ndarray, part: slice, order: int
    ) -> int:
        """The loop over samples ``part`` of a block, on ``order`` regressors."""
        hop, taps = block.lines.hop, block.lines.taps
        first, last = part.start + self.order - order, part.stop + self.lookback
        offset, every, history = block.record
        wide = np.result_type(memory["w"], np.float64)
        G, e = np.empty((order, order), wide), np.empty((order, block.d.shape[1]), wide)
        stop: int = _kernels.affine_projection(
            x[first * hop : (last - 1) * hop + taps], hop, d[first:last],
            block.mu[part] if block.mu.size > 1 else block.mu, order, self.eps,
            G, e, memory["w"], block.error[part], offset + part.start, every, history,
        )  # fmt: skip
        return stop


def affine_projection(
    u: ArrayLike,
    d: ArrayLike,
    *,
    mu: StepSize,
    order: int,
    eps: float | None = None,
    taps: int | None = None,
    w0: ArrayLike | None = None,
    record: Record = "last",
    adapt: ArrayLike | None = None,
    delay: int = 0,
) -> FilterRun:
    """Affine projection: w <- w + mu U (U^H U + eps I)^-1 e*, U the last ``order`` regressors.

    Parameters
    ----------
    u, d, taps, w0, record, adapt, delay : as in :func:`adaptive.lms`.
    mu, order, eps : as for :class:`AffineProjection`.

    Returns
    -------
    FilterRun

    Raises
    ------
    TypeError, ValueError : as :func:`adaptive.lms`;
        order < 1, eps < 0, silence without eps.

    Examples
    --------
    >>> u = np.cumsum(np.random.default_rng(0).standard_normal(400))
    >>> d = np.convolve(u, [1.0, -0.5, 0.25])[:400]
    >>> affine_projection(u, d, mu=1.0, order=3, taps=3).weights.round(4).tolist()
    [1.0, -0.5, 0.25]
    """
    return run(
        AffineProjection(mu=mu, order=order, eps=eps),
        u,
        d,
        taps=taps,
        w0=w0,
        record=record,
        adapt=adapt,
        delay=delay,
    )
