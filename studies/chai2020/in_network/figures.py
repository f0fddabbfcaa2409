"""The figures of the study ``in-network``: each takes results and axes and returns artists."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, StrMethodFormatter

from cnnbridge.plotting import COLOURS
from studies.engine import page as report
from studies.engine import style as figures

if TYPE_CHECKING:
    from studies.chai2020.in_network.judge import Group

__all__ = ["FIGURES", "draw"]

READING_LOOK = {
    "gauss_newton": (figures.BLUE, "-", "level 2: Gauss-Newton"),
    "kronecker": (figures.ORANGE, "--", "level 2: R x G"),
    "scalar": (figures.PURPLE, ":", "level 2: R x scalar"),
}
PLAIN = StrMethodFormatter("{x:g}")
LEVEL_COLOURS = ("#1B1F24", figures.GREEN, "#56B4E9", "#E69F00")
NORM_LOOK = {False: (figures.ORANGE, "o"), True: (figures.BLUE, "s")}
FIGURES = {
    "errors": (
        "Error of the predicted weights over the distance moved, from a trained checkpoint: median "
        "over seeds, and the range over seeds as a band. The first three columns: one convolution, "
        "the rest frozen, three readings of its curvature. The last: all layers, linearised once "
        "(level 3) and every few steps (level 4). Dotted: 10 % and 50 %.",
        "Two rows of panels, without and with BatchNorm; error against step on log axes, a panel "
        "per convolution and one for the whole network.",
    ),
    "horizons": (
        "The first step at which a prediction is off by more than 10 % (left) and 50 % (right) of "
        "the distance moved; a marker for each seed, an arrow where it never was, a bar at the "
        "median.",
        "One row per prediction, steps on a log axis, one colour and marker each for networks with "
        "and without BatchNorm.",
    ),
    "modes": (
        "When each natural mode of R gets to half of where it ends, while all layers learn, "
        "against its eigenvalue in parts of the largest; points of all seeds. The line is what the "
        "plain reading predicts: larger eigenvalues earlier.",
        "Two rows of panels, without and with BatchNorm, one per convolution: half-time against "
        "eigenvalue, observed points beside the predicted line.",
    ),
    "audit": (
        "Why the exact Gauss-Newton prediction of a layer stops holding while all layers learn: "
        "size of each part of its error over the distance moved, medians over seeds. The parts "
        "add up as vectors, so that sizes can be larger than the whole.",
        "Two rows of panels, without and with BatchNorm, one per convolution: size of each part "
        "against step.",
    ),
    "audit-plain": (
        "The same for the plain reading, R x scalar. Approximation is what it leaves out of the "
        "layer's Gauss-Newton matrix.",
        "Two rows of panels, without and with BatchNorm, one per convolution: size of each part "
        "against step.",
    ),
}


def plot_errors(
    outcomes: Sequence[dict[str, Any]], ax: Axes, colour: str, line: str, label: str
) -> list[Artist]:
    """Median error and its range over seeds, in percent, against the step."""
    errors = 100 * np.array([o["error"] for o in outcomes], dtype=float)
    # steps 0 and 1 have no error to show
    errors = np.where(np.isfinite(errors) & (errors > 0), errors, np.nan)[:, 2:]
    steps = np.arange(2, 2 + errors.shape[1])
    artists: list[Artist] = [
        *ax.plot(steps, np.median(errors, axis=0), line, color=colour, label=label)
    ]
    if len(errors) > 1:
        artists.append(
            ax.fill_between(
                steps, errors.min(axis=0), errors.max(axis=0), color=colour, alpha=0.13, lw=0
            )
        )
    return artists


def plot_layer(group: Group, layer: str, ax: Axes) -> list[Artist]:
    """The three readings of one layer."""
    artists = []
    for reading, (colour, line, label) in READING_LOOK.items():
        artists += plot_errors(group.layer_outcomes(layer, reading), ax, colour, line, label)
    _error_axes(ax)
    return artists


def plot_network(group: Group, ax: Axes) -> list[Artist]:
    """Level 3, and level 4 in each of its spans."""
    artists = []
    for name, colour in zip(group.levels, LEVEL_COLOURS, strict=False):
        artists += plot_errors(group.outcomes(name), ax, colour, "-", name)
    _error_axes(ax)
    return artists


def _error_axes(ax: Axes) -> None:
    for tolerance in (10, 50):
        ax.axhline(tolerance, color=figures.GREY, linewidth=0.9, linestyle=":")
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(PLAIN)
    _step_axis(ax)


def _step_axis(ax: Axes) -> None:
    """Steps on a log axis, labelled 1, 2, 5, 10 and so on."""
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(PLAIN)
    ax.minorticks_off()


def plot_horizons(
    groups: Sequence[Group], ax: Axes, tolerance: str, rows: Sequence[tuple[str, Any]]
) -> list[Artist]:
    """One row per prediction; ``rows`` gives a name and how a group has its outcomes."""
    artists: list[Artist] = []
    for y, (_, of) in enumerate(rows):
        for group in groups:
            colour, marker = NORM_LOOK[group.batch_norm]
            middle = y + (0.18 if group.batch_norm else -0.18)
            outcomes = of(group)
            ends = np.array([_horizon(o, tolerance) for o in outcomes])
            never = np.array([o["horizon"][tolerance] is None for o in outcomes])
            shift = np.linspace(-0.08, 0.08, len(ends)) if len(ends) > 1 else np.zeros(1)
            for mask, look in ((~never, marker), (never, "$\\rightarrow$")):
                artists += ax.plot(
                    ends[mask],
                    middle + shift[mask],
                    linestyle="none",
                    marker=look,
                    color=colour,
                    markersize=4 if look == marker else 8,
                    alpha=0.8,
                    label=group.words if y == 0 and look == marker else None,
                )
            artists += ax.plot(
                [np.median(ends)] * 2, [middle - 0.15, middle + 0.15], color=colour, linewidth=2.2
            )
    ax.set_yticks(range(len(rows)), [name for name, _ in rows])
    ax.set_ylim(len(rows) - 0.5, -0.5)
    _step_axis(ax)
    ax.set_xlim(left=1)
    ax.set(title=f"{100 * float(tolerance):g} % horizon", xlabel="step")
    return artists


def _horizon(outcome: dict[str, Any], tolerance: str) -> float:
    n = outcome["horizon"][tolerance]
    return float(len(outcome["error"]) if n is None else n)


def plot_modes(group: Group, layer: str, ax: Axes) -> list[Artist]:
    """Half-times against eigenvalues, observed and as the plain reading has them."""
    artists: list[Artist] = []
    for i, seen in enumerate(group.modes(layer)):
        order = np.argsort(seen["eigenvalues"])
        artists += ax.plot(
            seen["eigenvalues"],
            seen["half_time"],
            "o",
            color=NORM_LOOK[group.batch_norm][0],
            markersize=2.5,
            alpha=0.55,
            markeredgewidth=0,
            label="observed" if i == 0 else None,
        )
        artists += ax.plot(
            seen["eigenvalues"][order],
            seen["predicted_half_time"][order],
            color="#1B1F24",
            linewidth=0.9,
            label="plain reading" if i == 0 else None,
        )
    ax.set_xscale("log")
    ax.minorticks_off()
    ax.set_ylim(bottom=0)
    return artists


def plot_audit_sizes(group: Group, layer: str, reading: str, ax: Axes) -> list[Artist]:
    """Median over seeds of the whole error and of each part that reaches 0.1 %."""
    audits = group.audits(layer, reading)
    whole = 100 * np.median([a["error"] for a in audits], axis=0)
    sizes = 100 * np.median([a["sizes"] for a in audits], axis=0)
    steps = np.arange(len(whole))
    artists: list[Artist] = [
        *ax.plot(steps, whole, color="black", linewidth=2, label="whole error")
    ]
    for j, name in enumerate(audits[0]["parts"]):
        if sizes[:, j].max() > 0.1:
            artists += ax.plot(steps, sizes[:, j], color=COLOURS[name], linewidth=1.4, label=name)
    ax.axhline(10, color=figures.GREY, linewidth=0.9, linestyle=":")
    ax.set_ylim(bottom=0)
    return artists


def draw(name: str, groups: Sequence[Group], out: Path) -> report.Picture:
    """One figure as PNG and SVG in a folder."""
    with figures.style():
        figure = _horizons(groups) if name == "horizons" else _panels(name, groups)
        png, _ = figures.save(figure, out / name)
    return report.Picture(png, *FIGURES[name])


def _horizons(groups: Sequence[Group]) -> Any:
    first = groups[0]
    rows: list[tuple[str, Any]] = [
        (
            f"{layer}, {look[2].removeprefix('level 2: ')}",
            lambda group, layer=layer, reading=reading: group.layer_outcomes(layer, reading),
        )
        for layer in first.layers
        for reading, look in READING_LOOK.items()
    ]
    rows += [(name, lambda group, name=name: group.outcomes(name)) for name in first.levels]
    figure, axes = figures.panels(2, height=0.34 * len(rows) + 0.9, width=9.0)
    for ax, tolerance in zip(axes, ("0.1", "0.5"), strict=True):
        plot_horizons(groups, ax, tolerance, rows)
    axes[1].set_yticklabels([])
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _panels(name: str, groups: Sequence[Group]) -> Any:
    """A row for each group, a panel for each convolution, and one for the network in ``errors``."""
    layers = groups[0].layers
    columns = len(layers) + (name == "errors")
    figure, axes = figures.panels(
        columns * len(groups), height=2.5, width=2.75 * columns, columns=columns
    )
    labels = {
        "errors": "error, % of distance moved",
        "modes": "step of half the way",
        "audit": "part of distance moved, %",
        "audit-plain": "part of distance moved, %",
    }
    for i, group in enumerate(groups):
        row = axes[i * columns : (i + 1) * columns]
        for layer, ax in zip(layers, row, strict=False):
            if name == "errors":
                plot_layer(group, layer, ax)
            elif name == "modes":
                plot_modes(group, layer, ax)
            else:
                plot_audit_sizes(
                    group, layer, "scalar" if name == "audit-plain" else "gauss_newton", ax
                )
            ax.set_title(f"{layer}, {group.words}", fontsize=9)
        if name == "errors":
            plot_network(group, row[-1])
            row[-1].set_title(f"whole network, {group.words}", fontsize=9)
        row[0].set_ylabel(labels[name])
        if i == len(groups) - 1:
            for ax in row:
                ax.set_xlabel("eigenvalue / largest" if name == "modes" else "step")
    if name == "errors":
        ends = np.array([ax.get_ylim() for ax in axes])
        for ax in axes:
            ax.set_ylim(ends[:, 0].min(), ends[:, 1].max())
            ax.label_outer()
    handles: dict[str, Any] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=4)
    return figure
