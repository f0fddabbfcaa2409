"""Stochastic-gradient updates w <- keep w + mu / (eps + power) z f(e)*, on one compiled loop.

LMS, NLMS, leaky LMS, the sign variants and power-normalised LMS differ in four things only: the
direction z, the power that divides the step, the factor that the weights keep, and whether the
error enters with its sign alone. Each member states the ones that are its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from adaptive import _four, _kernels, long_filters
from adaptive.algorithms.base import Algorithm, setting
from adaptive.checks import Array
from adaptive.regressors import Regressors
from adaptive.streaming import (
    CHUNK,
    AdaptiveFilter,
    Block,
    Memory,
    StepSize,
    TogetherRun,
    first_divergence,
)

MIN_LANES = 9  # outputs from which running them side by side pays
MAX_LANE_TAPS = 96  # taps up to which the weights of all lanes stay in the first-level cache


@dataclass(frozen=True, kw_only=True)
class StochasticGradient(Algorithm):
    """Shared half of the algorithms that ``_kernels.stochastic_gradient`` runs."""

    mu: StepSize = setting("step size")

    # --- what members state ---

    @property
    def signed(self) -> bool | None:
        """True takes the sign of the error, None the error."""
        return None

    def power(self, lines: Regressors) -> tuple[Array, float]:
        """(power, eps): the step size is mu / (eps + power); one power, or one per sample."""
        return np.zeros(1, lines.buffer.real.dtype), 1.0

    def keep(self, mu: Array) -> Array | None:
        """Factor by which the weights shrink at each update; None where they do not."""
        return None

    def direction(self, memory: Memory, lines: Regressors) -> Array:
        """Direction of the update, laid out as the regressors are."""
        return lines.buffer

    # --- the loop ---

    def advance(self, memory: Memory, block: Block) -> int:
        """Run the compiled loop: on blocks for long filters, in lanes for many outputs."""
        w, lines = memory["w"], block.lines
        x, z = lines.buffer, self.direction(memory, lines)
        (power, eps), keep = self.power(lines), self.keep(block.mu)
        plain = z is x and keep is None and not self.signed
        if plain and w.shape[0] == 1 and not block.record[1] and long_filters.wins(lines, w.dtype):
            scale = power + eps
            step = block.mu / np.where(scale >= _kernels.LEAST_POWER, scale, np.inf)
            return long_filters.run(lines, block.d[:, 0], step, w[0], block.error[:, 0])
        side_by_side = w.shape[0] >= MIN_LANES and lines.taps <= MAX_LANE_TAPS
        if side_by_side and w.dtype == np.float64:
            return self._advance_lanes(memory, block, z, (power, eps), keep)
        rates = (block.mu, power, power.dtype.type(eps), keep, self.signed)
        if _four.applies(lines):
            shared = _four.directions(lines, z)
            return block.per_output(
                lambda m, d, error: _four.run(shared, d, *rates, w[m], error, m, block.record)
            )
        return block.per_output(
            lambda m, d, error: _kernels.stochastic_gradient(
                0, lines.samples, x, z, lines.hop, d, *rates, w[m], error, m, *block.record
            )
        )

    def _advance_lanes(
        self,
        memory: Memory,
        block: Block,
        z: Array,
        power: tuple[Array, float],
        keep: Array | None,
    ) -> int:
        """Outputs side by side in SIMD lanes; lanes beyond the last output run on zeros."""
        w, lines = memory["w"], block.lines
        M, L = w.shape
        by_tap, desired = _lanes(w.T), _lanes(block.d)
        error = block.error if desired is block.d else np.empty_like(desired)
        stops = np.full(desired.shape[1], -1)
        none = np.empty((0, L))
        keep = np.ones(1) if keep is None else keep
        _kernels.stochastic_gradient_lanes(
            lines.buffer, z, lines.hop, desired, block.mu[:, None], power[0][:, None], power[1],
            keep, self.signed, M, by_tap, error, stops, *block.record, none, none,
        )  # fmt: skip
        w[:] = by_tap[:, :M].T
        if error is not block.error:
            block.error[:] = error[:, :M]
        return first_divergence(stops - block.record[0] * (stops >= 0))

    def run_together(
        self,
        filter_: AdaptiveFilter,
        draws: list[tuple[Regressors, Array]],
        every: int,
        before: int,
    ) -> TogetherRun | None:
        """Independent runs, one SIMD lane each.

        For real double precision, one output and equal lengths; None for anything else.
        """
        lines, d = draws[0]
        if np.result_type(lines.buffer, d) != np.float64 or lines.taps > MAX_LANE_TAPS:
            return None
        R, N, L = len(draws), lines.samples - before, lines.taps
        buffers, directions, powers = [], [], []
        for whole, d in draws:
            filter_.reset()
            filter_.begin(whole, d, before=before)
            lines = whole.part(before, whole.samples)
            mu = filter_.step_sizes(N, d.dtype)
            buffers.append(lines.buffer)
            directions.append(self.direction(filter_.memory, lines))
            own_power, eps = self.power(lines)
            powers.append(own_power)
        kept = self.keep(mu)
        keep = np.ones(1) if kept is None else kept
        x = _lanes(np.array(buffers).T)
        z = x if directions[-1] is buffers[-1] else _lanes(np.array(directions).T)
        desired = _lanes(np.array([d[before:] for _, d in draws]).T)
        power = _lanes(np.array(powers).T) if powers[0].size > 1 else powers[0][:, None]
        w = np.repeat(filter_.memory["w"].T, desired.shape[1], axis=1)
        w[:, R:] = 0
        error, stops = np.empty_like(desired), np.full(desired.shape[1], -1)
        rows = N // every + 1
        mean, squares = np.full((rows, L), np.nan), np.full((rows, L), np.nan)
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            _kernels.stochastic_gradient_lanes(
                x, z, draws[0][0].hop, desired, mu[:, None], power, eps, keep, self.signed, R,
                w, error, stops, 0, every, np.empty((0, R, L)), mean, squares,
            )  # fmt: skip
        order = draws[0][0].order
        return TogetherRun(error, mean[:, order], squares[:, order], stops[:R])

    def chunk(self, taps: int) -> int:
        """Several times the taps, so that the block form of long filters pays."""
        return max(CHUNK, 4 * taps)


def signs(x: Array) -> Array:
    """Signs of real numbers; of complex ones, the signs of both parts."""
    if np.iscomplexobj(x):
        both: Array = (np.sign(x.real) + 1j * np.sign(x.imag)).astype(x.dtype)
        return both
    return np.sign(x)


def _lanes(columns: Array) -> Array:
    """(N, M) widened by zero columns to whole vectors of lanes, rows contiguous."""
    N, M = columns.shape
    V = -(-M // _kernels.LANES) * _kernels.LANES
    if V == M:
        return np.ascontiguousarray(columns)
    wide = np.zeros((N, V), columns.dtype)
    wide[:, :M] = columns
    return wide
