"""The figures of the study: functions of results and axes, and the values that the engine draws."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from studies.engine.protocol import Figure
from studies.engine.style import BLUE, GREEN, GREY, ORANGE, PURPLE
from studies.related.horizons import TOLERANCES

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MplFigure

__all__ = ["horizons", "plot_horizons", "plot_readings", "readings"]

Found = Mapping[tuple[str, int], Mapping[int, Mapping[str, Any]]]

STARTS = {"fresh": (ORANGE, "s", 0.96), "checkpoint": (BLUE, "o", 1.04)}
READINGS = {
    "level 3": (GREY, "level 3: once"),
    "h = 50": (PURPLE, "level 4: every 50 steps"),
    "h = 10": (GREEN, "level 4: every 10 steps"),
    "h = 2": (BLUE, "level 4: every 2 steps"),
}


def plot_horizons(found: Found, tolerance: int, ax: Axes) -> list[Artist]:
    """Horizons over widths; ``tolerance`` is the index in ``TOLERANCES``."""
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
            missing = len(known) - len(reached)
            marks: dict[str, Any] = {
                "marker": marker,
                "linestyle": "none",
                "color": colour,
                "markersize": 4,
            }
            artists += ax.plot([width * shift] * len(reached), reached, alpha=0.6, **marks)
            aside = 1.05 ** (np.arange(missing) - (missing - 1) / 2)
            artists += ax.plot(width * shift * aside, [beyond] * missing, fillstyle="none", **marks)
            shown += reached + [beyond] * missing
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
        artists.append(ax.axhline(beyond, color=GREY, linestyle=":", linewidth=1))
    _log_axes(ax, sorted({width for _, width in found}), (min(shown) / 1.2, max(shown) * 1.25))
    ax.set(
        title=f"off by {100 * TOLERANCES[tolerance]:g} %", xlabel="width", ylabel="horizon, steps"
    )
    return artists


def _log_axes(ax: Axes, widths: Iterable[int], limits: tuple[float, float]) -> None:
    """Logarithmic axes with few ticks, in plain numbers."""
    from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

    plain = FuncFormatter(lambda value, _: f"{value:g}")
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xticks(list(widths))
    ax.xaxis.set_major_formatter(plain)
    low, high = limits
    ax.set_ylim(low, high)
    ticks = [t for t in (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 200) if low <= t <= high]
    ax.set_yticks(ticks)
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(plain)
    ax.yaxis.set_minor_formatter(NullFormatter())


def horizons(found: Found) -> Figure:
    """The study's answer: horizons against width."""

    def finish(_: MplFigure, axes: Sequence[Axes]) -> None:
        axes[0].legend()

    return Figure(
        "horizons",
        "First step at which level 3 is off by more than 10 % (left) and 50 % (right) of the "
        "distance moved, against the width; each network a mark, lines through the medians of the "
        "seeds. Hollow marks at the dotted line are networks that had not reached it by the end of "
        "the run; a line ends where the median has not. Fresh networks at a hundredth of their "
        "bound on the learning rate, checkpoints at a fifth.",
        "Two panels of horizon in steps against width on logarithmic axes, for fresh networks and "
        "checkpoints, with a mark for each seed.",
        [partial(plot_horizons, found, tolerance) for tolerance in range(len(TOLERANCES))],
        height=3.6,
        finish=finish,
    )


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
        ax.axhline(tolerance, color=GREY, linestyle=":", linewidth=1) for tolerance in TOLERANCES
    ]
    ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    return artists


def readings(found: Found) -> Figure:
    """Error against step in the widest network in which every level was tried, for each start."""
    complete = {
        start: width
        for (start, width), by_seed in sorted(found.items(), key=lambda item: item[0][1])
        if all(set(READINGS) <= set(r["readings"]) for r in by_seed.values())
    }

    def plot(start: str, width: int, ax: Axes) -> None:
        plot_readings(list(found[start, width].values()), ax)
        ax.set(title=f"{start}, width {width}", xlabel="step", ylabel="error / distance moved")

    def finish(figure: MplFigure, axes: Sequence[Axes]) -> None:
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)

    return Figure(
        "readings",
        "Error over the distance moved against the step, in the widest network in which every "
        "level was tried: level 3 and level 4 for three intervals between linearisations. Thin "
        "lines are seeds, thick ones their median; dotted lines are the tolerances of the horizons "
        "and the wide grey line is straight-line extrapolation's median.",
        "Two panels, fresh and checkpoint, of error on a logarithmic axis against step, one colour "
        "per interval.",
        [partial(plot, start, complete[start]) for start in STARTS if start in complete],
        height=3.8,
        finish=finish,
    )
