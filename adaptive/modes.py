"""Natural modes: the eigenbasis of R, in which LMS decouples into scalar recursions."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import scipy
from numpy.typing import ArrayLike

from adaptive import checks as _checks
from adaptive.checks import Array


@dataclass(frozen=True)
class NaturalModes:
    """The eigendecomposition of R and what it says about LMS.

    Attributes
    ----------
    eigenvalues : (L,) array, ascending, in units of input power. Rounding below zero is clipped.
    eigenvectors : (L, L) array; column k is mode k.
    tolerance : eigenvalues at or below this are zero up to rounding.
    """

    eigenvalues: Array
    eigenvectors: Array = field(repr=False)
    tolerance: float

    @property
    def stationary(self) -> Array:
        """(L,) bool: modes with lambda = 0, which no input excites: they stay where they start."""
        return self.eigenvalues <= self.tolerance

    @property
    def rank(self) -> int:
        """Number of modes that the input excites."""
        return int(np.count_nonzero(~self.stationary))

    @property
    def spread(self) -> float:
        """lambda_max / lambda_min; inf when R is singular up to rounding."""
        if self.rank < self.eigenvalues.size:
            return float("inf")
        return float(self.eigenvalues[-1] / self.eigenvalues[0])

    def factors(self, mu: float) -> Array:
        """(L,) factor 1 - mu lambda_k by which mode k is multiplied at each update, on average."""
        factors: Array = 1 - _checks.positive("mu", mu) * self.eigenvalues
        factors[self.stationary] = 1.0
        return factors

    def momentum_roots(self, mu: float, momentum: float) -> Array:
        """(L, 2) complex roots z of z^2 - (1 + momentum - mu lambda_k) z + momentum = 0.

        With momentum each mode is a second-order recursion, and decays like its larger root; a
        conjugate pair, of modulus sqrt(momentum), rings (Polyak 1964).
        """
        step = _checks.positive("mu", mu) * self.eigenvalues
        step[self.stationary] = 0.0
        return np.moveaxis(heavy_ball_roots(step, momentum), 0, -1)

    def time_constants(self, mu: float) -> Array:
        """(L,) updates in which a mode falls to 1/e; inf where it stays, negative if it grows."""
        magnitude = np.abs(self.factors(mu))
        with np.errstate(divide="ignore"):
            log = np.log(magnitude)
            tau: Array = -1 / log
        tau[log == 0] = np.inf
        return np.abs(tau) * np.where(log > 0, -1.0, 1.0)

    def to_modes(self, w: ArrayLike) -> Array:
        """Weights (..., L) to modal coordinates q_k^H w, same shape."""
        modes: Array = np.asarray(w) @ self.eigenvectors.conj()
        return modes

    def to_weights(self, v: ArrayLike) -> Array:
        """Modal coordinates (..., L) back to weights, same shape."""
        weights: Array = np.asarray(v) @ self.eigenvectors.T
        return weights

    def trajectory(self, v0: ArrayLike, mu: float, steps: int) -> Array:
        """Mean of the modes over n = 0..steps, from v0 (..., L): shape (steps + 1, ..., L).

        E[v_k(n)] = (1 - mu lambda_k)^n v_k(0)  (Haykin, Adaptive Filter Theory, LMS chapter).
        A diverging mode overflows to inf.
        """
        v = _checks.array("v0", v0, ndim=(1, 2, 3))
        if v.shape[-1] != self.eigenvalues.size:
            raise ValueError(
                f"v0 must have {self.eigenvalues.size} modes on its last axis; got shape {v.shape}"
            )
        n = np.arange(_checks.count("steps", steps, least=0) + 1, dtype=float)
        n = n.reshape(-1, *(1,) * v.ndim)
        with np.errstate(over="ignore", under="ignore"):
            growth = self.factors(mu) ** n
            # 0 * inf is NaN in IEEE arithmetic; a mode that starts at zero stays at zero
            path: Array = np.where(v == 0, np.zeros_like(v), growth * np.where(v == 0, 1, v))
        return path


def heavy_ball_roots(step: ArrayLike, momentum: float) -> Array:
    """Roots z of z^2 - (1 + momentum - step) z + momentum, the larger in modulus first.

    A mode of curvature h under gradient descent with heavy-ball momentum at rate mu follows the
    second-order recursion with these characteristic roots, step = mu h (Polyak 1964).

    Parameters
    ----------
    step : (...) mu times the eigenvalues.
    momentum : beta, in [0, 1).

    Returns
    -------
    (2, ...) complex.

    Examples
    --------
    >>> np.abs(heavy_ball_roots(1.0, 0.25)).round(9).tolist()
    [0.5, 0.5]
    """
    total = 1 + momentum - np.asarray(step)
    scale = np.maximum(np.abs(total), 1)  # whose square may overflow
    root = scale * np.sqrt((total / scale) ** 2 - 4 * momentum / scale / scale + 0j)
    # the larger root without cancellation, the smaller one from their product
    larger = (total + np.where(total < 0, -root, root)) / 2
    smaller = np.divide(momentum, larger, out=np.zeros_like(larger), where=larger != 0)
    return np.stack([larger, smaller])


def natural_modes(R: ArrayLike) -> NaturalModes:
    """Natural modes of LMS for the input autocorrelation matrix R.

    Parameters
    ----------
    R : (L, L) real symmetric or complex Hermitian, E[u u^H]. May be singular: modes that the
        input does not excite are named in ``stationary`` and stay where they start.

    Returns
    -------
    NaturalModes, eigenvalues ascending.

    Raises
    ------
    TypeError, ValueError : R is not a finite, square, Hermitian, positive semidefinite float array.

    Examples
    --------
    >>> modes = natural_modes([[1.0, 0.5], [0.5, 1.0]])
    >>> modes.eigenvalues.round(12).tolist(), round(modes.spread, 12)
    ([0.5, 1.5], 3.0)
    >>> modes.factors(mu=0.5).round(12).tolist()
    [0.75, 0.25]
    """
    matrix = _checks.autocorrelation("R", R)
    eigenvalues, eigenvectors = scipy.linalg.eigh(matrix)
    tolerance = float(
        eigenvalues.size * np.finfo(eigenvalues.dtype).eps * np.abs(eigenvalues).max()
    )
    # measured matrices are semidefinite only up to the rounding of their sums
    if eigenvalues[0] < -100 * tolerance:
        raise ValueError(
            f"R must be positive semidefinite; got the eigenvalue {eigenvalues[0]:.3g} "
            f"and the largest, {eigenvalues[-1]:.3g}"
        )
    return NaturalModes(np.maximum(eigenvalues, 0), eigenvectors, tolerance)
