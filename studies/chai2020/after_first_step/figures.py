"""The figures of the study ``after-first-step``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from studies.chai2020.after_first_step.judge import DISTANCE, Found, stable_rates
from studies.engine import page as report
from studies.engine import style as figures
from studies.engine.smoothing import running_mean

if TYPE_CHECKING:
    from studies.chai2020.after_first_step.measure import Config

__all__ = ["FIGURES", "draw_after", "draw_departure", "draw_losses"]

HIGHEST = 3.5  # what is above has diverged, and would press all else to the bottom
LOOK = {
    "batch norm": (figures.GREEN, "-"),
    "NLMS steps": (figures.ORANGE, "-"),
    "NLMS steps, rescaled": (figures.BLUE, "--"),
    "nothing": (figures.GREY, ":"),
}
FIGURES = {
    "after": (
        "BatchNorm, NLMS steps alone, and NLMS steps with the rescaling by s(n) / s(n+1) put back, "
        "from the same function on the same batches; each seed a line or a dot. Left: loss at the "
        "low rate, averaged over 10 updates. Middle: distance of the effective weights from "
        "BatchNorm's, over the way that BatchNorm's have gone; dashed, the most that the rule "
        "allows at the end. Right: highest stable rate.",
        "Three panels: loss against update; relative distance against update; highest stable "
        "rates on a log axis, one column of dots per algorithm.",
    ),
    "departure": (
        "How far g = w / s departs from NLMS per step, against the learning rate; medians over "
        "steps and seeds. Left: the change of scale s(n) / s(n+1) - 1 on one and the same batch, "
        "which goes with the rate. Middle: between batches, where sampling noise sets a floor that "
        "falls with the batch size. Right: the departure on the same batch over the size of the "
        "NLMS step, which does not vanish with the rate.",
        "Three panels against the learning rate on log axes, one line per position and batch size.",
    ),
    "losses": (
        "Loss, averaged over 10 updates, of BatchNorm, of NLMS steps alone and rescaled, and of no "
        "normalization, on the same batches; each seed a line. A line that ends has diverged.",
        "One panel per learning rate: loss against update, one colour per algorithm.",
    ),
}


def plot_lines(
    lines: Mapping[str, list[Any]], ax: Axes, *, smooth: bool, highest: float = np.inf
) -> list[Artist]:
    """Values by update, one line for each seed and a colour for each algorithm."""
    artists: list[Artist] = []
    for algorithm, by_seed in lines.items():
        colour, line = LOOK[algorithm]
        for i, values in enumerate(by_seed):
            y = np.asarray(values, dtype=float)
            y = running_mean(y) if smooth else y
            artists += ax.plot(
                np.arange(1, len(y) + 1),
                np.where(y < highest, y, np.nan),
                line,
                color=colour,
                linewidth=1.2,
                label=algorithm if i == 0 else None,
            )
    ax.set_xlabel("update")
    return artists


def plot_rates(found: Found, config: Config, ax: Axes) -> list[Artist]:
    """Highest stable rates, each seed a dot; a rate off the grid lies at its end."""
    artists: list[Artist] = []
    for place, algorithm in enumerate(found.training):
        ends = list(stable_rates(found, algorithm, config).values())
        rates = [low if low > 0 else config.rates[0] / 2**0.5 for low, _ in ends]
        # side by side, as seeds often share a rate of the grid
        beside = place + np.linspace(-0.2, 0.2, len(rates)) if len(rates) > 1 else [place]
        artists += ax.semilogy(beside, rates, "o", color=LOOK[algorithm][0], markersize=5)
    names = [name.replace(" ", "\n") for name in found.training]
    ax.set_xticks(range(len(names)), names)
    ax.set(title="highest stable rate", ylabel="learning rate")
    ax.margins(x=0.1)
    return artists


def draw_after(found: Found, config: Config, out: Path) -> report.Picture:
    """The figure ``after`` as PNG and SVG in a folder."""
    paths = list(found.paths.values())
    shown = [name for name in LOOK if name in paths[0]["loss"]]
    with figures.style():
        figure, (loss, way, rates) = figures.panels(3, height=3.3, width=10.5)
        plot_lines({n: [p["loss"][n] for p in paths] for n in shown}, loss, smooth=True)
        loss.set(title=f"loss at rate {config.low_rate:g}", ylabel="loss, mean of 10 updates")
        plot_lines({n: [p["distance"][n] for p in paths] for n in shown[1:]}, way, smooth=False)
        way.axhline(DISTANCE, color=figures.GREY, linestyle="--", linewidth=1)
        way.set(title="effective weights", ylabel="distance over BatchNorm's way")
        way.set_ylim(bottom=0)
        plot_rates(found, config, rates)
        figure.legend(*loss.get_legend_handles_labels(), loc="outside lower left", ncols=3)
        png, _ = figures.save(figure, out / "after")
    return report.Picture(png, *FIGURES["after"])


def plot_departure(
    departures: Mapping[str, Mapping[int, Mapping[str, Any]]], config: Config, ax: Axes, name: str
) -> list[Artist]:
    """One measure of the departure against the rate, by position and batch size."""
    artists: list[Artist] = []
    for position, (colour, line) in (
        ("pre", (figures.BLUE, "-")),
        ("post", (figures.ORANGE, "--")),
    ):
        if position not in departures:
            continue
        by_seed = [np.asarray(r[name], dtype=float) for r in departures[position].values()]
        values = np.median(by_seed, axis=0)
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
    departures: Mapping[str, Mapping[int, Mapping[str, Any]]], config: Config, out: Path
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
        axes[2].set_yscale("linear")
        axes[2].set_ylim(bottom=0)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")
        png, _ = figures.save(figure, out / "departure")
    return report.Picture(png, *FIGURES["departure"])


def draw_losses(
    training: Mapping[str, Mapping[int, Mapping[str, Any]]], config: Config, out: Path
) -> report.Picture:
    """The figure ``losses`` as PNG and SVG in a folder."""
    rates = [f"{rate:g}" for rate in config.loss_rates]
    with figures.style():
        figure, axes = figures.panels(len(rates), height=3.2, width=9.5)
        for rate, ax in zip(rates, axes, strict=True):
            lines = {
                name: [r["loss"][rate] for r in training[name].values()]
                for name in LOOK
                if name in training
            }
            plot_lines(lines, ax, smooth=True, highest=HIGHEST)
            ax.set_title(f"learning rate {rate}")
            ax.set_ylim(bottom=0)
        axes[0].set_ylabel("loss, mean of 10 updates")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
        png, _ = figures.save(figure, out / "losses")
    return report.Picture(png, *FIGURES["losses"])
