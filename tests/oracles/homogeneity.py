"""Random networks from a grammar, each with its degree by arithmetic on the grammar.

The degree of a sum is the largest of its terms' degrees, that of a product is their sum; a
normalization has degree 0 in its input, a linear layer adds 1. Nothing here looks at numbers.
"""

from dataclasses import dataclass

import torch
from torch import nn

NORMS = ("none", "batch", "layer", "frozen")
ACTIVATIONS = ("relu", "leaky", "gelu", "tanh")
LOSSES = ("cross_entropy", "mse", "huber", "hinge")
HEADS = ("linear", "cosine", "frozen")


@dataclass(frozen=True)
class Spec:
    """One sentence of the grammar."""

    blocks: tuple[tuple[str, bool, bool, str, str, bool], ...]
    """(norm, gain and shift learned, linear bias, order, activation, residual) of each block."""
    final_norm: bool
    head: str
    loss: str
    decay: float


class Fixed(nn.Module):
    """Statistics of an earlier batch as constants."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((width,), 0.1))
        self.register_buffer("scale", torch.full((width,), 1.7))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) / self.scale


class Block(nn.Module):
    def __init__(self, width: int, norm, affine, bias, order, activation, residual) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width, bias=bias)
        self.norm = {
            "none": lambda: nn.Identity(),
            "batch": lambda: nn.BatchNorm1d(width, affine=affine),
            "layer": lambda: nn.LayerNorm(width, elementwise_affine=affine),
            "frozen": lambda: Fixed(width),
        }[norm]()
        self.activation = {
            "relu": nn.ReLU,
            "leaky": nn.LeakyReLU,
            "gelu": nn.GELU,
            "tanh": nn.Tanh,
        }[activation]()
        self.order, self.residual = order, residual

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x)
        y = self.activation(self.norm(y)) if self.order == "pre" else self.norm(self.activation(y))
        return x + y if self.residual else y


class Cosine(nn.Module):
    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        unit = nn.functional.normalize
        return unit(x, dim=1, eps=1e-30) @ unit(self.weight, dim=1, eps=1e-30).T


def build(spec: Spec, width: int = 6, classes: int = 3) -> nn.Module:
    parts = [Block(width, *block) for block in spec.blocks]
    if spec.final_norm:
        parts.append(nn.BatchNorm1d(width, affine=False))
    if spec.head == "cosine":
        parts.append(Cosine(width, classes))
    else:
        parts.append(nn.Linear(width, classes, bias=False))
    model = nn.Sequential(*parts)
    if spec.head == "frozen":
        parts[-1].weight.requires_grad_(False)
    return model


def loss_of(name: str, classes: int = 3):
    def squared(z, y):
        return ((z - nn.functional.one_hot(y, classes)) ** 2).mean()

    def huber(z, y):
        return nn.functional.huber_loss(z, nn.functional.one_hot(y, classes).to(z.dtype))

    return {
        "cross_entropy": nn.functional.cross_entropy,
        "mse": squared,
        "huber": huber,
        "hinge": nn.functional.multi_margin_loss,
    }[name]


def through_norm(degree: int, norm: str, affine: bool) -> int:
    if norm == "none" or norm == "frozen":
        return degree
    return 1 if affine else 0


def expected(spec: Spec) -> int:
    """Degree of the regularised loss in all learned parameters, by arithmetic."""
    d = 0
    for norm, affine, _, order, activation, residual in spec.blocks:
        inner = d + 1
        if order == "pre":
            inner = through_norm(inner, norm, affine)
        if activation == "tanh":
            inner = 0
        if order == "post":
            inner = through_norm(inner, norm, affine)
        d = max(d, inner) if residual else inner
    if spec.final_norm:
        d = 0
    d = {"linear": d + 1, "cosine": 0, "frozen": d}[spec.head]
    d *= 2 if spec.loss == "mse" else 1
    return max(d, 2) if spec.decay > 0 else d
