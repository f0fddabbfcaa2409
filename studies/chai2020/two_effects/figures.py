"""The figures of the study: functions of results and axes, and the values that the engine draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from studies.chai2020.two_effects import BARE, CORE, SETTINGS, TORCH
from studies.chai2020.two_effects.groups import ratios, speed_ratios
from studies.engine.protocol import Figure
from studies.engine.smoothing import running_mean
from studies.engine.style import BLUE, GREEN, GREY, ORANGE

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MplFigure

    from studies.chai2020.two_effects.candidates import Point
    from studies.chai2020.two_effects.groups import Groups

__all__ = ["COMPARED", "effects", "losses", "predictors", "settings", "spectra"]

ARROW = "$\\rightarrow$"  # a marker for what lies beyond
COMPARED = ("amplify", "suppress", "full")
CORE_LOOK = {
    "none": ("#1B1F24", "o"),
    "amplify": (ORANGE, "^"),
    "suppress": (BLUE, "s"),
    "full": (GREEN, "D"),
    "frozen": (GREY, "P"),
}


def look(variant: str) -> tuple[str, str]:
    """Colour and marker of a variant; controls are grey crosses."""
    return CORE_LOOK.get(variant, (GREY, "x"))


def _words(variant: str) -> str:
    return variant.replace("_", " ")


def plot_steps(groups: Groups, ax: Axes) -> list[Artist]:
    """One row per variant: a marker for each seed, a bar at the median; open ends as arrows."""
    artists: list[Artist] = []
    mine = [g for (s, v), g in groups.items() if s == BARE and v in CORE]
    for row, group in enumerate(mine):
        colour, marker = look(group.variant)
        for i, seed in enumerate(group.results):
            low, high = group.steps(seed)
            mark = marker if np.isfinite(high) else ARROW
            y = row + 0.14 * (i % 3 - 1)
            artists += ax.plot([low], [y], marker=mark, color=colour, markersize=4.5, alpha=0.75)
        if np.isfinite(group.median_steps):
            ends = [row - 0.38, row + 0.38]
            artists += ax.plot([group.median_steps] * 2, ends, color=colour, linewidth=2.4)
    _rows(ax, [_words(group.variant) for group in mine])
    ax.set(title="speed", xlabel="updates at the low rate until the loss is below 2")
    return artists


def plot_rates(groups: Groups, setting: str, ax: Axes) -> list[Artist]:
    """Per variant, for each seed, up to where it learns and from where it fails.

    A filled marker is the highest rate of the grid that learns; a cross is the lowest that fails.
    """
    artists: list[Artist] = []
    mine = [g for (s, v), g in groups.items() if s == setting and v in CORE]
    for row, group in enumerate(mine):
        colour, marker = look(group.variant)
        for i, seed in enumerate(group.results):
            y = row + 0.5 * (i / max(len(group.results) - 1, 1) - 0.5)
            learns, fails = group.learns(seed)[0], group.fails(seed)[1]
            if learns > 0:
                artists += ax.plot([learns], [y], marker, color=colour, markersize=4, alpha=0.8)
            if np.isfinite(fails):
                artists += ax.plot([fails], [y], "x", color=colour, markersize=4.5, alpha=0.8)
    _rows(ax, [_words(group.variant) for group in mine])
    ax.set(title=setting, xlabel="learning rate")
    return artists


def _rows(ax: Axes, names: Sequence[str]) -> None:
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_xscale("log")


def _plain_ticks(ax: Axes) -> None:
    from matplotlib.ticker import NullFormatter, StrMethodFormatter

    plain = StrMethodFormatter("{x:g}")
    for axis in (ax.xaxis, ax.yaxis):
        if axis.get_scale() == "log":
            low, high = axis.get_view_interval()
            # plain numbers, and few enough ticks to read
            if high / low < 30:
                axis.set_minor_formatter(plain if high / low < 6 else NullFormatter())
            axis.set_major_formatter(plain)


def _legend(ax: Axes, **options: Any) -> None:
    if ax.get_legend_handles_labels()[0]:
        ax.legend(**options)


def _legend_right(figure: MplFigure, ax: Axes) -> None:
    figure.legend(*ax.get_legend_handles_labels(), loc="outside right center")


def plot_losses(groups: Groups, ax: Axes) -> list[Artist]:
    """The loss at the low rate, averaged over 10 updates: each seed thin, one variant a colour."""
    artists: list[Artist] = []
    for variant, (colour, _) in CORE_LOOK.items():
        group = groups.get((BARE, variant))
        if group is None:
            continue
        for i, found in enumerate(group.results.values()):
            loss = running_mean(np.asarray(found["low_loss"]))
            artists += ax.plot(
                np.arange(1, len(loss) + 1),
                loss,
                color=colour,
                linewidth=1.1,
                label=variant if i == 0 else None,
            )
    ax.axhline(2.0, color=GREY, linewidth=0.8, linestyle="--")
    ax.set_xscale("log")
    ax.set(title="loss at the low rate", xlabel="update", ylabel="loss, mean of 10 updates")
    _legend(ax)
    return artists


def plot_eigenvalue(groups: Groups, end: str, ax: Axes) -> list[Artist]:
    """One eigenvalue of R at the start for each layer: median over seeds."""
    artists: list[Artist] = []
    titles = {"lowest": "smallest", "median": "median", "highest": "largest"}
    for variant, (colour, marker) in CORE_LOOK.items():
        group = groups.get((BARE, variant))
        if group is None:
            continue
        values = np.median(group.eigenvalues(end), axis=0)
        shown = np.where(values > 0, values, np.nan)
        layers = np.arange(2, len(values) + 2)
        artists += ax.semilogy(layers, shown, marker=marker, color=colour, label=variant)
    ax.set(title=f"{titles[end]} eigenvalue", xlabel="convolution", ylabel="λ (input power)")
    return artists


def plot_settings(groups: Groups, what: str, ax: Axes) -> list[Artist]:
    """Ratios to no normalization in every setting, as bars between the ends of the intervals."""
    artists: list[Artist] = []
    shown = [s for s in dict.fromkeys(s for s, _ in groups) if s == BARE or s in SETTINGS]
    for row, setting in enumerate(shown):
        for offset, variant in zip((-0.2, 0.0, 0.2), COMPARED, strict=True):
            found = (
                speed_ratios(groups, variant, "none", setting)
                if what == "speed"
                else ratios(groups, variant, "none", what, setting)
            )
            if not found:
                continue
            low, high = np.median(list(found.values()), axis=0)
            colour, marker = look(variant)
            label = variant if row == 0 else None
            if low <= 0 or not np.isfinite(low):
                continue  # not reached by either, or open below
            end = high if np.isfinite(high) else low
            artists += ax.plot(
                [low, end], [row + offset] * 2, marker, color=colour, linestyle="-", label=label
            )
            if not np.isfinite(high):
                artists += ax.plot([low * 2], [row + offset], marker=ARROW, color=colour)
    ax.axvline(1, color=GREY, linewidth=0.8)
    _rows(ax, shown)
    titles = {"speed": "speed", "failing": "lowest rate that fails"}
    ax.set(title=titles.get(what, "highest rate that learns"), xlabel="times that of none")
    return artists


def plot_candidate(name: str, points: Sequence[Point], unit: str, ax: Axes) -> list[Artist]:
    """Predicted against observed; groups of the base setting hollow, held-out ones filled."""
    artists: list[Artist] = []
    known = [p for p in points if p.usable]
    for held_out, colour in ((False, GREY), (True, BLUE)):
        mine = [p for p in known if p.held_out == held_out]
        artists += ax.loglog(
            [p.predicted for p in mine],
            [p.observed for p in mine],
            "o",
            color=colour,
            markerfacecolor=colour if held_out else "white",
            markersize=4.5,
            label="held out" if held_out else "base",
        )
    if known:
        ends = [min(p.observed for p in known) / 2, max(p.observed for p in known) * 2]
        artists += ax.plot(ends, ends, color=GREY, linewidth=0.8)
    ax.set_title(name, fontsize=9)
    ax.set(xlabel=f"predicted {unit}")
    return artists


def effects(groups: Groups) -> Figure:
    """The study's answer: speed, and the rates that learn and fail, of every variant."""
    return Figure(
        "effects",
        "Left: updates at the low rate, a marker for each seed and a bar at the median; an arrow "
        "where the run ended first. Middle and right, without and with gains and shifts that "
        "learn: for each seed the highest rate of the grid that learns (filled) and the lowest "
        "that fails (cross; none where nothing failed). If the claim holds, amplify is far to the "
        "left in the first panel and close to none in the others, suppress the other way round.",
        "Three panels that list the variants: updates at the low rate with a marker per seed, and "
        "for two networks the highest rate that learns and the lowest that fails.",
        [
            partial(plot_steps, groups),
            partial(plot_rates, groups, BARE),
            partial(plot_rates, groups, TORCH),
        ],
        width=11.5,
        height=3.6,
    )


