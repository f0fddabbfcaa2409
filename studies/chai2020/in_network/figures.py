"""The figures of ``in-network``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from studies.chai2020.in_network.groups import READING_WORDS, Group, Outcome
from studies.engine.protocol import Figure
from studies.engine.style import BLUE, GREEN, GREY, ORANGE, PURPLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MplFigure

__all__ = ["audit", "errors", "horizons", "modes"]

BLACK = "#1B1F24"
READING_LOOK = {
    "gauss_newton": (BLUE, "-"),
    "kronecker": (ORANGE, "--"),
    "scalar": (PURPLE, ":"),
}
LEVEL_COLOURS = (BLACK, GREEN, "#56B4E9", "#E69F00")
NORM_LOOK = {False: (ORANGE, "o"), True: (BLUE, "s")}
PART_COLOURS = {
    "approximation": "#999999",
    "regressors": BLUE,
    "curvature": ORANGE,
    "desired response": GREEN,
    "other layers": PURPLE,
}


# --- the figures -----------------------------------------------------------------------------


def errors(groups: Sequence[Group]) -> Figure:
    """Error of every prediction against the step, for each convolution and the whole network."""
    return Figure(
        "errors",
        "Error of the predicted weights over the distance moved, from a trained checkpoint: median "
        "over seeds, with the range over seeds as a band. The first three columns: one "
        "convolution, the rest frozen, three readings of its curvature. The last: all layers, "
        "linearised once (level 3) and every few steps (level 4). Dotted: 10 % and 50 %.",
        "Two rows of panels, without and with BatchNorm; error against step on log axes, a panel "
        "per convolution and one for the whole network.",
        **_panels(groups, plot_layer, ("step", "error, % of distance moved"), plot_network),
    )


def modes(groups: Sequence[Group]) -> Figure:
    """Half-time of every natural mode of R against its eigenvalue."""
    return Figure(
        "modes",
        "The step at which each natural mode of R reaches half of its final value, while all "
        "layers learn, against its eigenvalue relative to the largest; points of all seeds. The "
        "line is what the plain reading predicts: larger eigenvalues earlier.",
        "Two rows of panels, without and with BatchNorm, one per convolution: half-time against "
        "eigenvalue, observed points and the predicted line.",
        **_panels(groups, plot_modes, ("eigenvalue / largest", "step of half the way")),
    )


def audit(groups: Sequence[Group], reading: str) -> Figure:
    """Size of each part of level 2's error, for the exact or the plain reading."""
    plot = partial(plot_audit_sizes, reading=reading)
    name, caption = AUDITS[reading]
    return Figure(
        name,
        caption,
        "Two rows of panels, without and with BatchNorm, one per convolution: size of each part "
        "against step.",
        **_panels(groups, plot, ("step", "part of distance moved, %")),
    )


AUDITS = {
    "gauss_newton": (
        "audit",
        "Why the exact Gauss-Newton prediction of a layer fails while all layers learn: size of "
        "each part of its error over the distance moved, medians over seeds. The parts add up as "
        "vectors, so that their sizes can exceed the whole.",
    ),
    "scalar": (
        "audit-plain",
        "The same for the plain reading, R x scalar. Approximation is what it leaves out of the "
        "layer's Gauss-Newton matrix.",
    ),
}
"""Name and caption of the figure, by reading."""


def horizons(groups: Sequence[Group]) -> Figure:
    """First step at which each prediction is off by more than 10 % and 50 %."""
    first = groups[0]
    rows: list[tuple[str, Callable[[Group], list[Outcome]]]] = [
        (f"{layer}, {words}", partial(Group.layer_outcomes, layer=layer, reading=reading))
        for layer in first.layers
        for reading, words in READING_WORDS.items()
    ]
    rows += [(name, partial(Group.outcomes, level=name)) for name in first.levels]

    def finish(figure: MplFigure, axes: Sequence[Axes]) -> None:
        axes[1].set_yticklabels([])
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)

    return Figure(
        "horizons",
        "The first step at which a prediction is off by more than 10 % (left) and 50 % (right) of "
        "the distance moved; a marker for each seed, an arrow where it never was, a bar at the "
        "median.",
        "One row per prediction, steps on a log axis, one colour and marker each for networks "
        "with and without BatchNorm.",
        [partial(plot_horizons, groups, rows, tolerance) for tolerance in ("0.1", "0.5")],
        height=0.34 * len(rows) + 0.9,
        finish=finish,
    )


def _panels(
    groups: Sequence[Group],
    plot: Callable[[Group, str, Axes], object],
    labels: tuple[str, str],
    plot_last: Callable[[Group, Axes], object] | None = None,
) -> dict[str, Any]:
    """Lay out a row for each group, a panel for each convolution, and one legend below.

    With ``plot_last`` each row has a further panel, and all panels have the same scale.
    """
    columns = len(groups[0].layers) + (plot_last is not None)
    plots: list[Callable[[Axes], object]] = []
    for group in groups:
        plots += [partial(_titled, plot, group, layer) for layer in groups[0].layers]
        plots += [] if plot_last is None else [partial(plot_last, group)]

    def finish(figure: MplFigure, axes: Sequence[Axes]) -> None:
        for ax in axes[-columns:]:
            ax.set_xlabel(labels[0])
        for ax in axes[::columns]:
            ax.set_ylabel(labels[1])
        if plot_last is not None:
            _same_scale(axes)
        handles: dict[str, Any] = {}
        for ax in axes:
            for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
                handles.setdefault(label, handle)
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=4)

    return {
        "plots": plots,
        "width": 2.75 * columns,
        "height": 2.5,
        "columns": columns,
        "finish": finish,
    }


