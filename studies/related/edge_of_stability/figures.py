"""The figure of the study: curvatures along the runs, and the path that all rates share."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from studies.engine.protocol import Figure
from studies.engine.style import BLUE, GREEN, GREY, ORANGE, PURPLE
from studies.related.edge_of_stability.course import Course

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MplFigure

__all__ = ["edge_figure", "plot_course", "plot_paths"]


def edge_figure(judged: Sequence[Course], courses: Sequence[Course]) -> Figure:
    """A panel for each judged run, and one for the paths of all."""
    return Figure(
        "edge",
        "Left and middle: largest curvature over training at two rates. Thick: Hessian and "
        "Gauss-Newton matrix of the whole network, against 2 / lr (dashed). Thin: each layer's own "
        "block, the others frozen. Dotted: 2 λmax(R) / M of each layer's input, the curvature if "
        "the layer were an LMS problem by itself; for the linear layer the two are the same. "
        "Right: the Hessian's sharpness of all rates over rate times step. The rates follow one "
        "path and leave it where 2 / lr is reached.",
        "Three panels. In the first two the whole network's sharpness rises to a dashed line at "
        "2 / lr and stays there, single layers below. In the third, three curves share a path and "
        "level off.",
        [
            *(functools.partial(plot_course, c) for c in judged),
            functools.partial(plot_paths, courses),
        ],
        width=11,
        height=4.0,
        finish=_legend,
    )


def plot_course(course: Course, ax: Axes) -> None:
    """Plot every curvature against the steps of one run."""
    ax.axhline(course.edge, color="black", linestyle="--", linewidth=1, label="2 / lr")
    ax.plot(course.at, course.hessian, color=ORANGE, linewidth=2.2, label="Hessian")
    ax.plot(course.at, course.gauss_newton, color="black", linewidth=1.2, label="Gauss-Newton")
    for (name, values), colour in zip(course.layers.items(), (BLUE, GREEN, PURPLE), strict=True):
        ax.plot(course.at, values, color=colour, linewidth=1.2, label=name)
        ax.plot(course.at, course.inputs[name], ":", color=colour, linewidth=1.6)
    ax.plot([], [], ":", color=GREY, label="2 λmax(R) / M of a layer's input")
    ax.set(
        title=f"lr {course.lr:g}",
        xlabel="step",
        ylabel="largest curvature, 1 / lr",
        ylim=(0, None),
    )


def plot_paths(courses: Sequence[Course], ax: Axes) -> None:
    """Plot the Hessian's sharpness of every run against rate times step."""
    for course, colour in zip(courses, (ORANGE, BLUE, GREEN), strict=False):
        ax.plot(course.at * course.lr, course.hessian, color=colour, label=f"lr {course.lr:g}")
        ax.axhline(course.edge, color=colour, linestyle="--", linewidth=1)
    ax.set(
        title="all rates", xlabel="rate x step", ylabel="Hessian's largest, 1 / lr", ylim=(0, None)
    )
    ax.legend(loc="upper left", bbox_to_anchor=(0, 0.9))


def _legend(figure: MplFigure, axes: Sequence[Axes]) -> None:
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=len(labels))
