"""The numbers that a monitor logs: eigenvalues, margins and times of one layer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from cnnbridge.layers.geometry import Geometry
from cnnbridge.statistics.reader import ReadSpectrum

BOUND = (
    "lr_bound is the largest learning rate at which this layer alone, with this input, would "
    "converge in the mean under MSELoss(reduction='mean') at its own output: 2 (1 + momentum) / "
    "(2 lambda_max / M + weight_decay), with M its output channels and its bias as a tap if it "
    "learns. It is no edge of the whole network, whose loss weighs the layer's output by "
    "curvatures of its own."
)


@dataclass(frozen=True)
class LayerReading:
    """One layer at one step; eigenvalues are those of R = E[u u'] of the sampled patches u.

    u has a constant tap, always 1, where the layer has a bias that learns.

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
    lr_bound : highest learning rate, in torch's units, at which the layer alone would converge in
        the mean (``BOUND`` gives the conditions), for the group's momentum and decay.
    lr_over_bound : lr / lr_bound. NaN for an optimizer that is not plain SGD or heavy ball, for a
        weight that is computed from other parameters (as by weight_norm), and for a bias that
        learns at another rate.
    slow_tenth_steps : steps in which the mode at the edge of the slowest tenth of the excited
        modes falls to 1/e, under the same conditions: every mode of that tenth takes at least as
        long. inf if it never does; NaN where lr_over_bound is.
    patches, taps : sampled patches of each group, and L, with the constant tap. A sample with few
        patches for its taps spreads the eigenvalues beyond those of the input: for white input
        lambda_min reads low by a factor of about (1 - sqrt(taps / patches))^2 and lambda_max high
        by (1 + sqrt(taps / patches))^2 (Marchenko and Pastur 1967). With fewer patches than taps,
        lambda_min is the smallest of the excited modes.
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


def pooled(u: torch.Tensor, finite: bool) -> tuple[torch.Tensor, bool]:
    """The patches of all processes joined; the processes may have different numbers of them."""
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


@dataclass(frozen=True)
class Rates:
    """The settings by which an optimizer moves one layer.

    Attributes
    ----------
    lr, momentum, weight_decay : of the layer's parameter group.
    known : whether the theory covers it: plain SGD or a heavy ball on the layer's own weight.
    """

    lr: float = float("nan")
    momentum: float = 0.0
    weight_decay: float = 0.0
    known: bool = False

    @classmethod
    def of(cls, optimizer: torch.optim.Optimizer | None, layer: Any) -> Rates:
        """Those of the group that holds the layer's weight, or else of any of its parameters."""
        groups = [] if optimizer is None else optimizer.param_groups
        # weight_norm, spectral_norm and pruning compute the weight from other parameters
        own = [layer.weight, *layer.parameters()]
        group = next((g for p in own for g in groups if _holds(g, p)), None)
        if group is None:
            return cls()
        rate = float(group["lr"])
        bias = next((g for g in groups if _holds(g, layer.bias)), group)
        plain = (
            isinstance(optimizer, torch.optim.SGD)
            and not (group["nesterov"] or group["dampening"] or group["maximize"])
            and isinstance(layer.weight, nn.Parameter)
            and float(bias["lr"]) == rate
        )
        if not plain:
            return cls(rate)
        return cls(rate, float(group["momentum"]), float(group["weight_decay"]), True)


def _holds(group: dict[str, Any], parameter: torch.Tensor | None) -> bool:
    return any(p is parameter for p in group["params"])


def bias_learns(optimizer: torch.optim.Optimizer | None, layer: Any) -> bool:
    """Whether the bias is a tap: it needs a gradient, and an optimizer to hold it.

    An optimizer that holds none of the layer's parameters says nothing about its bias.
    """
    if layer.bias is None or not layer.bias.requires_grad:
        return False
    groups = [] if optimizer is None else optimizer.param_groups
    held = [any(_holds(g, p) for g in groups) for p in layer.parameters()]
    return not any(held) or any(_holds(g, layer.bias) for g in groups)


def reading(
    step: int, name: str, layer: Any, spectrum: ReadSpectrum | None, *, rates: Rates, bias: bool
) -> LayerReading:
    """All numbers of one layer at one step; without a spectrum, of input that was not finite."""
    geometry = Geometry.of(layer)
    M = geometry.out_channels
    top, low, slow, rank, patches = float("nan"), float("nan"), float("nan"), float("nan"), 0
    if spectrum is not None:
        top, rank, patches = float(spectrum.values.max()), spectrum.effective_rank, spectrum.patches
        excited = spectrum.excited
        if excited.size:
            low = float(excited[0])
            edge = float(excited[math.ceil(excited.size / 10) - 1])
            if rates.known:
                pace = rates.lr * (2 * edge / M + rates.weight_decay)
                slow = steps_to_e(pace, rates.momentum)
    curvature = 2 * top / M + rates.weight_decay
    bound = 2 * (1 + rates.momentum) / curvature if curvature > 0 else float("inf")
    bound = float("nan") if math.isnan(top) else bound
    return LayerReading(
        step=step,
        layer=name,
        lambda_min=low,
        lambda_max=top,
        spread=top / low,
        effective_rank=rank,
        lr=rates.lr,
        lr_bound=bound,
        lr_over_bound=rates.lr / bound if rates.known else float("nan"),
        slow_tenth_steps=slow,
        patches=patches,
        taps=geometry.taps + bias,
    )


def steps_to_e(pace: float, beta: float) -> float:
    """Steps in which a mode of lr * curvature = pace falls to 1/e under a heavy ball."""
    if not math.isfinite(pace):
        return float("nan")
    # the larger root of z^2 - (1 + beta - pace) z + beta (Polyak 1964)
    middle = 1 + beta - pace
    inside = middle * middle - 4 * beta
    if inside >= 0 and middle > 0:
        # as 1 - x with x from its own quadratic: 1 - z would lose the digits of a slow mode
        x = 2 * pace / (1 - beta + pace + math.sqrt(inside))
        log = math.log1p(-x) if x < 1 else -math.inf
    else:
        largest = (abs(middle) + math.sqrt(inside)) / 2 if inside >= 0 else math.sqrt(beta)
        log = math.log(largest) if largest > 0 else -math.inf
    return -1 / log if log < 0 else float("inf")
