"""What is predicted and what is observed of a training: one pair of records for all levels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch

from adaptive.checks import Array
from cnnbridge.layers.geometry import Geometry
from cnnbridge.learning.sgd import SGD


class Modes(Protocol):
    """An orthonormal set of directions of a flat weight vector."""

    def to_modes(self, displacement: Array) -> Array:
        """(..., P) displacements to modes (..., K), or (..., M, L) at level 1."""

    def to_displacement(self, modes: Array) -> Array:
        """Modes back to displacements (..., P)."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """How weights will move under ``torch.optim.SGD``, full batch.

    P parameters in one flat vector, in the order of ``names``; K modes.

    Attributes
    ----------
    level, assumption : which prediction this is, and what it rests on.
    curvature : the matrix that is taken as the curvature of the loss.
    sgd : the settings of SGD.
    layer : the layer that learns; None for all, or for a layer that is not part of a network.
    names : of the parameters, as in ``model.named_parameters()``.
    displacement : (steps + 1, P): w(n) - w(0); inf past overflow.
    loss : (steps + 1,): of the quadratic model, without the weight-decay penalty.
    eigenvalues : (K,) curvature along each mode, without weight decay. All P of them, ascending,
        or the Ritz values of the part that the gradient excites; empty at level 4.
    modes : (steps + 1, K): displacement along each mode.
    basis : takes a displacement to its modes.
    left_out : bound on the displacement outside the K modes, relative to the largest.
    """

    level: str
    assumption: str
    curvature: str
    sgd: SGD
    layer: str | None
    names: tuple[str, ...]
    displacement: Array = field(repr=False)
    loss: Array = field(repr=False)
    eigenvalues: Array = field(repr=False)
    modes: Array = field(repr=False)
    basis: Modes = field(repr=False)
    left_out: float = 0.0

    @property
    def steps(self) -> int:
        """Number of updates."""
        return len(self.loss) - 1

    @property
    def bound(self) -> float:
        """Learning rate below which the linearised training is stable; inf if nothing bounds it.

        lr (lambda_max + weight_decay) < 2 (1 + momentum); nan at level 4, which has no one matrix.
        """
        if not self.eigenvalues.size:
            return float("nan")
        return self.sgd.highest_rate(float(self.eigenvalues.max()))

    @property
    def stable(self) -> bool:
        """Whether the learning rate is below ``bound``; False at level 4, which has none."""
        return self.sgd.lr < self.bound

    def project(self, observation: Observation) -> Array:
        """The observed training in the modes of this prediction, of the shape of ``modes``."""
        with np.errstate(over="ignore", invalid="ignore"):
            modes: Array = self.modes[:1] + self.basis.to_modes(observation.displacement)
        return modes

    def mode_scale(self, moved: Array) -> float:
        """What errors of modes are relative to: the largest of the distances moved by step."""
        return float(moved.max(initial=0.0))


@dataclass(frozen=True, eq=False)
class LayerPrediction(Prediction):
    """A level-1 prediction, which also knows where the training ends.

    G groups, M output channels, L taps of one output (the bias tap last, if learned); output m
    belongs to group m // (M / G). The attributes of ``Prediction``, and these.

    Attributes
    ----------
    modes : (steps + 1, M, L): q_k' (w_m(n) - w_star_m), n = 0..steps, in units of the weights.
        Overflows to inf where the training diverges.
    loss : (steps + 1,): ``MSELoss()`` at step n, without the weight-decay penalty.
    eigenvalues : (G, L), ascending, of each group's R, in units of input power. The curvature of
        mode k is h_k = 2 lambda_k / M.
    eigenvectors : (G, L, L); column k of block g is mode k of group g.
    loss_min : the least MSE that any weights reach, J_min / M in torch's units.
    w_star : (M, L): the point where training would come to rest; the Wiener solution, or with
        weight decay the ridge solution. Zero along modes whose input power is zero up to rounding.
    stationary : (G, L) bool: modes that neither input nor weight decay moves; they stay put.
        (A mode whose power is lost in rounding, while its correlation with the target is not,
        drifts at a constant rate, and is not among them.)
    roots : (2, G, L) complex: the two roots of each mode's recursion, the larger in modulus first.
        Without momentum they are 1 - lr h_k and 0.
    bounds : the learning rates at which this training is stable.
    """

    eigenvectors: Array = field(repr=False, kw_only=True)
    loss_min: float = field(kw_only=True)
    w_star: Array = field(repr=False, kw_only=True)
    stationary: Array = field(repr=False, kw_only=True)
    roots: Array = field(repr=False, kw_only=True)
    bounds: LearningRateBounds = field(kw_only=True)

    @property
    def bound(self) -> float:
        """Learning rate below which the training converges: ``bounds.mean``."""
        return self.bounds.mean

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
        grouped = by_group(self.modes, len(self.eigenvectors))
        with np.errstate(over="ignore", invalid="ignore"):
            moved = np.matmul(grouped, self.eigenvectors.transpose(0, 2, 1))
        weights: Array = moved.reshape(self.modes.shape) + self.w_star
        return weights

    def mode_scale(self, moved: Array) -> float:
        """What errors of modes are relative to: |W(0) - W_star| of the whole layer."""
        return float(np.linalg.norm(self.modes[:1]))


@dataclass(frozen=True)
class LearningRateBounds:
    """Bounds on the learning rate of ``torch.optim.SGD`` on ``MSELoss(reduction="mean")``.

    Attributes
    ----------
    mean : full-batch training of the layer converges if and only if 0 < lr < mean.
    trace : sufficient, from tr(R) alone; never above ``mean``.
    momentum, weight_decay : SGD's settings that the bounds hold for.
    assumption : what they rest on.
    """

    mean: float
    trace: float
    momentum: float
    weight_decay: float
    assumption: str = (
        "layer MSE over the whole data set at each update; for mini-batches, of the mean weights"
    )


@dataclass(frozen=True, eq=False)
class Observation:
    """What torch did to the parameters of a layer or network.

    Attributes
    ----------
    sgd : the settings of SGD.
    layer, names : what learned, as in the prediction.
    device, dtype : where and in which precision it was trained.
    diverged_at : first step at which a weight or the loss was not finite, or None.
    loss : (steps + 1,): as torch computed it; NaN from ``diverged_at`` on.
    displacement : (steps + 1, P): w(n) - w(0), float64; NaN from ``diverged_at`` on.
    """

    sgd: SGD
    layer: str | None
    names: tuple[str, ...]
    device: str
    dtype: str
    diverged_at: int | None
    loss: Array = field(repr=False)
    displacement: Array = field(repr=False)

    @property
    def steps(self) -> int:
        """Number of updates."""
        return len(self.loss) - 1


@dataclass(frozen=True)
class Edge:
    """The learning rate at which real training of a layer starts to diverge.

    Attributes
    ----------
    lower : highest learning rate that was seen to converge.
    upper : lowest that was seen to diverge; (upper - lower) / upper is within the tolerance asked.
    sgd : the settings, at the middle of the bracket.
    steps : updates of one run.
    runs : trainings that it took; for mini-batches, pairs of trainings at each learning rate.
    rule : when a learning rate counts as diverging.
    """

    lower: float
    upper: float
    sgd: SGD
    steps: int
    runs: int
    rule: str

    @property
    def lr(self) -> float:
        """The middle of the bracket."""
        return self.sgd.lr


@dataclass(frozen=True, eq=False)
class DirectionModes:
    """Directions held as vectors.

    Attributes
    ----------
    vectors : (K, P), orthonormal.
    """

    vectors: Array = field(repr=False)

    def to_modes(self, displacement: Array) -> Array:
        """(..., P) to (..., K)."""
        modes: Array = np.asarray(displacement) @ self.vectors.T
        return modes

    def to_displacement(self, modes: Array) -> Array:
        """(..., K) modes back to (..., P)."""
        with np.errstate(over="ignore", invalid="ignore"):
            displacement: Array = np.asarray(modes) @ self.vectors
        return displacement


@dataclass(frozen=True, eq=False)
class KroneckerModes:
    """Modes q_k (of R) times g_j (of G), group by group.

    Attributes
    ----------
    taps : (groups, L, L), columns q_k; the last tap is the bias if it learns.
    outputs : (groups, M / groups, M / groups), columns g_j.
    order : (groups, M / groups, L), index of each weight in the flat vector.
    """

    taps: Array = field(repr=False)
    outputs: Array = field(repr=False)
    order: Array = field(repr=False)

    def to_modes(self, displacement: Array) -> Array:
        """(..., P) to (..., P), ordered group, output mode, tap mode."""
        w = np.asarray(displacement)[..., self.order]
        modes = np.einsum("...gmk,gmj,gkl->...gjl", w, self.outputs, self.taps, optimize=True)
        return modes.reshape(*w.shape[:-3], -1)

    def to_displacement(self, modes: Array) -> Array:
        """(..., P) modes back to a flat weight vector."""
        v = np.asarray(modes).reshape(*np.shape(modes)[:-1], *self.order.shape)
        with np.errstate(over="ignore", invalid="ignore"):
            w = np.einsum("...gjl,gmj,gkl->...gmk", v, self.outputs, self.taps, optimize=True)
        return flattened(w, self.order)


@dataclass(frozen=True, eq=False)
class TapModes:
    """Modes q_k of each group's R, for every output: level 1.

    Attributes
    ----------
    taps : (groups, L, L), columns q_k; the last tap is the bias if it learns.
    order : (groups, M / groups, L), index of each weight in the flat vector.
    """

    taps: Array = field(repr=False)
    order: Array = field(repr=False)

    def to_modes(self, displacement: Array) -> Array:
        """(..., P) to (..., M, L)."""
        w = np.asarray(displacement)[..., self.order]
        with np.errstate(over="ignore", invalid="ignore"):
            modes: Array = np.matmul(w, self.taps)
        return modes.reshape(*w.shape[:-3], -1, w.shape[-1])

    def to_displacement(self, modes: Array) -> Array:
        """(..., M, L) modes back to a flat weight vector."""
        with np.errstate(over="ignore", invalid="ignore"):
            w = np.matmul(by_group(np.asarray(modes), len(self.taps)), self.taps.transpose(0, 2, 1))
        return flattened(w, self.order)


def by_group(a: Array, groups: int) -> Array:
    """(..., M, L) as (..., groups, M / groups, L)."""
    return a.reshape(*a.shape[:-2], groups, -1, a.shape[-1])


def flattened(w: Array, order: Array) -> Array:
    """Weights (..., groups, M / groups, L) as flat vectors (..., P)."""
    flat = np.empty((*w.shape[:-3], order.size))
    flat[..., order] = w
    return flat


def weight_order(layer: torch.nn.Module, geometry: Geometry, *, bias: bool) -> Array:
    """(groups, M / groups, L): index of each weight in the flat vector of the parameters."""
    weight: torch.Tensor = layer.weight  # type: ignore[assignment]
    size = weight.numel()
    index = torch.arange(size).view(weight.shape)
    last = torch.arange(size, size + geometry.out_channels) if bias else None
    order: Array = geometry.by_group(index, last).numpy()
    return order
