"""Seeded inputs whose true autocorrelation is known, and what a scenario built on them offers.

Every input draws regressors that are stationary from the first one on: what theory says of R holds
at every sample of a run, without a transient to be left out.
"""

from __future__ import annotations

import math
import struct
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import scipy
from numpy.typing import ArrayLike

from adaptive import checks as _checks
from adaptive.checks import Array
from adaptive.modes import natural_modes
from adaptive.regressors import Regressors, regressors
from adaptive.wiener import WienerProblem

BURN_IN = 100_000  # the most samples spent on forgetting a Gaussian start


class Input(Protocol):
    """A stationary source of regressors with a known R."""

    @property
    def R(self) -> Array:
        """(L, L) true autocorrelation of the regressors."""

    def draw(self, rng: np.random.Generator, samples: int) -> Regressors:
        """``samples`` regressors; delay lines are full from the first one on."""


class Scenario(Protocol):
    """Something to simulate: regressors, a desired response, and the Wiener problem they pose."""

    @property
    def problem(self) -> WienerProblem:
        """True second-order statistics."""

    def draw(self, rng: np.random.Generator, samples: int) -> tuple[Regressors, Array]:
        """Regressors and desired response (samples,) of one run."""


# --- white noise ---


@dataclass(frozen=True)
class Impulsive:
    """Gaussian noise with rare, large impulses (Bernoulli-Gaussian), of unit power in all.

    Parameters
    ----------
    probability : of an impulse, at each sample; in (0, 1).
    ratio : power of an impulse over that of the background noise.

    Examples
    --------
    >>> noise = Impulsive(probability=0.01, ratio=1e4).draw(np.random.default_rng(0), 100_000)
    >>> bool(abs(np.mean(noise**2) - 1) < 0.1), bool(np.abs(noise).max() > 20)
    (True, True)
    """

    probability: float = 0.01
    ratio: float = 1000.0

    def __post_init__(self) -> None:
        if not 0 < _checks.number("probability", self.probability) < 1:
            raise ValueError(f"probability must lie between 0 and 1; got {self.probability}")
        _checks.positive("ratio", self.ratio)

    def draw(self, rng: np.random.Generator, samples: int) -> Array:
        """(samples,) independent values of mean 0 and power 1."""
        background = 1 / (1 + self.probability * self.ratio)
        hit = rng.random(samples) < self.probability
        noise: Array = rng.standard_normal(samples) * np.sqrt(
            background * np.where(hit, 1 + self.ratio, 1.0)
        )
        return noise


DISTRIBUTIONS = ("gaussian", "uniform", "laplace", "binary", "impulsive")
Distribution = str | Impulsive


def distribution(name: str, value: Distribution) -> Distribution:
    """One of ``DISTRIBUTIONS``, or an ``Impulsive``."""
    return value if isinstance(value, Impulsive) else _checks.choice(name, value, DISTRIBUTIONS)


def unit_noise(kind: Distribution, rng: np.random.Generator, samples: int) -> Array:
    """(samples,) independent values of mean 0 and power 1, of the distribution named."""
    if isinstance(kind, Impulsive):
        return kind.draw(rng, samples)
    if kind == "gaussian":
        return rng.standard_normal(samples)
    if kind == "uniform":
        return rng.uniform(-np.sqrt(3), np.sqrt(3), samples)
    if kind == "laplace":
        return rng.laplace(scale=1 / np.sqrt(2), size=samples)
    if kind == "binary":
        return 2.0 * rng.integers(0, 2, samples) - 1.0
    return Impulsive().draw(rng, samples)


# --- regressors without a delay line ---


