"""The networks that the studies train."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["SmallCNN", "conv_layers"]


class SmallCNN(nn.Module):
    """Three convolutions, two poolings, one linear layer; takes any image of 8 pixels or more.

    The convolutions differ on purpose: ``conv1`` is a 5x5 filter on the raw image, ``conv2`` a
    3x3 filter on rectified maps, ``conv3`` the same in two groups, so that it is two independent
    LMS problems side by side.
    """

    def __init__(self, channels: int, classes: int, width: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 5, padding=2)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.conv3 = nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2)
        self.pool = nn.MaxPool2d(2)
        self.spread = nn.AdaptiveAvgPool2d(2)
        self.classify = nn.Linear(8 * width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) images -> (N, classes) logits."""
        x = self.pool(torch.relu(self.conv1(x)))
        x = self.pool(torch.relu(self.conv2(x)))
        x = torch.relu(self.conv3(x))
        return self.classify(self.spread(x).flatten(1))


def conv_layers(model: nn.Module) -> dict[str, nn.Conv2d]:
    """The 2-d convolutions of a model by name, in the order of its definition."""
    return {name: part for name, part in model.named_modules() if isinstance(part, nn.Conv2d)}
