"""The figures of the study: functions of a layer and axes, and the values that the engine draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from studies.engine.protocol import Figure
from studies.engine.style import BLUE, CYCLE, GREY, ORANGE
from studies.engine.text import number

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MplFigure

    from studies.chai2020.conv_modes.records import Layer

__all__ = ["FIGURES", "by_layer"]

Array = np.ndarray


def plot_modes(layer: Layer, ax: Axes) -> list[Artist]:
    """Selected natural modes over the updates, each relative to its start."""
    artists: list[Artist] = []
    steps = len(layer.predicted_modes) - 1
    n = np.arange(steps + 1)
    marked = _marked(steps)
    look = zip(CYCLE, ("o", "s", "^", "D"), strict=True)
    for i, (label, (colour, marker)) in enumerate(zip(layer.selected_labels, look, strict=False)):
        predicted, observed = _over_start(layer.predicted_modes[:, i], layer.observed_modes[:, i])
        name = f"{label}, τ = {number(layer.selected_tau[i], 3)}"
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
    ax.axhline(0, color=GREY, linewidth=0.8)
    ax.set_xscale("log")
    ax.set(title=layer.name, xlabel="update n + 1", ylabel="mode, v(n) / v(0)")
    _legend_below(ax)
    return artists


def _over_start(predicted: Array, observed: Array) -> tuple[Array, Array]:
    """Both divided by the start of the first; values above a million are left out."""
    with np.errstate(over="ignore", invalid="ignore"):
        relative = np.stack([predicted, observed]) / predicted[0]
        predicted, observed = np.where(np.abs(relative) < 1e6, relative, np.nan)
    return predicted, observed


def plot_loss(layer: Layer, ax: Axes) -> list[Artist]:
    """The layer's mean squared error over the updates."""
    n = np.arange(len(layer.predicted_loss))
    marked = _marked(len(n) - 1)
    artists: list[Artist] = []
    predicted, observed = _over_start(layer.predicted_loss, layer.observed_loss)
    artists += ax.loglog(n + 1, predicted, color=BLUE, label="predicted")
    artists += ax.loglog(
        marked + 1,
        observed[marked],
        "o",
        color=ORANGE,
        markerfacecolor="white",
        markersize=4.5,
        label="observed",
    )
    ax.set(title=layer.name, xlabel="update n + 1", ylabel="layer's MSE, J(n) / J(0)")
    ax.legend()
    return artists


def _marked(steps: int) -> Array:
    """Updates that get a marker: every early one, later ones evenly spaced on a log axis."""
    return np.unique(np.rint(np.geomspace(1, steps + 1, 36)).astype(int)) - 1


def plot_spectrum(layer: Layer, ax: Axes) -> list[Artist]:
    """Eigenvalues of R in falling order, those of modes that never move along the bottom."""
    artists: list[Artist] = []
    moving = layer.eigenvalues[~layer.stationary]
    floor = moving.min() / 10
    groups = len(layer.eigenvalues)
    for group, (values, still) in enumerate(zip(layer.eigenvalues, layer.stationary, strict=True)):
        order = np.arange(1, len(values) + 1)
        falling, stays = values[::-1], still[::-1]
        label = f"group {group + 1}" if groups > 1 else "excited"
        colour = CYCLE[group % len(CYCLE)]
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
                color=GREY if groups == 1 else colour,
                markersize=4,
                label=f"{stays.sum()} stationary, λ = 0",
            )
    ax.set(title=layer.name, xlabel="mode, strongest first", ylabel="eigenvalue λ (input power)")
    ax.legend()
    return artists


def plot_edge(layer: Layer, ax: Axes) -> list[Artist]:
    """Growth of the strongest mode against the learning rate, as a fraction of the bound."""
    artists: list[Artist] = []
    look = zip(CYCLE, "os^D", strict=True)
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
            label=f"momentum {edge.momentum:g}, bound {number(edge.bound)}",
        )
    artists.append(ax.axvline(1, color=GREY, linestyle="--", linewidth=1))
    artists.append(ax.axhline(1, color=GREY, linewidth=0.8))
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


FIGURES: dict[str, tuple[Callable[[Layer, Axes], list[Artist]], str, str]] = {
    "modes": (
        plot_modes,
        "Three natural modes of each layer: the strongest, a slow one that the run is just long "
        "enough to show, and one in between. τ is the time constant in updates. A mode that "
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
        "Crosses along the bottom are modes that no input excites: they never move.",
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


def by_layer(name: str, layers: Sequence[Layer]) -> Figure:
    """One of ``FIGURES``, with a panel for each layer."""
    plot, caption, alt = FIGURES[name]

    def finish(_: MplFigure, axes: Sequence[Axes]) -> None:
        for ax in axes:
            place = ax.get_subplotspec()
            if place is not None and not place.is_first_col():
                ax.set_ylabel("")

    return Figure(
        name, caption, alt, [partial(plot, layer) for layer in layers], height=3.4, finish=finish
    )