@dataclass(frozen=True, init=False, eq=False)
class GaussianRegressors:
    """Zero-mean Gaussian regressors, independent from sample to sample, of a given R.

    What the independence assumption describes exactly. R may be singular; a complex R gives
    circular complex regressors.

    Examples
    --------
    >>> source = GaussianRegressors([[2.0, 1.0], [1.0, 2.0]])
    >>> U = source.draw(np.random.default_rng(0), 100_000).rows
    >>> (U.T @ U / 100_000).round(1).tolist()
    [[2.0, 1.0], [1.0, 2.0]]
    """

    R: Array

    def __init__(self, R: ArrayLike) -> None:
        object.__setattr__(self, "R", _checks.autocorrelation("R", R))
        object.__setattr__(self, "_root", _root(self.R))

    def draw(self, rng: np.random.Generator, samples: int) -> Regressors:
        """``samples`` regressors, (samples, L)."""
        root: Array = self._root  # type: ignore[attr-defined]
        g = rng.standard_normal((samples, root.shape[0]))
        if np.iscomplexobj(root):
            g = (g + 1j * rng.standard_normal(g.shape)) / np.sqrt(2)
        return regressors(g @ root.T)


def _root(R: Array) -> Array:
    """The Hermitian square root of R.

    It is unique, where the signs of eigenvectors are not: a seed draws the same numbers, up to
    rounding, whatever LAPACK is installed.
    """
    modes = natural_modes(R)
    root: Array = (modes.eigenvectors * np.sqrt(modes.eigenvalues)) @ modes.eigenvectors.conj().T
    return root


# --- delay lines over a process ---


class Process(ABC):
    """A delay line of ``taps`` over a real, stationary, zero-mean process."""

    taps: int

    @abstractmethod
    def autocovariance(self, lags: int) -> Array:
        """(lags,) E[x(n) x(n-k)] for k = 0..lags-1, exact."""

    @abstractmethod
    def signal(self, rng: np.random.Generator, samples: int) -> Array:
        """(samples,) of a fresh realisation."""

    @cached_property
    def R(self) -> Array:
        """(L, L) Toeplitz autocorrelation of the delay line."""
        matrix: Array = scipy.linalg.toeplitz(self.autocovariance(self.taps))
        return matrix

    def draw(self, rng: np.random.Generator, samples: int) -> Regressors:
        """``samples`` regressors; the delay line is full from the first one on."""
        return delay_line(self.signal(rng, samples + self.taps - 1), self.taps)


def delay_line(x: Array, taps: int) -> Regressors:
    """The full regressors of a signal (N + taps - 1,): N of them."""
    return regressors(x[taps - 1 :], taps, past=x[: taps - 1, None])


class Recursion(NamedTuple):
    """x(n) / gain = g(n) + z_1(n), z_i(n+1) = z_j(n) + b_i g(n) - a_i x(n) / gain, j = i + 1.

    g is white, of unit power; root is that of the covariance (m, m) of z.
    """

    b: Array  # (m + 1,), b_0 = 1
    a: Array  # (m + 1,), a_0 = 1
    root: Array
    gain: float


