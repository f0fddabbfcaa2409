"""How a layer will learn, computed from its statistics."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from adaptive import WienerProblem
from adaptive.checks import Array
from adaptive.modes import heavy_ball_roots
from cnnbridge import _checks
from cnnbridge._checks import Layer
from cnnbridge.layers.geometry import Geometry
from cnnbridge.layers.patches import group_weights
from cnnbridge.learning.problem import LearningRateBounds, layer_problems, learning_rate_bounds

LEVEL = "1: layer MSE, full batch"
ASSUMPTION = (
    "none but exact arithmetic: the desired response is given, and each update follows the "
    "gradient over all images"
)


@dataclass(frozen=True, eq=False)
class LayerPrediction:
    """Mode trajectories and loss of a layer under ``torch.optim.SGD``.

    G groups, M output channels, L taps of one output (the bias tap last, if learned); output m
    belongs to group m // (M / G).

    Attributes
    ----------
    level, assumption : which prediction this is, and what it rests on.
    learning_rate, momentum, weight_decay : SGD's settings, in torch's units.
    modes : (steps + 1, M, L): q_k' (w_m(n) - w_star_m), n = 0..steps, in units of the weights.
        Overflows to inf where the training diverges.
    loss : (steps + 1,): ``MSELoss()`` at step n, without the weight-decay penalty.
    loss_min : the least MSE that any weights reach, J_min / M in torch's units.
    w_star : (M, L): the point where training would come to rest; the Wiener solution, or with
        weight decay the ridge solution. Zero along modes whose input power is zero up to rounding.
    eigenvalues : (G, L), ascending, of each group's R.
    eigenvectors : (G, L, L); column k of block g is mode k of group g.
    stationary : (G, L) bool: modes that neither input nor weight decay moves; they stay put.
        (A mode whose power is lost in rounding, while its correlation with the target is not,
        drifts at a constant rate, and is not among them.)
    roots : (2, G, L) complex: the two roots of each mode's recursion, the larger in modulus first.
        Without momentum they are 1 - lr h_k and 0.
    bounds : the learning rates at which this training is stable.
    """

    learning_rate: float
    momentum: float
    weight_decay: float
    loss: Array = field(repr=False)
    loss_min: float
    modes: Array = field(repr=False)
    w_star: Array = field(repr=False)
    eigenvalues: Array = field(repr=False)
    eigenvectors: Array = field(repr=False)
    stationary: Array = field(repr=False)
    roots: Array = field(repr=False)
    bounds: LearningRateBounds
    level: str = LEVEL
    assumption: str = ASSUMPTION

    @property
    def steps(self) -> int:
        """Number of updates."""
        return len(self.loss) - 1

    @property
    def stable(self) -> bool:
        """Whether the learning rate is below the bound: the training converges."""
        return self.learning_rate < self.bounds.mean

    @property
    def factors(self) -> Array:
        """(G, L): what the envelope of a mode is multiplied by at each update, in the long run."""
        return np.abs(self.roots[0])

    @property
    def time_constants(self) -> Array:
        """(G, L) updates for a factor of e; inf for modes that stay, negative for growing ones."""
        with np.errstate(divide="ignore"):
            log = np.log(self.factors)
            tau = np.abs(1 / log)
        return np.where(log > 0, -tau, tau)

    @property
    def weights(self) -> Array:
        """(steps + 1, M, L): the weights themselves, w_star + Q v; not finite past overflow."""
        grouped = by_group(self.modes, len(self.eigenvalues))
        with np.errstate(over="ignore", invalid="ignore"):
            moved = np.matmul(grouped, self.eigenvectors.transpose(0, 2, 1))
        weights: Array = moved.reshape(self.modes.shape) + self.w_star
        return weights


def predict_layer(
    conv: Layer,
    x: torch.Tensor,
    target: torch.Tensor,
    *,
    lr: float,
    steps: int,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    bias: bool | None = None,
) -> LayerPrediction:
    """Predict the training of a layer on its own MSE: every mode, every step, exactly.

    Level 1: the desired response is given, each update uses the gradient over the whole of x. In
    the eigenbasis of R the layer falls apart into scalar recursions, with torch's SGD

        v(n+1) = v(n) + momentum (v(n) - v(n-1)) - lr h v(n),   h = 2 lambda / M + weight_decay,

    which is v(n) = (1 - lr h)^n v(0) without momentum.

    Parameters
    ----------
    conv : any convolution, transposed convolution or linear layer of ``torch.nn``; its present
        weights are the start. It is not changed.
    x : real floating-point tensor, the layer's input, as in ``unfold_patches``.
    target : desired response, of the shape of the layer's output.
    lr, momentum, weight_decay : as given to ``torch.optim.SGD``.
    steps : number of updates.
    bias : whether the bias learns too; by default if the layer has one. False holds it fixed.

    Returns
    -------
    LayerPrediction, computed in float64; it stores steps + 1 times the layer's weights.

    Raises
    ------
    TypeError, ValueError : as ``layer_problem``; lr not positive, momentum not in [0, 1),
        weight_decay negative, steps negative, or bias=True for a layer without one.

    Notes
    -----
    Haykin, Adaptive Filter Theory: natural modes of steepest descent. Polyak 1964: heavy ball.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> conv, x = torch.nn.Conv2d(1, 2, 3), torch.randn(4, 1, 8, 8)
    >>> prediction = predict_layer(conv, x, torch.randn(4, 2, 6, 6), lr=0.1, steps=50)
    >>> prediction.modes.shape, prediction.stable
    ((51, 2, 10), True)
    >>> bool(prediction.loss[-1] < prediction.loss[0])
    True
    """
    geometry = Geometry.of(conv)
    with_bias = _checks.bias_flag(conv, bias, trained=True)
    rate = _checks.positive("lr", lr)
    beta = _checks.fraction("momentum", momentum)
    decay = _checks.nonnegative("weight_decay", weight_decay)
    updates = _checks.count("steps", steps, least=0)
    problems = layer_problems(conv, x, target, bias=with_bias)
    M = geometry.out_channels

    silent = np.stack([p.modes.stationary for p in problems])
    eigenvalues = np.stack([p.modes.eigenvalues for p in problems])
    eigenvectors = np.stack([p.modes.eigenvectors for p in problems])
    lam = np.where(silent, 0.0, eigenvalues)
    curvature = 2 * lam / M + decay

    # |P_k|^2 <= lambda_k E|d|^2: a power lost in rounding can still leave a correlation that is not
    P = np.stack([p.modes.to_modes(p.P) for p in problems])
    P[silent[:, None] & (np.abs(P) <= _rounding(problems)[:, None, None])] = 0
    pull, still = 2 * P / M, (curvature == 0)[:, None]
    wiener = np.where(silent[:, None], 0.0, P / np.where(silent, 1.0, lam)[:, None])
    rest = np.where(still, 0.0, pull / np.where(still, 1.0, curvature[:, None]))
    drift = np.where(still, pull, 0.0)
    w_star = np.matmul(rest, eigenvectors.transpose(0, 2, 1)).reshape(M, -1)

    w = group_weights(conv, bias=with_bias).detach().to("cpu", torch.float64).numpy()
    start = project(w.reshape(M, -1), w_star, eigenvectors)
    path = heavy_ball(
        by_group(start, geometry.groups), curvature[:, None], drift, rate, beta, updates
    )

    loss_min = sum(p.J_min for p in problems) / M
    with np.errstate(over="ignore", invalid="ignore"):
        excess = np.einsum("ngmk,gk->n", (path + (rest - wiener)) ** 2, lam)
    excess[np.isnan(excess)] = np.inf
    return LayerPrediction(
        learning_rate=rate,
        momentum=beta,
        weight_decay=decay,
        loss=loss_min + excess / M,
        loss_min=loss_min,
        modes=path.reshape(updates + 1, M, -1),
        w_star=w_star,
        eigenvalues=eigenvalues,
        eigenvectors=eigenvectors,
        stationary=still[:, 0] & ~drift.any(axis=1),
        roots=heavy_ball_roots(rate * curvature, beta),
        bounds=learning_rate_bounds(problems, M, momentum=beta, weight_decay=decay),
    )


def by_group(a: Array, groups: int) -> Array:
    """(..., M, L) as (..., groups, M / groups, L)."""
    return a.reshape(*a.shape[:-2], groups, -1, a.shape[-1])


def project(w: Array, w_star: Array, eigenvectors: Array) -> Array:
    """Modes Q' (w - w_star) of weights (..., M, L), each output in the basis of its group."""
    with np.errstate(over="ignore", invalid="ignore"):
        modes: Array = np.matmul(by_group(w - w_star, len(eigenvectors)), eigenvectors)
    return modes.reshape(w.shape)


def _rounding(problems: tuple[WienerProblem, ...]) -> Array:
    """(G,): correlations P_k this small are rounding of the sums that they came from."""
    eps = 10 * problems[0].taps * np.finfo(float).eps
    return np.array([eps * np.sqrt(p.modes.eigenvalues[-1] * p.d_power) for p in problems])


def heavy_ball(
    v0: Array, curvature: Array, drift: Array, lr: float, beta: float, steps: int
) -> Array:
    """(steps + 1, ...) trajectories of torch's SGD with its velocity starting at zero."""
    path = np.empty((steps + 1, *v0.shape))
    path[0] = 0
    moved = np.zeros_like(v0)
    # as distances from the start: a mode without curvature stays put exactly, and a rest far away,
    # as weak modes have it, does not swallow the small steps towards it
    first = curvature * v0 - drift
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for n in range(steps):
            moved = beta * moved - lr * (first + curvature * path[n])
            path[n + 1] = path[n] + moved
        path += v0
    # past overflow the increments cancel, inf - inf
    path[np.isnan(path)] = np.inf
    return path
