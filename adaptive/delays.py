"""How far one signal lags behind another: where the taps of a filter must begin."""

from __future__ import annotations

import numpy as np
import scipy
from numpy.typing import ArrayLike

from adaptive import checks as _checks
from adaptive.checks import Array
from adaptive.results import DelayEstimate


def estimate_delay(u: ArrayLike, d: ArrayLike, *, largest: int | None = None) -> DelayEstimate:
    """Delay of d behind u, by the phase of their cross-spectrum (GCC-PHAT).

    Parameters
    ----------
    u, d : (N,) signals of one length.
    largest : delays from -largest to largest are looked at; None takes N // 4, at most 2**15.

    Returns
    -------
    DelayEstimate. Its ``samples`` is that of the strongest path. A filter needs taps before it
    too, so begin some samples earlier: ``delay=max(0, found.samples - taps // 8)``.

    Raises
    ------
    TypeError, ValueError : signals of different length, silence, largest not below N.

    Notes
    -----
    Knapp and Carter 1976: the inverse transform of U* D / |U* D|, here averaged over blocks of
    4 ``largest`` samples of d, against all of u within ``largest`` of them. ``confidence`` compares
    the peak with the root mean square of the other values, which for unrelated signals are Gaussian
    (Student's t; for complex data the F distribution with two degrees of freedom).

    Examples
    --------
    >>> u = np.random.default_rng(0).standard_normal(4000)
    >>> d = np.concatenate([np.zeros(250), 0.5 * u[:-250]])
    >>> found = estimate_delay(u, d)
    >>> found.samples, round(found.confidence, 6)
    (250, 1.0)
    """
    x, y = _checks.array("u", u, ndim=(1,)), _checks.array("d", d, ndim=(1,))
    if len(x) != len(y):
        raise ValueError(f"d must have as many samples as u, {len(x)}; got {len(y)}")
    most = min(max(len(x) // 4, 1), 1 << 15) if largest is None else largest
    most = _checks.count("largest", most)
    if most >= len(x):
        raise ValueError(f"largest must be less than the {len(x)} samples of u; got {most}")
    for name, signal in (("u", x), ("d", y)):
        if not signal.any():
            raise ValueError(f"{name} must not be silent; got zeros only")
    g = _phase_correlation(x, y, most)
    peak = int(np.argmax(np.abs(g)))
    return DelayEstimate(
        samples=peak - most,
        confidence=_confidence(np.abs(g), peak, np.iscomplexobj(g)),
        lags=np.arange(-most, most + 1),
        correlation=g,
    )


def _phase_correlation(u: Array, d: Array, most: int) -> Array:
    """(2 most + 1,) inverse transform of the cross-spectrum's phase, lag -most first."""
    N, block = len(u), 4 * most
    n = scipy.fft.next_fast_len(min(block, N) + 2 * most, real=True)
    is_complex = np.iscomplexobj(u) or np.iscomplexobj(d)
    forward = scipy.fft.fft if is_complex else scipy.fft.rfft
    total: Array | float = 0.0
    for start in range(0, N, block):
        stop = min(start + block, N)
        near = np.zeros(stop - start + 2 * most, u.dtype)
        first, last = max(start - most, 0), min(stop + most, N)
        near[first - start + most :][: last - first] = u[first:last]
        cross = forward(d[start:stop], n) * forward(near, n).conj()
        size = np.abs(cross)
        total = total + np.where(size > 0, cross / np.where(size > 0, size, 1), 0)
    g: Array = scipy.fft.ifft(total) if is_complex else scipy.fft.irfft(total, n)
    # entry k holds lag most + k, for k from -2 most to 0
    return g[np.arange(-2 * most, 1)]


def _confidence(size: Array, peak: int, is_complex: bool) -> float:
    """Probability that no value of as many chance correlations reaches the peak."""
    others = size.size - 1
    rest = float(np.sum(size**2)) - float(size[peak]) ** 2
    if rest <= 0:
        return 1.0
    ratio = float(size[peak]) ** 2 * others / rest
    if is_complex:
        rare = np.exp(-others * np.log1p(ratio / others))
    else:
        rare = 2 * scipy.special.stdtr(others, -np.sqrt(ratio))
    return float(np.exp(size.size * np.log1p(-min(rare, 1 - 1e-16))))