@dataclass(frozen=True, init=False, eq=False)
class ARMA(Process):
    """Delay line over x(n) = sum_j ar_j x(n-j) + g(n) + sum_j ma_j g(n-j), g white noise.

    Parameters
    ----------
    ar : (p,) coefficients of a stable recursion; may be empty.
    ma : (q,) coefficients; may be empty.
    taps : length L of the delay line.
    power : E|x|^2, to which the innovations g are scaled.
    innovations : distribution of g: "gaussian", "uniform", "laplace", "binary", "impulsive" or an
        :class:`Impulsive`. With any but the first, only second-order statistics are exact from the
        first sample on; the distribution is, once a start-up of 1e-6 left in power is forgotten.

    Raises
    ------
    TypeError, ValueError : coefficients not finite, a pole on or outside the unit circle.

    Notes
    -----
    With z(n+1) = F z(n) + G g(n), x(n) = z_1(n) + g(n), the state's covariance solves
    S = F S F' + G G', from which both the autocovariance and a stationary start follow (Brockwell
    and Davis, Time Series: Theory and Methods, chapter on state-space models).

    Examples
    --------
    >>> ARMA([0.5], [0.5], taps=3).R[0].round(12).tolist()
    [1.0, 0.714285714286, 0.357142857143]
    """

    ar: Array
    ma: Array
    taps: int
    power: float
    innovations: Distribution

    def __init__(
        self,
        ar: ArrayLike,
        ma: ArrayLike,
        *,
        taps: int,
        power: float = 1.0,
        innovations: Distribution = "gaussian",
    ) -> None:
        object.__setattr__(self, "ar", _coefficients("ar", ar))
        object.__setattr__(self, "ma", _coefficients("ma", ma))
        self._finish("ar", taps, power, innovations)

    def _finish(self, name: str, taps: int, power: float, innovations: Distribution) -> None:
        poles = np.abs(np.roots(np.concatenate([[1.0], -self.ar])))
        largest = float(poles.max(initial=0.0))
        if largest >= 1:
            raise ValueError(
                f"{name} must give a stable process, with poles inside the unit circle; "
                f"got a pole of modulus {largest:.4g}"
            )
        object.__setattr__(self, "taps", _checks.count("taps", taps))
        object.__setattr__(self, "power", _checks.positive("power", power))
        object.__setattr__(self, "innovations", distribution("innovations", innovations))
        object.__setattr__(self, "_pole", largest)

    @cached_property
    def _filter(self) -> tuple[Array, Array]:
        """Numerator and denominator, both (m + 1,)."""
        m = max(self.ar.size, self.ma.size)
        b, a = np.zeros(m + 1), np.zeros(m + 1)
        b[0] = a[0] = 1.0
        b[1 : self.ma.size + 1] = self.ma
        a[1 : self.ar.size + 1] = -self.ar
        return b, a

    @cached_property
    def _state(self) -> tuple[Array, Array, float]:
        """F S c + G, a root of S, and the gain that gives the power asked for."""
        b, a = self._filter
        m = b.size - 1
        # the state of scipy.signal.lfilter: z_i(n+1) = b_i g(n) + z_{i+1}(n) - a_i x(n)
        F = np.eye(m, k=1)
        F[:, :1] -= a[1:, None]
        G = b[1:] - a[1:]
        if m == 0:
            return G, np.zeros((0, 0)), float(np.sqrt(self.power))
        S = scipy.linalg.solve_discrete_lyapunov(F, np.outer(G, G))
        return F @ S[:, 0] + G, _root((S + S.T) / 2), float(np.sqrt(self.power / (S[0, 0] + 1)))

    @property
    def recursion(self) -> Recursion:
        """The process sample by sample."""
        b, a = self._filter
        _, root, gain = self._state
        return Recursion(b, a, root, gain)

    def autocovariance(self, lags: int) -> Array:
        """(lags,) E[x(n) x(n-k)] for k = 0..lags-1."""
        cross, _, gain = self._state
        b, a = self._filter
        r = np.zeros(lags)
        r[0] = self.power
        if cross.size and lags > 1:
            # E[z(n+1) x(n)] runs on freely: r(k) is its output k - 1 samples later
            free, _ = scipy.signal.lfilter(b, a, np.zeros(lags - 1), zi=cross)
            r[1:] = gain**2 * free
        return r

    def signal(self, rng: np.random.Generator, samples: int) -> Array:
        """(samples,) of a fresh realisation, stationary from the first one on."""
        _, root, gain = self._state
        b, a = self._filter
        if root.size == 0:
            return gain * unit_noise(self.innovations, rng, samples)
        state = root @ rng.standard_normal(root.shape[0])
        forget = 0 if self.innovations == "gaussian" else self._memory
        g = unit_noise(self.innovations, rng, forget + samples)
        x, _ = scipy.signal.lfilter(b, a, g, zi=state)
        line: Array = gain * x[forget:]
        return line

    @property
    def _memory(self) -> int:
        """Samples until 1e-6 of the start's power is left."""
        pole: float = self._pole  # type: ignore[attr-defined]
        slow = np.log(1e-3) / np.log(pole) if pole > 0 else 0.0
        return int(min(np.ceil(slow) + self.ma.size, BURN_IN))


