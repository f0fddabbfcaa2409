"""The numbers of a monitor: from patches to eigenvalues, margins and times. No hooks here."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.distributed as dist

from adaptive.checks import Array

BOUND = (
    "lr_bound is the largest learning rate at which this layer alone, with this input, would "
    "converge in the mean under MSELoss(reduction='mean') at its own output: 2 (1 + momentum) / "
    "(2 lambda_max / M + weight_decay), M its output channels. It is no edge of the whole network, "
    "whose loss weighs the layer's output by curvatures of its own."
)


@dataclass(frozen=True)
class LayerReading:
    """One layer at one step; eigenvalues are of R = E[u u'] of the sampled patches u.

    Attributes
    ----------
    step : optimizer steps taken before the one whose batch was read.
    layer : its name in the model.
    lambda_min : smallest eigenvalue above rounding, of all groups, in units of input power.
    lambda_max : largest eigenvalue.
    spread : lambda_max / lambda_min.
    effective_rank : exp of the entropy of the eigenvalues' shares of the trace (Roy and Vetterli
        2007): the number of modes, if all were equal.
    lr : learning rate of the layer's parameter group; NaN without an optimizer or lr.
    lr_bound : mean bound on the learning rate in torch's units, at the level of the layer's own
        MSE (``BOUND`` says it in full), for the group's momentum and decay.
    lr_over_bound : lr / lr_bound; NaN for an optimizer that is not plain SGD or heavy ball.
    slow_tenth_steps : steps in which the mode at the edge of the slowest tenth of the excited
        modes falls to 1/e, at the same level: every mode of that tenth takes at least so long.
        inf if it never does; NaN as lr_over_bound.
    patches, taps : sampled patches of each group and L. Few patches for a tap spread the sample's
        eigenvalues beyond those of the input: for white input lambda_min reads low by a factor of
        about (1 - sqrt(taps / patches))^2 and lambda_max high by (1 + sqrt(taps / patches))^2
        (Marchenko and Pastur 1967); with fewer patches than taps, lambda_min is of the excited
        modes only.
    """

    step: int
    layer: str
    lambda_min: float
    lambda_max: float
    spread: float
    effective_rank: float
    lr: float
    lr_bound: float
    lr_over_bound: float
    slow_tenth_steps: float
    patches: int
    taps: int


def spectrum(u: torch.Tensor) -> Array:
    """Eigenvalues of u u' / n of all groups in one ascending array; 0 for rounding."""
    L, n = u.shape[1:]
    # the smaller of the two products has all eigenvalues that are not zero
    gram = (u @ u.mT if n >= L else u.mT @ u) / n
    try:
        values = torch.linalg.eigvalsh(gram)
    except torch.linalg.LinAlgError:
        # a GPU's solver may fail on a matrix of low rank
        values = torch.linalg.eigvalsh(gram.cpu())
    floor = max(L, n) * torch.finfo(values.dtype).eps * values[:, -1:].clamp(min=0)
    array: Array = torch.where(values > floor, values, 0.0).flatten().sort().values.cpu().numpy()
    return array


def pooled(u: torch.Tensor, finite: bool) -> tuple[torch.Tensor, bool]:
    """The patches of all processes side by side; they may have different numbers of them."""
    counts = torch.tensor([u.shape[2], 0 if finite else 1], device=u.device)
    every = [torch.zeros_like(counts) for _ in range(dist.get_world_size())]
    dist.all_gather(every, counts)
    sizes = [int(c[0]) for c in every]
    padded = u.new_zeros((*u.shape[:2], max(sizes)))
    padded[..., : u.shape[2]] = u
    parts = [torch.zeros_like(padded) for _ in every]
    dist.all_gather(parts, padded)
    pooled = torch.cat([part[..., :n] for part, n in zip(parts, sizes, strict=True)], dim=2)
    return pooled, not any(int(c[1]) for c in every)


def steps_to_e(pace: float, beta: float) -> float:
    """Steps in which a mode of lr * curvature = pace falls to 1/e under a heavy ball."""
    if not math.isfinite(pace):
        return float("nan")
    # the larger root of z^2 - (1 + beta - pace) z + beta (Polyak 1964)
    middle = 1 + beta - pace
    inside = middle * middle - 4 * beta
    if inside >= 0 and middle > 0:
        # as 1 - x with x from its own quadratic: a slow mode would lose its digits in 1 - z
        x = 2 * pace / (1 - beta + pace + math.sqrt(inside))
        log = math.log1p(-x) if x < 1 else -math.inf
    else:
        largest = (abs(middle) + math.sqrt(inside)) / 2 if inside >= 0 else math.sqrt(beta)
        log = math.log(largest) if largest > 0 else -math.inf
    return -1 / log if log < 0 else float("inf")
