"""Double-talk detectors: masks that tell a canceller when not to adapt, for ``adapt=``."""

from __future__ import annotations

import numpy as np
import scipy
from numpy.typing import ArrayLike

from adaptive import checks as _checks
from adaptive.checks import Array


def geigel(
    u: ArrayLike, d: ArrayLike, *, taps: int, threshold: float = 0.5, hold: int = 0
) -> Array:
    """Samples to adapt on, by levels: not while |d| exceeds a part of the latest largest |u|.

    Parameters
    ----------
    u : (N,) far-end signal.
    d : (N,) or (N, M) microphone.
    taps : samples of u, up to the present one, whose largest |u| counts.
    threshold : 0.5 supposes that the echo path attenuates by 6 dB or more.
    hold : samples after a detection that are not adapted on either.

    Returns
    -------
    Booleans of the shape of d: True where no double talk was found.

    Raises
    ------
    TypeError, ValueError : signals of different length, threshold not positive, hold < 0.

    Notes
    -----
    Duttweiler 1978, after A. A. Geigel: double talk where
    |d(n)| >= threshold max(|u(n)|, ..., |u(n - taps + 1)|).

    Examples
    --------
    >>> geigel([1.0, 1.0, 0.0, 1.0], [0.1, 0.9, 0.2, 0.1], taps=2, hold=1).tolist()
    [True, False, False, True]
    """
    x, y = _checks.array("u", u, ndim=(1,)), _checks.array("d", d, ndim=(1, 2))
    if len(x) != len(y):
        raise ValueError(f"d must have as many samples as u, {len(x)}; got {len(y)}")
    length, after = _checks.count("taps", taps), _checks.count("hold", hold, least=0)
    level = _latest_largest(np.abs(x), length) * _checks.positive("threshold", threshold)
    talk = level <= np.abs(y).T
    return _held(talk.T, after)


def normalized_correlation(
    d: ArrayLike,
    error: ArrayLike,
    *,
    threshold: float = 0.9,
    forgetting: float = 0.998,
    hold: int = 0,
    start: int = 0,
) -> Array:
    """Samples to adapt on, by correlation: not while the error resembles what the microphone hears.

    A canceller that has learned leaves an error that is uncorrelated with d while only the far end
    talks; the near end appears in both. Give it the error of a first run, or of the blocks so far.

    Parameters
    ----------
    d : (N,) or (N, M) microphone.
    error : error of a canceller on it, of the shape of d.
    threshold : double talk is where 1 - r_ed / r_dd falls below; in (0, 1).
    forgetting : of the running correlations r, in [0, 1).
    hold : samples after a detection that are not adapted on either.
    start : samples at the beginning, during which the canceller learns, that are always True.

    Returns
    -------
    Booleans of the shape of d: True where no double talk was found.

    Raises
    ------
    TypeError, ValueError : arrays of different shape, settings out of range.

    Notes
    -----
    Iqbal, Stokes and Grant 2007: 1 - r_ed / r_dd, the share of the microphone's power that the
    canceller explains; the fast form of the detector of Benesty, Morgan and Cho 2000 puts the
    filter's own output in place of R^-1 r in the same way.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> echo, near = rng.standard_normal((2, 4000))
    >>> near[:2000] = 0
    >>> adapt = normalized_correlation(echo + near, 0.1 * rng.standard_normal(4000) + near)
    >>> adapt[:2000].mean() > 0.95, adapt[2100:].mean() < 0.05
    (np.True_, np.True_)
    """
    y = _checks.array("d", d, ndim=(1, 2))
    e = _checks.array("error", error, ndim=(1, 2))
    if y.shape != e.shape:
        raise ValueError(f"error must have the shape of d, {y.shape}; got {e.shape}")
    beta = _checks.fraction("forgetting", forgetting)
    least = _checks.quantile("threshold", threshold)
    after, first = _checks.count("hold", hold, least=0), _checks.count("start", start, least=0)
    # in these units no product overflows, and their ratio is the same
    unit = max(float(np.abs(y).max(initial=0.0)), float(np.abs(e).max(initial=0.0))) or 1.0
    y, e = y / unit, e / unit
    shared = _running(np.real(e * y.conj()), beta)
    talk = _running(np.abs(y) ** 2, beta) * (1 - least) < shared
    talk[:first] = False
    return _held(talk, after)


def _latest_largest(x: Array, length: int) -> Array:
    """Largest of the last ``length`` values, zeros before the first."""
    padded = np.concatenate([np.zeros(length - 1, x.dtype), x])
    largest: Array = scipy.ndimage.maximum_filter1d(padded, length, origin=(length - 1) // 2)
    return largest[length - 1 :] if length % 2 else _even_largest(padded, length)


def _even_largest(padded: Array, length: int) -> Array:
    """The same for an even length: the larger of two maxima over one sample fewer."""
    odd = length - 1
    largest = scipy.ndimage.maximum_filter1d(padded, odd, origin=(odd - 1) // 2)
    both: Array = np.maximum(largest[length - 1 :], largest[length - 2 : -1])
    return both


def _running(x: Array, beta: float) -> Array:
    mean: Array = scipy.signal.lfilter([1 - beta], [1.0, -beta], x, axis=0)
    return mean


def _held(talk: Array, hold: int) -> Array:
    """Where neither now nor in the last ``hold`` samples something was detected."""
    n = np.arange(len(talk)).reshape(-1, *(1,) * (talk.ndim - 1))
    latest = np.maximum.accumulate(np.where(talk, n, -1 - hold), axis=0)
    return np.asarray(n - latest > hold)
