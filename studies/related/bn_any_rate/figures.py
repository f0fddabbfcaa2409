"""Draws the loss at the end and BatchNorm's effective rate, against the rate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from studies.engine import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_effective", "plot_final"]


def plot_final(found: Any, ax: Axes) -> None:
    """Final over initial loss against the rate; ``found`` is a ``judge.Descents``."""
    for loss, colour, marker, label in (
        (found.plain, style.ORANGE, "s", "plain"),
        (found.norm, style.GREEN, "o", "BatchNorm"),
    ):
        with np.errstate(invalid="ignore", over="ignore"):
            ratio = loss[-1] / found.plain[0]
            shown = np.where(ratio < 1e3, ratio, np.nan)
        ax.loglog(found.rates / found.bound, shown, marker, color=colour, markersize=4, label=label)
    ax.axvline(1, color=style.GREY, linestyle="--", linewidth=1)
    ax.axhline(found.floor, color=style.GREY, linewidth=0.8)
    ax.set(
        title="loss at the end",
        xlabel="rate / (2 / λmax)",
        ylabel="over the start of plain descent",
    )
    ax.legend()


def plot_effective(found: Any, ax: Axes) -> None:
    """The effective rate of descent with BatchNorm against its rate."""
    rates, effective = found.rates / found.bound, found.effective / found.bound
    ax.loglog(rates, effective, "o", color=style.GREEN, markersize=4)
    ax.set(title="effective rate", xlabel="rate / (2 / λmax)", ylabel="rate / |w|² / (2 / λmax)")
