"""The figures of the study ``horizons``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from studies.engine import page as report
from studies.engine import style as figures

__all__ = ["FIGURES", "draw_horizons", "draw_readings"]

Found = Mapping[tuple[str, int], Mapping[int, Mapping[str, Any]]]

STARTS = {"fresh": (figures.ORANGE, "s", 0.96), "checkpoint": (figures.BLUE, "o", 1.04)}
READINGS = {
    "level 3": (figures.GREY, "level 3: once"),
    "h = 50": (figures.PURPLE, "level 4: every 50 steps"),
    "h = 10": (figures.GREEN, "level 4: every 10 steps"),
    "h = 2": (figures.BLUE, "level 4: every 2 steps"),
}
FIGURES = {
    "horizons": (
        "First step at which level 3 is off by more than 10 % (left) and 50 % (right) of the "
        "distance moved, against the width; each network a mark, lines through the medians of the "
        "seeds. Hollow marks at the dotted line are networks that had not got there by the end of "
        "the run; a line ends where the median has not. Fresh networks at a hundredth of their "
        "bound on the learning rate, checkpoints at a fifth.",
        "Two panels of horizon in steps against width on logarithmic axes, for fresh networks and "
        "checkpoints, with a mark for each seed.",
    ),
    "readings": (
        "Error over the distance moved against the step, in the widest network in which every "
        "level was tried: level 3 and level 4 for three intervals between linearisations. Thin "
        "lines are seeds, thick ones their median; dotted lines are the tolerances of the horizons "
        "and the wide grey line is straight-line extrapolation's median.",
        "Two panels, fresh and checkpoint, of error on a logarithmic axis against step, one colour "
        "per interval.",
    ),
}


def plot_horizons(found: Found, tolerance: int, ax: Axes) -> list[Artist]:
    """Horizons over widths; ``tolerance`` is its place in each reading's ``horizons``."""
    artists: list[Artist] = []
    end = max(len(r["loss"]) - 1 for by_seed in found.values() for r in by_seed.values())
    beyond = 1.15 * end
    shown: list[float] = []
    for start, (colour, marker, shift) in STARTS.items():
        widths = [width for where, width in found if where == start]
        medians = []
        for width in widths:
            known = [
                r["readings"]["level 3"]["horizons"][tolerance]
                for r in found[start, width].values()
            ]
            reached = [float(h) for h in known if h is not None]
            shown += reached
            artists += ax.plot(
                [width * shift] * len(reached), reached, marker, color=colour, ms=4, alpha=0.6
            )
            missing = len(known) - len(reached)
            shown += [beyond] * missing
            artists += ax.plot(
                width * shift * 1.05 ** (np.arange(missing) - (missing - 1) / 2),
                [beyond] * missing,
                marker,
                color=colour,
                ms=4,
                fillstyle="none",
            )
            medians.append(float(np.median(reached + [math.inf] * missing)))
        artists += ax.plot(
            widths,
            [m if math.isfinite(m) else math.nan for m in medians],
            "-",
            color=colour,
            marker=marker,
            ms=6,
            label=start,
        )
    if any(value == beyond for value in shown):
        artists.append(ax.axhline(beyond, color=figures.GREY, linestyle=":", linewidth=1))
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xticks(sorted({width for _, width in found}))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    low, high = min(shown) / 1.2, max(shown) * 1.25
    ax.set_ylim(low, high)
    ticks = [t for t in (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 200) if low <= t <= high]
    ax.set_yticks(ticks)
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    return artists


def draw_horizons(found: Found, out: Path) -> report.Picture:
    """The figure ``horizons`` as PNG and SVG in a folder."""
    with figures.style():
        figure, axes = figures.panels(2, height=3.6, width=9.0)
        for tolerance, (ax, name) in enumerate(zip(axes, ("10 %", "50 %"), strict=True)):
            plot_horizons(found, tolerance, ax)
            ax.set(title=f"off by {name}", xlabel="width", ylabel="horizon, steps")
        axes[0].legend()
        png, _ = figures.save(figure, out / "horizons")
    return report.Picture(png, *FIGURES["horizons"])


def plot_readings(results: Sequence[Mapping[str, Any]], ax: Axes) -> list[Artist]:
    """Error against step of levels 3 and 4, seeds and median."""
    artists: list[Artist] = []
    once = [r["readings"]["level 3"] for r in results]
    with np.errstate(divide="ignore", invalid="ignore"):
        line = np.median([k["error"] / (1 - k["skill"]) for k in once], axis=0)
    artists += ax.semilogy(
        np.arange(2, len(line)),
        line[2:],
        color="#D0D0D0",
        linewidth=4,
        label="straight line",
        zorder=1,
    )
    for name, (colour, label) in READINGS.items():
        errors = np.array([r["readings"][name]["error"] for r in results])[:, 2:]
        steps = np.arange(2, errors.shape[1] + 2)
        for seed in errors:
            artists += ax.semilogy(steps, seed, color=colour, linewidth=0.6, alpha=0.5)
        artists += ax.semilogy(steps, np.median(errors, axis=0), color=colour, label=label)
    artists += [
        ax.axhline(tolerance, color=figures.GREY, linestyle=":", linewidth=1)
        for tolerance in (0.1, 0.5)
    ]
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    return artists


def draw_readings(found: Found, out: Path) -> report.Picture:
    """The figure ``readings`` as PNG and SVG in a folder; some width must have every level."""
    complete = {
        start: max(
            width
            for (where, width), by_seed in found.items()
            if where == start and all(set(READINGS) <= set(r["readings"]) for r in by_seed.values())
        )
        for start in STARTS
    }
    with figures.style():
        figure, axes = figures.panels(2, height=3.8, width=9.0)
        for ax, (start, width) in zip(axes, complete.items(), strict=True):
            plot_readings(list(found[start, width].values()), ax)
            ax.set(title=f"{start}, width {width}", xlabel="step", ylabel="error / distance moved")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
        png, _ = figures.save(figure, out / "readings")
    return report.Picture(png, *FIGURES["readings"])
