"""The figures of the study: functions of results and axes, and the values that the engine draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from studies.chai2020.two_effects import BASE
from studies.engine.protocol import Figure
from studies.engine.smoothing import running_mean
from studies.engine.style import BLUE, GREEN, GREY, ORANGE, PURPLE

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MplFigure

    from studies.chai2020.two_effects.groups import Group, Groups

__all__ = ["effects", "losses", "predictors", "settings", "spectra"]

Points = Sequence[tuple[bool, float, float]]
CORE_LOOK = {
    "none": ("#1B1F24", "o"),
    "center": (PURPLE, "v"),
    "amplify": (ORANGE, "^"),
    "suppress": (BLUE, "s"),
    "full": (GREEN, "D"),
}


def look(variant: str) -> tuple[str, str]:
    """Colour and marker of a variant; controls are grey crosses."""
    return CORE_LOOK.get(variant, (GREY, "x"))


def _words(variant: str) -> str:
    return variant.replace("_", " ")


def plot_outcome(groups: Groups, outcome: str, ax: Axes) -> list[Artist]:
    """One row per variant: a marker for each seed, a bar at the median; open ends as arrows."""
    artists: list[Artist] = []
    mine = [group for (setting, _), group in groups.items() if setting == BASE]
    for row, group in enumerate(mine):
        colour, marker = look(group.variant)
        values, arrows = [], []
        for i, seed in enumerate(group.results):
            low, high = group.steps(seed) if outcome == "steps" else group.rate(seed)
            shift = 0.16 * (i % 3 - 1)
            if np.isinf(high):
                arrows.append((low, row + shift, "$\\rightarrow$"))
            elif low == 0:
                arrows.append((high / 2, row + shift, "$\\leftarrow$"))
            else:
                values.append((low, row + shift))
        if values:
            x, y = np.transpose(values)
            line = "none"
            artists += ax.plot(x, y, marker, color=colour, linestyle=line, markersize=4, alpha=0.75)
        for at, y, arrow in arrows:
            artists += ax.plot([at], [y], marker=arrow, color=colour, markersize=8)
        median = group.median_steps if outcome == "steps" else group.median_rate
        if np.isfinite(median):
            artists += ax.plot([median] * 2, [row - 0.38, row + 0.38], color=colour, linewidth=2.4)
    ax.set_yticks(range(len(mine)), [_words(group.variant) for group in mine])
    ax.set_ylim(len(mine) - 0.5, -0.5)
    ax.set_xscale("log")
    _plain_ticks(ax)
    ax.set(
        title="updates at the low rate" if outcome == "steps" else "highest stable rate",
        xlabel="updates until the loss is below 2.2" if outcome == "steps" else "learning rate",
    )
    return artists


def plot_plane(groups: Groups, ax: Axes) -> list[Artist]:
    """Speed against highest stable rate, both relative to no normalization."""
    artists: list[Artist] = []
    none = groups.get((BASE, "none"))
    if none is None:
        return artists
    for (setting, variant), group in groups.items():
        if setting != BASE:
            continue
        speed, rate = _relative(group, none)
        colour, marker = look(variant)
        core = variant in CORE_LOOK
        artists += ax.plot(speed, rate, marker, color=colour, markersize=8 if core else 5)
        if core:
            artists.append(
                ax.annotate(
                    _words(variant),
                    (speed, rate),
                    # the reference goes below left, away from the labels of variants close to it
                    xytext=(-6, -14) if variant == "none" else (6, 6),
                    textcoords="offset points",
                    ha="right" if variant == "none" else "left",
                )
            )
    ax.axhline(1, color=GREY, linewidth=0.8)
    ax.axvline(1, color=GREY, linewidth=0.8)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.margins(0.22)
    _plain_ticks(ax)
    ax.set(
        title="one effect each",
        xlabel="times as fast as none",
        ylabel="times the highest stable rate",
    )
    return artists


def _relative(group: Group, none: Group) -> tuple[float, float]:
    """Speed and highest rate over those of none; a run that falls short counts as its length."""
    speed = min(none.median_steps, none.low_steps) / min(group.median_steps, group.low_steps)
    return speed, group.median_rate / none.median_rate


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
        group = groups.get((BASE, variant))
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
    ax.axhline(2.2, color=GREY, linewidth=0.8, linestyle="--")
    ax.set_xscale("log")
    ax.set(title="loss at the low rate", xlabel="update", ylabel="loss, mean of 10 updates")
    _legend(ax)
    return artists


def plot_eigenvalue(groups: Groups, end: str, ax: Axes) -> list[Artist]:
    """One eigenvalue of R at the start for each layer: median over seeds."""
    artists: list[Artist] = []
    titles = {"lowest": "smallest", "median": "median", "highest": "largest"}
    for variant, (colour, marker) in CORE_LOOK.items():
        group = groups.get((BASE, variant))
        if group is None:
            continue
        values = np.median(group.eigenvalues(end), axis=0)
        shown = np.where(values > 0, values, np.nan)
        layers = np.arange(2, len(values) + 2)
        artists += ax.semilogy(layers, shown, marker=marker, color=colour, label=variant)
    ax.set(title=f"{titles[end]} eigenvalue", xlabel="convolution", ylabel="λ (input power)")
    return artists


def plot_settings(groups: Groups, outcome: str, ax: Axes) -> list[Artist]:
    """Ratios to no normalization in every setting."""
    artists: list[Artist] = []
    settings = list(dict.fromkeys(setting for setting, _ in groups))
    for row, setting in enumerate(settings):
        none = groups.get((setting, "none"))
        if none is None:
            continue
        for offset, variant in ((-0.2, "amplify"), (0.0, "suppress"), (0.2, "full")):
            group = groups.get((setting, variant))
            if group is None:
                continue
            colour, marker = look(variant)
            artists += ax.plot(
                _relative(group, none)[0 if outcome == "steps" else 1],
                row + offset,
                marker,
                color=colour,
                label=variant if setting == BASE else None,
            )
    ax.axvline(1, color=GREY, linewidth=0.8)
    ax.set_yticks(range(len(settings)), settings)
    ax.set_ylim(len(settings) - 0.5, -0.5)
    ax.set_xscale("log")
    _plain_ticks(ax)
    ax.set_title("speed" if outcome == "steps" else "highest stable rate")
    ax.set_xlabel("times that of none")
    return artists


def plot_candidate(name: str, points: Points, unit: str, ax: Axes) -> list[Artist]:
    """Predicted against observed; groups of the base setting hollow, held-out ones filled."""
    artists: list[Artist] = []
    known = [(t, p, o) for t, p, o in points if p > 0 and o > 0 and np.isfinite(p * o)]
    for held_out, colour in ((False, GREY), (True, BLUE)):
        mine = [(p, o) for t, p, o in known if t == held_out]
        if mine:
            predicted, observed = np.transpose(mine)
            artists += ax.loglog(
                predicted,
                observed,
                "o",
                color=colour,
                markerfacecolor=colour if held_out else "white",
                markersize=4.5,
                label="held out" if held_out else "base",
            )
    if known:
        ends = np.array([min(o for _, _, o in known) / 2, max(o for _, _, o in known) * 2])
        artists += ax.plot(ends, ends, color=GREY, linewidth=0.8)
    ax.set_title(name, fontsize=9)
    ax.set(xlabel=f"predicted {unit}")
    return artists


def _row_height(groups: Groups) -> float:
    rows = len({variant for setting, variant in groups if setting == BASE})
    return 1.6 + 0.28 * max(rows, 7)


def effects(groups: Groups) -> Figure:
    """The study's answer: speed and highest stable rate of every variant."""

    def finish(figure: MplFigure, axes: Sequence[Axes]) -> None:
        axes[1].set_yticklabels([])

    return Figure(
        "effects",
        "Left: updates at the low rate. Middle: the highest rate at which training neither "
        "diverges nor dies. A marker for each seed, a bar at the median; arrows where the run or "
        "the grid ended first. Right: medians relative to no normalization; crosses are controls. "
        "If the claim holds, amplify lies far to the right at 1, suppress at 1 far above.",
        "Three panels. Two list the variants with a marker per seed: updates at the low rate and "
        "highest stable rate. The third shows speed against highest rate, relative to none.",
        [
            partial(plot_outcome, groups, "steps"),
            partial(plot_outcome, groups, "rate"),
            partial(plot_plane, groups),
        ],
        width=10.5,
        height=_row_height(groups),
        finish=finish,
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
        "convolutions 2 to 6, one line for each variant.",
        [partial(plot_eigenvalue, groups, end) for end in ("lowest", "median", "highest")],
        width=10.5,
        height=3.4,
        finish=finish,
    )


