"""Level 2: one layer learns in its place inside a network, everything else frozen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import nn

from adaptive import natural_modes
from adaptive.checks import Array
from cnnbridge import _checks
from cnnbridge._checks import Layer
from cnnbridge.layers.geometry import Geometry
from cnnbridge.layers.isolation import find_module, own_weights, watched_use
from cnnbridge.learning.network import Reading, from_modes, linearised
from cnnbridge.learning.objective import Objective
from cnnbridge.learning.paths import finite_or_inf, heavy_ball
from cnnbridge.learning.records import DirectionModes, KroneckerModes, Prediction, weight_order
from cnnbridge.learning.sgd import SGD
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
# up to this many parameters form the full matrix and return every mode
FULL_MODES = 256


def predict_one_layer(
    objective: Objective,
    sgd: SGD,
    steps: int,
    curvature: Curvature,
    full_modes: bool | None = None,
) -> Prediction:
    """Predict one layer of a network, the rest frozen, with one reading of its curvature.

    Martens and Grosse 2015, Grosse and Martens 2016 for the Kronecker form. With "gauss_newton",
    ``full_modes`` asks for all P modes from the whole matrix, or for the Ritz modes that the
    gradient excites; None takes all of them up to ``FULL_MODES`` parameters.
    """
    reading = Reading(LEVEL.format(curvature=curvature), ASSUMPTIONS[curvature], curvature)
    basis: KroneckerModes | DirectionModes
    if curvature != "gauss_newton":
        eigenvalues, basis = kronecker_modes(objective, scalar=curvature == "scalar")
    elif full_modes or (full_modes is None and objective.size <= FULL_MODES):
        eigenvalues, vectors = np.linalg.eigh(objective.matrix())
        eigenvalues = np.maximum(eigenvalues, 0)
        basis = DirectionModes(np.ascontiguousarray(vectors.T))
    else:
        return linearised(objective, sgd, steps, reading)
    value, gradient = objective.gradient()
    slope = basis.to_modes(gradient.cpu().numpy())
    decay = sgd.weight_decay * basis.to_modes(objective.start.cpu().numpy())
    modes = heavy_ball(slope + decay, eigenvalues + sgd.weight_decay, sgd, steps)
    return from_modes(
        objective, sgd, reading, basis, eigenvalues, finite_or_inf(modes), (value, slope)
    )


def kronecker_factors(objective: Objective, seed: int = 0) -> tuple[Array, Array]:
    """R (groups, L, L), and G (groups, M / groups, M / groups) with curvature R x G.

    R is the mean over positions, images and uses of the layer, G the sum over them of the curvature
    of the loss at the layer's output; a use that the loss does not depend on is none. The Hessian
    of the loss by the network's outputs is factored image by image, so G costs one backward pass
    for each output of the network. Random signs for each image separate images that BatchNorm in
    train mode couples; elsewhere they change nothing.
    """
    name, part = _layer(objective)
    geometry = Geometry.of(part)
    shape = (geometry.groups, geometry.out_channels // geometry.groups)
    G = torch.zeros((*shape, shape[1]), dtype=torch.float64, device=part.weight.device)
    generator = torch.Generator().manual_seed(_checks.seed("seed", seed))
    entered: list[torch.Tensor] = []
    for batch, weight in zip(objective.batches, objective.batch_weights, strict=True):
        seen: list[Use] = []

        def keep(
            module: nn.Module,
            args: Any,
            kwargs: dict[str, Any],
            out: torch.Tensor,
            seen: list[Use] = seen,
        ) -> Any:
            u, watched = watched_use(name, geometry, args, kwargs, out)
            seen.append((u.detach(), watched))
            return watched.clone()

        handle = part.register_forward_hook(keep, prepend=True, with_kwargs=True)
        try:
            z, value = objective.run(batch)
        finally:
            handle.remove()
        used = _used(z, seen)
        if not used:
            raise ValueError(_unused(objective, name, value, called=bool(seen)))
        entered += [u for u, _ in used]
        S = roots_of_hessian(z, value)
        signs = torch.randint(0, 2, (len(S), 1), generator=generator).to(S) * 2 - 1
        widths = [t[0].numel() for t in z]
        outputs = [out for _, out in used]
        for c in range(S.shape[2]):
            columns = (S[:, :, c] * signs).split(widths, dim=1)
            vectors = [v.view_as(t) for v, t in zip(columns, z, strict=True)]
            for b in torch.autograd.grad(z, outputs, vectors, retain_graph=True):
                rows = geometry.channels_first(b).transpose(0, 1).reshape(*shape, -1).double()
                G += weight * (rows @ rows.mT)
    R = patch_autocorrelation(entered, part, bias=learns_bias(part), all_reduce=False)
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
    part = _layer(objective)[1]
    order = weight_order(part, Geometry.of(part), bias=learns_bias(part))
    basis = KroneckerModes(taps, outputs, order)
    return (gains[:, :, None] * powers[:, None, :]).reshape(-1), basis


def _layer(objective: Objective) -> tuple[str, Layer]:
    """The layer and what to call it, if its patches alone make its update."""
    assert objective.layer is not None
    name = f"layer {objective.layer!r}"
    part = _checks.layer(name, find_module(objective.model, objective.layer))
    own_weights(name, part, objective.model, frozen_bias=True)
    return name, part


def _used(z: list[torch.Tensor], uses: list[Use]) -> list[Use]:
    """Keep the uses that reach the outputs."""
    if not uses or not z:
        return []
    outputs = [out for _, out in uses]
    sums = [t.sum() for t in z]
    slopes = torch.autograd.grad(sums, outputs, retain_graph=True, allow_unused=True)
    return [use for use, slope in zip(uses, slopes, strict=True) if slope is not None]


def _unused(objective: Objective, name: str, value: torch.Tensor, *, called: bool) -> str:
    """Why no use of the layer reaches the loss."""
    depends = value.requires_grad and any(
        slope is not None
        for slope in torch.autograd.grad(value, objective.parameters, allow_unused=True)
    )
    if depends and not called:
        return (
            f"{name} must be called in the forward pass for its input to be seen; the model uses "
            f"its weights without calling it, as nn.MultiheadAttention does with out_proj"
        )
    return f"the loss must depend on {name}; it does not"


def learns_bias(layer: Layer) -> bool:
    """Whether the bias is a tap that learns."""
    return layer.bias is not None and layer.bias.requires_grad


def roots_of_hessian(outputs: list[torch.Tensor], value: torch.Tensor) -> torch.Tensor:
    """(N, C, C): S with S_i S_i' the Hessian of the loss by the C outputs for image i."""
    N = len(outputs[0])
    if any(len(z) != N for z in outputs):
        raise ValueError(
            f"model must return one row for each image in every output; got outputs of "
            f"{', '.join(str(len(z)) for z in outputs)} rows"
        )
    slopes = torch.autograd.grad(value, outputs, create_graph=True, allow_unused=True)
    columns = _rows(slopes, outputs)
    C = columns.shape[1]
    H = columns.new_zeros((N, C, C))
    if columns.requires_grad:
        for c in range(C):
            # the loss of one image does not depend on the outputs for another
            row = torch.autograd.grad(
                columns[:, c].sum(), outputs, retain_graph=True, allow_unused=True
            )
            H[:, c] = _rows(row, outputs).detach()
    values, vectors = torch.linalg.eigh(H.detach().double())
    return (vectors * values.clamp(min=0).sqrt()[:, None]).to(outputs[0])


def _rows(parts: Sequence[torch.Tensor | None], outputs: list[torch.Tensor]) -> torch.Tensor:
    """(N, C) of a tensor for each output; None counts as zero."""
    return torch.cat(
        [
            (torch.zeros_like(z) if part is None else part).flatten(1)
            for part, z in zip(parts, outputs, strict=True)
        ],
        dim=1,
    )
