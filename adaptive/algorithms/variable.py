"""NLMS that finds its own step: by the noise level, by an error bound, by its regularisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from numpy.typing import ArrayLike

from adaptive import _kernels_gain
from adaptive import checks as _checks
from adaptive.algorithms.base import Regularisation, run, setting
from adaptive.algorithms.controlled import ErrorControlled
from adaptive.results import FilterRun
from adaptive.streaming import Block, Memory, Record, StepSize


@dataclass(frozen=True, kw_only=True)
class VariableStepNLMS(ErrorControlled):
    """NLMS whose step is 1 - sigma_v / sigma_e(n): large while the error exceeds the noise.

    w(n+1) = w(n) + mu(n) u(n) e*(n) / (eps + |u(n)|^2), mu(n) = 1 - sigma_v / sigma_e(n) where
    sigma_e(n) > sigma_v, else 0, with sigma_e^2(n) = forgetting sigma_e^2(n-1) + (1 - forgetting)
    |e(n)|^2 and sigma_e(-1) = 0. The step makes the a posteriori error as large as the noise.

    Parameters
    ----------
    noise_power : sigma_v^2, the power of what the filter cannot explain, in units of |d|^2. Where
        it is given too low, steps stay too large; too high, and the filter stops early.
    forgetting : of the running power of the error, in [0, 1); None takes 1 - 1 / (6 L).
    eps : as for :class:`NLMS`.

    Notes
    -----
    Benesty, Rey, Rey Vega and Tressens 2006, A nonparametric VSS NLMS algorithm, without the small
    constant that is added to sigma_e there.
    """

    name: ClassVar[str] = "variable_step_nlms"
    edgeless: ClassVar[str | None] = "it has no step size"
    regularisation: ClassVar[Regularisation | None] = Regularisation("eps", 1e-3, whole=True)
    rule: ClassVar[int] = _kernels_gain.NOISE_LEVEL

    noise_power: float = setting("power of the noise in d")
    forgetting: float | None = setting("weight of the past in running powers, in [0, 1)", None)
    eps: float | None = setting("regularisation, in units of |u|^2", None)

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        power = _checks.nonnegative("noise_power", self.noise_power)
        object.__setattr__(self, "noise_power", power)
        if self.forgetting is not None:
            forgetting = _checks.fraction("forgetting", self.forgetting)
            object.__setattr__(self, "forgetting", forgetting)
        if self.eps is not None:
            object.__setattr__(self, "eps", _checks.nonnegative("eps", self.eps))

    def parameters(self, taps: int) -> tuple[float, ...]:
        """Regularisation, noise power, forgetting."""
        assert self.eps is not None
        forgetting = 1 - 1 / (6 * taps) if self.forgetting is None else self.forgetting
        return self.eps, self.noise_power, forgetting


@dataclass(frozen=True, kw_only=True)
class SetMembershipNLMS(ErrorControlled):
    """Set-membership NLMS: it updates where |e(n)| > bound only, and then exactly to the bound.

    w(n+1) = w(n) + (1 - bound / |e(n)|) u(n) e*(n) / (eps + |u(n)|^2) where |e(n)| > bound; else
    w(n+1) = w(n). With eps = 0 the a posteriori error of an update has the modulus ``bound``.
    The better the filter, the fewer samples need an update: ``np.abs(run.error) > bound`` tells
    which they were.

    Parameters
    ----------
    bound : of the error that is accepted, in units of |d|, >= 0; sqrt(5) times the deviation of
        the noise is common. 0 is NLMS with mu = 1.
    eps : as for :class:`NLMS`.

    Notes
    -----
    Gollamudi, Nagaraj, Kapoor and Huang 1998, Set-membership filtering and a set-membership
    normalized LMS algorithm with an adaptive step size.
    """

    name: ClassVar[str] = "set_membership_nlms"
    edgeless: ClassVar[str | None] = "it has no step size"
    regularisation: ClassVar[Regularisation | None] = Regularisation("eps", 1e-3, whole=True)
    rule: ClassVar[int] = _kernels_gain.SET_MEMBERSHIP

    bound: float = setting("modulus of the error that is accepted")
    eps: float | None = setting("regularisation, in units of |u|^2", None)

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        object.__setattr__(self, "bound", _checks.nonnegative("bound", self.bound))
        if self.eps is not None:
            object.__setattr__(self, "eps", _checks.nonnegative("eps", self.eps))

    def parameters(self, taps: int) -> tuple[float, ...]:
        """Regularisation and bound."""
        assert self.eps is not None
        return self.eps, self.bound


@dataclass(frozen=True, kw_only=True)
class GNGD(ErrorControlled):
    """Generalised normalised gradient descent: NLMS that adapts its regularisation.

    w(n+1) = w(n) + mu u(n) e*(n) / (eps(n) + |u(n)|^2), and eps(n) = eps(n-1) - rho mu
    Re(e*(n) e(n-1) u(n-1)^H u(n)) / (eps(n-1) + |u(n-1)|^2)^2, held at zero or above: errors that
    keep their direction lower eps, errors that alternate raise it.

    Parameters
    ----------
    mu : step size, a pure number; stable for 0 < mu < 2, whatever eps(n).
    rho : step size of eps, >= 0, in units of |u|^2; 0 is NLMS.
    eps : eps(-1), in units of |u|^2; None takes 1e-3 of its mean, as for :class:`NLMS`.

    Notes
    -----
    Mandic 2004, A generalized normalized gradient descent algorithm. The limit at zero is ours: the
    paper leaves the sign of eps(n) open, and a negative one can divide by zero.
    """

    name: ClassVar[str] = "gngd"
    normalized: ClassVar[bool] = True
    edgeless: ClassVar[str | None] = "its regularisation follows the step size"
    regularisation: ClassVar[Regularisation | None] = Regularisation("eps", 1e-3, whole=True)
    rule: ClassVar[int] = _kernels_gain.REGULARISED

    mu: StepSize = setting("step size")
    rho: float = setting("step size of the regularisation, in units of |u|^2", 0.1)
    eps: float | None = setting("regularisation, in units of |u|^2", None)

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        object.__setattr__(self, "rho", _checks.nonnegative("rho", self.rho))
        if self.eps is not None:
            object.__setattr__(self, "eps", _checks.nonnegative("eps", self.eps))

    @property
    def lookback(self) -> int:
        """The regressor before the present one."""
        return 1

    def start(self) -> float:
        """The regularisation at the start."""
        assert self.eps is not None
        return self.eps

    def parameters(self, taps: int) -> tuple[float, ...]:
        """Nothing, and the step size of the regularisation."""
        return 0.0, self.rho

    def hold(self, memory: Memory, block: Block) -> int:
        """Filter only; the next sample has none before it to compare with."""
        memory["state"][:, 1:] = 0
        return super().hold(memory, block)


def variable_step_nlms(
    u: ArrayLike,
    d: ArrayLike,
    *,
    noise_power: float,
    forgetting: float | None = None,
    eps: float | None = None,
    taps: int | None = None,
    w0: ArrayLike | None = None,
    record: Record = "last",
    adapt: ArrayLike | None = None,
    delay: int = 0,
) -> FilterRun:
    """NLMS whose step is 1 - sigma_v / sigma_e(n): large while the error exceeds the noise.

    Parameters
    ----------
    u, d, taps, w0, record, adapt, delay : as in :func:`adaptive.lms`.
    noise_power, forgetting, eps : as for :class:`VariableStepNLMS`.

    Returns
    -------
    FilterRun

    Raises
    ------
    TypeError, ValueError : as :func:`adaptive.lms`; noise_power or eps < 0, forgetting outside
        [0, 1), silence without eps.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> u, noise = rng.standard_normal((2, 4000))
    >>> d = np.convolve(u, [1.0, -0.5])[:4000] + 0.1 * noise
    >>> variable_step_nlms(u, d, noise_power=0.01, taps=2).weights.round(1).tolist()
    [1.0, -0.5]
    """
    algorithm = VariableStepNLMS(noise_power=noise_power, forgetting=forgetting, eps=eps)
    return run(algorithm, u, d, taps=taps, w0=w0, record=record, adapt=adapt, delay=delay)


def set_membership_nlms(
    u: ArrayLike,
    d: ArrayLike,
    *,
    bound: float,
    eps: float | None = None,
    taps: int | None = None,
    w0: ArrayLike | None = None,
    record: Record = "last",
    adapt: ArrayLike | None = None,
    delay: int = 0,
) -> FilterRun:
    """NLMS that updates where |e(n)| > bound only, and then exactly to the bound.

    Parameters
    ----------
    u, d, taps, w0, record, adapt, delay : as in :func:`adaptive.lms`.
    bound, eps : as for :class:`SetMembershipNLMS`.

    Returns
    -------
    FilterRun

    Raises
    ------
    TypeError, ValueError : as :func:`adaptive.lms`; bound or eps < 0, silence without eps.

    Examples
    --------
    >>> import numpy as np
    >>> u = np.random.default_rng(0).standard_normal(4000)
    >>> d = np.convolve(u, [1.0, -0.5])[:4000]
    >>> run = set_membership_nlms(u, d, bound=0.01, taps=2)
    >>> run.weights.round(1).tolist(), bool((np.abs(run.error) > 0.01).mean() < 0.02)
    ([1.0, -0.5], True)
    """
    algorithm = SetMembershipNLMS(bound=bound, eps=eps)
    return run(algorithm, u, d, taps=taps, w0=w0, record=record, adapt=adapt, delay=delay)


def gngd(
    u: ArrayLike,
    d: ArrayLike,
    *,
    mu: StepSize,
    rho: float = 0.1,
    eps: float | None = None,
    taps: int | None = None,
    w0: ArrayLike | None = None,
    record: Record = "last",
    adapt: ArrayLike | None = None,
    delay: int = 0,
) -> FilterRun:
    """Generalised normalised gradient descent: NLMS that adapts its regularisation.

    Parameters
    ----------
    u, d, taps, w0, record, adapt, delay : as in :func:`adaptive.lms`.
    mu, rho, eps : as for :class:`GNGD`.

    Returns
    -------
    FilterRun

    Raises
    ------
    TypeError, ValueError : as :func:`adaptive.lms`; rho or eps < 0, silence without eps.

    Examples
    --------
    >>> import numpy as np
    >>> u = np.random.default_rng(0).standard_normal(4000)
    >>> d = np.convolve(u, [1.0, -0.5])[:4000]
    >>> gngd(u, d, mu=0.5, eps=100.0, taps=2).weights.round(6).tolist()
    [1.0, -0.5]
    """
    algorithm = GNGD(mu=mu, rho=rho, eps=eps)
    return run(algorithm, u, d, taps=taps, w0=w0, record=record, adapt=adapt, delay=delay)
