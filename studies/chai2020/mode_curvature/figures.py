"""Draws the figure of the study ``mode-curvature``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from studies.engine import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_curvature", "plot_half_times", "plot_horizons", "plot_slopes"]


SHORT = {
    "A: R's own modes": "A: modes",
    "B: joint modes, R x G": "B: R x G",
    "null: modes turned at random": "turned",
    "null: R of another layer": "other R",
    "null: patches of another image": "shuffled",
    "through RMSprop or Adam": "RMSprop",
    "through K-FAC": "K-FAC",
}


def plot_curvature(kind: str, layers: Mapping[str, Mapping[str, Any]], ax: Axes) -> None:
    """Curvature along R's modes, and along turned ones, against the eigenvalue."""
    lowest = 1.0
    for k, (name, layer) in enumerate(layers.items()):
        values = np.asarray(layer["eigenvalues"])
        curvature = np.asarray(layer["curvature"])
        x, kept = values / values.max(), curvature > 0
        # what multiplies R, the geometric mean over modes
        scale = np.exp(np.mean(np.log(curvature[kept] / x[kept])))
        lowest = min(lowest, float(x.min()))
        turned = np.asarray(layer["turned"]) / scale
        words = "turned at random" if not k else None
        ax.plot(x, turned, "x", color=style.GREY, markersize=3, alpha=0.5, label=words)
        colour = style.CYCLE[k % len(style.CYCLE)]
        ax.plot(x, curvature / scale, ".", color=colour, markersize=5, label=name)
    line = np.array([lowest, 1.0])
    ax.plot(line, line, color="black", linewidth=1)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set(title=f"A: {kind}", xlabel="eigenvalue of R / largest", ylabel="curvature / gain")
    if len(layers) <= len(style.CYCLE):
        ax.legend(markerscale=1.5, loc="lower right")


def plot_slopes(slopes: Mapping[str, Mapping[str, Sequence[float]]], ax: Axes) -> None:
    """Every block's log-log slope, a row for each kind of fit, a colour for each network."""
    rows = list(next(iter(slopes.values()))) if slopes else []
    for k, (kind, by_fit) in enumerate(slopes.items()):
        for row, words in enumerate(rows):
            values = np.asarray(by_fit[words])
            y = np.full(len(values), row + 0.25 * (k - 1))
            ax.plot(
                values,
                y,
                "|",
                color=style.CYCLE[k],
                markersize=8,
                alpha=0.5,
                label=kind if not row else None,
            )
    for x in (0.0, 1.0):
        ax.axvline(x, color=style.GREY, linestyle=":", linewidth=1)
    # the full names would be wider than the panel
    names = [SHORT.get(row, row) for row in rows]
    ax.set_yticks(range(len(rows)), names, fontsize=7.5)
    ax.invert_yaxis()
    ax.set(title="slopes of all blocks", xlabel="log-log slope")
    if slopes:
        ax.legend(fontsize=7.5, loc="lower right")


def plot_half_times(learned: Mapping[str, Sequence[Mapping[str, Any]]], ax: Axes) -> None:
    """Half-time of each mode in time constants of the fastest, against the eigenvalue."""
    lowest = 1.0
    for k, (kind, layers) in enumerate(learned.items()):
        for j, layer in enumerate(layers):
            values = np.asarray(layer["eigenvalues"])
            x = values * layer["lr"] / layer["constants_per_step"]
            lowest = min(lowest, float(x.min(initial=1.0)))
            times = np.asarray(layer["half_time"]) * layer["constants_per_step"]
            words = None if j else kind
            ax.plot(x, times, ".", color=style.CYCLE[k], markersize=3, alpha=0.4, label=words)
    line = np.geomspace(lowest, 1, 50)
    ax.plot(line, np.log(2) / line, color="black", linewidth=1, label="theory: ln 2 / λ")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set(title="D: speed", xlabel="eigenvalue / largest", ylabel="half-time, time constants")
    ax.legend(markerscale=2)


def plot_horizons(
    learned: Mapping[str, Sequence[Mapping[str, Any]]], wanted: float, ax: Axes
) -> None:
    """Error of the forecast by R times one number against time."""
    for k, (kind, layers) in enumerate(learned.items()):
        for j, layer in enumerate(layers):
            error = np.asarray(layer["error"]["scalar"])
            time = np.arange(len(error)) * layer["constants_per_step"]
            words = None if j else kind
            ax.plot(
                time[2:], error[2:], color=style.CYCLE[k], linewidth=0.7, alpha=0.5, label=words
            )
    ax.axhline(0.1, color="black", linestyle="--", linewidth=1)
    ax.axvline(wanted, color="black", linestyle="--", linewidth=1)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set(title="E: trajectory", xlabel="time constants", ylabel="error of the forecast")
    if any(learned.values()):
        ax.legend(loc="upper left")
