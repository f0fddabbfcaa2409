"""LMS on a moving target: a random-walk system, and the step size that follows it best."""

from __future__ import annotations

import numpy as np
import scipy
from numpy.typing import ArrayLike

from adaptive import checks as _checks
from adaptive.checks import Array
from adaptive.curves import lms_family
from adaptive.modes import natural_modes
from adaptive.results import LearningCurve, OptimalStep
from adaptive.wiener import WienerProblem

RANDOM_WALK = "; w_o(n) a random walk whose steps are independent of the regressors and the noise"


def predict_tracking(
    problem: WienerProblem, *, mu: float, Q: ArrayLike, steps: int, w0: ArrayLike | None = None
) -> LearningCurve:
    """Learning curve of LMS while the system walks: w_o(n+1) = w_o(n) + q(n), E[q q^H] = Q.

    Parameters
    ----------
    problem : R, J_min, and in P the system w_o(0) at the start; a complex R means circular complex
        regressors.
    mu, steps, w0 : as in :func:`adaptive.predict_lms`.
    Q : (L, L) covariance of the steps q(n), summed over outputs; symmetric, semidefinite.

    Returns
    -------
    LearningCurve. ``excess`` and ``msd`` measure the distance to the moving w_o(n); ``weights``
    is E[w(n)], where E[w_o(n)] = w_o(0). msd_final is inf when Q moves a mode without input.

    Raises
    ------
    TypeError, ValueError : as ``predict_lms``; Q of the wrong shape or not semidefinite.

    Notes
    -----
    LMS's recursion with Q's modal diagonal added: k_i(n+1) = (1 - 2 mu l_i + kappa mu^2 l_i^2) k_i
    + mu^2 l_i (sum_j l_j k_j + J_min) + q_i^H Q q_i  (Sayed, Adaptive Filters, tracking chapters;
    the Gaussian fourth moments kept).

    Examples
    --------
    >>> problem = WienerProblem(R=[[1.0]], P=[1.0], d_power=1.01)
    >>> curve = predict_tracking(problem, mu=0.1, Q=[[1e-4]], steps=500)
    >>> round(curve.emse, 9), round(float(curve.excess[-1]), 9)
    (0.001176471, 0.001176471)
    """
    walk = _walk(problem, Q)
    return lms_family(problem, mu, steps, w0, "lms_tracking", walk=walk, premise=RANDOM_WALK)