def _titled(plot: Callable[[Group, str, Axes], object], group: Group, layer: str, ax: Axes) -> None:
    plot(group, layer, ax)
    ax.set_title(f"{layer}, {group.words}", fontsize=9)


def _same_scale(axes: Sequence[Axes]) -> None:
    ends = np.array([ax.get_ylim() for ax in axes])
    for ax in axes:
        ax.set_ylim(ends[:, 0].min(), ends[:, 1].max())
        ax.label_outer()


# --- the panels ------------------------------------------------------------------------------


def plot_layer(group: Group, layer: str, ax: Axes) -> None:
    """Errors of the three readings of one layer."""
    for reading, (colour, line) in READING_LOOK.items():
        outcomes = group.layer_outcomes(layer, reading)
        plot_errors(outcomes, ax, colour, line, f"level 2: {READING_WORDS[reading]}")
    _error_axes(ax)


def plot_network(group: Group, ax: Axes) -> None:
    """Errors of level 3 and of level 4 at each of its intervals."""
    for name, colour in zip(group.levels, LEVEL_COLOURS, strict=False):
        plot_errors(group.outcomes(name), ax, colour, "-", name)
    _error_axes(ax)
    ax.set_title(f"whole network, {group.words}", fontsize=9)


def plot_errors(outcomes: Sequence[Outcome], ax: Axes, colour: str, line: str, label: str) -> None:
    """Median error and its range over seeds, in percent, against the step."""
    errors = 100 * np.array([o["error"] for o in outcomes], dtype=float)
    # steps 0 and 1 have no error to show
    errors = np.where(np.isfinite(errors) & (errors > 0), errors, np.nan)[:, 2:]
    steps = np.arange(2, 2 + errors.shape[1])
    ax.plot(steps, np.median(errors, axis=0), line, color=colour, label=label)
    if len(errors) > 1:
        low, high = errors.min(axis=0), errors.max(axis=0)
        ax.fill_between(steps, low, high, color=colour, alpha=0.13, lw=0)


def plot_horizons(
    groups: Sequence[Group],
    rows: Sequence[tuple[str, Callable[[Group], list[Outcome]]]],
    tolerance: str,
    ax: Axes,
) -> None:
    """Horizons of every seed, one row per prediction."""
    for y, (_, outcomes_of) in enumerate(rows):
        for group in groups:
            colour, marker = NORM_LOOK[group.batch_norm]
            middle = y + (0.18 if group.batch_norm else -0.18)
            outcomes = outcomes_of(group)
            ends = np.array([_horizon(o, tolerance) for o in outcomes])
            never = np.array([o["horizon"][tolerance] is None for o in outcomes])
            shift = np.linspace(-0.08, 0.08, len(ends)) if len(ends) > 1 else np.zeros(1)
            for mask, look in ((~never, marker), (never, "$\\rightarrow$")):
                ax.plot(
                    ends[mask],
                    middle + shift[mask],
                    linestyle="none",
                    marker=look,
                    color=colour,
                    markersize=4 if look == marker else 8,
                    alpha=0.8,
                    label=group.words if y == 0 and look == marker else None,
                )
            bar = [middle - 0.15, middle + 0.15]
            ax.plot([np.median(ends)] * 2, bar, color=colour, linewidth=2.2)
    ax.set_yticks(range(len(rows)), [name for name, _ in rows])
    ax.set_ylim(len(rows) - 0.5, -0.5)
    _step_axis(ax)
    ax.set_xlim(left=1)
    ax.set(title=f"{100 * float(tolerance):g} % horizon", xlabel="step")


def _horizon(outcome: Outcome, tolerance: str) -> float:
    n = outcome["horizon"][tolerance]
    return float(len(outcome["error"]) if n is None else n)


def plot_modes(group: Group, layer: str, ax: Axes) -> None:
    """Half-times against eigenvalues, observed and as the plain reading predicts them."""
    for i, seen in enumerate(group.modes(layer)):
        order = np.argsort(seen["eigenvalues"])
        ax.plot(
            seen["eigenvalues"],
            seen["half_time"],
            "o",
            color=NORM_LOOK[group.batch_norm][0],
            markersize=2.5,
            alpha=0.55,
            markeredgewidth=0,
            label="observed" if i == 0 else None,
        )
        ax.plot(
            seen["eigenvalues"][order],
            seen["predicted_half_time"][order],
            color=BLACK,
            linewidth=0.9,
            label="plain reading" if i == 0 else None,
        )
    ax.set_xscale("log")
    ax.minorticks_off()
    ax.set_ylim(bottom=0)


def plot_audit_sizes(group: Group, layer: str, ax: Axes, reading: str) -> None:
    """Median over seeds of the whole error and of each part that reaches 0.1 %."""
    audits = group.audits(layer, reading)
    whole = 100 * np.median([a["error"] for a in audits], axis=0)
    sizes = 100 * np.median([a["sizes"] for a in audits], axis=0)
    steps = np.arange(len(whole))
    ax.plot(steps, whole, color="black", linewidth=2, label="whole error")
    for j, name in enumerate(audits[0]["parts"]):
        if sizes[:, j].max() > 0.1:
            ax.plot(steps, sizes[:, j], color=PART_COLOURS[name], linewidth=1.4, label=name)
    ax.axhline(10, color=GREY, linewidth=0.9, linestyle=":")
    ax.set_ylim(bottom=0)


def _error_axes(ax: Axes) -> None:
    for tolerance in (10, 50):
        ax.axhline(tolerance, color=GREY, linewidth=0.9, linestyle=":")
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter("{x:g}")
    _step_axis(ax)


def _step_axis(ax: Axes) -> None:
    """Steps on a log axis, labelled 1, 2, 5, 10 and so on."""
    from matplotlib.ticker import LogLocator

    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()
