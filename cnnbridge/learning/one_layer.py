"""Level 2: one layer learns in its place inside a network, everything else frozen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import nn

from adaptive import natural_modes
from adaptive.checks import Array
from adaptive.checks import choice as _choice
from cnnbridge import _checks
from cnnbridge._checks import Layer
from cnnbridge.layers.geometry import Geometry
from cnnbridge.layers.isolation import (
    autograd,
    find_module,
    own_precision,
    own_weights,
    watched_use,
)
from cnnbridge.learning.compare import Comparison, compare
from cnnbridge.learning.layer import heavy_ball
from cnnbridge.learning.network import (
    DirectionModes,
    NetworkObservation,
    NetworkPrediction,
    Reading,
    Settings,
    from_modes,
    linearised,
    observe_network,
    quadratic_loss,
)
from cnnbridge.learning.objective import Objective
from cnnbridge.statistics.autocorrelation import patch_autocorrelation

Curvature = Literal["gauss_newton", "kronecker", "scalar"]
CURVATURES: tuple[Curvature, ...] = get_args(Curvature)

LEVEL = "2: one layer in place, the rest frozen; {curvature} curvature"
ASSUMPTIONS = {
    "gauss_newton": (
        "the network's output is linear in the layer's weights and the loss quadratic in the "
        "output, as they are at the start"
    ),
    "kronecker": (
        "as gauss_newton, and the curvature of the loss at the layer's output is the same matrix G "
        "at every position of every image, without terms between positions, groups or uses of the "
        "layer: R x G"
    ),
    "scalar": (
        "as kronecker, and that matrix is one number, tr(G) / M: the layer alone on its own MSE, "
        "at another learning rate"
    ),
}

# what entered the layer, and the output to differentiate by
Use = tuple[torch.Tensor, torch.Tensor]
# up to here the whole matrix is cheap, and all modes are shown
FULL_MODES = 256


@dataclass(frozen=True, eq=False)
class KroneckerModes:
    """Modes q_k (of R) times g_j (of G), group by group.

    Attributes
    ----------
    taps : (groups, L, L), columns q_k; the last tap is the bias if it learns.
    outputs : (groups, M / groups, M / groups), columns g_j.
    order : (groups, M / groups, L), where each weight stands in the flat vector.
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
        flat = np.empty((*w.shape[:-3], self.order.size))
        flat[..., self.order] = w
        return flat


@dataclass(frozen=True, eq=False)
class InPlaceComparison:
    """The readings of one layer's curvature, side by side against the same training.

    Attributes
    ----------
    observation : the layer as torch trained it, the rest frozen.
    predictions, comparisons : by curvature.
    """

    observation: NetworkObservation
    predictions: dict[str, NetworkPrediction]
    comparisons: dict[str, Comparison]

    def __str__(self) -> str:
        rows = [f"{'curvature':<13} {'error at end':>12} {'skill at end':>12}  horizons"]
        for name, result in self.comparisons.items():
            last = result.steps_compared - 1
            horizons = ", ".join(
                f"{t:.0%}: {'never' if n is None else n}" for t, n in result.horizon.items()
            )
            rows.append(
                f"{name:<13} {result.displacement_error[last]:>12.1%} "
                f"{result.skill[last]:>12.2f}  {horizons}"
            )
        return "\n".join(rows)


