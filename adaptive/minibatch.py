"""Training on a finite data set, drawn at random: exact moments, and three different edges.

Each step averages the gradients of a batch of freshly drawn examples. Successive batches are
independent, so what is an assumption for a delay line is a fact here, and nothing is asked of the
data: every expectation is a sum over the examples. An example is one regressor, or the positions
of one image: R_i is then the mean of u u^H over its positions.

The step size at which training breaks has three meanings, in this order for B of N examples:

* ``mean_square``: E|w - w_o|^2 converges below it. Above it the average over runs grows, carried
  by few of them, while most still converge.
* ``almost_sure``: a single run converges with probability one below it (up to its noise). Runs
  between the two are heavy-tailed: they settle for most of the time and burst.
* ``mean``: E[w] converges below it: 2 / lambda_max, what full-batch gradient descent sees. It is
  above ``mean_square``; ``almost_sure`` can lie on either side of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike

from adaptive import checks as _checks
from adaptive import search
from adaptive.checks import Array
from adaptive.curves import initial_error, mean_weights, misadjustment
from adaptive.modes import NaturalModes, natural_modes
from adaptive.results import LearningCurve, LyapunovEdge, MinibatchEdges
from adaptive.wiener import WienerProblem

ASSUMPTION = (
    "{batch} of {examples} examples drawn at random {how} for every step, independently "
    "of the steps before; exact for any data. Passing through a shuffled data set without "
    "repetition (epochs) is not covered"
)
_CHUNK = 1 << 19  # entries of a temporary: small enough for the cache


def predict_minibatch(
    u: ArrayLike,
    d: ArrayLike,
    *,
    mu: float,
    steps: int,
    batch: int = 1,
    replace: bool = True,
    w0: ArrayLike | None = None,
    momentum: float = 0.0,
    leakage: float = 0.0,
) -> LearningCurve:
    """Exact expected training curve of mini-batch LMS on a finite data set.

    w(n+1) = w(n) + momentum (w(n) - w(n-1)) - mu leakage w(n) + mu * mean over the batch, and over
    the positions of each example, of e*(n) u; w(-1) = w(0). In torch's units, for MSELoss over M
    outputs and SGD, mu = 2 lr / M and leakage = weight_decay M / 2.

    Parameters
    ----------
    u : (N, L) regressors, or (N, T, L): N examples with T positions each.
    d : desired response, (N,) or (N, M); with positions (N, T) or (N, T, M).
    mu : step size.
    steps : number of batches.
    batch : B, examples per batch.
    replace : whether an example can appear twice in one batch.
    w0 : initial weights, (L,) or (M, L); zeros when None.
    momentum : beta, 0 <= beta < 1: heavy ball.
    leakage : gamma >= 0, in units of input power: pulls the weights towards zero.

    Returns
    -------
    LearningCurve: ``mse[n]`` is the expected loss over the whole data set at w(n), summed over
    outputs. ``bounds`` has "mean" and "mean_square"; ``residual`` is that of the steady state.
    ``emse`` and ``msd_final`` hold the bias of leakage as well as the fluctuation.

    Raises
    ------
    TypeError, ValueError : wrong shapes or dtypes, NaN or inf, u all zero, mu <= 0, batch < 1,
        batch > N without replacement, momentum outside [0, 1), leakage < 0.

    Notes
    -----
    With c = w - w_o, xi_i = P_i - R_i w_o, K = E[c c^H], m = E[c], rho = 1/B with replacement and
    (N - B) / (B (N - 1)) without, T = (1 + beta - mu gamma) I - mu R:
    m+ = T m - beta m(n-1) - mu gamma w_o, and the noise of a batch, of mean zero whatever came
    before, has the covariance V = rho (E_i[R_i K R_i - X_i - X_i^H + xi_i xi_i^H] - R K R),
    X_i = R_i m xi_i^H. Hence for S = K - m m^H and its cross moment C with the step before
    S+ = T S T - beta (T C + C^H T) + beta^2 S(n-1) + mu^2 V,  C+ = T S - beta C^H.
    It costs about 4 N T L^2 operations a step, or 4 N L^3 for T > L / 2.

    Examples
    --------
    >>> u = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> curve = predict_minibatch(u, [1.0, -1.0, 0.5], mu=0.5, steps=200)
    >>> round(float(curve.mse[0]), 12), curve.stable, round(curve.mse_final / curve.J_min, 6)
    (0.75, True, 1.538462)
    """
    mu, steps = _checks.positive("mu", mu), _checks.count("steps", steps)
    beta, gamma = _checks.fraction("momentum", momentum), _checks.nonnegative("leakage", leakage)
    U, D = _examples(u, d)
    problem = WienerProblem.from_data(
        U.reshape(-1, U.shape[2]), D.reshape(-1, D.shape[2]) if D.ndim == 3 else D.reshape(-1)
    )
    M = 1 if D.ndim == 2 else D.shape[2]
    error = (D - U @ problem.w_o.conj().T).reshape(*U.shape[:2], M)
    data = _DataSet.of(U, problem.modes, batch, replace, error, beta=beta, gamma=gamma)
    live = ~problem.modes.stationary
    lam = data.lam

    v0 = problem.modes.to_modes(initial_error(problem, w0))
    pull = gamma * problem.modes.to_modes(problem.w_o)
    pull[..., ~live] = 0  # exactly, not up to the rounding of the basis
    curvature = np.where(live, problem.modes.eigenvalues, 0.0) + gamma
    mean = _mean_modes(v0, curvature, pull, mu, beta, steps)
    flat = mean.reshape(steps + 1, M, -1)
    still = np.sum(np.abs(flat[:, :, ~live]) ** 2, axis=(1, 2))

    excess, msd = np.full(steps, np.inf), np.full(steps + 1, np.inf)
    keep = (1 + beta - mu * curvature[live])[:, None]
    S = np.zeros((lam.size, lam.size), U.dtype)
    C, before = np.zeros_like(S), np.zeros_like(S)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for n in range(steps + 1):
            m = flat[n][:, live].T
            K = S + m @ m.conj().T
            diagonal = np.real(np.diagonal(K))
            power, deviation = float(lam @ diagonal), float(diagonal.sum() + still[n])
            if not (np.isfinite(power) and np.isfinite(deviation)):
                break
            msd[n] = deviation
            if n == steps:
                break
            excess[n] = power
            cross = beta * keep * C
            following = keep * S * keep.T + beta**2 * before + mu**2 * data.scatter(K, m)
            C = keep * S - beta * C.conj().T
            # C^H is the other cross moment only while S is Hermitian: rounding would grow
            following = (following + following.conj().T) / 2 - cross - cross.conj().T
            S, before = following, S

    edge = data.edge()
    stable = mu < edge
    emse, residual, msd_final = np.inf, 0.0, np.inf
    if stable:
        m = -(pull.reshape(M, -1)[:, live] / curvature[live]).T
        final, residual = data.fixed_point(mu, m)
        diagonal = np.real(np.diagonal(final + m @ m.conj().T))
        emse = float(lam @ diagonal)
        msd_final = float(diagonal.sum() + (still[0] if gamma == 0 else 0.0))
    bounds = {"mean": data.mean_edge(), "mean_square": edge}
    return LearningCurve(
        algorithm="minibatch_lms",
        mu=mu,
        excess=excess,
        msd=msd,
        weights=mean_weights(problem, mean),
        modes=mean,
        J_min=problem.J_min,
        emse=emse,
        misadjustment=misadjustment(emse, problem.J_min),
        msd_final=msd_final,
        stable=stable,
        mean_stable=mu < bounds["mean"],
        bounds=bounds,
        assumption=ASSUMPTION.format(
            batch=batch,
            examples=U.shape[0],
            how="with replacement" if replace else "without replacement within a batch",
        ),
        residual=residual,
    )


def minibatch_edge(
    u: ArrayLike,
    *,
    batch: int = 1,
    replace: bool = True,
    momentum: float = 0.0,
    leakage: float = 0.0,
) -> float:
    """Exact mean-square edge of mini-batch LMS: E|w - w_o|^2 converges if and only if mu is below.

    Parameters
    ----------
    u, batch, replace, momentum, leakage : as in :func:`predict_minibatch`. The desired response
        plays no part.

    Returns
    -------
    The edge, in units of mu.

    Raises
    ------
    TypeError, ValueError : as ``predict_minibatch``.

    Notes
    -----
    The map K -> E[(I - mu R_b) K (I - mu R_b)] is symmetric and keeps semidefinite matrices so,
    hence its spectral radius is its largest eigenvalue, and it is 1 where mu is
    1 / lambda_max(A^-1/2 E[R_b . R_b] A^-1/2), A K = R K + K R: one symmetric eigenvalue problem,
    solved by Lanczos without forming an L^2 x L^2 matrix. Directions without input are left out.

    With momentum beta and leakage gamma, h = lambda + gamma, noise of covariance V at every step
    leaves, in the eigenbasis and elementwise, mu A S - mu^2 B S = mu^2 V in the steady state, where
    A_ij = (1 - beta) (h_i + h_j),
    B_ij = ((1 + beta^2) h_i h_j - beta (h_i^2 + h_j^2)) / (1 - beta^2).
    V being rho (E_i[R_i S R_i] - R S R), the edge is 1 / lambda_max(A^-1/2 (B + V) A^-1/2): the
    same problem, and the one above for beta = gamma = 0.

    Examples
    --------
    >>> u = np.array([[1.0], [2.0]])
    >>> round(minibatch_edge(u), 12)  # one weight: 2 E[u^2] / E[u^4]
    0.588235294118
    >>> round(minibatch_edge(u, batch=2, replace=False), 12)  # the full batch: 2 / E[u^2]
    0.8
    """
    beta, gamma = _checks.fraction("momentum", momentum), _checks.nonnegative("leakage", leakage)
    return _of_regressors(u, batch, replace, beta, gamma).edge()


def lyapunov_edge(
    u: ArrayLike,
    *,
    batch: int = 1,
    replace: bool = True,
    seed: int,
    runs: int = 32,
    steps: int = 2000,
) -> LyapunovEdge:
    """Almost-sure edge of mini-batch LMS, estimated from seeded products of the random updates.

    A run forgets its start if and only if the product of I - mu R_b over its batches tends to
    zero, that is if the Lyapunov exponent lim (1/n) ln|product| is negative (Furstenberg and
    Kesten 1960).

    Parameters
    ----------
    u, batch, replace : as in :func:`predict_minibatch`.
    seed : of the draws; the same draws serve every step size tried.
    runs : independent products, at least 2; the standard error is their spread.
    steps : factors in each; the first tenth is left out.

    Returns
    -------
    LyapunovEdge: the first crossing of zero when mu rises from the mean-square edge, below which
    the exponent is never positive (Jensen), in steps of 5 %, then by bisection.

    Raises
    ------
    TypeError, ValueError : as ``predict_minibatch``; runs < 2, steps < 10.

    Examples
    --------
    >>> u = np.array([[1.0], [2.0]])
    >>> edge = lyapunov_edge(u, seed=0)  # (1 - mu)(1 - 4 mu) = -1: mu = 5/4
    >>> abs(edge.value - 1.25) < 4 * edge.standard_error
    True
    """
    data = _of_regressors(u, batch, replace)
    seed = _checks.seed("seed", seed)
    runs = _checks.count("runs", runs, least=2)
    steps = _checks.count("steps", steps, least=10)
    if data.rho == 0:  # nothing is random
        return LyapunovEdge(data.mean_edge(), 0.0)

    def exponents(mu: float) -> Array:
        return data.exponents(mu, seed, runs, steps)

    # sampling noise can put the crossing a little below the mean-square edge
    low, high = search.bracket(lambda mu: bool(exponents(mu).mean() > 0), data.edge(), up=1.05)
    value = float(
        scipy.optimize.bisect(lambda mu: float(exponents(mu).mean()), low, high, rtol=1e-6)
    )
    spread = float(exponents(value).std(ddof=1) / np.sqrt(runs))
    step = 0.01 * value
    slope = float((exponents(value + step) - exponents(value - step)).mean()) / (2 * step)
    return LyapunovEdge(value, abs(spread / slope) if spread > 0 else 0.0)


def minibatch_edges(
    u: ArrayLike, *, batch: int = 1, replace: bool = True, seed: int
) -> MinibatchEdges:
    """The mean-square, almost-sure and mean edges of mini-batch LMS, side by side.

    Parameters
    ----------
    u, batch, replace : as in :func:`predict_minibatch`.
    seed : of the estimate of the almost-sure edge.

    Returns
    -------
    MinibatchEdges, in units of mu.

    Raises
    ------
    TypeError, ValueError : as ``predict_minibatch``.

    Examples
    --------
    >>> edges = minibatch_edges(np.array([[1.0], [2.0]]), seed=0)
    >>> edges.mean_square < edges.mean < edges.almost_sure.value
    True
    """
    data = _of_regressors(u, batch, replace)
    return MinibatchEdges(
        mean_square=data.edge(),
        almost_sure=lyapunov_edge(u, batch=batch, replace=replace, seed=seed),
        mean=data.mean_edge(),
    )


# --- the data set as an operator on second moments ------------------------------------------------

LARGEST_POWER, LEAST_POWER = 1e100, 1e-150  # of a mode of u


@dataclass(frozen=True, eq=False)
class _DataSet:
    """The matrices R_i of the examples, in the eigenbasis of their mean, r excited modes.

    ``factors`` (N, q, r) hold rows f with R_i = sum f f^H where that is cheaper; else
    ``matrices`` (N, r, r) hold R_i. ``noise`` (N, q or r, M) holds the gradients xi_i at w_o in
    the same terms: xi_i = sum over q of f noise, or xi_i itself.
    """

    factors: Array | None
    matrices: Array | None
    noise: Array | None
    lam: Array
    batch: int
    replace: bool
    rho: float  # variance of a batch mean over that of one example
    beta: float
    gamma: float

    @classmethod
    def of(
        cls,
        U: Array,
        modes: NaturalModes,
        batch: int,
        replace: bool,
        error: Array | None = None,
        *,
        beta: float = 0.0,
        gamma: float = 0.0,
    ) -> _DataSet:
        """From checked regressors (N, T, L), the modes of their R, and errors (N, T, M) at w_o."""
        if modes.rank == 0:
            raise ValueError("u must not be all zero: a silent input bounds no step size")
        N, T, _ = U.shape
        B, replace = _checks.count("batch", batch), _checks.flag("replace", replace)
        if not replace and B > N:
            raise ValueError(
                f"batch must be at most the {N} examples when replace is False; got {B}"
            )
        live = ~modes.stationary
        lam = modes.eigenvalues[live].astype(np.float64)
        _check_power(float(lam[-1]))
        if lam[0] < LEAST_POWER:
            raise ValueError(
                f"u must have a power of at least {LEAST_POWER:.0e} in each mode, whose square "
                f"enters; got {lam[0]:.3g}"
            )
        rho = 1 / B if replace else (N - B) / (B * max(N - 1, 1))
        if N == 1:
            rho = 0.0
        rows = U @ modes.eigenvectors[:, live].conj() / np.sqrt(T)
        r = lam.size
        noise = None if error is None else error.conj() / np.sqrt(T)
        if T * (T + r) <= r * r or T == 1:
            return cls(np.ascontiguousarray(rows), None, noise, lam, B, replace, rho, beta, gamma)
        matrices = np.empty((N, r, r), rows.dtype)
        for i in range(N):
            matrices[i] = rows[i].T @ rows[i].conj()
        xi = None if noise is None else rows.transpose(0, 2, 1) @ noise
        return cls(None, matrices, xi, lam, B, replace, rho, beta, gamma)

    @property
    def _stack(self) -> Array:
        """Whichever of factors and matrices there is."""
        stack = self.matrices if self.factors is None else self.factors
        assert stack is not None
        return stack

    @property
    def _parts(self) -> Iterator[slice]:
        """Examples a few at a time."""
        size = max(1, _CHUNK // (self._stack.shape[1] * self._stack.shape[2]))
        for i in range(0, self.examples, size):
            yield slice(i, i + size)

    @property
    def examples(self) -> int:
        """N."""
        return int(self._stack.shape[0])

    def scatter(self, K: Array, mean: Array | None = None) -> Array:
        """Covariance of R_b c over the draw of the batch b, where E[c c^H] = K.

        With ``mean``, E[c] = mean (r, M): of the whole gradient R_b c - xi_b.
        """
        total = np.zeros_like(K)
        if self.rho == 0:
            return total
        each = self._by_matrix if self.factors is None else self._by_factor
        for rows in self._parts:
            total += each(self._stack[rows], K, mean, rows)
        spread: Array = self.rho * (total / self.examples - self.lam[:, None] * K * self.lam)
        return spread

    def _by_matrix(self, part: Array, K: Array, mean: Array | None, rows: slice) -> Array:
        """Sum of R_i K R_i - X_i - X_i^H + xi_i xi_i^H from the R_i, as products over (i, k)."""
        r = self.lam.size
        left = (part.reshape(-1, r) @ K).reshape(part.shape)
        total: Array = left.transpose(1, 0, 2).reshape(r, -1) @ part.reshape(-1, r)
        if mean is not None:
            assert self.noise is not None
            xi = self.noise[rows]
            half = (xi / 2 - part @ mean).transpose(1, 0, 2).reshape(r, -1)
            mixed = half @ xi.conj().transpose(0, 2, 1).reshape(-1, r)
            total += mixed + mixed.conj().T
        return total

    def _by_factor(self, part: Array, K: Array, mean: Array | None, rows: slice) -> Array:
        """The same, F' (F* K F' - ...) F*: only the q x q matrix in the middle is formed."""
        r = self.lam.size
        conj = part.conj()
        left = (conj.reshape(-1, r) @ K).reshape(part.shape)
        middle = _product(left, part.transpose(0, 2, 1))
        if mean is not None:
            assert self.noise is not None
            noise = self.noise[rows]
            half = noise / 2 - (conj.reshape(-1, r) @ mean).reshape(noise.shape)
            mixed = _product(half, noise.conj().transpose(0, 2, 1))
            middle = middle + mixed + mixed.conj().transpose(0, 2, 1)
        total: Array = part.reshape(-1, r).T @ _product(middle, conj).reshape(-1, r)
        return total

    def _symmetric(self) -> tuple[Callable[[Array], Array], Array]:
        """A^-1/2 (B + scatter) A^-1/2 and A^-1/2 of ``minibatch_edge``, in the eigenbasis."""
        h, beta = self.lam + self.gamma, self.beta
        square = h**2 + h[:, None] ** 2
        B = ((1 + beta**2) * h * h[:, None] - beta * square) / (1 - beta**2)
        root = 1 / np.sqrt((1 - beta) * (h + h[:, None]))
        return lambda Y: root * (B * (root * Y) + self.scatter(root * Y)), root

    def mean_edge(self) -> float:
        """mu below which the mean weights converge."""
        return 2 * (1 + self.beta) / float(self.lam[-1] + self.gamma)

    def edge(self) -> float:
        """mu at which the spectral radius of the map of the second moments is 1."""
        S, _ = self._symmetric()
        r, dtype = self.lam.size, self._stack.dtype
        if self.rho == 0:
            return self.mean_edge()
        if r < 4:
            basis = np.eye(r * r, dtype=dtype).reshape(-1, r, r)
            dense = np.array([S(E).reshape(-1) for E in basis])
            return 1 / float(np.linalg.eigvalsh((dense + dense.conj().T) / 2)[-1])
        operator = scipy.sparse.linalg.LinearOperator(
            (r * r, r * r),
            matvec=lambda y: S(y.reshape(r, r)).reshape(-1),
            dtype=dtype,
        )
        # its top eigenvector is semidefinite, so the identity is not orthogonal to it
        start = np.eye(r, dtype=dtype).reshape(-1)
        top = scipy.sparse.linalg.eigsh(
            operator, k=1, which="LA", v0=start, tol=1e-12, return_eigenvectors=False
        )
        return 1 / float(top[0])

    def fixed_point(self, mu: float, mean: Array) -> tuple[Array, float]:
        """Covariance of c in the steady state, E[c] = mean, by conjugate gradients; residual."""
        S, root = self._symmetric()
        force = mu * self.scatter(mean @ mean.conj().T, mean)
        y = np.zeros_like(force)
        rest = root * force
        size = float(np.linalg.norm(rest))
        if size == 0:
            return y, 0.0
        direction, square = rest, size**2
        for _ in range(1000):
            image = direction - mu * S(direction)
            step = square / float(np.vdot(direction, image).real)
            y = y + step * direction
            rest = rest - step * image
            previous, square = square, float(np.linalg.norm(rest)) ** 2
            if np.sqrt(square) <= 1e-13 * size:
                break
            direction = rest + square / previous * direction
        # the true residual, not the recursive one
        residual = float(np.linalg.norm(root * force - y + mu * S(y))) / size
        return root * y, residual

    def _draw(self, rng: np.random.Generator, runs: int) -> Array:
        """(runs, B) examples of one batch in each run."""
        if self.replace:
            return rng.integers(self.examples, size=(runs, self.batch))
        order = np.tile(np.arange(self.examples), (runs, 1))
        return rng.permuted(order, axis=1)[:, : self.batch]

    def exponents(self, mu: float, seed: int, runs: int, steps: int) -> Array:
        """(runs,) mean log growth of a vector under the random updates."""
        rng = np.random.default_rng(seed)
        stack, r = self._stack, self.lam.size
        v = rng.standard_normal((runs, r)).astype(stack.dtype)
        skip = steps // 10
        total = np.zeros(runs)
        for n in range(steps):
            part = stack[self._draw(rng, runs)]
            if self.factors is None:
                push = np.einsum("sbij,sj->si", part, v)
            else:
                rows = part.reshape(runs, -1, r)
                push = ((rows.conj() @ v[:, :, None]).transpose(0, 2, 1) @ rows)[:, 0]
            v = v - (mu / self.batch) * push
            # an update can annihilate the vector: the product is zero from there on
            length = np.maximum(np.linalg.norm(v, axis=1), np.finfo(float).tiny)
            v /= length[:, None]
            if n >= skip:
                total += np.log(length)
        mean: Array = total / (steps - skip)
        return mean


def _examples(u: ArrayLike, d: ArrayLike) -> tuple[Array, Array]:
    """(N, T, L) regressors and (N, T) or (N, T, M) responses in double precision."""
    U = _checks.array("u", u, ndim=(2, 3))
    D = _checks.array("d", d, ndim=(U.ndim - 1, U.ndim))
    if D.shape[: U.ndim - 1] != U.shape[:-1]:
        raise ValueError(
            f"d must start with the shape of u but its last axis, {U.shape[:-1]}; "
            f"got shape {D.shape}"
        )
    if U.ndim == 2:
        U, D = U[:, None], D[:, None]
    dtype = np.result_type(U, D, np.float64)
    return U.astype(dtype), D.astype(dtype)


def _mean_modes(
    v0: Array, curvature: Array, pull: Array, mu: float, beta: float, steps: int
) -> Array:
    """(steps + 1, ...) E[v(n)]: v+ = v + beta (v - v(n-1)) - mu (curvature v + pull)."""
    path = np.empty((steps + 1, *v0.shape), v0.dtype)
    path[0], moved = v0, np.zeros_like(v0)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for n in range(steps):
            moved = beta * moved - mu * (curvature * path[n] + pull)
            path[n + 1] = path[n] + moved
    path[np.isnan(path)] = np.inf  # inf - inf, past overflow
    return path


def _of_regressors(
    u: ArrayLike, batch: int, replace: bool, beta: float = 0.0, gamma: float = 0.0
) -> _DataSet:
    """The operator, where no desired response is needed."""
    U = _checks.array("u", u, ndim=(2, 3))
    U = U.astype(np.result_type(U, np.float64)).reshape(U.shape[0], -1, U.shape[-1])
    flat = U.reshape(-1, U.shape[2])
    largest = float(np.abs(flat).max())
    _check_power(largest * (largest / flat.shape[0]))  # before R overflows
    modes = natural_modes(flat.T @ flat.conj() / flat.shape[0])
    return _DataSet.of(U, modes, batch, replace, beta=beta, gamma=gamma)


def _check_power(power: float) -> None:
    if not power <= LARGEST_POWER:
        raise ValueError(
            f"u must have a power of at most {LARGEST_POWER:.0e}, whose square enters; got "
            f"{power:.3g} in one mode"
        )


def _product(a: Array, b: Array) -> Array:
    """a @ b for stacks of matrices, without a call per matrix where a has a single row."""
    if a.shape[1] > 1:
        stack: Array = a @ b
    elif a.shape[2] == 1:
        stack = a * b
    else:
        stack = np.einsum("nk,nkj->nj", a[:, 0], b)[:, None]
    return stack
