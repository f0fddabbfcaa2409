"""Draws the edges of small batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from studies.engine import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_edges"]


def plot_edges(found: Any, ax: Axes) -> None:
    """Both edges over 2 / λmax against the batch size; ``found`` is a ``judge.Edges``."""
    ax.semilogx(
        found.batches,
        found.edges / found.bound,
        "o-",
        base=2,
        color=style.BLUE,
        markersize=4,
        label="mean square",
    )
    ax.errorbar(
        found.batches,
        found.sure / found.bound,
        found.sure_error / found.bound,
        fmt="s--",
        color=style.ORANGE,
        markersize=4,
        linewidth=1.2,
        label="almost sure",
    )
    ax.axhline(1, color=style.GREY, linestyle="--", linewidth=1)
    ax.set_ylim(bottom=0)
    ax.set_xticks(found.batches, [str(size) for size in found.batches])
    ax.set(
        title="edge of small batches", xlabel="images per batch", ylabel="step size / (2 / λmax)"
    )
    ax.legend()
