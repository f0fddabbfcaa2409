"""Proportionate steps: large weights move more, which suits sparse responses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from adaptive import _kernels_gain
from adaptive import checks as _checks
from adaptive.algorithms.base import run, setting
from adaptive.algorithms.projection import AffineProjection
from adaptive.results import FilterRun
from adaptive.streaming import Block, Memory, Record, StepSize


@dataclass(frozen=True, kw_only=True)
class ProportionateAffineProjection(AffineProjection):
    """Improved proportionate affine projection: affine projection whose steps follow |w_k|.

    w(n+1) = w(n) + mu G U (U^H G U + eps (1 - alpha) / (2 L) I)^-1 e*, U = [u(n) .. u(n-order+1)],
    G = diag(g), g_k = (1 - alpha) / (2 L) + (1 + alpha) |w_k| / (2 sum_j |w_j|).

    Parameters
    ----------
    mu, order, eps : as for :class:`AffineProjection`.
    alpha : in [-1, 1): -1 gives every weight the same step, which is affine projection; towards 1
        the steps are in proportion to the weights. 0 or -0.5 suit echo paths.

    Notes
    -----
    Benesty and Gay 2002, An improved PNLMS algorithm, for order 1: the gains are g_k there, without
    their small constant beside the sum of the weights; at w = 0 all gains are equal. With several
    orders, U^H G U as in Hoshuyama, Goubran and Sugiyama 2004. O(order^2 L) per sample.
    """

    name: ClassVar[str] = "proportionate_affine_projection"
    linear: ClassVar[bool] = False

    alpha: float = setting("how far steps follow the weights, in [-1, 1)", 0.0)

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        object.__setattr__(self, "alpha", _checks.number("alpha", self.alpha))
        if not -1 <= self.alpha < 1:
            raise ValueError(f"alpha must be in [-1, 1); got {self.alpha}")

    def _advance(
        self, memory: Memory, block: Block, x: np.ndarray, d: np.ndarray, part: slice, order: int
    ) -> int:
        """The loop over samples ``part`` of a block, on ``order`` regressors."""
        assert self.eps is not None
        eps, hop, taps = self.eps, block.lines.hop, block.lines.taps
        first, last = part.start + self.order - order, part.stop + self.lookback
        lines = x[first * hop : (last - 1) * hop + taps]
        now = block.part(part.start, part.stop)

        def one(m: int, _: np.ndarray, error: np.ndarray) -> int:
            stop: int = _kernels_gain.proportionate(
                lines, hop, np.ascontiguousarray(d[first:last, m]), now.mu, order, eps, self.alpha,
                memory["w"][m], error, m, *now.record,
            )  # fmt: skip
            return stop

        return now.per_output(one)


@dataclass(frozen=True, kw_only=True)
class IPNLMS(ProportionateAffineProjection):
    """Improved proportionate NLMS: w(n+1) = w(n) + mu G u(n) e*(n) / (u^H G u + eps (1-alpha)/2L).

    The diagonal G gives large weights large steps; :class:`ProportionateAffineProjection` says how,
    and this is its order 1.

    Parameters
    ----------
    mu : step size, a pure number; stable for 0 < mu < 2.
    alpha : in [-1, 1), as there; -1 is NLMS.
    eps : in units of |u|^2, as for :class:`NLMS`.

    Notes
    -----
    Benesty and Gay 2002, An improved PNLMS algorithm.
    """

    name: ClassVar[str] = "ipnlms"

    order: int = setting("1", 1)

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        if self.order != 1:
            raise ValueError(f"order must be 1 for ipnlms; got {self.order}")


def ipnlms(
    u: ArrayLike,
    d: ArrayLike,
    *,
    mu: StepSize,
    alpha: float = 0.0,
    eps: float | None = None,
    taps: int | None = None,
    w0: ArrayLike | None = None,
    record: Record = "last",
    adapt: ArrayLike | None = None,
    delay: int = 0,
) -> FilterRun:
    """Improved proportionate NLMS: NLMS whose step on each weight grows with that weight.

    Parameters
    ----------
    u, d, taps, w0, record, adapt, delay : as in :func:`adaptive.lms`.
    mu, alpha, eps : as for :class:`IPNLMS`.

    Returns
    -------
    FilterRun

    Raises
    ------
    TypeError, ValueError : as :func:`adaptive.lms`; alpha outside [-1, 1), eps < 0, silence
        without eps.

    Examples
    --------
    >>> u = np.random.default_rng(0).standard_normal(2000)
    >>> d = np.convolve(u, [0.0, 0.0, 1.0, 0.0])[:2000]
    >>> np.abs(ipnlms(u, d, mu=0.5, taps=4).weights).round(6).tolist()
    [0.0, 0.0, 1.0, 0.0]
    """
    algorithm = IPNLMS(mu=mu, alpha=alpha, eps=eps)
    return run(algorithm, u, d, taps=taps, w0=w0, record=record, adapt=adapt, delay=delay)


def proportionate_affine_projection(
    u: ArrayLike,
    d: ArrayLike,
    *,
    mu: StepSize,
    order: int,
    alpha: float = 0.0,
    eps: float | None = None,
    taps: int | None = None,
    w0: ArrayLike | None = None,
    record: Record = "last",
    adapt: ArrayLike | None = None,
    delay: int = 0,
) -> FilterRun:
    """Affine projection whose step on each weight grows with that weight.

    Parameters
    ----------
    u, d, taps, w0, record, adapt, delay : as in :func:`adaptive.lms`.
    mu, order, alpha, eps : as for :class:`ProportionateAffineProjection`.

    Returns
    -------
    FilterRun

    Raises
    ------
    TypeError, ValueError : as :func:`adaptive.lms`; order < 1, alpha outside [-1, 1), eps < 0,
        silence without eps.

    Examples
    --------
    >>> u = np.cumsum(np.random.default_rng(0).standard_normal(2000))
    >>> d = np.convolve(u, [0.0, 0.0, 1.0, 0.0])[:2000]
    >>> run = proportionate_affine_projection(u, d, mu=0.5, order=2, eps=1e-3, taps=4)
    >>> np.abs(run.weights).round(3).tolist()
    [0.0, 0.0, 1.0, 0.0]
    """
    algorithm = ProportionateAffineProjection(mu=mu, order=order, alpha=alpha, eps=eps)
    return run(algorithm, u, d, taps=taps, w0=w0, record=record, adapt=adapt, delay=delay)
