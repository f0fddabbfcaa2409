"""LMS, its sign variants and block LMS: updates, bounds and learning curves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from adaptive import _kernels
from adaptive import checks as _checks
from adaptive.algorithms.base import Algorithm, run, setting
from adaptive.algorithms.gradient import StochasticGradient, signs
from adaptive.bounds import block_bounds
from adaptive.checks import Array
from adaptive.curves import Start, lms_family
from adaptive.recursion import SecondMoments, eigenbasis, lms_moments
from adaptive.regressors import Regressors
from adaptive.results import FilterRun, LearningCurve, StabilityBounds
from adaptive.streaming import Block, Memory, Record, StepSize
from adaptive.wiener import WienerProblem


@dataclass(frozen=True, kw_only=True)
class LMS(StochasticGradient):
    """Least mean squares: w(n+1) = w(n) + mu u(n) e*(n).

    Parameters
    ----------
    mu : step size: a number, (N,) array, or function of the sample number; 0 learns nothing. Large
        values are allowed; a run that diverges says so in ``diverged_at``.

    Notes
    -----
    Widrow and Hoff 1960; Haykin, Adaptive Filter Theory, chapter on the LMS algorithm. Bounds:
    :func:`adaptive.stability_bounds`.

    Learning curve, with k_i(n) = E|v_i(n)|^2, real data:
    k_i(n+1) = (1 - 2 mu l_i + 2 mu^2 l_i^2) k_i + mu^2 l_i sum_j l_j k_j + mu^2 J_min l_i,
    circular complex data: the same with mu^2 l_i^2 in place of 2 mu^2 l_i^2
    (Horowitz and Senne 1981; Feuer and Weinstein 1985). MSE(n) = J_min + sum_i l_i k_i(n).

    Examples
    --------
    >>> from adaptive import WienerProblem, predict
    >>> problem = WienerProblem(R=[[1.0, 0.0], [0.0, 1.0]], P=[1.0, 0.0], d_power=1.01)
    >>> curve = predict(LMS(mu=0.1), problem, steps=100)
    >>> round(float(curve.mse[0]), 12), round(curve.misadjustment, 12), curve.stable
    (1.01, 0.125, True)
    >>> LMS(mu=0.1).bounds(problem.R).mean
    2.0
    """

    name: ClassVar[str] = "lms"
    has_theory: ClassVar[bool] = True

    def bounds(self, R: ArrayLike) -> StabilityBounds:
        """Bounds on mu, as :func:`adaptive.stability_bounds`."""
        return block_bounds(R, block=1)

    def predict(
        self, problem: WienerProblem, *, steps: int, w0: ArrayLike | None = None
    ) -> LearningCurve:
        """Learning curve; exact for independent Gaussian regressors."""
        return lms_family(problem, self.constant_mu, steps, w0, self.name)

    def second_moments(
        self, problem: WienerProblem, *, w0: ArrayLike | None = None
    ) -> SecondMoments:
        """The recursion of ``predict``."""
        start = Start.of(problem, 1.0, 1, w0)
        bounds = self.bounds(problem.R).of(complex_data=start.circular)
        return lms_moments(start, bounds, to_modes=eigenbasis(start))


@dataclass(frozen=True, kw_only=True)
class SignErrorLMS(StochasticGradient):
    """Sign-error LMS: w(n+1) = w(n) + mu u(n) sign(e*(n)).

    Robust against impulsive noise: one sample moves the weights by mu |u| at most. A complex error
    enters with the signs of both parts. In a network: the absolute-error loss.

    Parameters
    ----------
    mu : as for :class:`LMS`.

    Notes
    -----
    Sayed, Fundamentals of Adaptive Filtering, sign-error LMS.
    """

    name: ClassVar[str] = "sign_error_lms"
    edgeless: ClassVar[str | None] = "its steps are bounded"
    linear: ClassVar[bool] = False

    @property
    def signed(self) -> bool:
        """The sign of the error alone."""
        return True


@dataclass(frozen=True, kw_only=True)
class SignDataLMS(StochasticGradient):
    """Sign-data LMS: w(n+1) = w(n) + mu sign(u(n)) e*(n).

    Needs no multiplication by the data where mu is a power of two. For some inputs it diverges
    at every step size (Sethares et al. 1988): see ``diverged_at``.

    Parameters
    ----------
    mu : as for :class:`LMS`.

    Notes
    -----
    Haykin, Adaptive Filter Theory; Sethares, Mareels, Anderson, Johnson, Bitmead 1988.
    """

    name: ClassVar[str] = "sign_data_lms"

    def direction(self, memory: Memory, lines: Regressors) -> Array:
        """Signs of the regressors."""
        return signs(lines.buffer)


@dataclass(frozen=True, kw_only=True)
class SignSignLMS(SignDataLMS):
    """Sign-sign LMS: w(n+1) = w(n) + mu sign(u(n)) sign(e*(n)).

    Every weight moves by mu at every sample; the rule of the ITU's ADPCM coders. In a network:
    sign-SGD on the absolute error.

    Parameters
    ----------
    mu : as for :class:`LMS`.

    Notes
    -----
    Lucky 1966; ITU-T G.726.
    """

    name: ClassVar[str] = "sign_sign_lms"
    edgeless: ClassVar[str | None] = "its steps are bounded"
    linear: ClassVar[bool] = False

    @property
    def signed(self) -> bool:
        """The sign of the error alone."""
        return True


@dataclass(frozen=True, kw_only=True)
class BlockLMS(Algorithm):
    """Block LMS: after every ``block`` samples, w <- w + mu mean of u(n) e*(n) over the block.

    The mean, not the sum, so that mu keeps its scale whatever the block. In a network: mini-batch
    SGD.

    Parameters
    ----------
    mu : as for :class:`LMS`. A varying mu is read at a block's last sample; samples after the last
        whole block update nothing.
    block : B, samples per update; with 1 this is LMS.

    Notes
    -----
    Clark, Mitra and Parker 1981. Averaging B independent gradients divides their fluctuation by B:
    k_i(n+1) = (1 - 2 mu l_i + mu^2 l_i^2 (kappa + B - 1) / B) k_i
    + (mu^2 / B) l_i (sum_j l_j k_j + J_min)  (Feuer 1985), with the bounds of
    :func:`adaptive.bounds.block_bounds`. A predicted curve counts updates: ``mse[n]`` holds for
    every sample of block n.

    Examples
    --------
    >>> from adaptive import WienerProblem, predict
    >>> problem = WienerProblem(R=[[1.0, 0.0], [0.0, 1.0]], P=[1.0, 0.0], d_power=1.01)
    >>> round(predict(BlockLMS(mu=0.1, block=4), problem, steps=100).misadjustment, 12)
    0.027397260274
    """

    name: ClassVar[str] = "block_lms"
    has_theory: ClassVar[bool] = True

    mu: StepSize = setting("step size")
    block: int = setting("samples per update")

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        object.__setattr__(self, "block", _checks.count("block", self.block))

    @property
    def samples_per_update(self) -> int:
        """The block."""
        return self.block

    def bounds(self, R: ArrayLike) -> StabilityBounds:
        """Bounds on mu; for large blocks the mean-square bound tends to ``mean``."""
        return block_bounds(R, block=self.block)

    def predict(
        self, problem: WienerProblem, *, steps: int, w0: ArrayLike | None = None
    ) -> LearningCurve:
        """Learning curve in units of updates."""
        return lms_family(problem, self.constant_mu, steps, w0, self.name, block=self.block)

    def second_moments(
        self, problem: WienerProblem, *, w0: ArrayLike | None = None
    ) -> SecondMoments:
        """The recursion of ``predict``."""
        start = Start.of(problem, 1.0, 1, w0)
        bounds = self.bounds(problem.R).of(complex_data=start.circular)
        return lms_moments(start, bounds, block=self.block)

    def allocate(self, memory: Memory, lines: Regressors, dtype: np.dtype) -> None:
        """The gradient summed so far."""
        memory["gradient"] = np.zeros_like(memory["w"])

    def hold(self, memory: Memory, block: Block) -> int:
        """Filter only; the last sample of a block still makes the update that others earned."""
        w, gradient, n = memory["w"], memory["gradient"], 0
        while n < block.lines.samples:
            phase = (memory.samples + n) % self.block
            end = min(n + self.block - phase, block.lines.samples)
            stop = super().hold(memory, block.part(n, end))
            if stop >= 0:
                return n + stop
            if phase + end - n == self.block:
                w += block.mu[end - 1 if block.mu.size > 1 else 0] / self.block * gradient
                gradient[:] = 0
                if not np.isfinite(w).all():
                    return end
            n = end
        return -1

    def advance(self, memory: Memory, block: Block) -> int:
        """Run the compiled loop."""
        w, gradient, lines = memory["w"], memory["gradient"], block.lines
        phase = memory.samples % self.block
        return block.per_output(
            lambda m, d, error: _kernels.block(
                lines.buffer, lines.hop, d, block.mu, self.block, phase, w[m], gradient[m], error,
                m, *block.record,
            )
        )  # fmt: skip


def lms(
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
    """Least-mean-squares filter: w(n+1) = w(n) + mu u(n) e*(n), with the output y = w^H u.

    The output conjugates the weights, which matters for complex data only: a channel d = h * u is
    found as w = h*. MATLAB's filters return the conjugate of these weights.

    Parameters
    ----------
    u : (N,) signal or (N, C) channels, with ``taps``; or (N, L) regressors, without.
    d : (N,) desired response, or (N, M) for M outputs that share the regressor.
    mu : step size: a number, (N,) array, or function of the sample number; 0 learns nothing. Large
        values are allowed; a run that diverges says so in ``diverged_at``.
    taps : taps of the delay line of each channel; zeros precede the signal. C channels have
        C * taps weights. Leave it out where the rows of u are regressors already.
    w0 : initial weights, (L,) or (M, L); zeros when None.
    record : "last" keeps no history, "all" the weights after every update, k after every k-th.
    adapt : (N,) booleans, False for samples that are filtered but not learned from, such as those
        of double talk; (N, M) for each output on its own. None learns from every sample.
    delay : samples by which u is delayed before it is filtered, so that the taps cover the delays
        from ``delay`` on. A negative delay lets the filter use that many future samples.

    Returns
    -------
    FilterRun

    Raises
    ------
    TypeError : integer or object arrays; arguments of the wrong kind.
    ValueError : NaN or inf in the input, wrong shapes, empty input, mu < 0; delay lines of one
        signal given as channels, with ``taps``.

    Notes
    -----
    Widrow and Hoff 1960; Haykin, Adaptive Filter Theory, chapter on the LMS algorithm.

    Examples
    --------
    >>> u = np.random.default_rng(0).standard_normal(2000)
    >>> d = np.convolve(u, [1.0, -0.5])[:2000]
    >>> lms(u, d, mu=0.05, taps=2).weights.round(6).tolist()
    [1.0, -0.5]
    """
    return run(
        LMS(mu=mu),
        u,
        d,
        taps=taps,
        w0=w0,
        record=record,
        adapt=adapt,
        delay=delay,
    )


def sign_error_lms(
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
    """Sign-error LMS: w(n+1) = w(n) + mu u(n) sign(e*(n)).

    Parameters
    ----------
    u, d, taps, w0, record, adapt, delay : as in :func:`adaptive.lms`.
    mu : as for :class:`SignErrorLMS`.

    Returns
    -------
    FilterRun

    Raises
    ------
    TypeError, ValueError : as :func:`adaptive.lms`.

    Examples
    --------
    >>> u = np.random.default_rng(0).standard_normal(20000)
    >>> d = np.convolve(u, [1.0, -0.5])[:20000]
    >>> sign_error_lms(u, d, mu=0.001, taps=2).weights.round(1).tolist()
    [1.0, -0.5]
    """
    return run(
        SignErrorLMS(mu=mu),
        u,
        d,
        taps=taps,
        w0=w0,
        record=record,
        adapt=adapt,
        delay=delay,
    )


def sign_data_lms(
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
    """Sign-data LMS: w(n+1) = w(n) + mu sign(u(n)) e*(n).

    Parameters
    ----------
    u, d, taps, w0, record, adapt, delay : as in :func:`adaptive.lms`.
    mu : as for :class:`SignDataLMS`.

    Returns
    -------
    FilterRun

    Raises
    ------
    TypeError, ValueError : as :func:`adaptive.lms`.

    Examples
    --------
    >>> u = np.random.default_rng(0).standard_normal(20000)
    >>> d = np.convolve(u, [1.0, -0.5])[:20000]
    >>> sign_data_lms(u, d, mu=0.001, taps=2).weights.round(1).tolist()
    [1.0, -0.5]
    """
    return run(
        SignDataLMS(mu=mu),
        u,
        d,
        taps=taps,
        w0=w0,
        record=record,
        adapt=adapt,
        delay=delay,
    )


def sign_sign_lms(
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
    """Sign-sign LMS: w(n+1) = w(n) + mu sign(u(n)) sign(e*(n)).

    Parameters
    ----------
    u, d, taps, w0, record, adapt, delay : as in :func:`adaptive.lms`.
    mu : as for :class:`SignSignLMS`.

    Returns
    -------
    FilterRun

    Raises
    ------
    TypeError, ValueError : as :func:`adaptive.lms`.

    Examples
    --------
    >>> u = np.random.default_rng(0).standard_normal(20000)
    >>> d = np.convolve(u, [1.0, -0.5])[:20000]
    >>> sign_sign_lms(u, d, mu=0.001, taps=2).weights.round(1).tolist()
    [1.0, -0.5]
    """
    return run(
        SignSignLMS(mu=mu),
        u,
        d,
        taps=taps,
        w0=w0,
        record=record,
        adapt=adapt,
        delay=delay,
    )


def block_lms(
    u: ArrayLike,
    d: ArrayLike,
    *,
    mu: StepSize,
    block: int,
    taps: int | None = None,
    w0: ArrayLike | None = None,
    record: Record = "last",
    adapt: ArrayLike | None = None,
    delay: int = 0,
) -> FilterRun:
    """Block LMS: every ``block`` samples, w <- w + mu mean of u(n) e*(n) over them.

    Parameters
    ----------
    u, d, taps, w0, record, adapt, delay : as in :func:`adaptive.lms`.
    mu, block : as for :class:`BlockLMS`.

    Returns
    -------
    FilterRun

    Raises
    ------
    TypeError, ValueError : as :func:`adaptive.lms`; block < 1.

    Examples
    --------
    >>> u = np.random.default_rng(0).standard_normal(4000)
    >>> d = np.convolve(u, [1.0, -0.5])[:4000]
    >>> block_lms(u, d, mu=0.5, block=8, taps=2).weights.round(6).tolist()
    [1.0, -0.5]
    """
    return run(
        BlockLMS(mu=mu, block=block),
        u,
        d,
        taps=taps,
        w0=w0,
        record=record,
        adapt=adapt,
        delay=delay,
    )


def predict_lms(
    problem: WienerProblem, *, mu: float, steps: int, w0: ArrayLike | None = None
) -> LearningCurve:
    """Learning curve of LMS, from R, P and J_min alone.

    Parameters
    ----------
    problem : the Wiener problem; a complex R means circular complex regressors.
    mu : step size.
    steps : number of updates.
    w0 : initial weights, shape of ``problem.P``; zeros when None.

    Returns
    -------
    LearningCurve. A step size above the bound gives a growing curve and ``stable=False``.

    Raises
    ------
    TypeError, ValueError : mu <= 0, steps < 1, w0 of the wrong shape, R = 0.

    Notes
    -----
    The recursion is that of :class:`LMS`.

    Examples
    --------
    >>> from adaptive import WienerProblem
    >>> problem = WienerProblem(R=[[1.0, 0.0], [0.0, 1.0]], P=[1.0, 0.0], d_power=1.01)
    >>> curve = predict_lms(problem, mu=0.1, steps=100)
    >>> round(float(curve.mse[0]), 12), round(curve.misadjustment, 12), curve.stable
    (1.01, 0.125, True)
    """
    return LMS(mu=mu).predict(problem, steps=steps, w0=w0)
