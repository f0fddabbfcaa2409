"""LMS and its family as functions: each runs its streaming filter once over the whole signal.

Conventions, once for all of them: w(n+1) = w(n) + mu(n) u(n) e*(n) (Haykin, Sayed; Widrow writes
2 mu), e(n) = d(n) - w(n)^H u(n) is the a priori error, and taps run newest sample first. Several
channels stack channel by channel. float32 stays float32.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

from adaptive import _kernels, streaming
from adaptive import checks as _checks
from adaptive.checks import Array
from adaptive.results import FilterRun
from adaptive.streaming import AdaptiveFilter, Record, StepSize


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
    return _once(streaming.LMS(mu=mu, taps=taps, w0=w0), u, d, record)


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
    TypeError, ValueError : as :func:`lms`; eps < 0, silence without eps.

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
    u, d, exponent = _moderate(u, d, eps)
    eps = _regularisation("eps", eps, 1e-6, u, taps, exponent, whole=True)
    return _once(streaming.NLMS(mu=mu, eps=eps, taps=taps, w0=w0), u, d, record, exponent)


def leaky_lms(
    u: ArrayLike,
    d: ArrayLike,
    *,
    mu: StepSize,
    leakage: float,
    taps: int | None = None,
    w0: ArrayLike | None = None,
    record: Record = "last",
) -> FilterRun:
    """Leaky LMS: w(n+1) = (1 - mu leakage) w(n) + mu u(n) e*(n).

    LMS on R + leakage I: the weights settle at (R + leakage I)^-1 P, and directions without input
    decay to zero instead of drifting. In a network: weight decay.

    Parameters
    ----------
    u, d, mu, taps, w0, record : as in :func:`lms`.
    leakage : in units of input power, zero or positive.

    Raises
    ------
    TypeError, ValueError : as :func:`lms`; leakage < 0.

    Notes
    -----
    Sayed, Fundamentals of Adaptive Filtering, leaky LMS.

    Examples
    --------
    >>> u = np.random.default_rng(0).standard_normal(20000)
    >>> leaky_lms(u, u, mu=0.01, leakage=1.0, taps=1).weights.round(1).tolist()
    [0.5]
    """
    filter_ = streaming.LeakyLMS(mu=mu, leakage=leakage, taps=taps, w0=w0)
    return _once(filter_, u, d, record)


def sign_error_lms(
    u: ArrayLike,
    d: ArrayLike,
    *,
    mu: StepSize,
    taps: int | None = None,
    w0: ArrayLike | None = None,
    record: Record = "last",
) -> FilterRun:
    """Sign-error LMS: w(n+1) = w(n) + mu u(n) sign(e*(n)).

    Robust against impulsive noise: one sample moves the weights by mu |u| at most. Of a
    complex error the signs of both parts are taken. In a network: the absolute-error loss.

    Parameters
    ----------
    u, d, mu, taps, w0, record : as in :func:`lms`.

    Raises
    ------
    TypeError, ValueError : as :func:`lms`.

    Notes
    -----
    Sayed, Fundamentals of Adaptive Filtering, sign-error LMS.

    Examples
    --------
    >>> u = np.random.default_rng(0).standard_normal(20000)
    >>> d = np.convolve(u, [1.0, -0.5])[:20000]
    >>> sign_error_lms(u, d, mu=0.001, taps=2).weights.round(1).tolist()
    [1.0, -0.5]
    """
    return _once(streaming.SignErrorLMS(mu=mu, taps=taps, w0=w0), u, d, record)


def sign_data_lms(
    u: ArrayLike,
    d: ArrayLike,
    *,
    mu: StepSize,
    taps: int | None = None,
    w0: ArrayLike | None = None,
    record: Record = "last",
) -> FilterRun:
    """Sign-data LMS: w(n+1) = w(n) + mu sign(u(n)) e*(n).

    Needs no multiplication by the data where mu is a power of two. For some inputs it diverges
    at every step size (Sethares et al. 1988): see ``diverged_at``.

    Parameters
    ----------
    u, d, mu, taps, w0, record : as in :func:`lms`.

    Raises
    ------
    TypeError, ValueError : as :func:`lms`.

    Notes
    -----
    Haykin, Adaptive Filter Theory; Sethares, Mareels, Anderson, Johnson, Bitmead 1988.

    Examples
    --------
    >>> u = np.random.default_rng(0).standard_normal(20000)
    >>> d = np.convolve(u, [1.0, -0.5])[:20000]
    >>> sign_data_lms(u, d, mu=0.001, taps=2).weights.round(1).tolist()
    [1.0, -0.5]
    """
    return _once(streaming.SignDataLMS(mu=mu, taps=taps, w0=w0), u, d, record)


def sign_sign_lms(
    u: ArrayLike,
    d: ArrayLike,
    *,
    mu: StepSize,
    taps: int | None = None,
    w0: ArrayLike | None = None,
    record: Record = "last",
) -> FilterRun:
    """Sign-sign LMS: w(n+1) = w(n) + mu sign(u(n)) sign(e*(n)).

    Every weight moves by mu at every sample; the rule of the ITU's ADPCM coders. In a network:
    sign-SGD on the absolute error.

    Parameters
    ----------
    u, d, mu, taps, w0, record : as in :func:`lms`.

    Raises
    ------
    TypeError, ValueError : as :func:`lms`.

    Notes
    -----
    Lucky 1966; ITU-T G.726.

    Examples
    --------
    >>> u = np.random.default_rng(0).standard_normal(20000)
    >>> d = np.convolve(u, [1.0, -0.5])[:20000]
    >>> sign_sign_lms(u, d, mu=0.001, taps=2).weights.round(1).tolist()
    [1.0, -0.5]
    """
    return _once(streaming.SignSignLMS(mu=mu, taps=taps, w0=w0), u, d, record)


def momentum_lms(
    u: ArrayLike,
    d: ArrayLike,
    *,
    mu: StepSize,
    momentum: float,
    taps: int | None = None,
    w0: ArrayLike | None = None,
    record: Record = "last",
) -> FilterRun:
    """LMS with momentum (heavy ball): w(n+1) = w(n) + mu u(n) e*(n) + momentum (w(n) - w(n-1)).

    What torch.optim.SGD(momentum=) does with one sample at a time; no dampening, w(-1) = w(0).
    Slow modes learn 1 / (1 - momentum) times as fast.

    Parameters
    ----------
    u, d, mu, taps, w0, record : as in :func:`lms`. A varying mu scales the new gradient only.
    momentum : in [0, 1).

    Raises
    ------
    TypeError, ValueError : as :func:`lms`; momentum outside [0, 1).

    Notes
    -----
    Polyak 1964; Roy and Shynk 1990 for LMS.

    Examples
    --------
    >>> u = np.random.default_rng(0).standard_normal(2000)
    >>> d = np.convolve(u, [1.0, -0.5])[:2000]
    >>> momentum_lms(u, d, mu=0.01, momentum=0.8, taps=2).weights.round(6).tolist()
    [1.0, -0.5]
    """
    filter_ = streaming.MomentumLMS(mu=mu, momentum=momentum, taps=taps, w0=w0)
    return _once(filter_, u, d, record)


def block_lms(
    u: ArrayLike,
    d: ArrayLike,
    *,
    mu: StepSize,
    block: int,
    taps: int | None = None,
    w0: ArrayLike | None = None,
    record: Record = "last",
) -> FilterRun:
    """Block LMS: after every ``block`` samples, w <- w + mu mean of u(n) e*(n) over the block.

    The mean, not the sum, so that mu keeps its scale whatever the block. In a network: mini-batch
    SGD.

    Parameters
    ----------
    u, d, mu, taps, w0, record : as in :func:`lms`. A varying mu is read at a block's last sample;
        samples after the last whole block update nothing.
    block : samples per update.

    Raises
    ------
    TypeError, ValueError : as :func:`lms`; block < 1.

    Notes
    -----
    Clark, Mitra and Parker 1981.

    Examples
    --------
    >>> u = np.random.default_rng(0).standard_normal(4000)
    >>> d = np.convolve(u, [1.0, -0.5])[:4000]
    >>> block_lms(u, d, mu=0.5, block=8, taps=2).weights.round(6).tolist()
    [1.0, -0.5]
    """
    return _once(streaming.BlockLMS(mu=mu, block=block, taps=taps, w0=w0), u, d, record)


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
) -> FilterRun:
    """Power-normalised LMS: w_k(n+1) = w_k(n) + mu u_k(n) e*(n) / (eps + p_k(n)).

    p_k(n) is the mean of |u_k|^2 over the samples so far, the latest weighted most:
    p(n) = sum_j forgetting^j |u(n-j)|^2 / sum_j forgetting^j. It pays where taps or channels differ
    in power. In a network: BatchNorm's channel-wise scaling; Adam's second moment, of the input.

    Parameters
    ----------
    u, d, mu, taps, w0, record : as in :func:`lms`; mu < 2 / L is safe for slow forgetting.
    eps : in units of |u_k|^2; None takes 1e-6 of the mean.
    forgetting : in [0, 1).

    Raises
    ------
    TypeError, ValueError : as :func:`lms`; eps < 0, forgetting outside [0, 1), silence without eps.

    Notes
    -----
    Haykin, Adaptive Filter Theory, self-orthogonalising filters.

    Examples
    --------
    >>> u = np.random.default_rng(0).standard_normal((2000, 2)) * [1.0, 100.0]
    >>> d = u @ [1.0, -0.5]
    >>> power_normalized_lms(u, d, mu=0.1).weights.round(6).tolist()
    [1.0, -0.5]
    """
    u, d, exponent = _moderate(u, d, eps)
    eps = _regularisation("eps", eps, 1e-6, u, taps, exponent)
    filter_ = streaming.PowerNormalizedLMS(mu=mu, eps=eps, forgetting=forgetting, taps=taps, w0=w0)
    return _once(filter_, u, d, record, exponent)


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
) -> FilterRun:
    """Transform-domain LMS: power-normalised LMS on the orthonormal DCT-II of each delay line.

    The DCT nearly diagonalises R of correlated signals, so that normalising each bin's power
    nearly whitens. Weights are given in the time domain.

    Parameters
    ----------
    u : (N,) signal or (N, C) channels.
    d, mu, taps, eps, forgetting, w0, record : as in :func:`power_normalized_lms`.

    Raises
    ------
    TypeError, ValueError : as :func:`power_normalized_lms`.

    Notes
    -----
    Narayan, Peterson and Narasimha 1983.

    Examples
    --------
    >>> u = np.cumsum(np.random.default_rng(0).standard_normal(4000))  # a spread of thousands
    >>> d = np.convolve(u, [1.0, -0.5, 0.25])[:4000]
    >>> transform_domain_lms(u, d, mu=0.2, taps=3).weights.round(3).tolist()
    [1.0, -0.5, 0.25]
    """
    u, d, exponent = _moderate(u, d, eps)
    eps = _regularisation("eps", eps, 1e-6, u, taps, exponent)
    filter_ = streaming.TransformDomainLMS(mu=mu, eps=eps, forgetting=forgetting, taps=taps, w0=w0)
    return _once(filter_, u, d, record, exponent)


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
) -> FilterRun:
    """Affine projection: w(n+1) = w(n) + mu U (U^H U + eps I)^-1 e*, U = [u(n) .. u(n-order+1)].

    e holds the a priori errors of the last ``order`` samples. Order 1 is NLMS. In a network:
    a step of the Kaczmarz kind on the last few examples together.

    Parameters
    ----------
    u, d, mu, taps, w0, record : as in :func:`lms`; 0 < mu < 2.
    order : number of regressors projected on, 1 to about L.
    eps : in units of |u|^2; None takes 1e-6 of its mean.

    Raises
    ------
    TypeError, ValueError : as :func:`lms`; order < 1, eps < 0, silence without eps.

    Notes
    -----
    Ozeki and Umeda 1984; Haykin, Adaptive Filter Theory. O(order^2 L) per sample.

    Examples
    --------
    >>> u = np.cumsum(np.random.default_rng(0).standard_normal(400))
    >>> d = np.convolve(u, [1.0, -0.5, 0.25])[:400]
    >>> affine_projection(u, d, mu=1.0, order=3, taps=3).weights.round(4).tolist()
    [1.0, -0.5, 0.25]
    """
    u, d, exponent = _moderate(u, d, eps)
    eps = _regularisation("eps", eps, 1e-6, u, taps, exponent, whole=True)
    filter_ = streaming.AffineProjection(mu=mu, order=order, eps=eps, taps=taps, w0=w0)
    return _once(filter_, u, d, record, exponent)


def rls(
    u: ArrayLike,
    d: ArrayLike,
    *,
    forgetting: float = 1.0,
    delta: float | None = None,
    taps: int | None = None,
    w0: ArrayLike | None = None,
    record: Record = "last",
) -> FilterRun:
    """Recursive least squares, in a form that rounding cannot destabilise.

    After n samples w minimises sum_i forgetting^(n-i) |e_i|^2 + delta forgetting^n |w - w0|^2.
    The inverse correlation matrix is kept in factors (Bierman's update), so it stays positive.
    In a network: full whitening of a layer's input.

    Parameters
    ----------
    u, d, taps, w0, record : as in :func:`lms`.
    forgetting : in (0, 1]; 1 never forgets.
    delta : initial regularisation in units of input power; None takes 1e-2 of the mean |u_k|^2.

    Raises
    ------
    TypeError, ValueError : as :func:`lms`; forgetting outside (0, 1], delta <= 0, silence without
        delta.

    Notes
    -----
    Haykin, Adaptive Filter Theory, RLS; Bierman 1977 for the factors. O(L^2) per sample.

    Examples
    --------
    >>> u = np.cumsum(np.random.default_rng(0).standard_normal(400))
    >>> d = np.convolve(u, [1.0, -0.5, 0.25])[:400]
    >>> rls(u, d, delta=1e-9, taps=3).weights.round(6).tolist()
    [1.0, -0.5, 0.25]
    """
    u, d, exponent = _moderate(u, d, delta)
    delta = _regularisation("delta", delta, 1e-2, u, taps, exponent)
    filter_ = streaming.RLS(delta=delta, forgetting=forgetting, taps=taps, w0=w0)
    return _once(filter_, u, d, record, exponent)


def frequency_domain_lms(
    u: ArrayLike,
    d: ArrayLike,
    *,
    mu: StepSize,
    taps: int,
    block: int | None = None,
    normalize: bool = True,
    eps: float | None = None,
    forgetting: float = 0.9,
    w0: ArrayLike | None = None,
    record: Record = "last",
) -> FilterRun:
    """Frequency-domain block LMS, overlap-save, partitioned where ``block`` is less than ``taps``.

    With ``normalize=False`` this is :func:`block_lms` up to rounding, by FFT. Normalising divides
    each frequency's update by its power p_f, a running mean over blocks times the partitions, so
    that all frequencies learn alike. The gradient is constrained to ``block`` taps a partition.

    Parameters
    ----------
    u : (N,) signal or (N, C) channels.
    d, mu, taps, w0, record : as in :func:`lms`. Updates come once a block; a varying mu is read at
        a block's last sample.
    block : samples per block and taps per partition; None takes one partition, ``taps``. Short
        blocks update early; the delay of a real-time system is one block.
    normalize : per-frequency step size; then 0 < mu < 2 is the useful range.
    eps : added to the power of a frequency, in units of |u_k|^2; None takes 1e-6 of the mean.
    forgetting : of the running power, per block, in [0, 1).

    Raises
    ------
    TypeError, ValueError : as :func:`lms`; block < 1, eps < 0, forgetting outside [0, 1), silence
        without eps.

    Notes
    -----
    Ferrara 1980; Shynk 1992; Soo and Pang 1990 for partitions.

    Examples
    --------
    >>> u = np.random.default_rng(0).standard_normal(8000)
    >>> d = np.convolve(u, [1.0, -0.5, 0.25])[:8000]
    >>> frequency_domain_lms(u, d, mu=0.5, taps=3).weights.round(3).tolist()
    [1.0, -0.5, 0.25]
    """
    exponent = 0
    if normalize:
        u, d, exponent = _moderate(u, d, eps)
        eps = _regularisation("eps", eps, 1e-6, u, taps, exponent)
    else:
        eps = 0.0
    filter_ = streaming.FrequencyDomainLMS(
        mu=mu, taps=taps, block=block, normalize=normalize, eps=eps, forgetting=forgetting, w0=w0
    )
    return _once(filter_, u, d, record, exponent)


def _once(
    filter_: AdaptiveFilter, u: ArrayLike, d: ArrayLike, record: Record, exponent: int = 0
) -> FilterRun:
    """The streaming filter over the whole signal as one block; errors times 2**exponent."""
    mu = filter_.mu
    if not callable(mu) and np.ndim(mu) == 1 and np.size(mu) != np.shape(u)[0]:
        raise ValueError(
            f"mu must be a number or hold one per sample, {np.shape(u)[0]}; got {np.shape(mu)}"
        )
    run = filter_.run(u, d, record)
    if exponent == 0:
        return run
    error, desired = (_times_power_of_two(x, exponent) for x in (run.error, run.desired))
    return dataclasses.replace(run, error=error, desired=desired)


def _moderate(
    u: ArrayLike, d: ArrayLike, regularisation: float | None
) -> tuple[ArrayLike, ArrayLike, int]:
    """u and d over 2**exponent, where the square of u would leave the floating-point range.

    Normalised updates do not change when u and d change by one factor, and a power of two changes
    no digit. The exponent is 0 for signals of ordinary size, which pass untouched.
    """
    signal, desired = np.asarray(u), np.asarray(d)
    if not {signal.dtype.type, desired.dtype.type} <= set(_checks.FLOATS):
        return u, d, 0  # the gate will refuse them
    limits = np.finfo(np.result_type(signal, desired))
    with np.errstate(over="ignore", under="ignore"):
        energy = _kernels.energy(signal.reshape(-1))
    if 2.0 ** -(limits.maxexp // 2) < energy < 2.0 ** (limits.maxexp // 2):
        return u, d, 0  # ordinary: one quick pass says so
    of_u = _exponent(signal)
    if of_u is None or abs(of_u) <= limits.maxexp // 4:
        return u, d, 0
    of_d = _exponent(desired)
    exponent = of_u
    if of_d is not None:  # d must stay in range too
        room = limits.maxexp - limits.maxexp // 8
        exponent = min(max(exponent, of_d - room), of_d + room)
    with np.errstate(over="ignore"):
        if regularisation is not None and not np.ldexp(regularisation, -2 * exponent) < np.inf:
            return u, d, 0  # far above the power of u, it hides that the power underflows
    return _times_power_of_two(signal, -exponent), _times_power_of_two(desired, -exponent), exponent


def _exponent(a: Array) -> int | None:
    """Binary exponent of the largest entry; None for silence and for what is not finite."""
    parts = (a.real, a.imag) if np.iscomplexobj(a) else (a,)
    peak = max(max(x.max(initial=0), -x.min(initial=0)) for x in parts)
    return int(np.frexp(peak)[1]) if 0 < peak < np.inf else None


def _times_power_of_two(a: Array, exponent: int) -> Array:
    """a * 2**exponent, also where 2**exponent itself is out of range."""
    parts = np.ascontiguousarray(a).view(a.real.dtype)
    with np.errstate(over="ignore", under="ignore"):
        scaled: Array = np.ldexp(parts, exponent).view(a.dtype)
    return scaled.reshape(a.shape)


def _regularisation(
    name: str,
    value: float | None,
    part: float,
    u: ArrayLike,
    taps: int | None,
    exponent: int,
    whole: bool = False,
) -> float:
    """The value given, over 4**exponent, or a part of u's mean power per tap (of all if whole)."""
    if value is not None:
        if exponent == 0:
            return value
        smallest = np.finfo(float).tiny if value > 0 else 0.0
        return max(float(np.ldexp(value, -2 * exponent)), smallest)
    signal = np.asarray(u)
    if signal.size == 0 or signal.dtype.type not in _checks.FLOATS:
        signal = _checks.array("u", u, ndim=(1, 2))
    energy = _kernels.energy(signal.reshape(-1))
    if not np.isfinite(energy):
        signal = _checks.array("u", u, ndim=(1, 2))
    power = energy / signal.size
    lines = 1 if signal.ndim == 1 else signal.shape[1]
    scaled = part * power * ((taps or 1) * lines if whole else 1)
    if scaled == 0:
        raise ValueError(
            f"u must not be all zero when {name} is None, which takes a part of the input's power; "
            f"got silence: give {name}= a positive value"
        )
    return scaled
