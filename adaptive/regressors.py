"""Regressors as a flat buffer and a hop: one layout for delay lines, channels and given vectors.

A delay line of L taps over one channel reads L neighbouring samples and moves on by one; over C
interleaved channels it reads L * C neighbours and moves on by C; given regressor vectors are read
L at a time and moved on by L. So every kernel sees one thing, ``buffer[n * hop : n * hop + L]``,
and no delay line is ever copied into an N x L matrix. Inside the buffer a delay line runs oldest
sample first; ``order`` turns the public order (newest first, channel after channel) into it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import scipy
from numpy.lib.stride_tricks import as_strided
from numpy.typing import ArrayLike

from adaptive import _kernels
from adaptive import checks as _checks
from adaptive.checks import Array


@dataclass(frozen=True)
class Regressors:
    """N regressors of L taps read from a flat buffer. Built by :func:`regressors`."""

    buffer: Array = field(repr=False)
    hop: int
    taps: int
    samples: int
    order: Array = field(repr=False)

    @property
    def rows(self) -> Array:
        """(N, L) read-only view without a copy, taps in buffer order."""
        step = self.buffer.itemsize
        shape = (self.samples, self.taps)
        return as_strided(self.buffer, shape, (self.hop * step, step), writeable=False)

    def part(self, start: int, stop: int) -> Regressors:
        """Regressors start..stop-1, on the same buffer."""
        first, last = start * self.hop, (stop - 1) * self.hop + self.taps
        return Regressors(self.buffer[first:last], self.hop, self.taps, stop - start, self.order)

    def split(self, size: int) -> Iterator[Regressors]:
        """Parts of at most ``size`` samples, in order."""
        for start in range(0, self.samples, size):
            yield self.part(start, min(start + size, self.samples))

    def power(self) -> Array:
        """(N,) |u(n)|^2 in double precision, the same however a stream is split."""
        squares = self.buffer.real.astype(np.float64) ** 2
        if np.iscomplexobj(self.buffer):
            squares += self.buffer.imag.astype(np.float64) ** 2
        energy = squares if self.hop == 1 else squares.reshape(-1, self.hop).sum(axis=1)
        power = np.empty(self.samples, energy.dtype)
        _kernels.sliding_power(energy, self.taps // self.hop, power)
        return power

    def outputs(self, w: Array) -> Array:
        """(N,) outputs w^H u(n) of fixed weights (L,) in public order."""
        taps = np.empty(self.taps, np.result_type(w, self.buffer))
        taps[self.order] = w
        if self.hop == 1 and self.taps > 64:
            filtered: Array = scipy.signal.oaconvolve(self.buffer, taps[::-1].conj(), mode="valid")
            return filtered
        if self.hop == 1:
            return np.correlate(self.buffer, taps, mode="valid")
        return self.rows @ taps.conj()

    def chunks(self, start: int = 0, size: int = 1 << 22) -> Iterator[tuple[slice, Array]]:
        """Slices of samples and their regressors (n, L) in public order, about ``size`` entries."""
        step = max(1, size // self.taps)
        rows = self.rows
        for n in range(start, self.samples, step):
            part = slice(n, min(n + step, self.samples))
            yield part, rows[part][:, self.order]


def regressors(u: ArrayLike, taps: int | None = None, past: Array | None = None) -> Regressors:
    """Check u and lay it out.

    Parameters
    ----------
    u : with ``taps``: (N,) signal, or (N, C) channels, each with a delay line of ``taps``;
        without: (N, L) regressors.
    taps : taps per channel, or None.
    past : (taps - 1, C) samples before u, oldest first; zeros when None.

    Returns
    -------
    Regressors with L = taps * C, taps ordered newest first within a channel, channel by channel.

    Raises
    ------
    TypeError, ValueError : u or taps of the wrong type or shape, empty, or not finite.
    """
    if taps is None:
        U = _checks.array("u", u, ndim=(1, 2))
        if U.ndim == 1:
            raise ValueError(
                f"u must be (N, L) regressors when taps is not given; got shape {U.shape}: "
                "give taps= for a signal"
            )
        N, L = U.shape
        return Regressors(np.ascontiguousarray(U).reshape(-1), L, L, N, np.arange(L))
    pieces = delay_line(u, taps, past)
    if len(pieces) == 1:
        return pieces[0]
    head, tail = pieces
    new = head.buffer[head.buffer.size - head.samples * head.hop :]
    rest = tail.buffer[new.size :]
    return Regressors(
        np.concatenate([head.buffer, rest]), head.hop, head.taps, head.samples + tail.samples,
        head.order,
    )  # fmt: skip


def delayed(u: Array, delay: int, waiting: Array | None = None) -> tuple[Array, Array]:
    """u (n, ...) later by ``delay`` samples, and the samples that wait for the next block.

    ``waiting`` holds those of the block before; zeros when None. A negative delay takes samples
    from the future: u earlier by that many, zeros after its end.
    """
    if delay < 0:
        ahead = np.zeros_like(u)
        ahead[:delay] = u[-delay:]
        return ahead, u[:0]
    before = np.zeros((delay, *u.shape[1:]), u.dtype) if waiting is None else waiting
    whole = np.concatenate([before, u])
    return whole[: len(u)], whole[len(u) :].copy()


def delay_line(u: ArrayLike, taps: int, past: Array | None = None) -> list[Regressors]:
    """The same for a signal, in one or two pieces that follow each other.

    The first holds the samples whose line reaches back before u, on a short copy; the second all
    others, on u's own memory.
    """
    length = _checks.count("taps", taps)
    x = _checks.array("u", u, ndim=(1, 2))
    refuse_delay_lines(x)
    x = np.ascontiguousarray(x.reshape(x.shape[0], -1))
    N, channels = x.shape
    first = min(N, length - 1)
    index = np.arange(length * channels).reshape(length, channels)
    order = index[::-1].T.reshape(-1).copy()
    pieces = []
    if first:
        buffer = np.zeros((length - 1 + first, channels), x.dtype)
        if past is not None:
            buffer[: length - 1] = past
        buffer[length - 1 :] = x[:first]
        pieces.append(Regressors(buffer.reshape(-1), channels, length * channels, first, order))
    if first < N:
        pieces.append(Regressors(x.reshape(-1), channels, length * channels, N - first, order))
    return pieces


def refuse_delay_lines(x: Array) -> None:
    """Refuse columns that are already delay lines of one signal where taps are to be added."""
    if x.ndim == 1 or x.shape[1] < 2 or len(x) < 3 or (x == x[0]).all():
        return
    for later, sooner in ((x[1:, 1:], x[:-1, :-1]), (x[1:, :-1], x[:-1, 1:])):
        if (later[0] == sooner[0]).all() and np.array_equal(later, sooner):
            raise ValueError(
                "u must hold a signal per column when taps is given; got columns that are one "
                "signal, each a sample later than its neighbour: leave taps= out, or give the "
                "signal alone"
            )