@dataclass(frozen=True, init=False, eq=False)
class AutoRegressive(ARMA):
    """Delay line over an AR process x(n) = a_1 x(n-1) + ... + a_p x(n-p) + g(n).

    Parameters
    ----------
    coefficients : (p,) a_1..a_p of a stable process; empty for white noise.
    taps, power, innovations : as for :class:`ARMA`.

    Raises
    ------
    TypeError, ValueError : coefficients not finite, a pole on or outside the unit circle.

    Examples
    --------
    >>> AutoRegressive([0.5], taps=3).R.round(12).tolist()
    [[1.0, 0.5, 0.25], [0.5, 1.0, 0.5], [0.25, 0.5, 1.0]]
    """

    ma: Array = field(repr=False)

    def __init__(
        self,
        coefficients: ArrayLike,
        *,
        taps: int,
        power: float = 1.0,
        innovations: Distribution = "gaussian",
    ) -> None:
        object.__setattr__(self, "ar", _coefficients("coefficients", coefficients))
        object.__setattr__(self, "ma", np.zeros(0))
        self._finish("coefficients", taps, power, innovations)

    @classmethod
    def with_spread(cls, spread: float, *, taps: int, order: int = 1) -> AutoRegressive:
        """Unit-power process whose R has a given eigenvalue spread.

        Parameters
        ----------
        spread : lambda_max / lambda_min of R, at least 1; 1 is white noise.
        taps : length of the delay line, at least 2.
        order : 1 has one real pole; 2 a pair of poles at an eighth of the sampling rate.

        Raises
        ------
        TypeError, ValueError : spread below 1 or beyond what a pole of radius 0.9999 gives,
            taps < 2, order neither 1 nor 2.

        Examples
        --------
        >>> source = AutoRegressive.with_spread(100.0, taps=8)
        >>> round(float(np.linalg.cond(source.R)), 6), source.coefficients.round(3).tolist()
        (100.0, [0.89])
        """
        chi, L = _checks.positive("spread", spread), _checks.count("taps", taps, least=2)
        if chi < 1:
            raise ValueError(f"spread must be at least 1; got {chi:.4g}")
        if order not in (1, 2):
            raise ValueError(f"order must be 1 or 2; got {_checks.shown(order)}")
        if chi == 1:
            return cls([], taps=L)

        def process(radius: float) -> AutoRegressive:
            pair = [2 * radius * math.cos(math.pi / 4), -(radius**2)]
            return cls([radius] if order == 1 else pair, taps=L)

        def excess(radius: float) -> float:
            values = np.linalg.eigvalsh(process(radius).R)
            return math.log(values[-1] / values[0]) - math.log(chi)

        try:
            radius = scipy.optimize.brentq(excess, 0.0, 0.9999, xtol=1e-12)
        except ValueError:
            raise ValueError(
                f"spread must be within reach of an AR({order}) input; got {chi:.3g}"
            ) from None
        return process(float(radius))

    @property
    def coefficients(self) -> Array:
        """(p,) a_1..a_p."""
        return self.ar


_law = distribution  # by another name, since white has a parameter that is called so


def white(taps: int, power: float = 1.0, distribution: Distribution = "gaussian") -> AutoRegressive:
    """Delay line of ``taps`` over white noise of the given power.

    ``distribution`` is one of ``DISTRIBUTIONS``, or an :class:`Impulsive`.
    """
    return AutoRegressive(
        [], taps=taps, power=power, innovations=_law("distribution", distribution)
    )


