"""Seeded inputs whose true autocorrelation is known, and the scenarios built on them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
import scipy.linalg
import scipy.signal
from numpy.typing import ArrayLike

from adaptive import _checks
from adaptive._checks import Array
from adaptive.modes import natural_modes
from adaptive.regressors import Regressors, regressors
from adaptive.wiener import WienerProblem


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
        modes = natural_modes(self.R)
        object.__setattr__(self, "_root", modes.eigenvectors * np.sqrt(modes.eigenvalues))

    def draw(self, rng: np.random.Generator, samples: int) -> Regressors:
        """``samples`` regressors, (samples, L)."""
        root: Array = self._root  # type: ignore[attr-defined]
        g = rng.standard_normal((samples, root.shape[0]))
        if np.iscomplexobj(root):
            g = (g + 1j * rng.standard_normal(g.shape)) / np.sqrt(2)
        return regressors(g @ root.T)


@dataclass(frozen=True, init=False, eq=False)
class AutoRegressive:
    """Delay line over a Gaussian AR process x(n) = a_1 x(n-1) + ... + a_p x(n-p) + g(n).

    Parameters
    ----------
    coefficients : (p,) a_1..a_p of a stable process; empty for white noise.
    taps : length L of the delay line.
    power : E|x|^2.

    Examples
    --------
    >>> AutoRegressive([0.5], taps=3).R.round(12).tolist()
    [[1.0, 0.5, 0.25], [0.5, 1.0, 0.5], [0.25, 0.5, 1.0]]
    """

    coefficients: Array
    taps: int
    power: float
    _innovation: float = field(repr=False)

    def __init__(self, coefficients: ArrayLike, *, taps: int, power: float = 1.0) -> None:
        a = np.atleast_1d(np.asarray(coefficients, dtype=float))
        if a.ndim != 1 or not np.all(np.isfinite(a)):
            raise ValueError(f"coefficients must be a 1-D list of finite numbers; got {a}")
        poles = np.abs(np.roots(np.concatenate([[1.0], -a])))
        if poles.size and poles.max() >= 1:
            raise ValueError(
                "coefficients must give a stable process, with poles inside the unit circle; "
                f"got a pole of modulus {poles.max():.4g}"
            )
        object.__setattr__(self, "coefficients", a)
        object.__setattr__(self, "taps", _checks.count("taps", taps))
        object.__setattr__(self, "power", _checks.positive("power", power))
        unit = _ar_autocovariance(a, 1)[0]
        object.__setattr__(self, "_innovation", np.sqrt(self.power / unit))

    @cached_property
    def R(self) -> Array:
        """(L, L) Toeplitz autocorrelation, from the Yule-Walker equations."""
        matrix: Array = scipy.linalg.toeplitz(
            self._innovation**2 * _ar_autocovariance(self.coefficients, self.taps)
        )
        return matrix

    def draw(self, rng: np.random.Generator, samples: int) -> Regressors:
        """``samples`` regressors; the process is stationary from its first sample on."""
        p = self.coefficients.size
        length = samples + self.taps - 1
        noise = self._innovation * rng.standard_normal(length + p)
        if p == 0:
            x = noise
        else:
            # p samples drawn from the stationary law start the recursion without a transient
            start = scipy.linalg.toeplitz(
                self._innovation**2 * _ar_autocovariance(self.coefficients, p)
            )
            first = np.linalg.cholesky(start) @ (noise[:p] / self._innovation)
            denominator = np.concatenate([[1.0], -self.coefficients])
            state = scipy.signal.lfiltic([1.0], denominator, first[::-1])
            x, _ = scipy.signal.lfilter([1.0], denominator, noise[p:], zi=state)
        return regressors(x[self.taps - 1 :], self.taps, past=x[: self.taps - 1, None])


def white(taps: int, power: float = 1.0) -> AutoRegressive:
    """Delay line of ``taps`` over white Gaussian noise of the given power."""
    return AutoRegressive([], taps=taps, power=power)


@dataclass(frozen=True, init=False, eq=False)
class SystemIdentification:
    """An unknown system w_o, observed in noise: d(n) = w_o^H u(n) + noise(n).

    Parameters
    ----------
    source : the regressors, such as ``white(taps)``, ``AutoRegressive`` or ``GaussianRegressors``.
    w_o : (L,) the system.
    noise_power : power of the Gaussian noise, which is J_min.

    Examples
    --------
    >>> scenario = SystemIdentification(white(taps=2), w_o=[1.0, -0.5], noise_power=0.01)
    >>> round(scenario.problem.J_min, 12)
    0.01
    """

    source: Input
    w_o: Array
    noise_power: float

    def __init__(self, source: Input, *, w_o: ArrayLike, noise_power: float) -> None:
        w = _checks.array("w_o", w_o, ndim=(1,))
        if w.shape != (source.R.shape[0],):
            raise ValueError(
                f"w_o must have one weight per tap, {source.R.shape[0]}; got shape {w.shape}"
            )
        object.__setattr__(self, "source", source)
        object.__setattr__(self, "w_o", w)
        object.__setattr__(self, "noise_power", _checks.nonnegative("noise_power", noise_power))

    @cached_property
    def problem(self) -> WienerProblem:
        """True second-order statistics."""
        P = self.source.R @ self.w_o
        power = float(np.real(self.w_o.conj() @ P)) + self.noise_power
        return WienerProblem(R=self.source.R, P=P, d_power=power)

    def draw(self, rng: np.random.Generator, samples: int) -> tuple[Regressors, Array]:
        """Regressors and desired response (samples,) of one run."""
        lines = self.source.draw(rng, samples)
        weights = np.empty(lines.taps, np.result_type(self.w_o, lines.buffer))
        weights[lines.order] = self.w_o
        clean = lines.rows @ weights.conj()
        noise = rng.standard_normal(samples)
        if np.iscomplexobj(clean):
            noise = (noise + 1j * rng.standard_normal(samples)) / np.sqrt(2)
        return lines, clean + np.sqrt(self.noise_power) * noise


def _ar_autocovariance(a: Array, lags: int) -> Array:
    """Autocovariance at lags 0..lags-1 of the AR process with unit innovation (Yule-Walker)."""
    p = a.size
    size = max(lags, p + 1)
    r = np.zeros(size)
    if p == 0:
        r[0] = 1.0
        return r[:lags]
    # r(k) - sum_j a_j r(|k - j|) = [k = 0] for k = 0..p
    system = np.zeros((p + 1, p + 1))
    for k in range(p + 1):
        system[k, k] += 1
        for j in range(1, p + 1):
            system[k, abs(k - j)] -= a[j - 1]
    r[: p + 1] = np.linalg.solve(system, np.eye(p + 1)[0])
    for k in range(p + 1, size):
        r[k] = a @ r[k - p : k][::-1]
    return r[:lags]
