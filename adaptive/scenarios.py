"""What adaptive filters are used for, each as data to draw and as the Wiener problem behind it.

Each scenario's ``problem`` is exact: it is computed from the model, not from a draw, so that a
prediction made from it owes nothing to the data it is then compared with.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy
from numpy.typing import ArrayLike

from adaptive import checks as _checks
from adaptive.checks import Array
from adaptive.regressors import Regressors
from adaptive.signals import Distribution, Input, Process, delay_line, distribution, unit_noise
from adaptive.wiener import WienerProblem


@dataclass(frozen=True, init=False, eq=False)
class SystemIdentification:
    """An unknown system w_o, observed in noise: d(n) = w_o^H u(n) + noise(n).

    Parameters
    ----------
    source : the regressors, such as ``white(taps)``, ``AutoRegressive`` or ``GaussianRegressors``.
    w_o : (L,) the system.
    noise_power : power of the noise, which is J_min.
    noise : its distribution: "gaussian", "uniform", "laplace", "binary", "impulsive", or an
        ``Impulsive``. For complex data the real and the imaginary part are drawn alike.

    Raises
    ------
    TypeError, ValueError : w_o not of one weight per tap, negative power, unknown noise.

    Examples
    --------
    >>> from adaptive import white
    >>> scenario = SystemIdentification(white(taps=2), w_o=[1.0, -0.5], noise_power=0.01)
    >>> round(scenario.problem.J_min, 12)
    0.01
    """

    source: Input
    w_o: Array
    noise_power: float
    noise: Distribution

    def __init__(
        self,
        source: Input,
        *,
        w_o: ArrayLike,
        noise_power: float,
        noise: Distribution = "gaussian",
    ) -> None:
        w = _checks.array("w_o", w_o, ndim=(1,))
        if not (hasattr(source, "R") and callable(getattr(source, "draw", None))):
            raise TypeError(
                f"source must be a source of regressors, such as white(taps=8); got "
                f"{_checks.shown(source)}"
            )
        if w.shape != (source.R.shape[0],):
            raise ValueError(
                f"w_o must have one weight per tap, {source.R.shape[0]}; got shape {w.shape}"
            )
        object.__setattr__(self, "source", source)
        object.__setattr__(self, "w_o", w)
        object.__setattr__(self, "noise_power", _checks.nonnegative("noise_power", noise_power))
        object.__setattr__(self, "noise", distribution("noise", noise))

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
        if lines.hop == 1:
            clean = np.correlate(lines.buffer, weights, "valid")  # without the N x L products
        else:
            clean = lines.rows @ weights.conj()
        noise = unit_noise(self.noise, rng, samples)
        if np.iscomplexobj(clean):
            noise = (noise + 1j * unit_noise(self.noise, rng, samples)) / np.sqrt(2)
        return lines, clean + np.sqrt(self.noise_power) * noise


@dataclass(frozen=True, init=False, eq=False)
class NoiseCancelling:
    """A signal in noise, and the noise at its source: d(n) = signal(n) + sum_k path_k x(n-k).

    The filter hears the reference x and learns the path, and the error that remains is the signal:
    its power is J_min when the path is no longer than the filter.

    Parameters
    ----------
    signal : what is wanted, a process such as ``Tones``; its own taps do not matter.
    reference : the noise at its source, a process; its taps are the filter's.
    path : (K,) impulse response from the source of the noise to the primary sensor; K may exceed
        the taps, and what the filter cannot reach then adds to J_min.

    Raises
    ------
    TypeError, ValueError : signal or reference not a process, path not a finite 1-D float array.

    Notes
    -----
    Widrow et al., Adaptive noise cancelling, Proc. IEEE 63 (1975).

    Examples
    --------
    >>> from adaptive import white
    >>> from adaptive.signals import Tones
    >>> scenario = NoiseCancelling(Tones([0.1], taps=1), white(taps=2), path=[1.0, 0.5])
    >>> scenario.problem.w_o.round(12).tolist(), round(scenario.problem.J_min, 12)
    ([1.0, 0.5], 0.5)
    """

    signal: Process
    reference: Process
    path: Array

    def __init__(self, signal: Process, reference: Process, *, path: ArrayLike) -> None:
        object.__setattr__(self, "signal", _process("signal", signal))
        object.__setattr__(self, "reference", _process("reference", reference))
        object.__setattr__(self, "path", _response("path", path))

    @cached_property
    def problem(self) -> WienerProblem:
        """True second-order statistics."""
        return _filtered(self.reference, self.path, float(self.signal.autocovariance(1)[0]))

    def draw(self, rng: np.random.Generator, samples: int) -> tuple[Regressors, Array]:
        """Regressors and desired response (samples,) of one run."""
        lines, noise = _draw_filtered(self.reference, self.path, rng, samples)
        return lines, noise + self.signal.signal(rng, samples)


@dataclass(frozen=True, init=False, eq=False)
class Echo:
    """Echo in a room: the far-end signal comes back through a long, decaying response.

    The response is a seeded Gaussian sequence under an exponential decay, as diffuse reverberation
    is modelled. What is longer than the filter cannot be cancelled and adds to J_min.

    Parameters
    ----------
    source : the far-end signal, a process; its taps are the filter's.
    length : taps of the response; None is that of the filter.
    decay : samples in which the response falls by 60 dB, the reverberation time; None is
        ``length``.
    loss : dB by which the energy of the response lies below 1 (echo return loss of white noise).
    noise_power : power of the near-end noise.
    noise : its distribution, as for ``SystemIdentification``.
    seed : of the response, which is the same in every draw.

    Raises
    ------
    TypeError, ValueError : source not a process, length < 1, decay <= 0, negative power.

    Notes
    -----
    The statistical model of reverberation is Polack's (thesis, Universite du Maine, 1988).

    Examples
    --------
    >>> from adaptive import white
    >>> scenario = Echo(white(taps=64), length=256, loss=6.0, noise_power=0.0)
    >>> round(float(np.sum(scenario.response**2)), 3), scenario.problem.J_min > 0
    (0.251, True)
    """

    source: Process
    response: Array
    noise_power: float
    noise: Distribution

    def __init__(
        self,
        source: Process,
        *,
        noise_power: float,
        length: int | None = None,
        decay: float | None = None,
        loss: float = 0.0,
        noise: Distribution = "gaussian",
        seed: int = 0,
    ) -> None:
        object.__setattr__(self, "source", _process("source", source))
        K = source.taps if length is None else _checks.count("length", length)
        rt60 = K if decay is None else _checks.positive("decay", decay)
        rng = np.random.default_rng(_checks.seed("seed", seed))
        h = rng.standard_normal(K) * 10 ** (-3 * np.arange(K) / rt60)
        if abs(_checks.number("loss", loss)) > 1000:
            raise ValueError(f"loss must be at most 1000 dB either way; got {_checks.shown(loss)}")
        h *= 10 ** (-float(loss) / 20) / np.linalg.norm(h)
        object.__setattr__(self, "response", h)
        object.__setattr__(self, "noise_power", _checks.nonnegative("noise_power", noise_power))
        object.__setattr__(self, "noise", distribution("noise", noise))

    @cached_property
    def problem(self) -> WienerProblem:
        """True second-order statistics."""
        return _filtered(self.source, self.response, self.noise_power)

    def draw(self, rng: np.random.Generator, samples: int) -> tuple[Regressors, Array]:
        """Regressors and desired response (samples,) of one run."""
        lines, echo = _draw_filtered(self.source, self.response, rng, samples)
        return lines, echo + np.sqrt(self.noise_power) * unit_noise(self.noise, rng, samples)


@dataclass(frozen=True, init=False, eq=False)
class Prediction:
    """Linear prediction: d(n) = x(n) from u(n) = [x(n-k), ..., x(n-k-L+1)], k = ``ahead``.

    Parameters
    ----------
    source : the process x; its taps are the predictor's.
    ahead : how far, k >= 1.

    Raises
    ------
    TypeError, ValueError : source not a process, ahead < 1.

    Notes
    -----
    R w_o = P with P_i = r(k + i); for k = 1 and an AR(p) process, L >= p, w_o are its coefficients
    and J_min is the power of its innovations (Haykin, Adaptive Filter Theory, chapter on linear
    prediction).

    Examples
    --------
    >>> from adaptive import AutoRegressive
    >>> scenario = Prediction(AutoRegressive([0.6, -0.5], taps=3))
    >>> (scenario.problem.w_o.round(9) + 0.0).tolist(), round(scenario.problem.J_min, 9)
    ([0.6, -0.5, 0.0], 0.63)
    """

    source: Process
    ahead: int

    def __init__(self, source: Process, *, ahead: int = 1) -> None:
        object.__setattr__(self, "source", _process("source", source))
        object.__setattr__(self, "ahead", _checks.count("ahead", ahead))

    @cached_property
    def problem(self) -> WienerProblem:
        """True second-order statistics."""
        r = self.source.autocovariance(self.source.taps + self.ahead)
        return WienerProblem(R=self.source.R, P=r[self.ahead :], d_power=float(r[0]))

    def draw(self, rng: np.random.Generator, samples: int) -> tuple[Regressors, Array]:
        """Regressors and desired response (samples,) of one run."""
        x = self.source.signal(rng, samples + self.source.taps - 1 + self.ahead)
        return delay_line(x[: -self.ahead], self.source.taps), x[-samples:]


def raised_cosine(W: float) -> Array:
    """Haykin's channel: [0, h_1, h_2, h_3], h_n = (1 + cos(2 pi (n - 2) / W)) / 2.

    The larger W, the stronger the distortion and the larger the eigenvalue spread of R.

    Examples
    --------
    >>> raised_cosine(3.1).round(4).tolist()
    [0.0, 0.2798, 1.0, 0.2798]
    """
    width = _checks.positive("W", W)
    if width < 1:
        raise ValueError(f"W must be at least 1; got {_checks.shown(W)}")
    return np.concatenate([[0.0], 0.5 * (1 + np.cos(2 * np.pi * np.arange(-1, 2) / width))])


@dataclass(frozen=True, init=False, eq=False)
class Equalisation:
    """Undoing a channel: u is the delay line over the received signal, d(n) = a(n - delay).

    The data a(n) are independent, +1 or -1; the receiver gets sum_k h_k a(n-k) + noise(n).

    Parameters
    ----------
    channel : (K,) impulse response h_0, h_1, ..., such as ``raised_cosine(W)``.
    taps : of the equaliser; 11 in Haykin's experiment.
    delay : of the desired response; 7 in Haykin's experiment, with h_0 = 0 in the channel.
    noise_power : power of the receiver's noise; 0.001 in Haykin's experiment.
    noise : its distribution, as for ``SystemIdentification``.

    Raises
    ------
    TypeError, ValueError : channel not a finite 1-D float array, taps < 1, delay < 0.

    Notes
    -----
    Haykin, Adaptive Filter Theory, computer experiment on adaptive equalization.

    Examples
    --------
    >>> scenario = Equalisation(raised_cosine(3.1), taps=11, delay=7, noise_power=0.001)
    >>> round(float(scenario.problem.modes.spread), 4)
    11.1238
    """

    channel: Array
    taps: int
    delay: int
    noise_power: float
    noise: Distribution

    def __init__(
        self,
        channel: ArrayLike,
        *,
        taps: int,
        delay: int,
        noise_power: float,
        noise: Distribution = "gaussian",
    ) -> None:
        object.__setattr__(self, "channel", _response("channel", channel))
        object.__setattr__(self, "taps", _checks.count("taps", taps))
        object.__setattr__(self, "delay", _checks.count("delay", delay, least=0))
        object.__setattr__(self, "noise_power", _checks.nonnegative("noise_power", noise_power))
        object.__setattr__(self, "noise", distribution("noise", noise))

    @cached_property
    def problem(self) -> WienerProblem:
        """True second-order statistics."""
        h, L = self.channel, self.taps
        r = np.zeros(max(L, h.size))
        r[: h.size] = np.correlate(h, h, "full")[h.size - 1 :]
        r[0] += self.noise_power
        # E[u_i(n) a(n - delay)] = h(delay - i)
        reach = np.zeros(max(self.delay + 1, h.size) + L)
        reach[L : L + h.size] = h
        P = reach[L + self.delay - np.arange(L)]
        return WienerProblem(R=scipy.linalg.toeplitz(r[:L]), P=P, d_power=1.0)

    def draw(self, rng: np.random.Generator, samples: int) -> tuple[Regressors, Array]:
        """Regressors and desired response (samples,) of one run."""
        before = max(self.taps - 1 + self.channel.size - 1, self.delay)
        data = unit_noise("binary", rng, before + samples)
        heard = _convolve(data, self.channel)[-(samples + self.taps - 1) :]
        heard = heard + np.sqrt(self.noise_power) * unit_noise(self.noise, rng, heard.size)
        return delay_line(heard, self.taps), data[before - self.delay :][:samples]


def _process(name: str, value: Process) -> Process:
    """A delay line over a process, whose lags beyond the taps can be asked for."""
    if not isinstance(value, Process):
        raise TypeError(
            f"{name} must be a process, such as white(taps=8) or AutoRegressive; got "
            f"{type(value).__name__}"
        )
    return value


def _response(name: str, value: ArrayLike) -> Array:
    """A real impulse response."""
    h = _checks.array(name, value, ndim=(1,))
    if np.iscomplexobj(h):
        raise TypeError(f"{name} must be real; got {h.dtype}")
    return h.astype(np.float64)


def _convolve(x: Array, h: Array) -> Array:
    """(len(x) - len(h) + 1,) samples of h * x that need nothing before x."""
    if h.size <= 64:
        return np.convolve(x, h, "valid")
    y: Array = scipy.signal.oaconvolve(x, h, "valid")
    return y


def _filtered(source: Process, h: Array, other_power: float) -> WienerProblem:
    """The problem of d(n) = sum_k h_k x(n-k) + something uncorrelated with x."""
    L = source.taps
    r = source.autocovariance(max(L, h.size))
    # row i of the Toeplitz matrix: E[x(n-i) x(n-k)]
    P = scipy.linalg.matmul_toeplitz((r[:L], r[: h.size]), h)
    power = float(h @ scipy.linalg.matmul_toeplitz(r[: h.size], h))
    return WienerProblem(R=source.R, P=P, d_power=power + other_power)


def _draw_filtered(
    source: Process, h: Array, rng: np.random.Generator, samples: int
) -> tuple[Regressors, Array]:
    """Delay line over the source, and h * x."""
    past = max(source.taps, h.size) - 1
    x = source.signal(rng, samples + past)
    lines = delay_line(x[past - source.taps + 1 :], source.taps)
    return lines, _convolve(x, h)[-samples:]
