"""The figures of the study ``two-effects``: each takes results and axes and returns artists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from studies.engine import page as report
from studies.engine import style as figures
from studies.engine.smoothing import running_mean

if TYPE_CHECKING:
    from studies.chai2020.two_effects.groups import Group, Groups

__all__ = ["FIGURES", "draw", "draw_predictors"]

BASE = "base"
CORE_LOOK = {
    "none": ("#1B1F24", "o"),
    "center": (figures.PURPLE, "v"),
    "amplify": (figures.ORANGE, "^"),
    "suppress": (figures.BLUE, "s"),
    "full": (figures.GREEN, "D"),
}


def look(variant: str) -> tuple[str, str]:
    """Colour and marker of a variant; controls are grey crosses."""
    return CORE_LOOK.get(variant, (figures.GREY, "x"))


def _words(variant: str) -> str:
    return variant.replace("_", " ")


def plot_outcome(groups: Groups, ax: Axes, outcome: str) -> list[Artist]:
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
                    # the reference keeps out of the way of what lies close to it
                    xytext=(-6, -14) if variant == "none" else (6, 6),
                    textcoords="offset points",
                    ha="right" if variant == "none" else "left",
                )
            )
    ax.axhline(1, color=figures.GREY, linewidth=0.8)
    ax.axvline(1, color=figures.GREY, linewidth=0.8)
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
    """Speed and highest rate over those of none; a run that ended first counts with its length."""
    speed = min(none.median_steps, none.low_steps) / min(group.median_steps, group.low_steps)
    return speed, group.median_rate / none.median_rate


def _plain_ticks(ax: Axes) -> None:
    plain = StrMethodFormatter("{x:g}")
    for axis in (ax.xaxis, ax.yaxis):
        if axis.get_scale() == "log":
            low, high = axis.get_view_interval()
            # ticks in plain numbers, and few enough of them to read
            if high / low < 30:
                axis.set_minor_formatter(plain if high / low < 6 else NullFormatter())
            axis.set_major_formatter(plain)


def _legend(ax: Axes, **options: Any) -> None:
    if ax.get_legend_handles_labels()[0]:
        ax.legend(**options)


def _legend_beside(figure: Figure, ax: Axes) -> None:
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
    ax.axhline(2.2, color=figures.GREY, linewidth=0.8, linestyle="--")
    ax.set_xscale("log")
    ax.set(title="loss at the low rate", xlabel="update", ylabel="loss, mean of 10 updates")
    _legend(ax)
    return artists


def plot_eigenvalue(groups: Groups, ax: Axes, end: str) -> list[Artist]:
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


def plot_beside(groups: Groups, ax: Axes, outcome: str) -> list[Artist]:
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
    ax.axvline(1, color=figures.GREY, linewidth=0.8)
    ax.set_yticks(range(len(settings)), settings)
    ax.set_ylim(len(settings) - 0.5, -0.5)
    ax.set_xscale("log")
    _plain_ticks(ax)
    ax.set_title("speed" if outcome == "steps" else "highest stable rate")
    ax.set_xlabel("times that of none")
    return artists


def plot_candidate(points: Sequence[tuple[bool, float, float]], ax: Axes) -> list[Artist]:
    """Predicted against observed; groups of the base setting hollow, held-out ones filled."""
    artists: list[Artist] = []
    known = [(t, p, o) for t, p, o in points if p > 0 and o > 0 and np.isfinite(p * o)]
    for held_out, colour in ((False, figures.GREY), (True, figures.BLUE)):
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
        artists += ax.plot(ends, ends, color=figures.GREY, linewidth=0.8)
    return artists


FIGURES: dict[str, tuple[Any, str, str]] = {
    "effects": (
        (
            lambda g, ax: plot_outcome(g, ax, "steps"),
            lambda g, ax: plot_outcome(g, ax, "rate"),
            plot_plane,
        ),
        "Left: updates at the low rate. Middle: the highest rate at which training neither "
        "diverges nor dies. A marker for each seed, a bar at the median; arrows where the run or "
        "the grid ended first. Right: medians relative to no normalization; crosses are controls. "
        "If the claim holds, amplify lies far to the right at 1, suppress at 1 far above.",
        "Three panels. Two list the variants with a marker per seed: updates at the low rate and "
        "highest stable rate. The third sets speed against highest rate relative to none.",
    ),
    "losses": (
        (plot_losses,),
        "The loss of every seed at the low rate, until it is below the dashed threshold.",
        "Loss against the update on a log axis, one colour for each variant.",
    ),
    "spectra": (
        tuple(
            (lambda g, ax, end=end: plot_eigenvalue(g, ax, end))
            for end in ("lowest", "median", "highest")
        ),
        "Eigenvalues of R at the start, at the input of each convolution behind a normalization; "
        "medians over seeds. An eigenvalue of 0 is not drawn.",
        "Three panels: smallest, median and largest eigenvalue of R on a log axis for "
        "convolutions 2 to 6, one line for each variant.",
    ),
    "beside": (
        (
            lambda g, ax: plot_beside(g, ax, "steps"),
            lambda g, ax: plot_beside(g, ax, "rate"),
        ),
        "Speed and highest stable rate, relative to none, in the base setting and with one thing "
        "changed at a time; ratios of medians. Where a run or the grid ended first, it counts with "
        "where it ended.",
        "Two panels, one row per setting, with markers for amplify, suppress and full.",
    ),
}


def draw(name: str, groups: Mapping[tuple[str, str], Group], out: Path) -> report.Picture:
    """One of ``FIGURES`` as PNG and SVG in a folder."""
    plots, caption, alt = FIGURES[name]
    with figures.style():
        rows = len({key for key in groups if key[0] == BASE})
        height = 1.6 + 0.28 * max(rows, 7) if name in ("effects", "beside") else 3.4
        width = 5.5 if len(plots) == 1 else 8.0 if len(plots) == 2 else 10.5
        figure, axes = figures.panels(len(plots), height=height, width=width)
        for plot, ax in zip(plots, axes, strict=True):
            plot(groups, ax)
        if name == "spectra":
            _legend_beside(figure, axes[-1])
            for ax in axes[1:]:
                ax.set_ylabel("")
        if name == "effects":
            axes[1].set_yticklabels([])
        if name == "beside":
            axes[1].set_yticklabels([])
            _legend_beside(figure, axes[1])
        png, _ = figures.save(figure, out / name)
    return report.Picture(png, caption, alt)


def draw_predictors(
    points: Mapping[str, Sequence[tuple[bool, float, float]]], out: Path, what: str, unit: str
) -> report.Picture:
    """Candidates' predictions against what was observed, as PNG and SVG in a folder.

    Parameters
    ----------
    points : by candidate, see ``plot_candidate``.
    out : folder.
    what : ``rate`` or ``speed``: the outcome; the file is named after it.
    unit : of predicted and observed, for the axes.
    """
    with figures.style():
        figure, axes = figures.panels(len(points), height=2.9, width=0.4 + 2.3 * len(points))
        for (name, mine), ax in zip(points.items(), axes, strict=True):
            plot_candidate(mine, ax)
            ax.set_title(name, fontsize=9)
            ax.set(xlabel=f"predicted {unit}", ylabel="")
        axes[0].set_ylabel(f"observed {unit}")
        _legend(axes[0])
        png, _ = figures.save(figure, out / f"predictors_{what}")
    return report.Picture(
        png,
        f"Predicted against observed {unit}, a point for each variant in each setting. On the line "
        "they agree. Some of the candidates of the table.",
        f"One panel per candidate: predicted against observed {unit} on log axes, with the line of "
        "equality.",
    )
