"""Draws the figure of the study ``decay``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from studies.engine import style
from studies.related.decay import Limits

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_relaxation", "plot_rotation", "plot_times"]

Points = Sequence[tuple[float, np.ndarray, str]]
CONTROL = "without BatchNorm"
COLOURS = {
    "plain SGD": style.BLUE,
    "momentum": style.ORANGE,
    CONTROL: style.GREY,
}


def plot_rotation(points: Points, ax: Axes) -> None:
    """Observed over predicted rotation against the prediction."""
    _ratios(points, Limits.rotation, ax)
    ax.set(title="rotation of a step", xlabel="predicted, radians", ylabel="observed / predicted")
    ax.legend()


def plot_times(points: Points, own: Points, ax: Axes) -> None:
    """Observed over predicted time constant; ``own`` with the measured strength of gradients."""
    for kind, colour in COLOURS.items():
        mine = [(x, y) for x, values, k in own if k == kind != CONTROL for y in values]
        if mine:
            x, y = np.transpose(mine)
            ax.plot(x * 1.1, y, "x", color=colour, markersize=4, alpha=0.35)
    _ratios([p for p in points if p[2] != CONTROL], Limits.time, ax)
    ax.set(
        title="time constant of |w|⁴", xlabel="predicted, updates", ylabel="observed / predicted"
    )


def _ratios(points: Points, width: float, ax: Axes) -> None:
    ax.axhspan(1 - width, 1 + width, color=style.GREY, alpha=0.2, linewidth=0)
    for kind, colour in COLOURS.items():
        mine = [(x, y) for x, values, k in points if k == kind for y in values]
        if mine:
            x, y = np.transpose(mine)
            ax.plot(x, y, ".", color=colour, markersize=5, alpha=0.7, label=kind)
    ax.set_xscale("log")
    low, high = ax.get_xlim()
    at = [t for e in range(-4, 4) for t in (10.0**e, 2 * 10.0**e, 5 * 10.0**e) if low <= t <= high]
    ax.set_xticks(at, [f"{t:g}" for t in at])
    ax.set_xticks([], minor=True)


def plot_relaxation(found: Sequence[Any], ax: Axes) -> None:
    """Difference of |w|^4 between the twins against time; ``found`` are ``judge.Block``."""
    longest = 2.0
    for b in found:
        for one in b.results:
            values = np.asarray(one["difference"])
            steps = one["every"] * np.arange(len(values))
            longest = max(longest, float(steps[-1] / b.time))
            ax.plot(steps / b.time, values, color=style.BLUE, linewidth=0.5, alpha=0.4)
    t = np.linspace(0, longest, 100)
    ax.plot(t, np.exp(-t), color="black", linewidth=1.5, label="theory: e^-t")
    ax.set_yscale("log")
    ax.set_ylim(bottom=0.05, top=2)
    ax.set(
        title="relaxation", xlabel="time / predicted constant", ylabel="difference of |w|⁴ / start"
    )
    ax.legend()
