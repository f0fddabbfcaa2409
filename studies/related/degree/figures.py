"""Draws the figures of the study ``degree``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from studies.engine import style
from studies.engine.smoothing import running_mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from studies.engine.outcomes import Course, Interval

__all__ = ["plot_collapse", "plot_exponents", "plot_rates"]


def plot_exponents(points: Sequence[tuple[float, float, bool]], ax: Axes) -> None:
    """(degree, exponent, exploded) of every network, with the line that theory gives."""
    top = max([2.0, *(p[0] for p in points)]) + 0.5
    line = np.linspace(0, top, 200)
    ax.plot(
        line, np.maximum(1, line), color=style.GREY, linewidth=1, label="theory: max(1, degree)"
    )
    for exploded, colour, marker, words in (
        (False, style.BLUE, "o", "did not explode at 1e6"),
        (True, style.ORANGE, "x", "exploded at 1e6"),
    ):
        mine = [(d, e) for d, e, did in points if did == exploded]
        if mine:
            x, y = np.transpose(mine)
            ax.plot(x, y, marker, color=colour, markersize=5, alpha=0.6, label=words)
    ax.axvline(1.5, color=style.GREY, linestyle=":", linewidth=1, label="predicted limit")
    ax.set(title="two updates show the degree", xlabel="degree of the loss", ylabel="exponent")
    ax.legend(loc="upper left")


def plot_rates(intervals: Mapping[str, Sequence[Interval]], ax: Axes) -> None:
    """A bar for the explosion interval of each seed, one row for each form."""
    for row, values in enumerate(intervals.values()):
        for i, (low, high) in enumerate(values):
            y = row + 0.5 * ((i + 0.5) / max(len(values), 1) - 0.5)
            if np.isinf(high):
                ax.plot([low], [y], marker=">", color=style.GREY, markersize=5)
            else:
                ax.plot([max(low, high / 4), high], [y, y], color=style.ORANGE, linewidth=2)
    ax.set_yticks(range(len(intervals)), list(intervals))
    ax.invert_yaxis()
    ax.set_xscale("log")
    ax.set(title="where runs explode", xlabel="learning rate (> means not seen)")


def plot_collapse(courses: Sequence[Course], ax: Axes) -> None:
    """Geometric mean over networks of loss / rate, a line for each rate."""
    rates = sorted({c.lr for c in courses})
    colours = (style.BLUE, style.ORANGE, style.GREEN, style.PURPLE)
    for k, rate in enumerate(rates):
        logs = [np.log(running_mean(c.loss)[1:] / rate) for c in courses if c.lr == rate]
        steps = min(map(len, logs))
        mean = np.exp(np.mean([values[:steps] for values in logs], axis=0))
        colour = colours[k % len(colours)]
        ax.plot(np.arange(1, steps + 1), mean, color=colour, label=f"rate {rate:.0e}")
    ax.set_yscale("log")
    ax.set(
        title="degree 1: loss ∝ rate",
        xlabel="updates",
        ylabel="loss / learning rate",
    )
    if rates:
        ax.legend()
