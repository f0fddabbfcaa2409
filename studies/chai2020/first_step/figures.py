"""The figure of the study ``first-step``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from studies.chai2020.nlms import TOLERANCE, WORDS
from studies.engine import page as report
from studies.engine import style as figures

__all__ = ["FIGURES", "draw_steps"]

FIGURES = {
    "steps": (
        "The step of SGD behind BatchNorm against that of NLMS, in effective weights, for every "
        "layer; each seed a dot. Crosses: against the nearest multiple of the step of LMS, which "
        "does not divide by the power. Dashed: the largest difference that the rule allows.",
        "Two panels, one per position: relative difference on a log axis for each layer. The dots "
        "lie at the rounding errors of float64, the crosses near one.",
    )
}


def plot_steps(rows: Sequence[Mapping[str, Any]], ax: Axes) -> list[Artist]:
    """Differences of one position by layer."""
    layers = sorted({row["layer"] for row in rows})
    at = [layers.index(row["layer"]) for row in rows]
    artists: list[Artist] = []
    for name, mark, colour, label in (
        ("difference", "o", figures.BLUE, "from NLMS, of the largest entry"),
        ("lms", "x", figures.ORANGE, "from LMS of any rate, of the norm"),
    ):
        # a difference of zero has its place at the foot of the axis
        values = np.maximum([row[name] for row in rows], 1e-17)
        artists += ax.semilogy(at, values, mark, color=colour, markersize=4.5, label=label)
    artists.append(ax.axhline(TOLERANCE, color=figures.GREY, linestyle="--", linewidth=1))
    ax.set_xticks(range(len(layers)), layers)
    ax.set(ylim=(5e-18, 10))
    return artists


def draw_steps(rows: Sequence[Mapping[str, Any]], out: Path) -> report.Picture:
    """The figure ``steps`` as PNG and SVG in a folder."""
    with figures.style():
        figure, axes = figures.panels(2, height=3.2, width=8.5)
        for ax, (position, words) in zip(axes, WORDS.items(), strict=True):
            plot_steps([row for row in rows if row["position"] == position], ax)
            ax.set(title=f"BatchNorm {words}")
        axes[0].set_ylabel("relative difference")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
        png, _ = figures.save(figure, out / "steps")
    return report.Picture(png, *FIGURES["steps"])
