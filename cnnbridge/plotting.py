"""Figures of results, each on an ``ax``; needs matplotlib, and nothing else here imports it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cnnbridge.learning.audit import Audit
from cnnbridge.learning.sharpness import SharpnessTrack

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# colour-blind-safe, one per part
COLOURS = {
    "approximation": "#999999",
    "regressors": "#0072b2",
    "curvature": "#d55e00",
    "desired response": "#009e73",
    "other layers": "#cc79a7",
}


def plot_audit(audit: Audit, ax: Axes) -> list[Any]:
    """Draw the size of each part of a prediction's error over the steps, and the whole error.

    Parameters
    ----------
    audit : from ``NetworkTask.audit``.
    ax : where to draw.

    Returns
    -------
    The lines: the whole error first, then a line for each part that reaches 0.1 %.

    Raises
    ------
    TypeError : audit is no ``Audit``.

    Examples
    --------
    >>> import torch
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> import matplotlib.pyplot as plt
    >>> from cnnbridge import NetworkTask
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    >>> task = NetworkTask(model, (torch.randn(8, 3), torch.randn(8, 2)), torch.nn.MSELoss())
    >>> plot_audit(task.layer("0").audit(0.1, steps=20), plt.figure().subplots())[0].get_label()
    'whole error'
    """
    if not isinstance(audit, Audit):
        raise TypeError(f"audit must be an Audit; got {type(audit).__name__}")
    steps = np.arange(audit.steps + 1)
    lines = ax.plot(steps, 100 * audit.error, color="black", linewidth=2, label="whole error")
    for j, name in enumerate(audit.parts):
        if np.nanmax(audit.sizes[:, j]) > 1e-3:
            lines += ax.plot(
                steps, 100 * audit.sizes[:, j], color=COLOURS[name], linewidth=1.4, label=name
            )
    ax.axhline(10, color="black", linewidth=0.6, linestyle=":")
    ax.set_xlabel("step")
    ax.set_ylabel("part of the distance moved, %")
    who = "all layers learning" if audit.trained == "all" else "the rest frozen"
    ax.set_title(f"{audit.layer}, {audit.curvature.replace('_', '-')}, {who}", fontsize=10)
    ax.set_ylim(bottom=0)
    # below the axes: inside, it would cover lines
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncol=3, fontsize=8, frameon=False)
    return lines


def plot_sharpness(track: SharpnessTrack, ax: Axes) -> list[Any]:
    """Draw Hessian and Gauss-Newton sharpness, each layer's own, and the edge, over a run.

    Parameters
    ----------
    track : from ``NetworkTask.track``.
    ax : where to draw.

    Returns
    -------
    The lines: edge, Hessian, Gauss-Newton, then the layers.

    Raises
    ------
    TypeError : track is no ``SharpnessTrack``.

    Examples
    --------
    >>> import torch
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> import matplotlib.pyplot as plt
    >>> from cnnbridge import NetworkTask
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    >>> task = NetworkTask(model, (torch.randn(8, 3), torch.randn(8, 2)), torch.nn.MSELoss())
    >>> track = task.track(0.1, steps=20, layers=["0"])
    >>> len(plot_sharpness(track, plt.figure().subplots()))
    4
    """
    if not isinstance(track, SharpnessTrack):
        raise TypeError(f"track must be a SharpnessTrack; got {type(track).__name__}")
    factor = "2" if track.sgd.momentum == 0 else f"{2 * (1 + track.sgd.momentum):.3g}"
    lines = [ax.axhline(track.edge, color="black", linestyle="--", label=f"{factor} / lr")]
    lines += ax.plot(track.steps, track.hessian, color="#d55e00", linewidth=2, label="Hessian")
    lines += ax.plot(
        track.steps, track.gauss_newton, color="#0072b2", linewidth=1.4, label="Gauss-Newton"
    )
    for shade, (name, row) in zip(
        np.linspace(0.35, 0.75, max(len(track.layers), 1)), track.layers.items(), strict=False
    ):
        lines += ax.plot(
            track.steps, row, color=str(shade), linewidth=1.0, label=f"layer {name} alone"
        )
    ax.set_xlabel("step")
    ax.set_ylabel("largest curvature, 1 / learning rate")
    ax.set_title(f"learning rate {track.sgd.lr:g}", fontsize=10)
    ax.set_ylim(bottom=0)
    # below the axes: inside, it would cover lines
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncol=3, fontsize=8, frameon=False)
    return lines
