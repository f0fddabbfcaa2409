"""The figure of the study: condition numbers and curvature by layer."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from studies.engine.protocol import Figure
from studies.engine.style import BLUE, GREEN, ORANGE
from studies.related.conditioning import NETS, Net
from studies.related.conditioning.readings import Readings, median

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MplFigure

__all__ = ["layers_figure", "plot_layers"]

STYLES: dict[Net, tuple[str, str]] = {
    "none": (ORANGE, "s"),
    "after": (GREEN, "o"),
    "before": (BLUE, "^"),
}
PANELS = (
    ("R", "input, R", "largest / median eigenvalue"),
    ("R x G", "input and gradient, R x G", "largest / median eigenvalue"),
    ("curvature", "curvature", "Gauss-Newton's largest, 1 / lr"),
)


def layers_figure(readings: Readings) -> Figure:
    """Three panels: R, R x G and curvature of every layer, for every network."""
    return Figure(
        "conditioning",
        "By layer, medians over seeds at the end of training; pale, at the start. Left: condition "
        "number, largest over median eigenvalue, of R of the layer's input. Middle: of R x G, with "
        "G the covariance of the gradients at the layer's output. Right: largest eigenvalue of the "
        "layer's own Gauss-Newton matrix. The linear layer is set apart at the right.",
        "Three panels on log axes over six convolutions and the linear layer, one line for each of "
        "three networks: without BatchNorm, with it after the convolutions, with it before each "
        "layer.",
        [functools.partial(plot_layers, readings, *panel) for panel in PANELS],
        width=11,
        height=3.9,
        finish=_legend,
    )


def plot_layers(readings: Readings, measure: str, title: str, ylabel: str, ax: Axes) -> None:
    """Plot one measure against the layer, for every network."""
    convs = len(readings.layers) - 1
    at = [*range(convs), convs + 0.5]
    for net, (colour, marker) in STYLES.items():
        table = 10 ** median(readings.values[net, measure])
        for row, alpha, size, label in (
            (table[0], 0.3, 4, None),
            (table[-1], 1.0, 5, NETS[net]),
        ):
            style = {"color": colour, "alpha": alpha, "marker": marker, "markersize": size}
            ax.semilogy(at[:-1], row[:-1], label=label, **style)
            ax.semilogy(at[-1:], row[-1:], linestyle="none", **style)
    ax.set_xticks(at, [name.replace("conv", "") for name in readings.layers])
    ax.set(title=title, xlabel="convolution, and the linear layer", ylabel=ylabel)


def _legend(figure: MplFigure, axes: Sequence[Axes]) -> None:
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=3)
