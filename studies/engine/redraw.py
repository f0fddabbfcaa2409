"""Figures of a finished run, drawn again for a paper: at its width, in files to be edited."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from studies.engine import style
from studies.engine.errors import UserError
from studies.engine.files import output_folder
from studies.engine.protocol import Study
from studies.engine.runner import read_back

__all__ = ["FORMATS", "inches", "redraw"]

FORMATS = ("pdf", "png", "svg")
UNITS = {"in": 1.0, "cm": 1 / 2.54, "mm": 1 / 25.4, "pt": 1 / 72.27}  # TeX's point


def inches(text: str) -> float:
    """A width such as "3.5in", "88mm" or "246pt", in inches.

    Raises
    ------
    UserError : no such width, or one outside 1 to 40 inches.

    Examples
    --------
    >>> round(inches("88mm"), 3)
    3.465
    """
    match = re.fullmatch(r"\s*(\d+\.?\d*)\s*(in|cm|mm|pt)?\s*", text)
    if match is None:
        raise UserError(f"--width takes a length such as 3.5in, 88mm or 246pt; got {text!r}.")
    width = float(match[1]) * UNITS[match[2] or "in"]
    if not 1 <= width <= 40:
        raise UserError(f"--width must be between 1 and 40 inches; got {text!r}.")
    return width


def redraw(
    study: Study,
    folder: Path,
    out: Path,
    *,
    width: float,
    formats: Sequence[str] = ("pdf", "svg"),
) -> list[Path]:
    """Draw the figures of an old run again; nothing is measured, the run's own files stay.

    Parameters
    ----------
    study : of which the run was.
    folder : of the run.
    out : folder for the files; made if need be.
    width : of each figure, in inches.
    formats : of ``FORMATS``.

    Returns
    -------
    Paths of the files.

    Raises
    ------
    UserError : no such run or format, or a run without figures.
    """
    for name in formats:
        if name not in FORMATS:
            raise UserError(f"unknown format {name!r}: choose from {', '.join(FORMATS)}.")
    _, config, measured = read_back(study, folder)
    figures = study.judge(config, measured).figures
    if not figures:
        raise UserError(f"the run in {folder} has no figures.")
    output_folder(out)
    return [
        path
        for figure in figures
        for path in style.draw_for_print(figure, out, width=width, formats=formats)
    ]
