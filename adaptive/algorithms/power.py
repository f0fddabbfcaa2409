"""Power-normalised LMS, tap by tap or on the DCT of the delay line: updates and learning curve."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy
from numpy.typing import ArrayLike

from adaptive import checks as _checks
from adaptive.algorithms.base import Algorithm, Regularisation, run, setting
from adaptive.algorithms.gradient import StochasticGradient
from adaptive.bounds import block_bounds
from adaptive.checks import Array
from adaptive.curves import Expected, Start, curve, iterate, powers, steady_state
from adaptive.recursion import SecondMoments, eigenbasis, lms_moments
from adaptive.regressors import Regressors
from adaptive.results import FilterRun, LearningCurve
from adaptive.streaming import CHUNK, AdaptiveFilter, Block, Memory, Record, StepSize, TogetherRun
from adaptive.wiener import WienerProblem


@dataclass(frozen=True, kw_only=True)
class PowerNormalizedLMS(StochasticGradient):
    """Power-normalised LMS: w_k(n+1) = w_k(n) + mu u_k(n) e*(n) / (eps + p_k(n)).

    p_k(n) is the mean of |u_k|^2 over the samples so far, the latest weighted most:
    p(n) = sum_j forgetting^j |u(n-j)|^2 / sum_j forgetting^j. It pays where taps or channels differ
    in power. In a network: BatchNorm's channel-wise scaling; Adam's second moment, of the input.

    Parameters
    ----------
    mu : step size, a pure number. For an input of steady level and slow forgetting mu < 2 / L is
        stable. No mu is safe where the level rises: taps that still hold quiet samples are divided
        by their small power and meet the error of the loud ones, which magnifies it by up to the
        ratio of the levels, and by more where mu is not small. Take ``nlms`` for speech, or an eps
        of the loud passages' power.
    eps : in units of |u_k|^2; None takes 1e-6 of the mean.
    forgetting : in [0, 1).

    Notes
    -----
    Haykin, Adaptive Filter Theory, self-orthogonalising filters. The learning curve takes the
    powers as known, which is the limit of slow forgetting; see :func:`predict_known_powers`.

    Examples
    --------
    >>> from adaptive import WienerProblem, predict
    >>> problem = WienerProblem(R=[[4.0, 0.0], [0.0, 0.01]], P=[4.0, 0.01], d_power=4.02)
    >>> curve = predict(PowerNormalizedLMS(mu=0.1, eps=0.0), problem, steps=100)
    >>> curve.weights[1].round(12).tolist(), round(curve.misadjustment, 9)  # no spread is left
    ([0.1, 0.1], 0.125)
    """

    name: ClassVar[str] = "power_normalized_lms"
    normalized: ClassVar[bool] = True
    has_theory: ClassVar[bool] = True
    regularisation: ClassVar[Regularisation | None] = Regularisation("eps", 1e-6)

    eps: float | None = setting("regularisation, in units of |u_k|^2", None)
    forgetting: float = setting("weight of the past in running powers, in [0, 1)", 0.99)

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        if self.eps is not None:
            object.__setattr__(self, "eps", _checks.nonnegative("eps", self.eps))
        object.__setattr__(self, "forgetting", _checks.fraction("forgetting", self.forgetting))

    def allocate(self, memory: Memory, lines: Regressors, dtype: np.dtype) -> None:
        """Running powers, the samples in them, and the directions that a delay line still holds."""
        memory["power"] = np.zeros(lines.hop)
        memory["heard"] = np.zeros((), int)
        memory["direction"] = np.zeros(lines.taps - lines.hop, dtype)

    def warm_up(self, length: int) -> int:
        """The memory of the running powers."""
        return _memory(self.forgetting)

    def hear(self, memory: Memory, past: Array) -> None:
        """Take the past into the running powers."""
        if past.size:
            self._normalised(memory, past)

    def hold(self, memory: Memory, block: Block) -> int:
        """Filter only; the running powers of the input go on."""
        self.direction(memory, block.lines)
        return super().hold(memory, block)

    def direction(self, memory: Memory, lines: Regressors) -> Array:
        """u_k / (eps + p_k), laid out as the regressors are."""
        # tap k of a delay line is its channel k samples ago, and so is that tap's power
        new = lines.buffer[lines.buffer.size - lines.samples * lines.hop :]
        return self._normalised(memory, new.reshape(lines.samples, lines.hop))

    def _normalised(self, memory: Memory, new: Array) -> Array:
        """New samples (n, C) over their powers, behind those that the delay lines still hold."""
        beta = self.forgetting
        squares = (1 - beta) * np.abs(new).astype(float) ** 2
        power, _ = scipy.signal.lfilter(
            [1.0], [1.0, -beta], squares, axis=0, zi=beta * memory["power"][None]
        )
        memory["power"] = power[-1]
        # a weighted mean of the samples so far: at the start, not a power that is still filling up
        n = int(memory["heard"]) + 1 + np.arange(len(new))
        memory["heard"] = np.array(n[-1])
        weight = 1 - beta ** n.astype(float)
        scale = power / weight[:, None] + self.eps
        scale[scale == 0] = np.inf  # no power, no direction
        z = np.concatenate([memory["direction"], (new / scale).astype(new.dtype).reshape(-1)])
        memory["direction"] = z[z.size - memory["direction"].size :].copy()
        return z

    def predict(
        self, problem: WienerProblem, *, steps: int, w0: ArrayLike | None = None
    ) -> LearningCurve:
        """Learning curve with known powers; exact for independent Gaussian regressors."""
        return predict_known_powers(self, problem, np.eye(problem.taps), steps=steps, w0=w0)

    def second_moments(
        self, problem: WienerProblem, *, w0: ArrayLike | None = None
    ) -> SecondMoments:
        """The recursion of ``predict``."""
        return known_powers_moments(self, problem, np.eye(problem.taps), w0)


@dataclass(frozen=True, kw_only=True)
class TransformDomainLMS(PowerNormalizedLMS):
    """Transform-domain LMS: power-normalised LMS on the orthonormal DCT-II of each delay line.

    The DCT nearly diagonalises R of correlated signals, so that normalising each bin's power
    nearly whitens. Weights are given in the time domain.

    Parameters
    ----------
    mu, eps, forgetting : as for :class:`PowerNormalizedLMS`.

    Notes
    -----
    Narayan, Peterson and Narasimha 1983.
    """

    name: ClassVar[str] = "transform_domain_lms"
    delay_lines_only: ClassVar[bool] = True

    def allocate(self, memory: Memory, lines: Regressors, dtype: np.dtype) -> None:
        """Running powers, one for each bin."""
        super().allocate(memory, _given(lines.rows[:0], lines), dtype)

    def hear(self, memory: Memory, past: Array) -> None:
        """Take the bins of the past into their running powers."""
        count = len(past) - memory.length + 1
        if count > 0:
            L = memory.length * past.shape[1]
            lines = Regressors(past.reshape(-1), past.shape[1], L, count, np.arange(L))
            super().hear(memory, self.inward(lines.rows, memory.length))

    def advance(self, memory: Memory, block: Block) -> int:
        """Run the compiled loop on the bins."""
        bins = self.inward(block.lines.rows, memory.length)
        return super().advance(memory, block._replace(lines=_given(bins, block.lines)))

    def hold(self, memory: Memory, block: Block) -> int:
        """Filter only; the running powers of the bins go on."""
        bins = self.inward(block.lines.rows, memory.length)
        self.direction(memory, _given(bins, block.lines))
        return Algorithm.hold(self, memory, block)

    def chunk(self, taps: int) -> int:
        """Few samples at a time: their bins are an n x L matrix."""
        return max(1, CHUNK * 32 // taps)

    def run_together(
        self,
        filter_: AdaptiveFilter,
        draws: list[tuple[Regressors, Array]],
        every: int,
        before: int,
    ) -> TogetherRun | None:
        """None: the lanes share one layout of the regressors, and bins have another."""
        return None

    def inward(self, w: Array, length: int) -> Array:
        """DCT along the taps."""
        lines = w.reshape(*w.shape[:-1], length, -1)
        bins: Array = scipy.fft.dct(lines, axis=-2, norm="ortho").reshape(w.shape)
        return bins

    def outward(self, w: Array, length: int) -> Array:
        """Inverse DCT."""
        bins = w.reshape(*w.shape[:-1], length, -1)
        lines: Array = scipy.fft.idct(bins, axis=-2, norm="ortho").reshape(w.shape)
        return lines

    def predict(
        self, problem: WienerProblem, *, steps: int, w0: ArrayLike | None = None
    ) -> LearningCurve:
        """Learning curve of one channel with known powers of the bins."""
        return predict_known_powers(self, problem, _dct(problem.taps), steps=steps, w0=w0)

    def second_moments(
        self, problem: WienerProblem, *, w0: ArrayLike | None = None
    ) -> SecondMoments:
        """The recursion of ``predict``."""
        return known_powers_moments(self, problem, _dct(problem.taps), w0)


def _dct(taps: int) -> Array:
    """(L, L) orthonormal DCT-II."""
    matrix: Array = scipy.fft.dct(np.eye(taps), axis=0, norm="ortho")
    return matrix


def predict_known_powers(
    algorithm: PowerNormalizedLMS,
    problem: WienerProblem,
    transform: ArrayLike,
    *,
    steps: int,
    w0: ArrayLike | None = None,
) -> LearningCurve:
    """Learning curve of LMS on T u whose step is mu / (eps + E|(T u)_k|^2) on coordinate k.

    Parameters
    ----------
    algorithm : its mu, eps and name are used.
    problem, steps, w0 : as in :func:`adaptive.predict`.
    transform : (L, L) orthogonal or unitary T: the powers are those of T u, and the weights of
        T u are what is stepped.

    Returns
    -------
    LearningCurve, with ``weights``, ``modes`` and ``msd`` in the coordinates of ``problem``.

    Raises
    ------
    TypeError, ValueError : as :func:`adaptive.predict`; eps = 0 with a tap that has no power;
        transform not unitary or of the wrong shape.

    Notes
    -----
    With D = eps I + diag(T R T^H), x = D^-1/2 T u and g = D^1/2 T w, w^H u = g^H x and the update
    is plain LMS: g(n+1) = g(n) + mu e*(n) x(n), on the congruent matrix D^-1/2 T R T^H D^-1/2
    (Narayan, Peterson and Narasimha 1983).
    """
    outer = Start.of(problem, algorithm.constant_mu, steps, w0)
    inner, start, forward = _scaled(algorithm, problem, transform, outer)
    # w = backward g, with D the squared length of the rows of D^1/2 T
    backward = forward.conj().T / np.sum(np.abs(forward) ** 2, axis=1)
    mu, kappa, lam = start.mu, start.kappa, start.lam

    # |w - w_o|^2 = v^H M v: the off-diagonal moments enter, and each one only decays
    basis = backward @ inner.modes.eigenvectors
    M = basis.conj().T @ basis
    metric = np.real(np.diagonal(M))
    decay = 1 - 2 * mu * lam + kappa * (mu * lam) ** 2
    noise = mu**2 * start.J_min * lam
    excess, msd = iterate(
        start, lambda n, k, excess: decay * k + mu**2 * excess * lam + noise, metric=metric
    )
    moments = _add_cross_moments(start, M, msd)
    still = (lam == 0) & (lam[:, None] == 0)
    final = steady_state(start, 1 - decay, mu**2, noise)
    path = powers(start.v, inner.modes.factors(mu), start.steps)
    with np.errstate(over="ignore", invalid="ignore"):
        original = problem.modes.to_modes(inner.modes.to_weights(path) @ backward.T)
    original[~np.isfinite(original)] = np.inf
    msd_final = float(metric @ final + moments[still].sum())
    return curve(
        problem, start, algorithm.name, Expected(original, excess, msd, final, msd_final),
        block_bounds(inner.R, block=1).of(complex_data=start.circular),
        assumption=start.independence + "; the powers of the taps are known",
    )  # fmt: skip


def known_powers_moments(
    algorithm: PowerNormalizedLMS,
    problem: WienerProblem,
    transform: ArrayLike,
    w0: ArrayLike | None,
) -> SecondMoments:
    """The recursion of :func:`predict_known_powers`."""
    inner, start, forward = _scaled(algorithm, problem, transform, Start.of(problem, 1.0, 1, w0))
    bounds = block_bounds(inner.R, block=1).of(complex_data=start.circular)
    return lms_moments(start, bounds, to_modes=eigenbasis(start) @ forward)


def _scaled(
    algorithm: PowerNormalizedLMS, problem: WienerProblem, transform: ArrayLike, outer: Start
) -> tuple[WienerProblem, Start, Array]:
    """The problem in the coordinates g = D^1/2 T w, where it starts, and D^1/2 T."""
    T = _unitary(transform, problem.taps)
    root = np.sqrt(_step_powers(algorithm, problem, T))
    x = T / root[:, None]
    R = x @ problem.R @ x.conj().T
    inner = WienerProblem(R=(R + R.conj().T) / 2, P=problem.P @ x.T, d_power=problem.d_power)
    forward = root[:, None] * T
    # errors are counted from the w_o of `problem`, which need not be the one of least norm in g
    v = inner.modes.to_modes(problem.modes.to_weights(outer.v) @ forward.T)
    return inner, Start.build(inner.modes, v, problem.J_min, outer.mu, outer.steps), forward


def _step_powers(algorithm: PowerNormalizedLMS, problem: WienerProblem, T: Array) -> Array:
    """(L,) eps + E|(T u)_k|^2, by which the step size is divided."""
    L = problem.taps
    total = float(problem.modes.eigenvalues.sum())
    floor = algorithm.regularised(total / L, L).eps
    power = np.real(np.diagonal(T @ problem.R @ T.conj().T)) + floor
    if not power.min() > L * np.finfo(power.dtype).eps * power.max():
        raise ValueError(
            "eps must be positive where a tap has no power, since its step is mu / (eps + power); "
            f"got eps={algorithm.eps} and the power {power.min():.3g} at tap {int(power.argmin())}"
        )
    return power


def _add_cross_moments(start: Start, M: Array, msd: Array) -> Array:
    """Add what pairs of modes contribute to ``msd``, in place; their moments at the end."""
    L, mu, lam = start.lam.size, start.mu, start.lam
    cross = start.v.reshape(-1, L)
    moments = np.real(M * (cross.T @ cross.conj()).T)
    np.fill_diagonal(moments, 0)
    pair = 1 - mu * (lam + lam[:, None]) + start.kappa * mu**2 * lam * lam[:, None]
    with np.errstate(over="ignore", invalid="ignore"):
        for n in range(start.steps + 1):
            if not np.isfinite(msd[n]):
                break
            msd[n] += moments.sum()
            moments *= pair
    return moments


def _unitary(transform: ArrayLike, L: int) -> Array:
    """An (L, L) matrix with T T^H = I."""
    T = _checks.array("transform", transform, ndim=(2,))
    if T.shape != (L, L):
        raise ValueError(f"transform must have shape {(L, L)}, one row per tap; got {T.shape}")
    defect = float(np.abs(T @ T.conj().T - np.eye(L)).max())
    if defect > 100 * L * np.finfo(T.dtype).eps:
        raise ValueError(
            f"transform must be orthogonal (unitary if complex); got T T^H off I by {defect:.3g}"
        )
    return T


def _memory(forgetting: float) -> int:
    """Samples that an exponentially weighted mean mostly consists of."""
    return math.ceil(1 / (1 - forgetting))


def _given(rows: Array, lines: Regressors) -> Regressors:
    """Rows as given regressors, in place of the lines they came from."""
    return Regressors(rows.reshape(-1), lines.taps, lines.taps, rows.shape[0], lines.order)


def power_normalized_lms(
    u: ArrayLike,
    d: ArrayLike,
    *,
    mu: StepSize,
    eps: float | None = None,
    forgetting: float = 0.99,
    taps: int | None = None,
    w0: ArrayLike | None = None,
    record: Record = "last",
    adapt: ArrayLike | None = None,
    delay: int = 0,
) -> FilterRun:
    """Power-normalised LMS: w_k(n+1) = w_k(n) + mu u_k(n) e*(n) / (eps + p_k(n)).

    Parameters
    ----------
    u, d, taps, w0, record, adapt, delay : as in :func:`adaptive.lms`.
    mu, eps, forgetting : as for :class:`PowerNormalizedLMS`.

    Returns
    -------
    FilterRun

    Raises
    ------
    TypeError, ValueError : as :func:`adaptive.lms`;
        eps < 0, forgetting outside [0, 1), silence without eps.

    Examples
    --------
    >>> u = np.random.default_rng(0).standard_normal((2000, 2)) * [1.0, 100.0]
    >>> d = u @ [1.0, -0.5]
    >>> power_normalized_lms(u, d, mu=0.1).weights.round(6).tolist()
    [1.0, -0.5]
    """
    return run(
        PowerNormalizedLMS(mu=mu, eps=eps, forgetting=forgetting),
        u,
        d,
        taps=taps,
        w0=w0,
        record=record,
        adapt=adapt,
        delay=delay,
    )


def transform_domain_lms(
    u: ArrayLike,
    d: ArrayLike,
    *,
    mu: StepSize,
    taps: int,
    eps: float | None = None,
    forgetting: float = 0.99,
    w0: ArrayLike | None = None,
    record: Record = "last",
    adapt: ArrayLike | None = None,
    delay: int = 0,
) -> FilterRun:
    """Transform-domain LMS: power-normalised LMS on the DCT-II of each delay line.

    Parameters
    ----------
    u, d, taps, w0, record, adapt, delay : as in :func:`adaptive.lms`.
    mu, eps, forgetting : as for :class:`TransformDomainLMS`.

    Returns
    -------
    FilterRun

    Raises
    ------
    TypeError, ValueError : as :func:`adaptive.lms`;
        eps < 0, forgetting outside [0, 1), silence without eps.

    Examples
    --------
    >>> u = np.cumsum(np.random.default_rng(0).standard_normal(4000))  # a spread of thousands
    >>> d = np.convolve(u, [1.0, -0.5, 0.25])[:4000]
    >>> transform_domain_lms(u, d, mu=0.2, taps=3).weights.round(3).tolist()
    [1.0, -0.5, 0.25]
    """
    return run(
        TransformDomainLMS(mu=mu, eps=eps, forgetting=forgetting),
        u,
        d,
        taps=taps,
        w0=w0,
        record=record,
        adapt=adapt,
        delay=delay,
    )
