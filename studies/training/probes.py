"""Measurements at the start of training that may predict a network's speed and stability.

None of them is claimed to be right: the studies compare each with real runs.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.autograd.forward_ad as forward_mode
from scipy.sparse.linalg import ArpackNoConvergence
from torch import nn

import cnnbridge
from cnnbridge import SplitBatchNorm
from cnnbridge.layers.isolation import unchanged
from cnnbridge.learning.objective import gauss_newton, load_forward_mode
from cnnbridge.learning.sharpness import largest_eigenvalues
from studies.training.networks import conv_layers

__all__ = [
    "LayerSpectrum",
    "Linearised",
    "gauss_newton_edge",
    "input_spectra",
    "length_felt",
    "without_statistics_gradient",
]

Array = np.ndarray


@dataclass(frozen=True)
class LayerSpectrum:
    """Smallest, median and largest eigenvalue of R at one layer's input, in units of input power.

    Attributes
    ----------
    layer : name of the layer.
    lowest, median, highest : eigenvalues.
    """

    layer: str
    lowest: float
    median: float
    highest: float


@torch.no_grad()
def input_spectra(model: nn.Module, images: torch.Tensor) -> list[LayerSpectrum]:
    """The spectrum of R at the input of every 2-d convolution, in the model's present mode.

    Parameters
    ----------
    model : run forwards once; left as it was.
    images : one batch.
    """
    inputs: dict[str, torch.Tensor] = {}
    layers = conv_layers(model)
    handles = [
        layer.register_forward_pre_hook(
            lambda _, args, name=name: inputs.setdefault(name, args[0].detach())
        )
        for name, layer in layers.items()
    ]
    try:
        with unchanged(model):
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    found = []
    for name, layer in layers.items():
        R = cnnbridge.patch_autocorrelation(inputs[name].double(), layer)
        values = torch.linalg.eigvalsh(R).flatten().sort().values
        # rounding puts the zero eigenvalues of a semidefinite matrix on either side of zero
        values = values.clamp(min=0)
        found.append(
            LayerSpectrum(name, *(float(v) for v in (values[0], values.median(), values[-1])))
        )
    return found


def gauss_newton_edge(
    model: nn.Module,
    images: torch.Tensor,
    *,
    parameters: Sequence[nn.Parameter] | None = None,
    masks: Sequence[torch.Tensor] | None = None,
) -> float:
    """2 / lambda_max of the Gauss-Newton matrix of the mean cross-entropy, as a learning rate.

    Parameters
    ----------
    model : in its present mode; in train mode the batch's statistics are part of the function.
    images : the batch; the matrix does not depend on the labels.
    parameters : those that learn; all of the model's by default.
    masks : one tensor of zeros and ones for each of them; entries with 0 do not learn.

    Returns
    -------
    Learning rate of plain SGD; inf if no parameter affects the output, 0 if the model's output is
    not finite.

    Notes
    -----
    ``cnnbridge.sharpness`` refuses a loss that is not finite. Here both ends are results, since a
    network that has diverged is one of those that a study compares.
    """
    chosen = list(model.parameters() if parameters is None else parameters)
    sizes = [w.numel() for w in chosen]
    with unchanged(model), torch.enable_grad():
        logits = model(images)
        if not torch.isfinite(logits).all():
            return 0.0
        # the curvature of the cross-entropy by the logits is the same for all labels
        value = nn.functional.cross_entropy(logits, logits.argmax(1))
        if not _felt(logits, chosen):
            return math.inf
        curvature = gauss_newton([logits], value, chosen)

        def multiply(v: Array) -> Array:
            flat = torch.as_tensor(v.ravel(), dtype=logits.dtype, device=logits.device)
            parts = [t.view_as(w) for t, w in zip(flat.split(sizes), chosen, strict=True)]
            found = curvature(_masked(parts, masks))
            pairs = zip(found, chosen, strict=True)
            full = [torch.zeros_like(w) if t is None else t for t, w in pairs]
            out = torch.cat([t.detach().flatten() for t in _masked(full, masks)])
            result: Array = out.double().cpu().numpy()
            return result

        probe = multiply(np.ones(sum(sizes)))
        if not np.isfinite(probe).all():
            return 0.0
        try:
            # each product costs a pass through the network; a small basis needs half as many
            values, _ = largest_eigenvalues(multiply, sum(sizes), 1e-2, basis=8, restarts=100)
            top = float(values[0])
        except ArpackNoConvergence as error:
            # it converges wherever the curvature is not next to zero
            top = float(max(error.eigenvalues, default=0.0))
    return 2 / top if top > 0 else math.inf


def _felt(logits: torch.Tensor, parameters: Sequence[torch.Tensor]) -> bool:
    """Whether any of the parameters affects the output."""
    if not logits.requires_grad:
        return False
    slopes = torch.autograd.grad(logits.sum(), parameters, retain_graph=True, allow_unused=True)
    return any(part is not None for part in slopes)


def _masked(
    parts: Sequence[torch.Tensor], masks: Sequence[torch.Tensor] | None
) -> list[torch.Tensor]:
    """Each part times its mask, if there are any."""
    if masks is None:
        return list(parts)
    return [part * mask for part, mask in zip(parts, masks, strict=True)]


def length_felt(model: nn.Module, images: torch.Tensor, *, draws: int = 4) -> list[torch.Tensor]:
    """How much the output depends on the length of each filter: 0 for scale-invariant weights.

    For a random direction r of the outputs and the gradient g of r'y, the share of g that lies
    along the filter w itself, |g'w| / (|g| |w|), root mean square over draws.

    Parameters
    ----------
    model : in its present mode.
    images : one batch.
    draws : random directions; the same each time.

    Returns
    -------
    One tensor of shape (outputs,) for each parameter, in the order of ``model.parameters()``.
    Biases, which are vectors, count as 1.
    """
    parameters = list(model.parameters())
    sums = [torch.zeros(len(w), device=w.device) for w in parameters]
    generator = torch.Generator().manual_seed(0)
    with unchanged(model), torch.enable_grad():
        logits = model(images)
    for _ in range(draws):
        r = torch.randn(logits.shape, generator=generator).to(logits)
        found = torch.autograd.grad(logits, parameters, r, retain_graph=True, allow_unused=True)
        for total, w, g in zip(sums, parameters, found, strict=True):
            if g is None:
                continue
            if w.ndim < 2:
                total += 1.0
                continue
            a, b = w.detach().flatten(1), g.flatten(1)
            size = (a.norm(dim=1) * b.norm(dim=1)).clamp(min=torch.finfo(a.dtype).tiny)
            total += ((a * b).sum(1) / size).square()
    return [(total / draws).sqrt() for total in sums]


class Linearised(nn.Module):
    """A network linear in its parameters about the start: f(x; w0) + J(x; w0) (w - w0), level 3.

    Its parameters are the displacements w - w0, zero at first. The statistics of each batch are
    part of f.

    Parameters
    ----------
    model : at the start, in train mode; not changed, except that frozen statistics freeze.

    Notes
    -----
    One pass forward in dual numbers gives f and J (w - w0), one pass backward J' e, which costs
    about half as much again as an update of the network itself.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        load_forward_mode()
        self.start = dict(model.named_parameters())
        self.moved = nn.ParameterList(torch.zeros_like(w) for w in self.start.values())
        self._call = functools.partial(torch.func.functional_call, model)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images to logits."""
        with forward_mode.dual_level():
            # w0 in value, the displacement in the graph: so J' reaches its gradient
            dual = {
                name: forward_mode.make_dual(w.detach() + (d - d.detach()), d.detach())
                for (name, w), d in zip(self.start.items(), self.moved, strict=True)
            }
            f, change = forward_mode.unpack_dual(self._call(dual, (x,)))
        logits: torch.Tensor = f if change is None else f + change.detach()
        return logits


@contextlib.contextmanager
def without_statistics_gradient(model: nn.Module) -> Iterator[None]:
    """Every ``SplitBatchNorm`` treats its statistics as constants while the context is open."""
    norms = [part for part in model.modules() if isinstance(part, SplitBatchNorm)]
    before = [norm.grad_through_statistics for norm in norms]
    try:
        for norm in norms:
            norm.grad_through_statistics = False
        yield
    finally:
        for norm, flag in zip(norms, before, strict=True):
            norm.grad_through_statistics = flag
