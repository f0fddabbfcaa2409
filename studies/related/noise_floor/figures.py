"""Draws the figure of the study ``noise-floor``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from studies.engine import style
from studies.related.noise_floor import Limits

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_batches", "plot_edges", "plot_excess"]

Results = Sequence[dict[str, Any]]


def plot_excess(batches: Sequence[int], results: Results, ax: Axes) -> None:
    """Excess over theory's, of the runs, the textbook and shuffled targets."""
    ax.axhspan(1 - Limits.excess, 1 + Limits.excess, color=style.GREY, alpha=0.3, linewidth=0)
    for name, colour, label in (
        ("observed", style.BLUE, "runs"),
        ("textbook", style.ORANGE, "textbook"),
        ("shuffled", style.GREY, "shuffled targets"),
    ):
        for k, one in enumerate(results):
            head = one["head"]
            values = np.array(head[name]) / head["predicted"]
            ax.semilogx(
                batches[:-1], values, ".-", color=colour, linewidth=0.5,
                label=None if k else label,
            )  # fmt: skip
    _sizes(batches[:-1], ax)
    ax.set(title="noise floor of the head", ylabel="excess loss / exact theory")
    ax.set_ylim(0, 1.4 * ax.get_ylim()[1])  # room for the legend
    ax.legend()


def plot_edges(batches: Sequence[int], results: Results, ax: Axes) -> None:
    """Rates at which the head's training breaks, over the mean edge."""
    for name, colour, label in (
        ("breaks", style.BLUE, "runs break"),
        ("mean_square", style.ORANGE, "mean-square edge"),
    ):
        for k, one in enumerate(results):
            head = one["head"]
            values = np.array(head[name]) / head["mean"]
            ax.semilogx(
                batches[:-1], values, ".-", color=colour, linewidth=0.5,
                label=None if k else label,
            )  # fmt: skip
    ax.axhline(1, color="black", linewidth=1, label="mean edge")
    _sizes(batches[:-1], ax)
    ax.set(title="edge of the head", ylabel="learning rate / mean edge")
    ax.legend()


def plot_batches(batches: Sequence[int], results: Results, ax: Axes) -> None:
    """Updates of the network to its goal over those of the full batch."""
    for name, colour, label in (
        ("observed", style.BLUE, "network"),
        ("predicted", style.ORANGE, "linearised, exact"),
    ):
        for k, one in enumerate(results):
            updates = np.array(one["network"][name], dtype=float)
            values = np.where(np.isfinite(updates), updates, np.nan) / updates[-1]
            ax.loglog(
                batches, values, ".-", color=colour, linewidth=0.5, label=None if k else label
            )
    ax.axhline(2, color="black", linewidth=1, linestyle="--")
    _sizes(batches, ax)
    ax.set_yticks([1, 2, 5, 10], ["1", "2", "5", "10"])
    ax.set_yticks([], minor=True)
    ax.set(title="whole network", ylabel="updates / those of the full batch")
    ax.legend()


def _sizes(batches: Sequence[int], ax: Axes) -> None:
    ax.set_xticks(list(batches), [str(size) for size in batches])
    ax.set_xticks([], minor=True)
    ax.set_xlabel("images per batch")
