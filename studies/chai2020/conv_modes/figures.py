"""The figures of the study ``conv-modes``: each takes a layer, and axes; it returns artists."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from studies.engine import page as report
from studies.engine import style as figures

if TYPE_CHECKING:
    from studies.chai2020.conv_modes.measure import LayerResult

__all__ = ["FIGURES", "draw"]

Array = np.ndarray


def plot_modes(layer: LayerResult, ax: Axes) -> list[Artist]:
    """Selected natural modes over the updates, each relative to its start."""
    artists: list[Artist] = []
    steps = len(layer.predicted_modes) - 1
    n = np.arange(steps + 1)
    marked = _marked(steps)
    look = zip(figures.CYCLE, ("o", "s", "^", "D"), strict=True)
    for i, (label, (colour, marker)) in enumerate(zip(layer.selected_labels, look, strict=False)):
        predicted, observed = _over_start(layer.predicted_modes[:, i], layer.observed_modes[:, i])
        name = f"{label}, τ = {report.number(layer.selected_tau[i], 3)}"
        artists += ax.plot(n + 1, predicted, color=colour)
        artists += ax.plot(
            marked + 1,
            observed[marked],
            marker,
            color=colour,
            markerfacecolor="white",
            markersize=4.5,
            label=name,
        )
    ax.axhline(0, color=figures.GREY, linewidth=0.8)
    ax.set_xscale("log")
    ax.set(title=layer.name, xlabel="update n + 1", ylabel="mode, v(n) / v(0)")
    _legend_below(ax)
    return artists


def _over_start(predicted: Array, observed: Array) -> tuple[Array, Array]:
    """Both over the start of the first; what has grown out of all proportion is left out."""
    with np.errstate(over="ignore", invalid="ignore"):
        relative = np.stack([predicted, observed]) / predicted[0]
        predicted, observed = np.where(np.abs(relative) < 1e6, relative, np.nan)
    return predicted, observed


def plot_loss(layer: LayerResult, ax: Axes) -> list[Artist]:
    """The layer's mean squared error over the updates."""
    n = np.arange(len(layer.predicted_loss))
    marked = _marked(len(n) - 1)
    artists: list[Artist] = []
    predicted, observed = _over_start(layer.predicted_loss, layer.observed_loss)
    artists += ax.loglog(n + 1, predicted, color=figures.BLUE, label="predicted")
    artists += ax.loglog(
        marked + 1,
        observed[marked],
        "o",
        color=figures.ORANGE,
        markerfacecolor="white",
        markersize=4.5,
        label="observed",
    )
    ax.set(title=layer.name, xlabel="update n + 1", ylabel="layer's MSE, J(n) / J(0)")
    ax.legend()
    return artists


def _marked(steps: int) -> Array:
    """Which updates get a marker: every early one, later ones evenly spread on a log axis."""
    return np.unique(np.rint(np.geomspace(1, steps + 1, 36)).astype(int)) - 1


def plot_spectrum(layer: LayerResult, ax: Axes) -> list[Artist]:
    """Eigenvalues of R in falling order, those of modes that never move along the bottom."""
    artists: list[Artist] = []
    moving = layer.eigenvalues[~layer.stationary]
    floor = moving.min() / 10
    groups = len(layer.eigenvalues)
    for group, (values, still) in enumerate(zip(layer.eigenvalues, layer.stationary, strict=True)):
        order = np.arange(1, len(values) + 1)
        falling, stays = values[::-1], still[::-1]
        label = f"group {group + 1}" if groups > 1 else "excited"
        colour = figures.CYCLE[group % len(figures.CYCLE)]
        artists += ax.semilogy(
            order[~stays],
            falling[~stays],
            "os^D"[group % 4],
            color=colour,
            markersize=3,
            label=label,
        )
        if stays.any():
            artists += ax.semilogy(
                order[stays],
                np.full(stays.sum(), floor),
                "x",
                color=figures.GREY if groups == 1 else colour,
                markersize=4,
                label=f"{stays.sum()} stationary, λ = 0",
            )
    ax.set(title=layer.name, xlabel="mode, strongest first", ylabel="eigenvalue λ (input power)")
    ax.legend()
    return artists


def plot_edge(layer: LayerResult, ax: Axes) -> list[Artist]:
    """Growth of the strongest mode against the learning rate, as a fraction of the bound."""
    artists: list[Artist] = []
    look = zip(figures.CYCLE, "os^D", strict=True)
    for edge, (colour, marker) in zip(layer.edges, look, strict=False):
        relative = edge.rates / edge.bound
        artists += ax.plot(relative, edge.predicted_growth, color=colour)
        artists += ax.plot(
            relative,
            edge.observed_growth,
            marker,
            color=colour,
            markerfacecolor="white",
            markersize=5,
            label=f"momentum {edge.momentum:g}, bound {report.number(edge.bound)}",
        )
    artists.append(ax.axvline(1, color=figures.GREY, linestyle="--", linewidth=1))
    artists.append(ax.axhline(1, color=figures.GREY, linewidth=0.8))
    ax.set(
        title=layer.name,
        xlabel="learning rate / predicted bound",
        ylabel="growth per update",
    )
    if layer.edges:
        _legend_below(ax)
    return artists


def _legend_below(ax: Axes) -> None:
    ax.legend(
        title="markers observed, lines predicted",
        title_fontsize=8.5,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.22),
    )


FIGURES: dict[str, tuple[Callable[[LayerResult, Axes], list[Artist]], str, str]] = {
    "modes": (
        plot_modes,
        "Three natural modes of each layer: the strongest, a slow one that the run is just long "
        "enough to show, and one between. τ is the time constant in updates. A mode that "
        "crosses zero at every update is one whose factor is negative.",
        "One panel per layer. Natural modes against the update on a log axis: the predicted line "
        "of each mode and the observed markers.",
    ),
    "loss": (
        plot_loss,
        "The layer's own loss, relative to its start. It is a sum of the squared modes, each "
        "weighted by its eigenvalue, so it falls steeply while the strong modes die out and then "
        "creeps with the weak ones.",
        "One panel per layer. Loss against the update, both on log axes: a predicted line and "
        "observed markers.",
    ),
    "spectrum": (
        plot_spectrum,
        "The eigenvalues of R, the autocorrelation matrix of the patches that the layer sees. "
        "Crosses along the bottom are modes that no input excites: they stay where they start.",
        "One panel per layer. Eigenvalues on a log axis in falling order, stationary modes as "
        "crosses along the bottom.",
    ),
    "edge": (
        plot_edge,
        "How fast the strongest mode grows per update at learning rates around the predicted "
        "bound. Above 1 training diverges; theory says that happens at the dashed line.",
        "One panel per layer. Growth per update against learning rate over predicted bound, for "
        "each momentum: predicted lines cross 1 at the bound, with observed markers.",
    ),
}


def draw(layers: Sequence[LayerResult], out: Path) -> list[report.Picture]:
    """All figures of the study as PNG and SVG in a folder."""
    pictures = []
    for name, (plot, caption, alt) in FIGURES.items():
        with figures.style():
            figure, axes = figures.panels(len(layers), height=3.4)
            for layer, ax in zip(layers, axes, strict=True):
                plot(layer, ax)
                place = ax.get_subplotspec()
                if place is not None and not place.is_first_col():
                    ax.set_ylabel("")
            png, _ = figures.save(figure, out / name)
        pictures.append(report.Picture(png, caption, alt))
    return pictures