@own_precision()
def predict_in_place(
    model: nn.Module,
    layer: str,
    x: torch.Tensor,
    y: torch.Tensor,
    loss: nn.Module,
    *,
    lr: float,
    steps: int,
    curvature: Curvature = "gauss_newton",
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    full_modes: bool | None = None,
) -> NetworkPrediction:
    """Predict full-batch training of one layer in its place, the rest of the network frozen.

    Parameters
    ----------
    model, x, y, loss, lr, steps, momentum, weight_decay : as in ``predict_network``.
    layer : as in ``model.named_modules()``. For "kronecker" and "scalar" a convolution, transposed
        convolution or linear layer of ``torch.nn`` with weights of its own, which may be used
        several times in a forward pass; for "gauss_newton" any part of the model.
    curvature : "gauss_newton", the layer's own block, matrix-free; "kronecker", R x G; "scalar",
        R tr(G) / M, the layer as if it stood alone.
    full_modes : for "gauss_newton": all P modes from the whole matrix, or only the Ritz modes
        that the gradient excites. By default all up to 256 parameters.

    Returns
    -------
    NetworkPrediction of the layer's parameters.

    Raises
    ------
    TypeError, ValueError : as ``predict_network``; no such layer, or an unknown curvature; for
        "kronecker" and "scalar" also a layer of another kind, or whose weights are frozen, computed
        from others, or shared with another layer.

    Notes
    -----
    Martens and Grosse 2015, Grosse and Martens 2016 for the Kronecker form.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(32, 3))
    >>> x, y = torch.randn(8, 1, 6, 6), torch.randint(3, (8,))
    >>> prediction = predict_in_place(
    ...     model, "0", x, y, nn.CrossEntropyLoss(), lr=0.1, steps=9, curvature="kronecker"
    ... )
    >>> prediction.names, prediction.modes.shape
    (('0.weight', '0.bias'), (10, 20))
    """
    kind: str = _choice("curvature", curvature, CURVATURES)
    settings = Settings.check(lr, steps, momentum, weight_decay)
    objective = Objective(model, x, y, loss, layer)
    reading = Reading(LEVEL.format(curvature=kind), ASSUMPTIONS[kind], kind)
    basis: KroneckerModes | DirectionModes
    if kind != "gauss_newton":
        eigenvalues, basis = kronecker_modes(objective, scalar=kind == "scalar")
    elif full_modes or (full_modes is None and objective.size <= FULL_MODES):
        eigenvalues, vectors = np.linalg.eigh(objective.matrix())
        eigenvalues = np.maximum(eigenvalues, 0)
        basis = DirectionModes(np.ascontiguousarray(vectors.T))
    else:
        return linearised(objective, settings, reading)
    value, slope, modes = _path(objective, settings, basis, eigenvalues)
    change = quadratic_loss(modes, slope, eigenvalues)
    return from_modes(
        objective,
        settings,
        reading,
        basis,
        eigenvalues,
        modes,
        value + change,
        basis.to_displacement(modes),
    )


def compare_in_place(
    model: nn.Module,
    layer: str,
    x: torch.Tensor,
    y: torch.Tensor,
    loss: nn.Module,
    *,
    lr: float,
    steps: int,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    curvatures: Sequence[Curvature] = CURVATURES,
    tolerances: Sequence[float] = (0.1, 0.5),
) -> InPlaceComparison:
    """Train one layer in its place and lay every reading of its curvature beside the run.

    Parameters
    ----------
    model, layer, x, y, loss, lr, steps, momentum, weight_decay : as in ``predict_in_place``.
    curvatures : which readings.
    tolerances : of the horizons, as in ``compare``.

    Returns
    -------
    InPlaceComparison, which prints as a table.

    Raises
    ------
    TypeError, ValueError : as ``predict_in_place``.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(32, 3))
    >>> x, y = torch.randn(8, 1, 6, 6), torch.randint(3, (8,))
    >>> result = compare_in_place(model, "0", x, y, nn.CrossEntropyLoss(), lr=0.1, steps=9)
    >>> list(result.comparisons)
    ['gauss_newton', 'kronecker', 'scalar']
    """
    observation = observe_network(
        model,
        x,
        y,
        loss,
        lr=lr,
        steps=steps,
        layer=layer,
        momentum=momentum,
        weight_decay=weight_decay,
    )
    predictions = {
        str(curvature): predict_in_place(
            model,
            layer,
            x,
            y,
            loss,
            lr=lr,
            steps=steps,
            curvature=curvature,
            momentum=momentum,
            weight_decay=weight_decay,
        )
        for curvature in curvatures
    }
    return InPlaceComparison(
        observation,
        predictions,
        {name: compare(p, observation, tolerances) for name, p in predictions.items()},
    )


