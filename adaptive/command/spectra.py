"""What a pass over two recordings tells: powers, correlations, the Wiener problem behind them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy

from adaptive.checks import Array
from adaptive.command.recordings import Recording
from adaptive.wiener import WienerProblem

BLOCK = 1 << 16  # samples read together


FRAME = 512  # samples of one spectrum
COLUMN = 32  # frames that are averaged, at most, in each part of a signal


class Spectrogram:
    """Mean power spectra of the parts of a signal, one after another."""

    def __init__(self) -> None:
        self.columns: list[Array] = []

    def add(self, x: Array) -> None:
        """The next part, (n,); frames spread over it are averaged."""
        frames = max(1, len(x) // FRAME)
        starts = np.unique(np.linspace(0, max(len(x) - FRAME, 0), min(frames, COLUMN)).astype(int))
        window = scipy.signal.windows.hann(FRAME, sym=False)
        total = np.zeros(FRAME // 2 + 1)
        for start in starts:
            part = x[start : start + FRAME]
            with np.errstate(over="ignore", invalid="ignore"):
                spectrum = np.fft.fft(window[: len(part)] * part, FRAME)[: FRAME // 2 + 1]
                total += np.abs(spectrum) ** 2
        self.columns.append(total / len(starts))

    @property
    def power(self) -> Array:
        """(bins, parts) mean power, from frequency zero up to half the rate."""
        return np.array(self.columns).T


@dataclass(frozen=True)
class Statistics:
    """Second-order statistics of u, delayed, and d.

    Attributes
    ----------
    power : mean square of one channel of u.
    d_power : mean square of d.
    taps : of the filter.
    correlations : R and P; None for several channels or complex samples.
    """

    power: float
    d_power: float
    taps: int
    correlations: tuple[Array, Array] | None

    @classmethod
    def of(
        cls, u: Recording, d: Recording, taps: int, *, delay: int = 0, moments: bool = True,
        tell: Callable[[int], None] = lambda n: None,
    ) -> Statistics:  # fmt: skip
        """The sums of ``WienerProblem.from_data``, by one pass over both in blocks.

        Memory does not grow with their length, and by FFTs time does not grow with taps^2.
        """
        N = min(u.samples, d.samples)
        block = max(BLOCK, 4 * taps)
        power = d_power = 0.0
        auto, cross = np.zeros(taps), np.zeros(taps)
        for start in range(0, N, block):
            stop = min(start + block, N)
            x = u.read(start - delay - taps + 1, stop - delay)
            if start == 0:
                x[: taps - 1] = 0  # what a filter that begins here has heard
            now, y = x[taps - 1 :], d.read(start, stop)
            power += float(np.sum(np.abs(now) ** 2)) / (1 if now.ndim == 1 else now.shape[1])
            d_power += float(np.sum(np.abs(y) ** 2))
            moments = moments and x.ndim == y.ndim == 1 and not np.iscomplexobj([x[:1], y[:1]])
            if moments:
                auto += _lags(now, x, taps)
                cross += _lags(y, x, taps)
            tell(stop - start)
        R = None
        if moments:
            # sums over all time, less those regressors that still hold samples after the end
            ending = np.zeros((taps - 1, taps))
            for k in range(1, taps):
                ending[k - 1, k:] = x[: taps - 1 + len(now)][::-1][: taps - k]
            R = (scipy.linalg.toeplitz(auto) - ending.T @ ending) / N
        return cls(power / N, d_power / N, taps, None if R is None else (R, cross / N))

    @property
    def problem(self) -> WienerProblem:
        """The Wiener problem.

        Raises
        ------
        ValueError : several channels or complex samples, for which none is made here.
        """
        if self.correlations is None:
            raise ValueError("statistics are taken of one real channel on either side")
        R, P = self.correlations
        return WienerProblem(R=R, P=P, d_power=self.d_power)


def _lags(y: Array, x: Array, taps: int) -> Array:
    """(taps,) sum over n of y(n) x(n - k), where x begins taps - 1 samples earlier."""
    whole = scipy.signal.oaconvolve(y[::-1], x)
    lags: Array = whole[len(y) - 1 : len(y) - 1 + taps][::-1]
    return lags
