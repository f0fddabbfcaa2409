"""The house style of the figures: colours, layout, and files as PNG and SVG.

No pyplot and no global state: figures are made as objects, so that they come out the same in a
terminal, in a worker and in a test. matplotlib is imported when something is drawn, so that a
study's figures can be described without it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from studies.engine import protocol
from studies.engine.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "BLUE",
    "CYCLE",
    "GREEN",
    "GREY",
    "ORANGE",
    "PURPLE",
    "draw",
    "draw_for_print",
    "panels",
    "save",
    "style",
]

# Okabe and Ito's palette: distinct with every common kind of colour vision, and in print.
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
GREY = "#6B6B6B"
CYCLE = (BLUE, ORANGE, GREEN, PURPLE)


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Draw in the house style while the context is open."""
    import matplotlib as mpl

    with mpl.rc_context(
        {
            "font.size": 9.5,
            "axes.titlesize": 10.5,
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": "#E2E2E2",
            "grid.linewidth": 0.6,
            "legend.frameon": False,
            "legend.fontsize": 8.5,
            "lines.linewidth": 1.6,
            "savefig.dpi": 160,
            "svg.fonttype": "path",
            # the same picture gives the same bytes
            "svg.hashsalt": "naturalmodes",
        }
    ):
        yield


def panels(
    count: int, *, height: float = 2.9, width: float = 9.0, columns: int = 3
) -> tuple[Figure, list[Axes]]:
    """A figure of ``count`` panels side by side, ``columns`` to a row, sizes in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(count, columns)
    rows = -(-count // columns)
    figure = Figure(figsize=(width, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False)
    axes = [ax for row in grid for ax in row]
    for unused in axes[count:]:
        unused.remove()
    return figure, axes[:count]


def save(figure: Figure, path: Path) -> tuple[Path, Path]:
    """Write ``path`` with the suffixes .png and .svg, atomically; returns both."""
    png, svg = path.with_suffix(".png"), path.with_suffix(".svg")
    _lay_out(figure)
    write_atomically(png, lambda temporary: figure.savefig(temporary, metadata={"Software": None}))
    write_atomically(svg, lambda temporary: figure.savefig(temporary, metadata={"Date": None}))
    return png, svg


def draw(figure: protocol.Figure, out: Path) -> Path:
    """Draw a figure in the house style into a folder; the path of its PNG."""
    with style():
        png, _ = save(_drawn(figure, figure.width, figure.columns), out / figure.name)
    return png


def draw_for_print(
    figure: protocol.Figure, out: Path, *, width: float, formats: Sequence[str], size: float = 8.0
) -> list[Path]:
    """Draw a figure at a given width, with text that an editor of PDF or SVG can change.

    Parameters
    ----------
    figure : to draw.
    out : folder.
    width : inches. As many panels go into a row as are at least 2.2 inches wide.
    formats : suffixes that matplotlib knows, such as "pdf" and "svg".
    size : of the type, in points.
    """
    import matplotlib as mpl

    changes = {
        "font.size": size,
        "axes.titlesize": size,
        "legend.fontsize": size,
        "lines.linewidth": 1.2,
        "pdf.fonttype": 42,
        "svg.fonttype": "none",
    }
    with style(), mpl.rc_context(changes):  # type: ignore[arg-type]
        columns = max(1, min(figure.columns, int(width / 2.2)))
        canvas = _drawn(figure, width, columns)
        _lay_out(canvas)
        paths = [out / f"{figure.name}.{suffix}" for suffix in formats]
        for path in paths:
            write_atomically(path, canvas.savefig)
    return paths


def _lay_out(figure: Figure) -> None:
    """Lay it out once; every format would do so twice, which takes longer than drawing."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def _drawn(figure: protocol.Figure, width: float, columns: int) -> Figure:
    canvas, axes = panels(len(figure.plots), height=figure.height, width=width, columns=columns)
    for plot, ax in zip(figure.plots, axes, strict=True):
        plot(ax)
    if figure.finish is not None:
        figure.finish(canvas, axes)
    return canvas