def kronecker_factors(objective: Objective, seed: int = 0) -> tuple[Array, Array]:
    """R (groups, L, L), and G (groups, M / groups, M / groups) with curvature R x G.

    R is the mean over positions, images and uses of the layer, G the sum over them of the curvature
    of the loss at the layer's output; a use that the loss does not depend on is none. The Hessian
    of the loss by the network's outputs is taken apart image by image, so G costs one backward pass
    for each output of the network. Signs drawn for each image keep images apart that BatchNorm in
    train mode couples; elsewhere they change nothing.
    """
    name, part = _layer(objective)
    geometry = Geometry.of(part)
    seen: list[Use] = []

    def keep(module: nn.Module, args: Any, kwargs: dict[str, Any], out: torch.Tensor) -> Any:
        entered, watched = watched_use(name, geometry, args, kwargs, out)
        seen.append((entered.detach(), watched))
        return watched.clone()

    handle = part.register_forward_hook(keep, prepend=True, with_kwargs=True)
    try:
        with autograd():
            z = objective.model(objective.x)
            used = _used(z, seen)
            if not used:
                raise ValueError(f"the loss must depend on {name}; it does not")
            outputs = [out for _, out in used]
            S = _roots_of_hessian(z.detach(), objective.y, objective.loss_module)
            generator = torch.Generator().manual_seed(seed)
            signs = torch.randint(0, 2, (len(z), 1), generator=generator).to(z) * 2 - 1
            shape = (geometry.groups, geometry.out_channels // geometry.groups, -1)
            G = z.new_zeros((*shape[:2], shape[1]), dtype=torch.float64)
            for c in range(S.shape[2]):
                vector = (S[:, :, c] * signs).view_as(z)
                for b in torch.autograd.grad(z, outputs, vector, retain_graph=True):
                    rows = geometry.channels_first(b).transpose(0, 1).reshape(shape).double()
                    G += rows @ rows.mT
    finally:
        handle.remove()
    R = patch_autocorrelation(
        [entered for entered, _ in used], part, bias=_learns_bias(part), all_reduce=False
    )
    R = R[None] if R.ndim == 2 else R
    return R.cpu().numpy(), G.cpu().numpy()


def kronecker_modes(objective: Objective, *, scalar: bool) -> tuple[Array, KroneckerModes]:
    """Curvatures (P,) and modes of R x G, or of R tr(G) / M."""
    R, G = kronecker_factors(objective)
    bases = [natural_modes(block) for block in R]
    taps = np.stack([b.eigenvectors for b in bases])
    powers = np.stack([b.eigenvalues for b in bases])
    if scalar:
        outputs = np.broadcast_to(np.eye(G.shape[1]), G.shape)
        gains = np.full(
            G.shape[:2], np.trace(G, axis1=1, axis2=2).sum() / (G.shape[0] * G.shape[1])
        )
    else:
        gains, outputs = np.linalg.eigh(G)
        gains = np.maximum(gains, 0)
    basis = KroneckerModes(taps, outputs, _order(_layer(objective)[1]))
    return (gains[:, :, None] * powers[:, None, :]).reshape(-1), basis


def _layer(objective: Objective) -> tuple[str, Layer]:
    """The layer and what to call it, if it is one whose update its own patches make."""
    assert objective.layer is not None
    name = f"layer {objective.layer!r}"
    part = _checks.layer(name, find_module(objective.model, objective.layer))
    own_weights(name, part, objective.model, frozen_bias=True)
    return name, part


def _used(z: torch.Tensor, uses: list[Use]) -> list[Use]:
    """Those that z depends on."""
    if not uses or not z.requires_grad:
        return []
    outputs = [out for _, out in uses]
    slopes = torch.autograd.grad(z.sum(), outputs, retain_graph=True, allow_unused=True)
    return [use for use, slope in zip(uses, slopes, strict=True) if slope is not None]


def _learns_bias(layer: Layer) -> bool:
    return layer.bias is not None and layer.bias.requires_grad


def _order(layer: Layer) -> Array:
    """Where each weight of (groups, M / groups, L) stands in the flat vector of the layer."""
    size = layer.weight.numel()
    geometry = Geometry.of(layer)
    weight = torch.arange(size).view(layer.weight.shape)
    last = torch.arange(size, size + geometry.out_channels) if _learns_bias(layer) else None
    order: Array = geometry.by_group(weight, last).numpy()
    return order


def _path(
    objective: Objective,
    settings: Settings,
    basis: KroneckerModes | DirectionModes,
    eigenvalues: Array,
) -> tuple[float, Array, Array]:
    """Start loss, slope of the loss along each mode, and the path in modes."""
    value, gradient = objective.gradient()
    slope = basis.to_modes(gradient.cpu().numpy())
    decay = settings.weight_decay * basis.to_modes(objective.start.cpu().numpy())
    modes = heavy_ball(
        np.zeros_like(slope),
        eigenvalues + settings.weight_decay,
        -(slope + decay),
        settings.lr,
        settings.momentum,
        settings.steps,
    )
    return value, slope, modes


def _roots_of_hessian(z: torch.Tensor, y: torch.Tensor, loss: nn.Module) -> torch.Tensor:
    """(N, C, C): S with S_i S_i' the Hessian of the loss by the outputs of image i."""
    z = z.requires_grad_()
    (g,) = torch.autograd.grad(loss(z, y), z, create_graph=True)
    columns = g.flatten(1)
    N, C = columns.shape
    H = z.new_zeros((N, C, C))
    if columns.requires_grad:
        for c in range(C):
            # the loss of one image does not depend on the outputs for another
            (row,) = torch.autograd.grad(columns[:, c].sum(), z, retain_graph=True)
            H[:, c] = row.flatten(1)
    values, vectors = torch.linalg.eigh(H.double())
    return (vectors * values.clamp(min=0).sqrt()[:, None]).to(z)