def tracking_emse(problem: WienerProblem, *, mu: ArrayLike, Q: ArrayLike) -> Array:
    """Steady-state excess MSE of LMS on a random walk, for one or many step sizes.

    Parameters
    ----------
    problem, Q : as in :func:`predict_tracking`.
    mu : step size or array of them, positive.

    Returns
    -------
    Array of the shape of mu; inf at and above the mean-square bound.

    Raises
    ------
    TypeError, ValueError : mu <= 0 or not finite; Q as in ``predict_tracking``.

    Notes
    -----
    EMSE = sum_i (mu J_min l_i + Q_ii / mu) / (2 - kappa mu l_i) / (1 - sum_i mu l_i /
    (2 - kappa mu l_i)), over the modes that the input excites. For small mu this is
    (mu J_min tr R + tr Q / mu) / 2 (Widrow et al. 1976; Haykin and Sayed, tracking chapters):
    noise that grows with mu, and lag that falls with it.

    Examples
    --------
    >>> problem = WienerProblem(R=[[1.0]], P=[1.0], d_power=1.01)
    >>> tracking_emse(problem, mu=[0.01, 0.1, 2.0], Q=[[1e-4]]).round(6).tolist()
    [0.005127, 0.001176, inf]
    """
    steps = _checks.array("mu", mu, ndim=tuple(range(9)))
    if np.iscomplexobj(steps) or not np.all(steps > 0):
        raise ValueError(f"mu must be positive real numbers; got {_checks.shown(mu)}")
    lam, walk, kappa = _excited(problem, Q)
    x = steps[..., None] * lam
    safe = np.where(kappa * x < 2, 2 - kappa * x, np.nan)
    load = np.sum(x / safe, axis=-1)
    total = np.sum((x * problem.J_min + walk / steps[..., None]) / safe, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        emse: Array = np.where(load < 1, total / (1 - load), np.inf)
    return emse


def optimal_mu(problem: WienerProblem, *, Q: ArrayLike) -> OptimalStep:
    """The step size at which LMS follows a random walk with the least excess MSE.

    Parameters
    ----------
    problem, Q : as in :func:`predict_tracking`.

    Returns
    -------
    OptimalStep: the minimum of :func:`tracking_emse`, and the textbook's approximation.

    Raises
    ------
    TypeError, ValueError : as ``predict_tracking``; ValueError when Q moves nothing that the input
        excites: then every smaller step is better and no optimum exists.

    Notes
    -----
    Small steps: mu = sqrt(tr Q / (J_min tr R)), EMSE = sqrt(J_min tr R tr Q)  (Widrow et al. 1976;
    Haykin, Adaptive Filter Theory, chapter on tracking).

    Examples
    --------
    >>> problem = WienerProblem(R=[[1.0]], P=[1.0], d_power=1.01)
    >>> best = optimal_mu(problem, Q=[[1e-6]])
    >>> round(best.mu, 5), round(best.mu_small_step, 5)
    (0.00985, 0.01)
    """
    lam, walk, kappa = _excited(problem, Q)
    if not walk.sum() > 0:
        raise ValueError(
            "Q must move a mode that the input excites; got none: on a system that does not move "
            "every smaller mu is better"
        )
    # below the edge by a factor from 1e-12 to 1: golden section in log mu
    J, power = problem.J_min, float(lam.sum())
    edge = 2 / (kappa * float(lam.max()))
    low = np.log(edge) - 0.5 * np.log1p(J * power * edge**2 / walk.sum()) - 7.0

    def log_emse(log_mu: float) -> float:
        emse = float(tracking_emse(problem, mu=np.exp(log_mu), Q=Q))
        return np.log(emse) if np.isfinite(emse) else 1e3 + log_mu

    best = scipy.optimize.minimize_scalar(
        log_emse, bounds=(low, np.log(edge)), method="bounded", options={"xatol": 1e-10}
    )
    mu = float(np.exp(best.x))
    small = float(np.sqrt(walk.sum() / (J * power))) if J > 0 else float("inf")
    return OptimalStep(
        mu=mu,
        emse=float(tracking_emse(problem, mu=mu, Q=Q)),
        mu_small_step=small,
        emse_small_step=float(np.sqrt(J * power * walk.sum())),
    )


def step_covariance(name: str, problem: WienerProblem, Q: ArrayLike) -> Array:
    """(L, L) covariance of the steps of a random walk, checked; ``name`` is the argument's."""
    matrix = _checks.autocorrelation(name, Q)
    if matrix.shape != problem.R.shape:
        raise ValueError(f"{name} must have the shape of R, {problem.R.shape}; got {matrix.shape}")
    try:
        natural_modes(matrix)
    except ValueError:
        least = float(np.linalg.eigvalsh(matrix)[0])
        raise ValueError(
            f"{name} must be positive semidefinite; got the eigenvalue {least:.3g}"
        ) from None
    return matrix


def _walk(problem: WienerProblem, Q: ArrayLike) -> Array:
    """(L,) power of each mode's steps: the diagonal of Q in the eigenbasis of R."""
    _checks.instance("problem", problem, WienerProblem)
    matrix = step_covariance("Q", problem, Q)
    basis = problem.modes.eigenvectors
    walk: Array = np.real(np.einsum("ik,ij,jk->k", basis.conj(), matrix, basis, optimize=True))
    # a mode without input must not seem to move by the rounding of the basis
    dust = 100 * walk.size * np.finfo(basis.dtype).eps * float(walk.sum())
    walk[problem.modes.stationary & (walk < dust)] = 0.0
    return np.maximum(walk, 0.0)


def _excited(problem: WienerProblem, Q: ArrayLike) -> tuple[Array, Array, int]:
    """Eigenvalues and step powers of the excited modes, and kappa."""
    _checks.instance("problem", problem, WienerProblem)
    modes = problem.modes
    if modes.rank == 0:
        raise ValueError("R must not be zero: a silent input bounds no step size")
    live = ~modes.stationary
    kappa = 1 if np.iscomplexobj(modes.eigenvectors) else 2
    return modes.eigenvalues[live].astype(np.float64), _walk(problem, Q)[live], kappa
