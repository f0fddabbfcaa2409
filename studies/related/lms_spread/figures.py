"""Draws learning curves with theory, and learning time over theory's against the spread."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from studies.engine import style
from studies.related.lms_spread import LEFT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_curves", "plot_times"]

Array = np.ndarray

COLOURS = (style.GREY, style.BLUE, style.GREEN, style.ORANGE, style.PURPLE)
TOP = 2.0


def smooth(values: Array, points: int = 60) -> tuple[Array, Array]:
    """Means in windows of growing length: their middles and the means."""
    edges = np.unique(np.concatenate([[0], np.geomspace(1, len(values), points).astype(int)]))
    pairs = list(itertools.pairwise(edges))
    middles = np.array([(a + b + 1) / 2 for a, b in pairs])
    return middles, np.array([values[a:b].mean() for a, b in pairs])


def plot_curves(cells: Sequence[Any], fraction: float, ax: Axes) -> None:
    """Learning curves of white and AR(1) input on the delay line at one step size."""
    chosen = [
        cell
        for cell in cells
        if cell.kind == "delay line" and cell.fraction == fraction and cell.name != "AR(2)"
    ]
    for cell, colour in zip(chosen, COLOURS, strict=False):
        observed, predicted = cell.curves
        with np.errstate(over="ignore", invalid="ignore"):
            x, y = smooth(np.where(np.isfinite(observed), observed, np.nan) / predicted[0])
        ax.loglog(x, np.where(y > 0, y, np.nan), color=colour, alpha=0.45, linewidth=4)
        x, y = smooth(predicted / predicted[0])
        ax.loglog(x, y, color=colour, linewidth=1.2, label=f"spread {cell.spread:g}")
    ax.set(
        title=f"{fraction:g} of the mean-square bound",
        xlabel="updates",
        ylabel="excess MSE over its start",
        ylim=(LEFT / 2, 20),
    )
    ax.legend(loc="lower left")


def plot_times(cells: Sequence[Any], fractions: Sequence[float], ax: Axes) -> None:
    """Learning time over theory's against the spread."""
    ax.axhline(1, color="black", linewidth=0.8)
    for i, (fraction, colour) in enumerate(zip(fractions, COLOURS[1:], strict=False)):
        aside = 1.25 ** (i - 1)  # what lies on the same spread is drawn side by side
        for kind, filled, shift in (
            ("delay line", colour, aside),
            ("independent", "none", 1.1 * aside),
        ):
            chosen = [c for c in cells if c.kind == kind and c.fraction == fraction]
            shown = [c for c in chosen if c.time.settled and c.time.mean <= TOP]
            ax.errorbar(
                [c.spread * shift for c in shown],
                [c.time.mean for c in shown],
                [c.time.error for c in shown],
                fmt="o",
                color=colour,
                markerfacecolor=filled,
                markersize=5,
                linewidth=1.2,
                label=f"{fraction:g} of the bound" if kind == "delay line" else None,
            )
            away = [c.spread * shift for c in chosen if c not in shown]
            if away:
                height = [TOP - 0.05] * len(away)
                ax.plot(away, height, "^", color=colour, markersize=7)
    ax.set_xscale("log")
    ax.set(
        title="learning time",
        xlabel="eigenvalue spread",
        ylabel="observed / predicted",
        ylim=(0.5, TOP),
    )
    ax.legend(loc="lower left")
