"""The figures of the study ``first-step``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from studies import figures, report
from studies.training import running_mean

if TYPE_CHECKING:
    from studies.first_step import Config

__all__ = ["FIGURES", "draw_departure", "draw_losses"]

Array = np.ndarray
HIGHEST = 3.5  # what is above has diverged, and would press all else to the bottom
LOOK = {
    "batch norm": (figures.GREEN, "-"),
    "NLMS steps": (figures.ORANGE, "-"),
    "fixed statistics": (figures.PURPLE, "--"),
    "nothing": (figures.GREY, ":"),
}
FIGURES = {
    "departure": (
        "How far g = w / s departs from NLMS per step, against the learning rate; medians over "
        "the steps. Left: the change of scale s(n) / s(n+1) - 1 on one and the same batch, which "
        "goes with the rate. Middle: between batches, where sampling noise sets a floor that "
        "falls with the batch size. Right: the departure on the same batch over the size of the "
        "NLMS step, which does not vanish with the rate.",
        "Three panels against the learning rate on log axes, one line per position and batch size.",
    ),
    "losses": (
        "Loss, averaged over 10 updates, of BatchNorm, of NLMS steps alone, of BatchNorm with "
        "fixed statistics and of no normalization, from the same function on the same batches; "
        "each seed a line. A line that ends has diverged.",
        "One panel per learning rate: loss against update, one colour per algorithm.",
    ),
}


def plot_departure(
    departures: Mapping[str, Mapping[str, Any]], config: Config, ax: Axes, name: str
) -> list[Artist]:
    """One measure of the departure against the rate, by position and batch size."""
    artists: list[Artist] = []
    for position, (colour, line) in (
        ("pre", (figures.BLUE, "-")),
        ("post", (figures.ORANGE, "--")),
    ):
        if position not in departures:
            continue
        values = np.median(np.asarray(departures[position][name], dtype=float), axis=-1)
        for i, batch in enumerate(config.departure_batches):
            shown = values[:, i]
            artists += ax.loglog(
                config.departure_rates,
                np.where(np.isfinite(shown) & (shown > 0), shown, np.nan),
                line,
                marker="os^Dv"[i % 5],
                color=colour,
                markersize=4,
                label=f"{position}, batch {batch}",
            )
    ax.set_xlabel("learning rate")
    return artists


def draw_departure(
    departures: Mapping[str, Mapping[str, Any]], config: Config, out: Path
) -> report.Picture:
    """The figure ``departure`` as PNG and SVG in a folder."""
    with figures.style():
        figure, axes = figures.panels(3, height=3.4, width=10.5)
        for ax, name, title, label in zip(
            axes,
            ("same_batch_scale", "scale", "same_batch"),
            ("change of scale, one batch", "change of scale, next batch", "departure, one batch"),
            ("|s(n) / s(n+1) - 1|, rms", "", "over the NLMS step"),
            strict=True,
        ):
            plot_departure(departures, config, ax, name)
            ax.set(title=title, ylabel=label)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")
        png, _ = figures.save(figure, out / "departure")
    return report.Picture(png, *FIGURES["departure"])


def plot_losses(
    training: Mapping[str, Mapping[int, Mapping[str, Any]]], rate: str, ax: Axes
) -> list[Artist]:
    """Losses at one rate, by algorithm; each seed a line."""
    artists: list[Artist] = []
    for algorithm, (colour, line) in LOOK.items():
        for i, result in enumerate(training.get(algorithm, {}).values()):
            loss = running_mean(np.asarray(result["loss"][rate], dtype=float))
            artists += ax.plot(
                np.arange(1, len(loss) + 1),
                np.where(loss < HIGHEST, loss, np.nan),
                line,
                color=colour,
                linewidth=1.2,
                label=algorithm if i == 0 else None,
            )
    ax.set(title=f"learning rate {rate}", xlabel="update", ylabel="loss, mean of 10 updates")
    ax.set_ylim(bottom=0)
    return artists


def draw_losses(
    training: Mapping[str, Mapping[int, Mapping[str, Any]]], config: Config, out: Path
) -> report.Picture:
    """The figure ``losses`` as PNG and SVG in a folder."""
    rates = [f"{rate:g}" for rate in config.loss_rates]
    with figures.style():
        figure, axes = figures.panels(len(rates), height=3.2, width=9.5)
        for rate, ax in zip(rates, axes, strict=True):
            plot_losses(training, rate, ax)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
        png, _ = figures.save(figure, out / "losses")
    return report.Picture(png, *FIGURES["losses"])
