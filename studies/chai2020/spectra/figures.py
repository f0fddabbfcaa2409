"""The figures of the study: spectra behind each part of BatchNorm, and their course in training."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from studies.chai2020.spectra import NETWORKS, POSITIONS
from studies.chai2020.spectra.sites import Ends, Site
from studies.engine.protocol import Figure
from studies.engine.style import BLUE, GREEN, ORANGE, PURPLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MplFigure

__all__ = ["course_figure", "plot_course", "plot_site", "spectra_figure"]

LOOK = {
    "none": "#1B1F24",
    "center": PURPLE,
    "amplify": ORANGE,
    "suppress": BLUE,
    "full": GREEN,
}


def spectra_figure(sites: Sequence[Site]) -> Figure:
    """The spectra of the first network at its first checkpoint, one panel for each layer."""
    first = sites[0]
    of_first = (first.network, first.seed, first.update)
    shown = [s for s in sites if (s.network, s.seed, s.update) == of_first]
    return Figure(
        "spectra",
        "Eigenvalues of R at the start of training in front of each convolution, behind each part "
        "of BatchNorm. Predicted and measured values coincide. Bands: Ostrowski's intervals for "
        "amplifying and suppressing, from the centred spectrum.",
        "One panel per convolution 2 to 6: eigenvalues in falling order on a log axis, one line "
        "per variant, bands around amplify and suppress.",
        [functools.partial(plot_site, site) for site in shown],
        width=10.0,
        height=3.0,
        finish=_legend,
    )


def course_figure(ends: Sequence[Ends]) -> Figure:
    """Both ends of R through training, one panel for each position of the normalization."""
    return Figure(
        "course",
        "Largest (solid) and smallest (dotted) eigenvalue of what each convolution learns on, "
        "through training, without normalization and with BatchNorm; one line per layer.",
        "Two panels, position pre and post: eigenvalues against update on log axes.",
        [functools.partial(plot_course, ends, position) for position in POSITIONS],
        width=8.5,
        height=3.4,
        finish=_legend,
    )


def plot_site(site: Site, ax: Axes) -> None:
    """Plot all spectra at one site as lines, and Ostrowski's intervals as bands."""
    floor = 1e-9 * site.eigenvalues["none"][-1]
    for variant in ("amplify", "suppress"):
        ax.fill_between(
            np.arange(1, len(site.low[variant]) + 1),
            np.maximum(site.low[variant][::-1], floor),
            np.maximum(site.high[variant][::-1], floor),
            color=LOOK[variant],
            alpha=0.13,
            linewidth=0,
        )
    for variant, values in site.eigenvalues.items():
        order = np.arange(1, len(values) + 1)
        ax.plot(order, np.maximum(values[::-1], floor), color=LOOK[variant], label=variant)
    ax.set_yscale("log")
    ax.set(title=f"conv{site.layer}", xlabel="mode, strongest first", ylabel="eigenvalue λ")


def plot_course(ends: Sequence[Ends], position: str, ax: Axes) -> None:
    """Plot both ends of R against the update: medians over seeds, a line for each layer."""
    for network in NETWORKS:
        mine = [e for e in ends if (e.network, e.position) == (network, position)]
        for layer in sorted({e.layer for e in mine}):
            _plot_layer([e for e in mine if e.layer == layer], network, layer == 2, ax)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set(title=f"position {position}", xlabel="update + 1", ylabel="eigenvalue λ")


def _plot_layer(ends: Sequence[Ends], network: str, labelled: bool, ax: Axes) -> None:
    updates = sorted({e.update for e in ends})
    at = [[e for e in ends if e.update == update] for update in updates]
    highest = np.array([np.median([e.highest for e in some]) for some in at])
    lowest = np.array([np.median([e.lowest for e in some]) for some in at])
    for values, line, words in ((highest, "-", "largest"), (lowest, ":", "smallest")):
        ax.plot(
            np.array(updates) + 1,
            np.where(values > 0, values, np.nan),
            line,
            marker="o",
            markersize=2.5,
            linewidth=1.1,
            color=LOOK[network],
            label=f"{network}, {words}" if labelled else None,
        )


def _legend(figure: MplFigure, axes: Sequence[Axes]) -> None:
    handles, labels = axes[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5)