@dataclass(frozen=True, init=False, eq=False)
class Tones(Process):
    """Delay line over sum_k A_k cos(2 pi f_k n + phase_k) + white Gaussian noise.

    The phases are random, uniform and independent, fresh in each draw: that makes the process
    stationary. Each tone adds rank 2 to R (rank 1 at f = 0 and 1/2).

    Parameters
    ----------
    frequencies : (K,) in cycles per sample, from 0 to 1/2.
    taps : length of the delay line.
    amplitudes : (K,) A_k, or one for all; a tone's power is A^2 / 2.
    noise_power : power of the noise; 0 leaves R singular when 2 K < taps.

    Raises
    ------
    TypeError, ValueError : no frequency, one outside [0, 1/2], an amplitude that is not positive.

    Examples
    --------
    >>> Tones([0.25], taps=3, noise_power=0.1).R.round(12).tolist()
    [[0.6, 0.0, -0.5], [0.0, 0.6, 0.0], [-0.5, 0.0, 0.6]]
    """

    frequencies: Array
    amplitudes: Array
    taps: int
    noise_power: float

    def __init__(
        self,
        frequencies: ArrayLike,
        *,
        taps: int,
        amplitudes: ArrayLike = 1.0,
        noise_power: float = 0.0,
    ) -> None:
        f = _coefficients("frequencies", frequencies)
        if f.size == 0:
            raise ValueError("frequencies must hold at least one frequency; got none")
        if f.min() < 0 or f.max() > 0.5:
            raise ValueError(
                f"frequencies must lie from 0 to 0.5 cycles per sample; got {f.tolist()}"
            )
        A = _coefficients("amplitudes", amplitudes)
        if A.size not in (1, f.size):
            raise ValueError(f"amplitudes must be one, or one per tone, {f.size}; got {A.size}")
        if A.min() <= 0:
            raise ValueError(f"amplitudes must be positive; got {A.tolist()}")
        object.__setattr__(self, "frequencies", f)
        object.__setattr__(self, "amplitudes", np.broadcast_to(A, f.shape))
        object.__setattr__(self, "taps", _checks.count("taps", taps))
        object.__setattr__(self, "noise_power", _checks.nonnegative("noise_power", noise_power))

    def autocovariance(self, lags: int) -> Array:
        """(lags,) sum_k A_k^2 / 2 cos(2 pi f_k lag), plus the noise at lag 0."""
        lag = np.arange(lags)
        r: Array = np.cos(2 * np.pi * np.outer(lag, self.frequencies)) @ (self.amplitudes**2 / 2)
        r[0] += self.noise_power
        return r

    def signal(self, rng: np.random.Generator, samples: int) -> Array:
        """(samples,) with fresh phases and noise."""
        n = np.arange(samples)
        phases = rng.uniform(0, 2 * np.pi, self.frequencies.size)
        x = np.sqrt(self.noise_power) * rng.standard_normal(samples)
        for f, A, phase in zip(self.frequencies, self.amplitudes, phases, strict=True):
            x += A * np.cos(2 * np.pi * f * n + phase)
        return x


