"""The networks that the studies train."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import nn

from cnnbridge import SplitBatchNorm
from cnnbridge.normalization import NORMALIZATION_VARIANTS

__all__ = [
    "AFFINES",
    "INITS",
    "POSITIONS",
    "Affine",
    "Bounded",
    "Classifier",
    "Network",
    "PlainVGG",
    "Position",
    "SmallCNN",
    "SmallResNet",
    "conv_layers",
    "draw_weights",
]

Position = Literal["pre", "post"]
Init = Literal["spread", "he", "default"]
Network = Literal["plain", "residual"]
Affine = Literal["none", "all", "last", "inner", "gain", "shift", "bounded"]

POSITIONS: tuple[Position, ...] = ("pre", "post")
INITS: tuple[Init, ...] = ("spread", "he", "default")
AFFINES: tuple[Affine, ...] = ("none", "all", "last", "inner", "gain", "shift", "bounded")


class Bounded(nn.Module):
    """A learned gain of each channel between 0 and 2: twice the sigmoid of what is learned."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.s = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the same shape."""
        return 2 * torch.sigmoid(self.s) * x


class SmallCNN(nn.Module):
    """Three convolutions, two poolings, one linear layer; takes any image of 8 pixels or more.

    The convolutions differ on purpose: ``conv1`` has 5x5 filters on the raw image, ``conv2`` 3x3
    filters on rectified maps, and ``conv3`` the same in two groups, so that it consists of two
    independent LMS problems.

    Parameters
    ----------
    channels, classes : of the images.
    width : output channels of ``conv1``; the other two have twice as many.
    batch_norm : put a BatchNorm between each convolution and its ReLU. The convolutions then have
        no bias, since the centring would remove it.
    """

    def __init__(
        self, channels: int, classes: int, width: int = 8, *, batch_norm: bool = False
    ) -> None:
        super().__init__()
        norm = nn.BatchNorm2d if batch_norm else nn.Identity
        bias = not batch_norm
        self.conv1 = nn.Conv2d(channels, width, 5, padding=2, bias=bias)
        self.norm1 = norm(width)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1, bias=bias)
        self.norm2 = norm(2 * width)
        self.conv3 = nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2, bias=bias)
        self.norm3 = norm(2 * width)
        self.pool = nn.MaxPool2d(2)
        self.spread = nn.AdaptiveAvgPool2d(2)
        self.classify = nn.Linear(8 * width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) images -> (N, classes) logits."""
        x = self.pool(torch.relu(self.norm1(self.conv1(x))))
        x = self.pool(torch.relu(self.norm2(self.conv2(x))))
        x = torch.relu(self.norm3(self.conv3(x)))
        return self.classify(self.spread(x).flatten(1))


class PlainVGG(nn.Module):
    """Six 3x3 convolutions in three pairs, each pair followed by a pooling; one linear layer.

    The normalizations have no parameters, so every variant learns parameters of the same names and
    shapes. Two variants with one seed start from the same weights and differ only in the
    normalization.

    Parameters
    ----------
    channels, classes : of the images.
    widths : output channels of the convolutions.
    variant : a name in ``cnnbridge.normalization.NORMALIZATION_VARIANTS``.
    position : "pre" for conv - ReLU (- pool) - normalization, which is what the next layer sees;
        "post" for conv - normalization - ReLU (- pool).
    head : the linear layer sees the last maps averaged to head x head pixels.
    affine : which normalizations learn a gain and a shift for each channel, as torch's BatchNorm
        does: "none", "all", "last", "inner" (all but the last), the "gain" or the "shift" alone in
        all, or a gain "bounded" by 2 in all.

    Raises
    ------
    ValueError : no such variant, position or affine.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        widths: tuple[int, ...] = (16, 16, 32, 32, 32, 32),
        variant: str = "none",
        position: Position = "pre",
        head: int = 1,
        affine: Affine = "none",
    ) -> None:
        super().__init__()
        _check_variant(variant)
        if affine not in AFFINES:
            raise ValueError(f"affine must be one of {', '.join(AFFINES)}; got {affine!r}")
        if position not in POSITIONS:
            raise ValueError(f"position must be one of {', '.join(POSITIONS)}; got {position!r}")
        self.variant, self.position, self.head = variant, position, head
        self.shape = (channels, classes, tuple(widths))
        parts: list[nn.Module] = []
        for number, width in enumerate(widths, start=1):
            conv = nn.Conv2d(channels, width, 3, padding=1)
            rectify: list[nn.Module] = [nn.ReLU()]
            if number % 2 == 0:
                rectify.append(nn.MaxPool2d(2))
            norm = _normalization(width, variant, affine, last=number == len(widths))
            parts.append(conv)
            parts += [norm, *rectify] if position == "post" else [*rectify, norm]
            channels = width
        self.features = nn.Sequential(*parts)
        self.pool = nn.AdaptiveAvgPool2d(head)
        self.classify = nn.Linear(head * head * channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) images, 8 pixels or more -> (N, classes) logits."""
        return self.classify(self.pool(self.features(x)).flatten(1))


class SmallResNet(nn.Module):
    """One 3x3 convolution, three residual blocks of two with poolings, one linear layer.

    A block computes x + conv(norm(relu(conv(norm(relu(x)))))). As in ``PlainVGG`` with "pre", the
    normalization is in front of the layer that it conditions; the sum itself is not normalized. The
    shortcut has no weights: where the sum is wider, x is padded with channels of zeros.

    Parameters
    ----------
    channels, classes : of the images.
    widths : output channels of the blocks' six convolutions; the first layer is as wide as the
        first of them.
    variant : a name in ``cnnbridge.normalization.NORMALIZATION_VARIANTS``.
    head : the linear layer sees the last maps averaged to head x head pixels.

    Raises
    ------
    ValueError : no such variant, or widths that fall from one block to the next.

    Notes
    -----
    He, Zhang, Ren and Sun 2016, "Identity mappings in deep residual networks": full pre-activation,
    with ReLU in front of the normalization instead of behind it; shortcuts by padding are option A
    of their paper of 2015.

    Examples
    --------
    >>> SmallResNet(1, 10)(torch.zeros(2, 1, 16, 16)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        widths: tuple[int, ...] = (16, 16, 32, 32, 32, 32),
        variant: str = "none",
        head: int = 1,
    ) -> None:
        super().__init__()
        _check_variant(variant)
        sums = (widths[0], *widths[1::2])
        if list(sums) != sorted(sums):
            raise ValueError(f"widths must not fall from block to block; got {tuple(widths)}")
        self.variant, self.head = variant, head
        self.first = nn.Conv2d(channels, sums[0], 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.ReLU(),
                _normalization(entering, variant),
                nn.Conv2d(entering, between, 3, padding=1),
                nn.ReLU(),
                _normalization(between, variant),
                nn.Conv2d(between, leaving, 3, padding=1),
            )
            for entering, between, leaving in zip(sums, widths[::2], sums[1:], strict=False)
        )
        self.last = nn.Sequential(nn.ReLU(), _normalization(sums[-1], variant))
        self.pool = nn.AdaptiveAvgPool2d(head)
        self.classify = nn.Linear(head * head * sums[-1], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) images, 8 pixels or more -> (N, classes) logits."""
        x = self.first(x)
        for block in self.blocks:
            change = block(x)
            missing = change.shape[1] - x.shape[1]
            x = nn.functional.pad(x, (0, 0, 0, 0, 0, missing)) + change
            x = nn.functional.max_pool2d(x, 2)
        return self.classify(self.pool(self.last(x)).flatten(1))


Classifier = PlainVGG | SmallResNet


def _check_variant(variant: str) -> None:
    if variant not in NORMALIZATION_VARIANTS:
        raise ValueError(
            f"variant must be one of {', '.join(NORMALIZATION_VARIANTS)}; got {variant!r}"
        )


def _normalization(
    channels: int, variant: str, affine: Affine = "none", *, last: bool = False
) -> nn.Module:
    learned = {"all": True, "gain": True, "shift": True, "last": last, "inner": not last}
    learns = learned.get(affine, False)
    if variant == "none" and not learns and affine != "bounded":
        return nn.Identity()  # the same function, without the statistics that nobody reads
    options = dict(NORMALIZATION_VARIANTS[variant])
    # only the frozen statistics are ever read again; the others need not be tracked
    frozen = options.get("statistics") == "frozen"
    norm = SplitBatchNorm(channels, affine=learns, track_running_stats=frozen, **options)
    if affine == "gain":
        norm.bias.requires_grad_(False)
    if affine == "shift":
        norm.weight.requires_grad_(False)
    return nn.Sequential(norm, Bounded(channels)) if affine == "bounded" else norm


@torch.no_grad()
def draw_weights(model: nn.Module, init: Init, seed: int) -> None:
    """Draw all weights and biases of a model at random.

    Parameters
    ----------
    model : its convolutions and linear layers are drawn, in the order of definition.
    init : "default" is torch's own. "he" draws the convolutions normal with variance 2 / fan-in
        and biases 0, and leaves the linear layer torch's own, so that the first logits are small.
        "spread" is "he" with the filter of each output channel multiplied by 10^U, U uniform in
        (-1/2, 1/2), and the factors of a layer rescaled to mean square 1: the layer's power stays
        that of He, its channels differ by up to 10 in amplitude.
    seed : the same seed gives the same weights to every variant of a model.

    Raises
    ------
    ValueError : no such init.
    """
    if init not in INITS:
        raise ValueError(f"init must be one of {', '.join(INITS)}; got {init!r}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for part in model.modules():
            if not isinstance(part, nn.Conv2d | nn.Linear):
                continue
            if init == "default" or isinstance(part, nn.Linear):
                part.reset_parameters()
                continue
            weight = torch.empty(part.weight.shape)
            nn.init.normal_(weight, std=math.sqrt(2 / weight[0].numel()))
            if init == "spread":
                factors = 10 ** (torch.rand(len(weight)) - 0.5)
                weight *= (factors / factors.square().mean().sqrt()).reshape(-1, 1, 1, 1)
            part.weight.copy_(weight)
            if part.bias is not None:
                part.bias.zero_()


def conv_layers(model: nn.Module) -> dict[str, nn.Conv2d]:
    """The 2-d convolutions of a model by name, in the order of its definition."""
    return {name: part for name, part in model.named_modules() if isinstance(part, nn.Conv2d)}
