"""LMS and its family as functions: check, run, wrap.

Conventions, once for all of them: w(n+1) = w(n) + mu(n) u(n) e*(n) (Haykin, Sayed; Widrow writes
2 mu), e(n) = d(n) - w(n)^H u(n) is the a priori error, and taps run newest sample first. Several
channels stack channel by channel. float32 stays float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from adaptive import _checks, _kernels
from adaptive._checks import Array
from adaptive.regressors import Regressors, regressors
from adaptive.results import FilterRun

StepSize = float | ArrayLike | Callable[[int], float]
Record = int | Literal["all", "last"]


def lms(
    u: ArrayLike,
    d: ArrayLike,
    *,
    mu: StepSize,
    taps: int | None = None,
    w0: ArrayLike | None = None,
    record: Record = "last",
) -> FilterRun:
    """Least-mean-squares filter: w(n+1) = w(n) + mu u(n) e*(n).

    Parameters
    ----------
    u : (N,) signal or (N, C) channels, with ``taps``; or (N, L) regressors, without.
    d : (N,) desired response, or (N, M) for M outputs that share the regressor.
    mu : step size, positive: a number, (N,) array, or function of the sample number. Large values
        are allowed; a run that diverges says so in ``diverged_at``.
    taps : taps of the delay line of each channel; zeros precede the signal.
    w0 : initial weights, (L,) or (M, L); zeros when None.
    record : "last" keeps no history, "all" the weights after every update, k after every k-th.

    Returns
    -------
    FilterRun

    Raises
    ------
    TypeError : integer or object arrays; arguments of the wrong kind.
    ValueError : NaN or inf in the input, wrong shapes, empty input, mu <= 0.

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
    lines, desired = _inputs(u, d, taps)
    return run_rule(_lms_rule, lines, desired, mu, w0=w0, record=record)


def nlms(
    u: ArrayLike,
    d: ArrayLike,
    *,
    mu: StepSize,
    taps: int | None = None,
    eps: float | None = None,
    w0: ArrayLike | None = None,
    record: Record = "last",
) -> FilterRun:
    """Normalised LMS: w(n+1) = w(n) + mu / (eps + |u(n)|^2) u(n) e*(n).

    Parameters
    ----------
    u, d, mu, taps, w0, record : as in :func:`lms`; stable in the mean square for 0 < mu < 2.
    eps : regularisation, in units of |u|^2. None takes 1e-6 of the mean |u(n)|^2, so that the
        input's scale does not matter. With eps=0 a regressor of zeros updates nothing.

    Returns
    -------
    FilterRun

    Raises
    ------
    TypeError, ValueError : as :func:`lms`; also eps < 0, and an all-zero u without ``eps``.

    Notes
    -----
    Nagumo and Noda 1967; Haykin, Adaptive Filter Theory, chapter on normalized LMS.

    Examples
    --------
    >>> u = np.random.default_rng(0).standard_normal(2000)
    >>> d = np.convolve(u, [1.0, -0.5])[:2000]
    >>> nlms(1e6 * u, d, mu=0.5, taps=2).weights.round(12).tolist()
    [1e-06, -5e-07]
    """
    lines, desired = _inputs(u, d, taps)
    return run_rule(_nlms_rule, lines, desired, mu, w0=w0, record=record, eps=eps)


def _lms_rule(lines: Regressors, mu: Array) -> Array:
    """LMS takes the step size as it is."""
    return mu


def _nlms_rule(lines: Regressors, mu: Array, eps: float | None = None) -> Array:
    """NLMS is LMS with the step size mu / (eps + |u(n)|^2)."""
    power = _power(lines)
    if eps is None:
        floor = 1e-6 * float(power.mean(dtype=np.float64))
        if floor == 0:
            raise ValueError(
                "u must not be all zero for nlms, whose default eps is a part of the input's "
                "power; got silence: give eps= a positive value"
            )
    else:
        floor = _checks.nonnegative("eps", eps)
    denominator = power + power.dtype.type(floor)
    # no power, no direction: the update is zero there whatever the step size
    silent = denominator == 0
    denominator[silent] = 1
    return np.where(silent, 0, mu / denominator)


STEP_RULES: dict[str, Callable[..., Array]] = {"lms": _lms_rule, "nlms": _nlms_rule}


