"""The figure of ``first-step``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from studies.chai2020.nlms_checks import TOLERANCE, WORDS
from studies.engine.protocol import Figure
from studies.engine.style import BLUE, GREY, ORANGE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MplFigure

__all__ = ["plot_steps", "steps"]


def steps(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Differences of the two steps by layer, one panel per position."""
    return Figure(
        "steps",
        "The step of SGD behind BatchNorm compared with that of NLMS, in effective weights, for "
        "every layer; each seed a dot. Crosses: compared with the nearest multiple of the step of "
        "LMS, which does not divide by the power. Dashed: the largest difference that the rule "
        "allows.",
        "Two panels, one per position: relative difference on a log axis for each layer. The dots "
        "lie at the rounding errors of float64, the crosses near one.",
        [partial(plot_steps, rows, position) for position in WORDS],
        width=8.5,
        height=3.2,
        finish=_finish,
    )


def plot_steps(rows: Sequence[Mapping[str, Any]], position: str, ax: Axes) -> None:
    """Differences of one position by layer."""
    rows = [row for row in rows if row["position"] == position]
    layers = sorted({row["layer"] for row in rows})
    at = [layers.index(row["layer"]) for row in rows]
    for name, mark, colour, label in (
        ("difference", "o", BLUE, "from NLMS, of the largest entry"),
        ("lms", "x", ORANGE, "from LMS of any rate, of the norm"),
    ):
        # a log axis has no zero: show it at the bottom
        values = np.maximum([row[name] for row in rows], 1e-17)
        ax.semilogy(at, values, mark, color=colour, markersize=4.5, label=label)
    ax.axhline(TOLERANCE, color=GREY, linestyle="--", linewidth=1)
    ax.set_xticks(range(len(layers)), layers)
    ax.set(ylim=(5e-18, 10), title=f"BatchNorm {WORDS[position]}")


def _finish(figure: MplFigure, axes: Sequence[Axes]) -> None:
    axes[0].set_ylabel("relative difference")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