def losses(groups: Groups) -> Figure:
    """The loss at the low rate."""
    return Figure(
        "losses",
        "The loss of every seed at the low rate, until it is below the dashed threshold.",
        "Loss against the update on a log axis, one colour for each variant.",
        [partial(plot_losses, groups)],
        width=5.5,
        height=3.4,
    )


def spectra(groups: Groups) -> Figure:
    """Eigenvalues of R at the start, by layer."""

    def finish(figure: MplFigure, axes: Sequence[Axes]) -> None:
        _legend_right(figure, axes[-1])
        for ax in axes[1:]:
            ax.set_ylabel("")

    return Figure(
        "spectra",
        "Eigenvalues of R at the start, at the input of each convolution behind a normalization; "
        "medians over seeds. An eigenvalue of 0 is not drawn.",
        "Three panels: smallest, median and largest eigenvalue of R on a log axis for "
        "the convolutions, one line for each variant.",
        [partial(plot_eigenvalue, groups, end) for end in ("lowest", "median", "highest")],
        width=10.5,
        height=3.4,
        finish=finish,
    )


def settings(groups: Groups) -> Figure:
    """Speed and both rates relative to no normalization, in every setting."""

    def finish(figure: MplFigure, axes: Sequence[Axes]) -> None:
        for ax in axes[1:]:
            ax.set_yticklabels([])
        _legend_right(figure, axes[0])

    return Figure(
        "settings",
        "Ratios to no normalization in the base setting and with one thing changed at a time. A "
        "line between two markers is the interval that the grid leaves; an arrow means more than "
        "that. What was not reached by either is left out.",
        "Three panels, one row per setting: speed, lowest rate that fails and highest that learns "
        "of amplify, suppress and full over none.",
        [partial(plot_settings, groups, what) for what in ("speed", "failing", "learning")],
        width=10.0,
        height=3.6,
        finish=finish,
    )


def predictors(points: Mapping[str, Sequence[Point]], what: str, unit: str) -> Figure:
    """Predictions of some candidates against what was observed.

    Parameters
    ----------
    points : by candidate, one for each group.
    what : ``rate`` or ``speed``: the outcome; the file is named after it.
    unit : of predicted and observed, for the axes.
    """

    def finish(figure: MplFigure, axes: Sequence[Axes]) -> None:
        axes[0].set_ylabel(f"observed {unit}")
        _legend(axes[0])

    return Figure(
        f"predictors_{what}",
        f"Predicted against observed {unit}, a point for each variant in each setting. On the line "
        "they agree. Some of the candidates of the table; the last is a baseline.",
        f"One panel per candidate: predicted against observed {unit} on log axes, with the line of "
        "equality.",
        [partial(plot_candidate, name, mine, unit) for name, mine in points.items()],
        width=0.4 + 2.9 * len(points),
        finish=finish,
    )
