"""Block LMS by FFT, in partitions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy
from numpy.typing import ArrayLike

from adaptive import checks as _checks
from adaptive.algorithms.base import Algorithm, Regularisation, run, setting
from adaptive.checks import Array
from adaptive.regressors import Regressors
from adaptive.results import FilterRun
from adaptive.streaming import Block, Memory, Record, StepSize


@dataclass(frozen=True, kw_only=True)
class FrequencyDomainLMS(Algorithm):
    """Frequency-domain block LMS, overlap-save, partitioned where ``block`` is less than the taps.

    With ``normalize=False`` this is :class:`BlockLMS` up to rounding, by FFT. Normalising divides
    each frequency's update by its power p_f, a running mean over blocks times the partitions, so
    that all frequencies learn alike. The gradient is constrained to ``block`` taps a partition.

    Parameters
    ----------
    mu : as for :class:`LMS`. Updates come once a block; a varying mu is read at a block's last
        sample.
    block : samples per block and taps per partition; None takes one partition, all taps. Short
        blocks update early; the delay of a real-time system is one block.
    normalize : per-frequency step size; then 0 < mu < 2 is the useful range.
    eps : added to the power of a frequency, in units of |u_k|^2; None takes 1e-6 of the mean.
    forgetting : of the running power, per block, in [0, 1).

    Notes
    -----
    Ferrara 1980; Shynk 1992; Soo and Pang 1990 for partitions.
    """

    name: ClassVar[str] = "frequency_domain_lms"
    normalized: ClassVar[bool] = True
    regularisation: ClassVar[Regularisation | None] = Regularisation("eps", 1e-6)
    delay_lines_only: ClassVar[bool] = True

    mu: StepSize = setting("step size")
    block: int | None = setting("samples per block", None)
    normalize: bool = setting("step size per frequency", True)
    eps: float | None = setting("regularisation, in units of |u_k|^2", None)
    forgetting: float = setting("weight of the past in running powers, in [0, 1)", 0.9)

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        if self.block is not None:
            object.__setattr__(self, "block", _checks.count("block", self.block))
        object.__setattr__(self, "normalize", _checks.flag("normalize", self.normalize))
        if not self.normalize:
            object.__setattr__(self, "eps", 0.0)
        if self.eps is not None:
            object.__setattr__(self, "eps", _checks.nonnegative("eps", self.eps))
        object.__setattr__(self, "forgetting", _checks.fraction("forgetting", self.forgetting))

    @property
    def scale_free(self) -> bool:
        """Only when normalised."""
        return self.normalize

    @property
    def samples_per_update(self) -> int:
        """The block; 1 where it is left out, and the taps decide."""
        return 1 if self.block is None else self.block

    def allocate(self, memory: Memory, lines: Regressors, dtype: np.dtype) -> None:
        """Spectra of the present and earlier blocks, running powers, transfer functions."""
        B = memory.length if self.block is None else self.block
        P, C, M = -(-memory.length // B), lines.hop, memory["w"].shape[0]
        spectrum = _fft(np.zeros(2 * B, dtype))
        memory["spectra"] = np.zeros((P, C, spectrum.size), spectrum.dtype)
        memory["window"] = np.zeros((C, 2 * B), dtype)  # the block before and the present one
        memory["errors"] = np.zeros((M, 2 * B), dtype)  # zeros, then the present block's errors
        memory["power"] = np.zeros((C, spectrum.size), spectrum.real.dtype)
        memory["heard"] = np.zeros((), int)  # blocks in the powers before the first
        memory["responses"] = _to_spectra(memory["w"], memory.length, B)

    def warm_up(self, length: int) -> int:
        """The blocks that running powers mostly consist of, and one before."""
        B = length if self.block is None else self.block
        return (math.ceil(1 / (1 - self.forgetting)) + 1) * B if self.normalize else 0

    def hear(self, memory: Memory, past: Array) -> None:
        """Take the past, block by block, into spectra and running powers."""
        window, spectra = memory["window"], memory["spectra"]
        B = window.shape[1] // 2
        blocks = -(-len(past) // B)
        earlier = np.zeros((len(window), (blocks + 1) * B), window.dtype)
        earlier[:, earlier.shape[1] - len(past) :] = past.T
        for p in range(blocks, 0, -1):  # p blocks ago
            end = earlier.shape[1] - (p - 1) * B
            spectrum = _fft(earlier[:, end - 2 * B : end])
            if p < len(spectra):
                spectra[p] = spectrum
            if end - 2 * B >= earlier.shape[1] - len(past):  # no zero in its window
                self._hear_power(memory, spectrum)
                memory["heard"] += 1
        window[:, :B] = earlier[:, -B:]

    def _hear_power(self, memory: Memory, spectrum: Array) -> None:
        """Take one block's spectrum into the running powers."""
        beta = self.forgetting
        memory["power"] = beta * memory["power"] + (1 - beta) * np.abs(spectrum) ** 2

    def advance(self, memory: Memory, block: Block) -> int:
        """Go block by block; a block still filling up is transformed again when it is full."""
        return self._advance(memory, block, learns=True)

    def hold(self, memory: Memory, block: Block) -> int:
        """The same with errors that count as zero in the block's gradient."""
        return self._advance(memory, block, learns=False)

    def _advance(self, memory: Memory, block: Block, learns: bool) -> int:
        window, lines, mu = memory["window"], block.lines, block.mu
        B = window.shape[1] // 2
        offset, every, history = block.record
        new = lines.buffer.reshape(-1, lines.hop)[-lines.samples :].T
        n = 0
        while n < lines.samples:
            filled = (memory.samples + n) % B
            m = min(n + B - filled, lines.samples)
            now = slice(B + filled, B + filled + m - n)
            window[:, now] = new[:, n:m]
            memory["spectra"][0] = _fft(window)
            # partition p sees the input of p blocks ago
            outputs = np.einsum("pcf,mpcf->mf", memory["spectra"], memory["responses"])
            e = block.d[n:m].T - _ifft(outputs, window)[:, now]
            bad = ~np.isfinite(e).all(axis=0)
            stop = int(np.argmax(bad)) if bad.any() else m - n
            block.error[n : n + stop] = e[:, :stop].T
            if every:
                first = -(-(offset + n) // every)
                last = (offset + n + min(stop, m - n - 1)) // every
                history[first : last + 1] = memory["w"]
            if bad.any():
                return n + stop
            memory["errors"][:, now] = e if learns else 0
            if filled + m - n == B:
                blocks = int(memory["heard"]) + (memory.samples + m) // B
                self._update(memory, float(mu[m - 1] if mu.size > 1 else mu[0]), blocks)
                if not np.isfinite(memory["w"]).all():
                    return m
            n = m
        return -1

    def _update(self, memory: Memory, mu: float, blocks: int) -> None:
        """The last of ``blocks`` is complete: correlate its errors with the input, and move on."""
        window, spectra = memory["window"], memory["spectra"]
        B = window.shape[1] // 2
        E = _fft(memory["errors"])
        if self.normalize:
            self._hear_power(memory, spectra[0])
            # a mean over the blocks so far, per sample of the 2 B transformed
            weight = (1 - self.forgetting ** float(blocks)) * 2 * B
            power = memory["power"] / weight + self.eps
            power[power == 0] = np.inf  # no power, no direction
            gain = mu / (2 * B * len(spectra) * power)
        else:
            gain = np.array(mu / B)
        gradient = np.einsum("pcf,mf->mpcf", spectra.conj() * gain, E)
        impulse = _ifft(gradient, window)[..., :B]
        memory["w"] += _to_weights(impulse, memory.length)
        memory["responses"] = _to_spectra(memory["w"], memory.length, B)
        memory["spectra"] = np.roll(spectra, 1, axis=0)
        window[:, :B] = window[:, B:]
        window[:, B:] = 0
        memory["errors"][:] = 0


def _to_spectra(w: Array, taps: int, B: int) -> Array:
    """Weights (M, L) to transfer functions (M, P, C, F) of the partitions, y = w^H u."""
    M, P = w.shape[0], -(-taps // B)
    impulse = np.zeros((M, P * B, w.shape[1] // taps), w.dtype)
    impulse[:, :taps] = w.conj().reshape(M, taps, -1)[:, ::-1]
    parts = impulse.reshape(M, P, B, -1).transpose(0, 1, 3, 2)
    return _fft(np.concatenate([parts, np.zeros_like(parts)], axis=-1))


def _to_weights(impulse: Array, taps: int) -> Array:
    """Impulse responses (M, P, C, B) back to weights (M, L); taps beyond ``taps`` are cut."""
    M, P, _, B = impulse.shape
    response = impulse.transpose(0, 1, 3, 2).reshape(M, P * B, -1)
    weights: Array = response[:, :taps][:, ::-1].reshape(M, -1).conj()
    return weights


def _fft(x: Array) -> Array:
    spectrum: Array = scipy.fft.fft(x) if np.iscomplexobj(x) else scipy.fft.rfft(x)
    return spectrum


def _ifft(X: Array, window: Array) -> Array:
    """Back to the length and kind of the window."""
    if np.iscomplexobj(window):
        x: Array = scipy.fft.ifft(X)
    else:
        x = scipy.fft.irfft(X, window.shape[1])
    return x


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
    adapt: ArrayLike | None = None,
    delay: int = 0,
) -> FilterRun:
    """Frequency-domain block LMS, overlap-save, partitioned where ``block < taps``.

    Parameters
    ----------
    u, d, taps, w0, record, adapt, delay : as in :func:`adaptive.lms`.
    mu, block, normalize, eps, forgetting : as for :class:`FrequencyDomainLMS`.

    Returns
    -------
    FilterRun

    Raises
    ------
    TypeError, ValueError : as :func:`adaptive.lms`;
        block < 1, eps < 0, forgetting outside [0, 1), silence without eps.

    Examples
    --------
    >>> u = np.random.default_rng(0).standard_normal(8000)
    >>> d = np.convolve(u, [1.0, -0.5, 0.25])[:8000]
    >>> frequency_domain_lms(u, d, mu=0.5, taps=3).weights.round(3).tolist()
    [1.0, -0.5, 0.25]
    """
    return run(
        FrequencyDomainLMS(mu=mu, block=block, normalize=normalize, eps=eps, forgetting=forgetting),
        u,
        d,
        taps=taps,
        w0=w0,
        record=record,
        adapt=adapt,
        delay=delay,
    )
