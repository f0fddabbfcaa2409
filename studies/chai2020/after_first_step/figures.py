"""The figures of ``after-first-step``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from studies.chai2020.after_first_step import DISTANCE, Cell
from studies.chai2020.after_first_step.outcomes import Outcomes, rates
from studies.engine.protocol import Figure
from studies.engine.smoothing import running_mean
from studies.engine.style import BLUE, GREEN, GREY, ORANGE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MplFigure

__all__ = ["after", "departure", "losses"]

BySeed = Mapping[int, Mapping[str, Any]]

HIGHEST = 3.5  # a loss above this has diverged, and would flatten all others
LOOK = {
    "batch norm": (GREEN, "-"),
    "NLMS steps": (ORANGE, "-"),
    "NLMS steps, rescaled": (BLUE, "--"),
    "nothing": (GREY, ":"),
}


# --- BatchNorm and the networks that take NLMS steps -----------------------------------------


def after(found: Outcomes, cell: Cell) -> Figure:
    """Loss and outputs at the low rate, and the rates that learn and fail."""
    paths = list(found.paths.values())
    shown = [name for name in LOOK if name in paths[0]["loss"]]

    def finish(figure: MplFigure, axes: Sequence[Axes]) -> None:
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower left", ncols=3)

    return Figure(
        "after",
        "BatchNorm, NLMS steps alone, and NLMS steps with the rescaling by s(n) / s(n+1) put back, "
        "from the same function on the same batches; each seed a line or a dot. Left: loss at the "
        "low rate, averaged over 10 updates. Middle: distance of the outputs from BatchNorm's, "
        "over the distance that BatchNorm's have moved; dashed, the most that the rule allows at "
        "the end. Right: highest rate of the grid that learns (dot) and lowest that fails (cross; "
        "none where nothing failed).",
        "Three panels: loss against update; relative distance of the outputs against update; rates "
        "that learn and fail on a log axis, one column per algorithm.",
        [
            partial(plot_loss, {n: [p["loss"][n] for p in paths] for n in shown}, cell.low_rate),
            partial(plot_distance, {n: [p["distance"][n] for p in paths] for n in shown[1:]}),
            partial(plot_rates, found, cell),
        ],
        width=10.5,
        height=3.3,
        finish=finish,
    )


def plot_lines(
    lines: Mapping[str, list[Any]], ax: Axes, *, smooth: bool, highest: float = np.inf
) -> None:
    """Values by update, one line for each seed and a colour for each algorithm."""
    for algorithm, by_seed in lines.items():
        colour, line = LOOK[algorithm]
        for i, values in enumerate(by_seed):
            y = np.asarray(values, dtype=float)
            y = running_mean(y) if smooth else y
            ax.plot(
                np.arange(1, len(y) + 1),
                np.where(y < highest, y, np.nan),
                line,
                color=colour,
                linewidth=1.2,
                label=algorithm if i == 0 else None,
            )
    ax.set_xlabel("update")


def plot_loss(lines: Mapping[str, list[Any]], rate: float, ax: Axes) -> None:
    """Averaged losses at the low rate."""
    plot_lines(lines, ax, smooth=True)
    ax.set(title=f"loss at rate {rate:g}", ylabel="loss, mean of 10 updates")


def plot_distance(lines: Mapping[str, list[Any]], ax: Axes) -> None:
    """Relative distances of the outputs at the low rate, and the limit."""
    plot_lines(lines, ax, smooth=False)
    ax.axhline(DISTANCE, color=GREY, linestyle="--", linewidth=1)
    ax.set(title="outputs", ylabel="distance over BatchNorm's way")
    ax.set_ylim(bottom=0)


def plot_rates(found: Outcomes, cell: Cell, ax: Axes) -> None:
    """Highest rate of the grid that learns and lowest that fails, by algorithm and seed."""
    for place, algorithm in enumerate(found.training):
        learns, fails = (
            list(rates(found, algorithm, criterion, cell).values())
            for criterion in ("learning", "failing")
        )
        # spread out, because seeds often share a rate of the grid
        at = place + np.linspace(-0.25, 0.25, len(learns)) if len(learns) > 1 else [place]
        colour = LOOK[algorithm][0]
        for x, (low, _), (_, high) in zip(at, learns, fails, strict=True):
            if low > 0:
                ax.semilogy([x], [low], "o", color=colour, markersize=4)
            if np.isfinite(high):
                ax.semilogy([x], [high], "x", color=colour, markersize=5)
    names = [name.replace(" ", "\n") for name in found.training]
    ax.set_xticks(range(len(names)), names)
    ax.set(title="learns up to, fails from", ylabel="learning rate", yscale="log")
    ax.margins(x=0.1)


# --- the change of s --------------------------------------------------------------------------


def departure(departures: Mapping[str, BySeed], cell: Cell) -> Figure:
    """How s changes, against the learning rate."""
    panels = (
        ("same_batch_scale", "change of scale, one batch", "|s(n) / s(n+1) - 1|, rms"),
        ("scale", "change of scale, next batch", ""),
    )

    def finish(figure: MplFigure, axes: Sequence[Axes]) -> None:
        for ax, (_, title, label) in zip(axes, panels, strict=True):
            ax.set(title=title, ylabel=label)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")

    return Figure(
        "departure",
        "The change of scale s(n) / s(n+1) - 1 of a step, against the learning rate; medians over "
        "steps and seeds. Left: on the same batch, proportional to the rate. Right: between "
        "batches, where sampling noise sets a floor that falls with the batch size.",
        "Two panels against the learning rate on log axes, one line per position and batch size.",
        [partial(plot_departure, departures, cell, name) for name, _, _ in panels],
        width=8.5,
        height=3.4,
        finish=finish,
    )


def plot_departure(departures: Mapping[str, BySeed], cell: Cell, name: str, ax: Axes) -> None:
    """One measure of the departure against the rate, by position and batch size."""
    for position, (colour, line) in (("pre", (BLUE, "-")), ("post", (ORANGE, "--"))):
        if position not in departures:
            continue
        by_seed = [np.asarray(r[name], dtype=float) for r in departures[position].values()]
        values = np.median(by_seed, axis=0)
        for i, batch in enumerate(cell.departure_batches):
            shown = values[:, i]
            ax.loglog(
                cell.departure_rates,
                np.where(np.isfinite(shown) & (shown > 0), shown, np.nan),
                line,
                marker="os^Dv"[i % 5],
                color=colour,
                markersize=4,
                label=f"{position}, batch {batch}",
            )
    ax.set_xlabel("learning rate")


# --- the cost in loss ------------------------------------------------------------------------


def losses(training: Mapping[str, BySeed], cell: Cell) -> Figure:
    """Loss of every algorithm, a panel for each learning rate."""

    def finish(figure: MplFigure, axes: Sequence[Axes]) -> None:
        axes[0].set_ylabel("loss, mean of 10 updates")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)

    return Figure(
        "losses",
        "Loss, averaged over 10 updates, of BatchNorm, of NLMS steps alone and rescaled, and of no "
        "normalization, on the same batches; each seed a line. A line that ends has diverged.",
        "One panel per learning rate: loss against update, one colour per algorithm.",
        [partial(plot_losses, training, f"{rate:g}") for rate in cell.loss_rates],
        width=9.5,
        height=3.2,
        finish=finish,
    )


def plot_losses(training: Mapping[str, BySeed], rate: str, ax: Axes) -> None:
    """Averaged losses of every algorithm at one learning rate."""
    lines = {
        name: [r["loss"][rate] for r in training[name].values()]
        for name in LOOK
        if name in training
    }
    plot_lines(lines, ax, smooth=True, highest=HIGHEST)
    ax.set_title(f"learning rate {rate}")
    ax.set_ylim(bottom=0)
