"""Candidates for what decides the highest stable learning rate of a network and its speed.

Everything here is measured at the start of training, or in its first few updates. None of it is
claimed to be right: the studies hold each candidate against real runs.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.autograd.forward_ad as forward_mode
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from torch import nn

import cnnbridge
from cnnbridge import SplitBatchNorm
from cnnbridge.learning.objective import load_forward_mode
from studies.training.networks import Classifier, conv_layers
from studies.training.rates import highest_on_grid, stable_interval
from studies.training.sgd import SgdRun, batch_order, running_mean

__all__ = [
    "LayerSpectrum",
    "gauss_newton_edge",
    "highest_on_grid",
    "input_spectra",
    "last_layer_inputs",
    "length_felt",
    "linearised_run",
    "stable_interval",
    "without_statistics_gradient",
]

Array = np.ndarray


@dataclass(frozen=True)
class LayerSpectrum:
    """Ends and middle of the spectrum of R at one layer's input, in units of input power.

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
    model : seen in one forward pass; its buffers are put back afterwards.
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
        with _same_buffers(model):
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    found = []
    for name, layer in layers.items():
        R = cnnbridge.patch_autocorrelation(inputs[name].double(), layer)
        values = torch.linalg.eigvalsh(R).flatten().sort().values
        # rounding leaves the null eigenvalues of a semidefinite matrix on either side of zero
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
    masks : one tensor of zeros and ones for each of them: what is 0 is held.

    Returns
    -------
    Learning rate of plain SGD; inf where nothing has any effect on the output, 0 where the model's
    output is not finite.

    Notes
    -----
    The largest eigenvalue of J' H J is that of L' J J' L, where H = L L' is the Hessian of the loss
    by the logits and L = diag(sqrt p) - p sqrt(p)' for the softmax p of each image. Both products
    come from one graph: J' v by a backward pass, J u by differentiating J' v, linear in v.
    """
    chosen = list(model.parameters() if parameters is None else parameters)
    with _same_buffers(model), torch.enable_grad():
        logits = model(images)
        if not torch.isfinite(logits).all():
            return 0.0
        p = logits.detach().softmax(1)
        v = torch.zeros_like(logits, requires_grad=True)
        pulled = torch.autograd.grad(logits, chosen, v, create_graph=True, allow_unused=True)
    used = [(part, i) for i, part in enumerate(pulled) if part is not None and part.requires_grad]
    if not used:
        return math.inf
    kept = [chosen[i] for _, i in used]
    held = None if masks is None else [masks[i] for _, i in used]
    linear = [part for part, _ in used]
    root = p.sqrt()

    def product(z: Array) -> Array:
        with torch.no_grad():
            t = torch.as_tensor(z, dtype=logits.dtype, device=logits.device).reshape(p.shape)
            t = (root * t - p * (root * t).sum(1, keepdim=True)) / math.sqrt(len(p))
        u = torch.autograd.grad(logits, kept, t, retain_graph=True)
        if held is not None:
            u = tuple(part * mask for part, mask in zip(u, held, strict=True))
        (t,) = torch.autograd.grad(linear, v, u, retain_graph=True)
        t = (root * t - root * (p * t).sum(1, keepdim=True)) / math.sqrt(len(p))
        out: Array = t.flatten().double().cpu().numpy()
        return out

    size = p.numel()
    start = np.random.default_rng(0).standard_normal(size)
    size_of_first = np.linalg.norm(product(start))
    if not np.isfinite(size_of_first):
        return 0.0
    if size_of_first == 0:
        return math.inf
    operator = LinearOperator((size, size), matvec=product, dtype=float)
    try:
        # a product costs a pass through the network: a small basis gets by with half as many
        (top,) = eigsh(
            operator, k=1, v0=start, ncv=8, tol=1e-2, return_eigenvectors=False, maxiter=100
        )
    except ArpackNoConvergence as error:
        # three digits were not reached, which only happens where there is next to nothing
        top = max(error.eigenvalues, default=0.0)
    return 2 / float(top) if top > 0 else math.inf


def length_felt(model: nn.Module, images: torch.Tensor, *, draws: int = 4) -> list[torch.Tensor]:
    """How much the output feels the length of each filter: 0 for scale-invariant weights.

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
    Vectors, the biases, count as felt entirely: 1.
    """
    parameters = list(model.parameters())
    sums = [torch.zeros(len(w), device=w.device) for w in parameters]
    generator = torch.Generator().manual_seed(0)
    with _same_buffers(model), torch.enable_grad():
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


def linearised_run(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    lr: float,
    steps: int,
    batch_size: int = 32,
    momentum: float = 0.0,
    seed: int = 0,
    stop_below: float | None = None,
) -> SgdRun:
    """What ``run_sgd`` would do if the network were linear in its parameters: level 3.

    The logits are f(x; w0) + J(x; w0) (w - w0) throughout, with the Jacobian of the start, and the
    statistics of each batch are part of f. The loss is the true cross-entropy of those logits, so
    its curvature is not frozen. The images, their order and the updates are those of ``run_sgd``.

    Parameters
    ----------
    model : at the start, in train mode; not changed, except that frozen statistics freeze.
    images, labels, lr, steps, batch_size, momentum, seed, stop_below : as in ``run_sgd``.

    Returns
    -------
    SgdRun; it has ``diverged`` if a loss is not finite.

    Notes
    -----
    One pass forward in dual numbers gives f and J (w - w0), one pass backward J' e. About half as
    dear again as an update of the network itself.
    """
    load_forward_mode()
    weights = dict(model.named_parameters())
    moved = {name: torch.zeros_like(w) for name, w in weights.items()}
    velocity = {name: torch.zeros_like(w) for name, w in weights.items()}
    losses: list[float] = []
    for chosen in batch_order(len(images), batch_size, steps, seed):
        chosen = chosen.to(images.device)
        with forward_mode.dual_level():
            dual = {name: forward_mode.make_dual(w, moved[name]) for name, w in weights.items()}
            f, change = forward_mode.unpack_dual(
                torch.func.functional_call(model, dual, (images[chosen],))
            )
        logits = (f if change is None else f + change).detach().requires_grad_()
        loss = nn.functional.cross_entropy(logits, labels[chosen])
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            return SgdRun(np.asarray(losses), "diverged")
        if stop_below is not None and running_mean(np.asarray(losses))[-1] < stop_below:
            break
        (error,) = torch.autograd.grad(loss, logits)
        found = torch.autograd.grad(f, list(weights.values()), error)
        for name, gradient in zip(weights, found, strict=True):
            velocity[name] = momentum * velocity[name] + gradient
            moved[name] = moved[name] - lr * velocity[name]
    return SgdRun(np.asarray(losses), "stable")


@torch.no_grad()
def last_layer_inputs(model: Classifier, images: torch.Tensor, batch_size: int) -> torch.Tensor:
    """What the linear layer of a network sees, each image in a batch of its neighbours.

    Parameters
    ----------
    model : in its present mode.
    images : (N, C, H, W), of which the last N mod batch_size are left out.

    Returns
    -------
    (whole batches, inputs) tensor.
    """
    seen: list[torch.Tensor] = []
    handle = model.classify.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    try:
        with _same_buffers(model):
            for batch in images[: len(images) // batch_size * batch_size].split(batch_size):
                model(batch)
    finally:
        handle.remove()
    return torch.cat(seen)


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


@contextlib.contextmanager
def _same_buffers(model: nn.Module) -> Iterator[None]:
    before = [buffer.clone() for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(model.buffers(), before, strict=True):
                buffer.copy_(value)
