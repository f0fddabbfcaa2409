"""Least mean fourth, and a mixture of the second and the fourth power of the error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from numpy.typing import ArrayLike

from adaptive import _kernels_gain
from adaptive import checks as _checks
from adaptive.algorithms.base import run, setting
from adaptive.algorithms.controlled import ErrorControlled
from adaptive.results import FilterRun
from adaptive.streaming import Record, StepSize


@dataclass(frozen=True, kw_only=True)
class MixedNormLMS(ErrorControlled):
    """Least mean mixed norm: w(n+1) = w(n) + mu u(n) e*(n) (mix + (1 - mix) |e(n)|^2).

    The gradient of mix E|e|^2 / 2 + (1 - mix) E|e|^4 / 4 for real data. Large errors move the
    weights fast, small ones slowly.

    Parameters
    ----------
    mu : step size, in the units of LMS for mix 1 and those over |d|^2 for mix 0. A stable mu
        depends on the size of the error, hence on the start: see :class:`LeastMeanFourth`.
    mix : in [0, 1]: 1 is LMS, 0 is least mean fourth.

    Notes
    -----
    Chambers, Tanrikulu and Constantinides 1994, Least mean mixed-norm adaptive filtering.
    """

    name: ClassVar[str] = "mixed_norm_lms"
    edgeless: ClassVar[str | None] = "where runs diverge depends on their first errors"
    rule: ClassVar[int] = _kernels_gain.MIXED_NORM

    mu: StepSize = setting("step size")
    mix: float = setting("share of the squared error, in [0, 1]", 0.5)

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        object.__setattr__(self, "mix", _checks.nonnegative("mix", self.mix))
        if self.mix > 1:
            raise ValueError(f"mix must be in [0, 1]; got {self.mix}")

    def parameters(self, taps: int) -> tuple[float, ...]:
        """The mix."""
        return (self.mix,)


@dataclass(frozen=True, kw_only=True)
class LeastMeanFourth(MixedNormLMS):
    """Least mean fourth: w(n+1) = w(n) + mu u(n) e*(n) |e(n)|^2.

    At the same speed of convergence its steady state is better than that of LMS where the noise has
    short tails, as uniform noise and sine waves have, and worse where it is Gaussian.

    Parameters
    ----------
    mu : step size, in units of 1 / (|u|^2 |d|^2). The update is LMS with a step mu |e|^2, so a
        start far from the solution can diverge at a mu that is stable near it; with unbounded
        input there is no mu that excludes it.

    Notes
    -----
    Walach and Widrow 1984, The least mean fourth adaptive algorithm and its family; Nascimento and
    Bermudez 2006 for the divergence.
    """

    name: ClassVar[str] = "least_mean_fourth"

    mix: float = setting("0", 0.0)

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        if self.mix != 0:
            raise ValueError(f"mix must be 0 for least_mean_fourth; got {self.mix}")


def mixed_norm_lms(
    u: ArrayLike,
    d: ArrayLike,
    *,
    mu: StepSize,
    mix: float = 0.5,
    taps: int | None = None,
    w0: ArrayLike | None = None,
    record: Record = "last",
    adapt: ArrayLike | None = None,
    delay: int = 0,
) -> FilterRun:
    """Least mean mixed norm: w(n+1) = w(n) + mu u(n) e*(n) (mix + (1 - mix) |e(n)|^2).

    Parameters
    ----------
    u, d, taps, w0, record, adapt, delay : as in :func:`adaptive.lms`.
    mu, mix : as for :class:`MixedNormLMS`.

    Returns
    -------
    FilterRun

    Raises
    ------
    TypeError, ValueError : as :func:`adaptive.lms`; mix outside [0, 1].

    Examples
    --------
    >>> import numpy as np
    >>> u = np.random.default_rng(0).standard_normal(4000)
    >>> d = np.convolve(u, [1.0, -0.5])[:4000]
    >>> mixed_norm_lms(u, d, mu=0.05, taps=2).weights.round(6).tolist()
    [1.0, -0.5]
    """
    algorithm = MixedNormLMS(mu=mu, mix=mix)
    return run(algorithm, u, d, taps=taps, w0=w0, record=record, adapt=adapt, delay=delay)


def least_mean_fourth(
    u: ArrayLike,
    d: ArrayLike,
    *,
    mu: StepSize,
    taps: int | None = None,
    w0: ArrayLike | None = None,
    record: Record = "last",
    adapt: ArrayLike | None = None,
    delay: int = 0,
) -> FilterRun:
    """Least mean fourth: w(n+1) = w(n) + mu u(n) e*(n) |e(n)|^2.

    Parameters
    ----------
    u, d, taps, w0, record, adapt, delay : as in :func:`adaptive.lms`.
    mu : as for :class:`LeastMeanFourth`.

    Returns
    -------
    FilterRun

    Raises
    ------
    TypeError, ValueError : as :func:`adaptive.lms`.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> u = rng.standard_normal(40000)
    >>> d = np.convolve(u, [1.0, -0.5])[:40000] + rng.uniform(-1, 1, 40000)
    >>> least_mean_fourth(u, d, mu=0.001, taps=2).weights.round(1).tolist()
    [1.0, -0.5]
    """
    algorithm = LeastMeanFourth(mu=mu)
    return run(algorithm, u, d, taps=taps, w0=w0, record=record, adapt=adapt, delay=delay)