def _inputs(u: ArrayLike, d: ArrayLike, taps: int | None) -> tuple[Regressors, Array]:
    """Regressors and desired response, checked and of one dtype."""
    desired = _checks.array("d", d, ndim=(1, 2))
    signal = np.asarray(u)
    if signal.dtype.type in _checks.FLOATS:
        signal = signal.astype(np.result_type(signal, desired), copy=False)
    lines = regressors(signal, taps)
    if desired.shape[0] != lines.samples:
        raise ValueError(
            f"d must have as many samples as u, {lines.samples}; got shape {desired.shape}"
        )
    return lines, desired.astype(lines.buffer.dtype, copy=False)


def _step_sizes(mu: StepSize, lines: Regressors) -> Array:
    """One step size, or one per sample, in the real dtype of the run."""
    real = lines.buffer.real.dtype
    if callable(mu):
        mu = np.array([mu(n) for n in range(lines.samples)], dtype=float)
    if np.ndim(mu) == 0:  # type: ignore[arg-type]
        return np.array([_checks.positive("mu", mu)], dtype=real)  # type: ignore[arg-type]
    steps = _checks.array("mu", mu, ndim=(1,))  # type: ignore[arg-type]
    if steps.size != lines.samples:
        raise ValueError(
            f"mu must be a number or hold one per sample, {lines.samples}; got shape {steps.shape}"
        )
    if not np.all(steps > 0):
        raise ValueError(f"mu must be positive; got {steps[~(steps > 0)][0]}")
    return steps.astype(real)


def _power(lines: Regressors) -> Array:
    """|u(n)|^2 for every regressor, shape (N,)."""
    squares = np.abs(lines.buffer) ** 2
    energy = squares.reshape(-1, lines.hop).sum(axis=1)
    power = np.empty(lines.samples, energy.dtype)
    _kernels.sliding_power(energy, lines.taps // lines.hop, 0, power)
    return power


def run_rule(
    rule: Callable[..., Array],
    lines: Regressors,
    d: Array,
    mu: StepSize,
    *,
    w0: ArrayLike | None = None,
    record: Record = "last",
    **options: float | None,
) -> FilterRun:
    """Run checked regressors through the stochastic-gradient kernel with one algorithm's steps."""
    step = rule(lines, _step_sizes(mu, lines), **options)
    N, L = lines.samples, lines.taps
    outputs = d.reshape(N, -1)
    M = outputs.shape[1]
    shape = (L,) if d.ndim == 1 else (M, L)
    w = np.zeros((L, M), d.dtype)
    if w0 is not None:
        start = _checks.array("w0", w0, ndim=(len(shape),))
        if start.shape != shape:
            raise ValueError(f"w0 must have shape {shape}; got {start.shape}")
        if np.iscomplexobj(start) and not np.iscomplexobj(d):
            raise TypeError("w0 must be real where u and d are real; got complex weights")
        w[lines.order] = start.reshape(M, L).T
    every = _every(record)
    history = np.full((N // every + 1 if every else 0, L, M), np.nan, d.dtype)
    error = np.full((N, M), np.nan, d.dtype)
    keep = np.ones(1, step.dtype)
    x = lines.buffer
    with np.errstate(over="ignore", invalid="ignore"):  # divergence is a result, not a warning
        if M == 1:
            column = w[:, 0].copy()
            stop = _kernels.stochastic_gradient(
                x, x, lines.hop, outputs[:, 0], step, keep, column, error[:, 0], every, history
            )
            w[:, 0] = column
        else:
            stop = _kernels.stochastic_gradient_many(
                x, x, lines.hop, outputs, step, keep, w, error, every, history
            )
    if stop >= 0:
        error[stop:] = np.nan  # also outputs that were still finite at that sample
    if every and N % every == 0 and stop in (-1, N):
        history[-1] = w
    weights = w[lines.order].T.reshape(shape)
    past = history[:, lines.order].transpose(0, 2, 1).reshape(-1, *shape) if every else None
    e = error.reshape(d.shape)
    return FilterRun(
        error=e,
        output=d - e,
        weights=weights.copy(),
        diverged_at=None if stop < 0 else int(stop),
        history=past,
    )


def _every(record: Record) -> int:
    """Updates between two rows of the history; 0 keeps none."""
    if record == "last":
        return 0
    if record == "all":
        return 1
    if isinstance(record, str):
        raise ValueError(f'record must be "last", "all" or a whole number; got {record!r}')
    return _checks.count("record", record)