def settings(groups: Groups) -> Figure:
    """Both outcomes relative to no normalization, in every setting."""

    def finish(figure: MplFigure, axes: Sequence[Axes]) -> None:
        axes[1].set_yticklabels([])
        _legend_right(figure, axes[1])

    return Figure(
        "settings",
        "Speed and highest stable rate, relative to none, in the base setting and with one thing "
        "changed at a time; ratios of medians. Where a run or the grid ended first, it counts with "
        "where it ended.",
        "Two panels, one row per setting, with markers for amplify, suppress and full.",
        [partial(plot_settings, groups, "steps"), partial(plot_settings, groups, "rate")],
        width=8.0,
        height=_row_height(groups),
        finish=finish,
    )


def predictors(points: Mapping[str, Points], what: str, unit: str) -> Figure:
    """Predictions of some candidates against what was observed.

    Parameters
    ----------
    points : by candidate: (held out, predicted, observed) of each group.
    what : ``rate`` or ``speed``: the outcome; the file is named after it.
    unit : of predicted and observed, for the axes.
    """

    def finish(figure: MplFigure, axes: Sequence[Axes]) -> None:
        axes[0].set_ylabel(f"observed {unit}")
        _legend(axes[0])

    return Figure(
        f"predictors_{what}",
        f"Predicted against observed {unit}, a point for each variant in each setting. On the line "
        "they agree. Some of the candidates of the table.",
        f"One panel per candidate: predicted against observed {unit} on log axes, with the line of "
        "equality.",
        [partial(plot_candidate, name, mine, unit) for name, mine in points.items()],
        width=0.4 + 2.3 * len(points),
        finish=finish,
    )
