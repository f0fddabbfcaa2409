"""The networks of the study ``degree``, built from a ``Form``."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from cnnbridge import SplitBatchNorm
from cnnbridge.normalization import NORMALIZATION_VARIANTS
from studies.related.degree import Form
from studies.training.networks import Bounded

__all__ = ["build", "loss_of"]

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Network(nn.Module):
    """A body that ends in pooled features, and a head."""

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.features, self.head = body, head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) images to (N, classes) outputs."""
        return self.head(self.features(x))


class RMS(nn.Module):
    """Each channel over its root mean square; nothing is subtracted."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the same shape."""
        return x / (x.square().mean((0, 2, 3), keepdim=True) + 1e-5).sqrt()


class Standardized(nn.Module):
    """Each filter minus its mean, over its deviation."""

    def forward(self, w: torch.Tensor) -> torch.Tensor:
        """(M, C, k, k) to the same shape."""
        centred = w - w.mean((1, 2, 3), keepdim=True)
        return centred / (w.std((1, 2, 3), keepdim=True) + 1e-6) / w[0].numel() ** 0.5


class Cosine(nn.Module):
    """Cosine of the angle between features and class weights."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, width) to (N, classes)."""
        unit = nn.functional.normalize
        return unit(x, dim=1) @ unit(self.weight, dim=1).T


class Residual(nn.Module):
    """x + branch(x)."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Input to output of the same shape."""
        return x + self.branch(x)


class Transformer(nn.Module):
    """Patches of 4x4 pixels as tokens, two pre-norm blocks, mean over the tokens."""

    def __init__(self, channels: int, width: int, affine: bool, final: bool) -> None:
        super().__init__()
        self.embed = nn.Conv2d(channels, width, 4, stride=4)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, 2, 2 * width, dropout=0.0, batch_first=True, norm_first=True
            )
            for _ in range(2)
        )
        for block in self.blocks if not affine else ():
            for norm in (block.norm1, block.norm2):
                norm.requires_grad_(False)
        self.final = nn.LayerNorm(width, elementwise_affine=False) if final else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, width)."""
        x = self.embed(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return self.final(x).mean(1)


def build(form: Form, channels: int, classes: int, widths: tuple[int, ...]) -> Network:
    """The network of a form, He initialised from torch's present seed."""
    if form.body == "transformer":
        body: nn.Module = Transformer(channels, widths[-1], form.affine == "all", form.final)
        return Network(body, _head(form, widths[-1], classes))
    parts: list[nn.Module] = []
    for k, width in enumerate(widths):
        last = k == len(widths) - 1
        conv = _conv(form, channels, width)
        norm = _norm(form, width, last)
        steps = [conv, norm, nn.ReLU()] if form.order == "pre" else [conv, nn.ReLU(), norm]
        block = nn.Sequential(*steps)
        same = form.body == "residual" and channels == width
        parts.append(Residual(block) if same else block)
        channels = width
        if k == 1:
            parts.append(nn.MaxPool2d(2))
    if form.final:
        parts.append(nn.BatchNorm2d(channels, affine=False))
    parts += [nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    return Network(nn.Sequential(*parts), _head(form, 4 * channels, classes))


def _conv(form: Form, channels: int, width: int) -> nn.Module:
    conv = nn.Conv2d(channels, width, 3, padding=1, bias=form.bias)
    nn.init.kaiming_normal_(conv.weight)
    if form.norm == "weight norm":
        return parametrizations.weight_norm(conv)
    if form.norm == "spectral norm":
        return parametrizations.spectral_norm(conv)
    if form.norm == "weight standardization":
        parametrize.register_parametrization(conv, "weight", Standardized())
    return conv


def _norm(form: Form, width: int, last: bool) -> nn.Module:
    learned = {"all": True, "last": last, "inner": not last, "gain": True, "shift": True}
    affine = learned.get(form.affine, False)
    made: nn.Module
    if form.norm == "batch":
        made = nn.BatchNorm2d(width, affine=affine)
    elif form.norm == "layer":
        made = nn.GroupNorm(1, width, affine=affine)
    elif form.norm == "group":
        made = nn.GroupNorm(2, width, affine=affine)
    elif form.norm == "instance":
        made = nn.InstanceNorm2d(width, affine=affine)
    elif form.norm in ("center", "amplify", "suppress"):
        variant = NORMALIZATION_VARIANTS[form.norm]
        made = SplitBatchNorm(width, affine=False, track_running_stats=False, **variant)
    elif form.norm == "frozen":
        made = SplitBatchNorm(width, affine=False, statistics="frozen")
    elif form.norm == "rms":
        made = RMS()
    else:
        made = nn.Identity()
    if form.affine == "gain":
        made.bias.requires_grad_(False)
    if form.affine == "shift":
        made.weight.requires_grad_(False)
    return nn.Sequential(made, Bounded(width)) if form.affine == "bounded" else made


def _head(form: Form, width: int, classes: int) -> nn.Module:
    if form.head == "cosine":
        return Cosine(width, classes)
    if form.head == "two-layer":
        return nn.Sequential(nn.Linear(width, 32), nn.ReLU(), nn.Linear(32, classes))
    linear = nn.Linear(width, classes)
    return linear.requires_grad_(False) if form.head == "frozen" else linear


def loss_of(form: Form) -> Loss:
    """The loss of a form, of (outputs, labels)."""

    def one_hot(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return nn.functional.one_hot(y, z.shape[1]).to(z.dtype)

    losses: dict[str, Loss] = {
        "cross-entropy": nn.functional.cross_entropy,
        "mse": lambda z, y: (z - one_hot(z, y)).square().sum(1).mean(),
        "huber": lambda z, y: nn.functional.huber_loss(z, one_hot(z, y)),
        "hinge": nn.functional.multi_margin_loss,
    }
    return losses[form.loss]
