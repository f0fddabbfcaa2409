"""All eigenvalues and a few eigenvectors of a symmetric matrix, from one reduction."""

from __future__ import annotations

import numpy as np
import scipy.linalg
from scipy.linalg import lapack

from adaptive.checks import Array


def ends_of_spectrum(matrix: Array, strongest: int = 0, weakest: int = 0) -> tuple[Array, Array]:
    """All eigenvalues of a symmetric matrix, with the eigenvectors of the largest and smallest.

    The matrix is reduced to tridiagonal form once. That costs about a third of a full
    decomposition, in which most of the time goes into eigenvectors that nobody asked for.

    Parameters
    ----------
    matrix : (n, n) symmetric, float64; or float32 without eigenvectors.
    strongest, weakest : number of eigenvectors from either end; together at most n.

    Returns
    -------
    values : (n,), ascending.
    vectors : (n, strongest + weakest), unit columns: those of the largest eigenvalues in
        descending order, then those of the smallest in ascending order.

    Raises
    ------
    numpy.linalg.LinAlgError : LAPACK did not converge.

    Notes
    -----
    LAPACK's sytrd, sterf, stemr and ormqr: Anderson et al., LAPACK Users' Guide (1999).

    Examples
    --------
    >>> values, vectors = ends_of_spectrum(np.diag([3.0, 1.0, 2.0]), strongest=1)
    >>> values.tolist(), abs(vectors[:, 0]).round(12).tolist()
    ([1.0, 2.0, 3.0], [1.0, 0.0, 0.0])
    """
    n = len(matrix)
    if not strongest + weakest or n == 1:
        return np.linalg.eigvalsh(matrix), np.ones((n, min(n, strongest + weakest)))
    # without its workspace query LAPACK runs unblocked, twice as slow
    size, _ = lapack.dsytrd_lwork(n, lower=1)
    reflectors, d, e, tau, _ = lapack.dsytrd(matrix, lower=1, lwork=int(size))
    values, info = lapack.dsterf(d, e)
    if info:
        raise np.linalg.LinAlgError(f"dsterf did not converge ({info})")
    parts = []
    if strongest:
        _, top = scipy.linalg.eigh_tridiagonal(
            d, e, select="i", select_range=(n - strongest, n - 1)
        )
        parts.append(top[:, ::-1])
    if weakest:
        _, bottom = scipy.linalg.eigh_tridiagonal(d, e, select="i", select_range=(0, weakest - 1))
        parts.append(bottom)
    vectors = np.asfortranarray(np.hstack(parts))
    # the reflectors act on all coordinates but the first
    _, work, _ = lapack.dormqr("L", "N", reflectors[1:, :-1], tau, vectors[1:], -1)
    rest, _, _ = lapack.dormqr("L", "N", reflectors[1:, :-1], tau, vectors[1:], int(work[0]))
    vectors[1:] = rest
    return values, vectors
