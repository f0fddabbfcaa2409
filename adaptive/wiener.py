"""The Wiener problem: second-order statistics of regressor and desired response."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from adaptive import checks as _checks
from adaptive.checks import Array
from adaptive.modes import NaturalModes, natural_modes
from adaptive.regressors import Regressors, delayed, regressors


def autocorrelation(u: ArrayLike | Regressors, *, taps: int | None = None, start: int = 0) -> Array:
    """Sample autocorrelation R of one signal, which is all that bounds on the step size need.

    Parameters
    ----------
    u : (N,) signal with ``taps``, (N, C) channels with ``taps``, or (N, L) regressors without.
    taps : length of the delay line; None when u holds regressors.
    start : first sample that counts.

    Returns
    -------
    (L, L) mean of u(n) u(n)^H in double precision.

    Raises
    ------
    TypeError, ValueError : as :meth:`WienerProblem.from_data`.

    Examples
    --------
    >>> u = np.random.default_rng(0).standard_normal(10000)
    >>> autocorrelation(u, taps=2).round(1)
    array([[ 1., -0.],
           [-0.,  1.]])
    """
    lines = u if isinstance(u, Regressors) else regressors(u, taps)
    first = _checks.count("start", start, least=0)
    if first >= lines.samples:
        raise ValueError(f"start must be less than the {lines.samples} samples of u; got {first}")
    dtype = np.result_type(lines.buffer, np.float64)
    R = np.zeros((lines.taps, lines.taps), dtype)
    for _, U in lines.chunks(first):
        block = U.astype(dtype)
        R += block.T @ block.conj()
    mean: Array = R / (lines.samples - first)
    return mean


@dataclass(frozen=True, init=False, eq=False)
class WienerProblem:
    """Minimise E|d - w^H u|^2: all that mean-square theory needs to know of a filter or a layer.

    Parameters
    ----------
    R : (L, L) autocorrelation E[u u^H]; may be singular.
    P : (L,) or, for M outputs that share the regressor, (M, L) cross-correlation E[u d*].
    d_power : E|d|^2, summed over the outputs.

    Attributes
    ----------
    w_o : Wiener solution of least norm, shape of P: R w_o = P.
    J_min : minimum mean-square error, summed over the outputs.
    modes : natural modes of R.

    Raises
    ------
    TypeError, ValueError : wrong dtype or shape, values not finite, R not semidefinite, P outside
        the range of R, or d_power less than R and P explain.

    Notes
    -----
    Haykin, Adaptive Filter Theory, chapter on Wiener filters. For real data P = E[d u].

    Examples
    --------
    >>> problem = WienerProblem(R=[[1.0, 0.5], [0.5, 1.0]], P=[1.0, 0.5], d_power=1.25)
    >>> problem.w_o.round(12).tolist(), round(problem.J_min, 12)
    ([1.0, 0.0], 0.25)
    """

    R: Array = field(repr=False)
    P: Array = field(repr=False)
    d_power: float

    def __init__(self, *, R: ArrayLike, P: ArrayLike, d_power: float) -> None:
        matrix = _checks.autocorrelation("R", R)
        cross = _checks.array("P", P, ndim=(1, 2))
        if cross.shape[-1] != matrix.shape[0]:
            raise ValueError(
                f"P must have {matrix.shape[0]} taps on its last axis, as R has; "
                f"got shape {cross.shape}"
            )
        object.__setattr__(self, "R", matrix)
        object.__setattr__(self, "P", cross)
        object.__setattr__(self, "d_power", _checks.nonnegative("d_power", d_power))
        # the slack that float sums over the data leave, judged against what was summed
        eps = 1e4 * self.taps * np.finfo(matrix.dtype).eps
        residual = np.abs(self.w_o @ self.R.T - self.P)
        # two roots, since the product of powers leaves the floating-point range first
        scale = np.sqrt(np.abs(np.diagonal(self.R)).max()) * np.sqrt(self.d_power)
        if residual.max() > np.sqrt(eps) * scale:
            raise ValueError(
                "P must lie in the range of R, as it does for statistics of real data; "
                f"got a part of size {residual.max():.3g} outside it"
            )
        if self._excess < -eps * self.d_power - self._uncertainty:
            raise ValueError(
                f"d_power must be at least the power that R and P explain, "
                f"{self.d_power - self._excess:.6g}; got {self.d_power:.6g}"
            )

    @classmethod
    def from_data(
        cls,
        u: ArrayLike,
        d: ArrayLike,
        *,
        taps: int | None = None,
        start: int = 0,
        delay: int = 0,
    ) -> WienerProblem:
        """Sample statistics, as means over the samples.

        Parameters
        ----------
        u : (N,) signal with ``taps``, (N, C) channels with ``taps``, or (N, L) regressors without.
        d : (N,) or (N, M) desired response.
        taps : length of the delay line; None when u holds regressors.
        start : first sample that counts. ``start=taps - 1`` leaves out the zeros before the
            beginning of the signal, whose regressors are not yet full.
        delay : samples by which u is delayed, as in :func:`adaptive.run`.

        Examples
        --------
        >>> u = np.random.default_rng(0).standard_normal(500)
        >>> d = np.convolve(u, [1.0, -0.5])[:500]
        >>> WienerProblem.from_data(u, d, taps=2).w_o.round(9).tolist()
        [1.0, -0.5]
        """
        if _checks.whole("delay", delay):
            u, _ = delayed(_checks.array("u", u, ndim=(1, 2)), int(delay))
        lines = regressors(u, taps)
        desired = _checks.array("d", d, ndim=(1, 2))
        if desired.shape[0] != lines.samples:
            raise ValueError(
                f"d must have as many samples as u, {lines.samples}; got shape {desired.shape}"
            )
        first = _checks.count("start", start, least=0)
        outputs = desired.reshape(lines.samples, -1)
        dtype = np.result_type(lines.buffer, desired, np.float64)
        R = autocorrelation(lines, start=first).astype(dtype)
        P = np.zeros((outputs.shape[1], lines.taps), dtype)
        for rows, U in lines.chunks(first):
            P += outputs[rows].astype(dtype).conj().T @ U.astype(dtype)
        kept = lines.samples - first
        d_power = float(np.sum(np.abs(outputs[first:]).astype(np.float64) ** 2)) / kept
        P /= kept
        return cls(R=R, P=P[0] if desired.ndim == 1 else P, d_power=d_power)

    @property
    def taps(self) -> int:
        """L, the number of weights of one output."""
        return int(self.R.shape[0])

    @cached_property
    def modes(self) -> NaturalModes:
        """Natural modes of R."""
        return natural_modes(self.R)

    @cached_property
    def w_o(self) -> Array:
        """Wiener solution of least norm, shape of P."""
        modes = self.modes
        with np.errstate(divide="ignore", invalid="ignore"):
            found = np.where(modes.stationary, 0.0, modes.to_modes(self.P) / modes.eigenvalues)
        return modes.to_weights(found)

    @property
    def _excess(self) -> float:
        return self.d_power - float(np.sum(np.real(self.w_o * self.P.conj())))

    @property
    def _uncertainty(self) -> float:
        """Error of the explained power sum |P_k|^2 / lambda_k, from rounding in R and P.

        Weak modes amplify it: in data with fewer samples than taps it reaches d_power itself.
        """
        modes = self.modes
        live = ~modes.stationary
        if not live.any():
            return 0.0
        lam, top = modes.eigenvalues[live], modes.eigenvalues[-1]
        eps = 10 * self.taps * np.finfo(lam.dtype).eps
        # over the root of lambda first: the square of a power may leave the floating-point range
        P = np.abs(modes.to_modes(self.P))[..., live] / np.sqrt(lam)
        off = eps * np.sqrt(top / lam) * np.sqrt(self.d_power)
        return float(np.sum(2 * P * off + off**2 + P**2 * (eps * top / lam)))

    @property
    def J_min(self) -> float:
        """Minimum mean-square error, summed over the outputs; rounding below zero is clipped."""
        return max(self._excess, 0.0)

    def mse(self, w: ArrayLike) -> float:
        """Mean-square error of fixed weights w (shape of P): J_min + (w - w_o)^H R (w - w_o)."""
        weights = _checks.array("w", w, ndim=(self.P.ndim,))
        if weights.shape != self.P.shape:
            raise ValueError(f"w must have the shape of P, {self.P.shape}; got {weights.shape}")
        v = self.modes.to_modes(weights - self.w_o)
        return self.J_min + float(np.sum(self.modes.eigenvalues * np.abs(v) ** 2))