@dataclass(frozen=True, init=False, eq=False)
class Recorded(Process):
    """Delay line over random segments of a recording.

    A draw begins at a random sample and reads on, from the end back to the beginning: that makes
    the draws exactly stationary, with the circular sample autocorrelation as their true one.

    Parameters
    ----------
    samples : (N,) the recording, not silent. Its mean is kept.
    taps : length of the delay line.
    rate : samples per second, or None.

    Raises
    ------
    TypeError, ValueError : not a 1-D float array, not finite, silent.

    Examples
    --------
    >>> Recorded([1.0, -1.0, 1.0, 1.0], taps=3).R[0].tolist()
    [1.0, 0.0, 0.0]
    """

    samples: Array = field(repr=False)
    taps: int
    rate: float | None

    def __init__(self, samples: ArrayLike, *, taps: int, rate: float | None = None) -> None:
        x = _checks.array("samples", samples, ndim=(1,))
        if np.iscomplexobj(x):
            raise TypeError(f"samples must be real; got {x.dtype}")
        x = x.astype(np.float64)
        if not x.any():
            raise ValueError(f"samples must not be silent; got {x.size} zeros")
        object.__setattr__(self, "samples", x)
        object.__setattr__(self, "taps", _checks.count("taps", taps))
        object.__setattr__(self, "rate", None if rate is None else _checks.positive("rate", rate))

    @classmethod
    def from_wav(
        cls, path: str | PathLike[str], *, taps: int, channel: int | None = None
    ) -> Recorded:
        """A WAV file; integer PCM is scaled to [-1, 1), floating point is kept as it is.

        Parameters
        ----------
        path : the file.
        taps : length of the delay line.
        channel : which one to take, from 0; may be left out when there is only one.

        Raises
        ------
        FileNotFoundError : there is no such file.
        TypeError, ValueError : not a WAV file, no samples, silent, or a channel that is not there.
        """
        rate, pcm = _read_wav(Path(path))
        channels = 1 if pcm.ndim == 1 else pcm.shape[1]
        if channel is None and channels > 1:
            raise ValueError(
                f"{path} has {channels} channels: say which, channel=0 to {channels - 1}"
            )
        which = 0 if channel is None else _checks.count("channel", channel, least=0)
        if which >= channels:
            raise ValueError(f"channel must be less than the {channels} of {path}; got {which}")
        x = _scaled(pcm.reshape(-1, channels)[:, which])
        if x.size == 0:
            raise ValueError(f"{path} holds no samples")
        if not x.any():
            raise ValueError(f"{path} is silent: each of its {x.size} samples is zero")
        return cls(x, taps=taps, rate=rate)

    def autocovariance(self, lags: int) -> Array:
        """(lags,) (1/N) sum_n x(n) x(n+k), indices modulo N."""
        x = self.samples
        extended = np.take(x, np.arange(x.size + lags - 1), mode="wrap")
        r: Array = scipy.signal.correlate(extended, x, mode="valid") / x.size
        return r

    def signal(self, rng: np.random.Generator, samples: int) -> Array:
        """(samples,) from a random sample on."""
        start = int(rng.integers(self.samples.size))
        line: Array = np.take(self.samples, np.arange(start, start + samples), mode="wrap")
        return line


def _coefficients(name: str, value: ArrayLike) -> Array:
    """A list of finite real numbers, perhaps empty."""
    try:
        a = np.atleast_1d(_checks.floating(name, [] if value is None else value))
    except TypeError:
        a = None
    if a is None or value is None or np.iscomplexobj(a):
        raise TypeError(f"{name} must be a list of real numbers; got {_checks.shown(value)}")
    a = a.astype(float)
    if a.ndim != 1 or not np.all(np.isfinite(a)):
        raise ValueError(f"{name} must be a 1-D list of finite numbers; got {_checks.shown(value)}")
    return a


def _read_wav(path: Path) -> tuple[float, Array]:
    """Rate and samples as stored."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file")
    try:
        with warnings.catch_warnings():
            # chunks of text and pictures do not matter; an early end does
            warnings.simplefilter("ignore", scipy.io.wavfile.WavFileWarning)
            warnings.filterwarnings("error", message="Reached EOF")
            rate, pcm = scipy.io.wavfile.read(path)
    except (ValueError, EOFError, struct.error, scipy.io.wavfile.WavFileWarning) as error:
        raise ValueError(f"{path} is not a readable WAV file: {error}") from None
    return float(rate), np.asarray(pcm)


def _scaled(pcm: Array) -> Array:
    """Integer PCM to [-1, 1); 8-bit PCM is unsigned."""
    if pcm.dtype == np.uint8:
        return (pcm.astype(float) - 128) / 128
    if pcm.dtype.kind == "i":
        return pcm.astype(float) / 2.0 ** (8 * pcm.dtype.itemsize - 1)
    return pcm.astype(float)
