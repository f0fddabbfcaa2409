"""The second moments of a filter as one linear recursion: any instant without the ones before it.

``predict`` walks through a learning curve step by step. Where only the steady state, a few instants
or the time to a level are wanted, the same recursion is solved by its eigenvalues.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from adaptive.checks import Array
from adaptive.curves import Start

MOST_INSTANTS = 4096  # looked at together, where a curve is not monotone
LATEST = 1 << 60  # updates after which nobody waits any more


@dataclass(frozen=True, eq=False)
class Recursion:
    """A learning curve in closed form: E|e|^2 = J_min + power' x, x(n+1) = (I - loss) x(n) + force.

    Attributes
    ----------
    loss : (S, S), what is left out of x at every step: given itself, since I - loss would round it.
    start, force, power : (S,); x(0), what is added, and what each entry counts in the MSE.
    J_min : minimum mean-square error.
    stable : whether the MSE converges.
    """

    loss: Array
    start: Array
    force: Array
    power: Array
    J_min: float
    stable: bool

    @cached_property
    def rest(self) -> Array:
        """(S,) the steady state."""
        x: Array = np.linalg.solve(self.loss, self.force)
        return x

    @property
    def emse(self) -> float:
        """Steady-state excess MSE; inf when the MSE does not converge."""
        return float(self.power @ self.rest) if self.stable else np.inf

    @property
    def floor(self) -> float:
        """Steady-state MSE; inf when the MSE does not converge."""
        return self.J_min + self.emse

    @cached_property
    def parts(self) -> tuple[Array, Array]:
        """c and log z of MSE(n) = floor + sum_j c_j z_j^n."""
        away = self.start - self.rest
        with np.errstate(divide="ignore"):
            if np.array_equal(self.loss, self.loss.T):
                lost, V = np.linalg.eigh(self.loss)
                c = (self.power @ V) * (V.T @ away)
                return c, np.log1p(-lost) if (lost <= 1).all() else np.log1p(-lost + 0j)
            lost, V = np.linalg.eig(self.loss)
            c = (self.power @ V) * np.linalg.solve(V, away.astype(V.dtype))
            return c, np.log1p(-lost + 0j)

    def mse(self, updates: Array) -> Array:
        """(N,) E|e|^2 after any numbers of updates, where the MSE converges."""
        c, log_z = self.parts
        n = np.asarray(updates, float)
        total = np.empty(n.size)
        for rows in np.array_split(np.arange(n.size), 1 + (n.size * c.size >> 22)):
            total[rows] = np.real(_powers(log_z, n[rows, None]) @ c)
        return self.floor + total

    def updates_to_within(self, dB: float) -> int | None:
        """Updates after which the MSE stays within ``dB`` of its steady state; None for never."""
        if not self.stable or not self.floor > 0:
            return None
        c, log_z = self.parts
        ratio = 10 ** (dB / 10)
        monotone = np.isrealobj(log_z) and bool((c >= 0).all())
        allowed = self.floor * (ratio - 1 if monotone else 1 - 1 / ratio)

        def large(n: int) -> bool:
            return float(np.abs(c) @ _powers(np.real(log_z), np.array([n]))) > allowed

        late = 1
        while large(late):
            late *= 2
            if late > LATEST:
                return None
        latest = _last(large, 0, late) + 1 if large(0) else 0
        if monotone or latest == 0:
            return latest
        # between its start and the time from which all its parts are small, it may cross the limits
        instants = np.unique(np.linspace(0, latest, MOST_INSTANTS).astype(np.int64))
        outside = np.flatnonzero(self._outside(instants, ratio))
        if not outside.size:
            return 0
        low, high = (int(instants[min(outside[-1] + k, instants.size - 1)]) for k in (0, 1))
        return _last(lambda n: bool(self._outside(np.array([n]), ratio)[0]), low, high) + 1

    def _outside(self, updates: Array, ratio: float) -> Array:
        mse = self.mse(updates)
        outside: Array = (mse > self.floor * ratio) | (mse * ratio < self.floor)
        return outside


def _powers(log_z: Array, n: Array) -> Array:
    """z^n, 0^0 being 1."""
    with np.errstate(under="ignore", invalid="ignore"):
        power: Array = np.where(n == 0, 1.0, np.exp(n * log_z))
    return power


def _last(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The last number for which something holds, if it does at ``low`` and not from ``high`` on."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


@dataclass(frozen=True, eq=False)
class SecondMoments:
    """The recursions of an algorithm at all step sizes.

    Attributes
    ----------
    bounds : upper bounds on mu by name, "mean_square" among them.
    build : loss and force of the recursion at a step size mu.
    start, power : (S,) as in :class:`Recursion`.
    J_min : minimum mean-square error.
    to_modes : (L, K) matrix that takes errors of the K weights to the modes; None where the
        distance to a moving target is not known.
    entry : (S, L) how the power of a jump of the target enters the recursion.
    walk : (S,) what a walking target adds at every update.
    """

    bounds: dict[str, float]
    build: Callable[[float], tuple[Array, Array]]
    start: Array
    power: Array
    J_min: float
    to_modes: Array | None = None
    entry: Array | None = None
    walk: Array | None = None

    @property
    def edge(self) -> float:
        """The mean-square bound."""
        return self.bounds["mean_square"]

    def at(self, mu: float) -> Recursion:
        """The recursion at one step size."""
        loss, force = self.build(mu)
        if self.walk is not None:
            force = force + self.walk
        return Recursion(loss, self.start, force, self.power, self.J_min, mu < self.edge)

    def following(self, Q: Array) -> SecondMoments:
        """The same on a target that walks, w_o(n+1) = w_o(n) + q(n) with E[q q^H] = Q.

        Raises
        ------
        ValueError : the algorithm leaks, or its steps are those of blocks.
        """
        if self.to_modes is None or self.entry is None:
            raise ValueError(
                "tracking needs an algorithm that updates at every sample and does not leak"
            )
        T = self.to_modes
        jumps = np.real(np.einsum("ki,ij,kj->k", T, Q, T.conj(), optimize=True))
        return dataclasses.replace(self, walk=self.entry @ np.maximum(jumps, 0.0))


def of_modes(
    start: Start,
    bounds: dict[str, float],
    build: Callable[[float], tuple[Array, Array, Array]],
    *,
    to_modes: Array | None = None,
) -> SecondMoments:
    """Recursions k(n+1) = (I - diag(loss) + mixing) k(n) + force of algorithms whose state is w(n).

    Parameters
    ----------
    start : at any step size; modes that nothing excites are left out.
    bounds : as in :class:`SecondMoments`.
    build : loss (L,), force (L,) and mixing (L, L) at a step size.
    to_modes : as in :class:`SecondMoments`; None where targets that move are not treated.
    """
    live = np.flatnonzero(start.lam > 0)

    def reduced(mu: float) -> tuple[Array, Array]:
        loss, force, mixing = build(mu)
        return np.diag(loss[live]) - mixing[np.ix_(live, live)], force[live]

    return SecondMoments(
        bounds=bounds,
        build=reduced,
        start=start.k[live],
        power=start.lam[live],
        J_min=start.J_min,
        to_modes=None if to_modes is None else to_modes[live],
        entry=np.eye(live.size),
    )


def lms_moments(
    start: Start, bounds: dict[str, float], *, block: int = 1, to_modes: Array | None = None
) -> SecondMoments:
    """LMS with ``block`` gradients averaged, in the modes of ``start``."""
    lam, share = start.lam, (start.kappa + block - 1) / block

    def build(mu: float) -> tuple[Array, Array, Array]:
        gain = mu**2 / block
        loss = mu * lam * (2 - share * mu * lam)
        return loss, gain * start.J_min * lam, gain * np.outer(lam, lam)

    return of_modes(start, bounds, build, to_modes=to_modes)


def eigenbasis(start: Start) -> Array:
    """(L, L) matrix that takes errors of the weights to the modes of ``start``."""
    basis: Array = start.modes.eigenvectors.conj().T
    return basis
