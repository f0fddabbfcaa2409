"""One self-contained HTML page per run: pictures inside, no network, light and dark, printable."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from studies.results import Summary, write_atomically

__all__ = ["Picture", "Section", "number", "table", "write"]


@dataclass(frozen=True)
class Picture:
    """A PNG file with its caption and with what a reader who cannot see it should know."""

    path: Path
    caption: str
    alt: str

    @property
    def data_uri(self) -> str:
        """The picture itself as an address."""
        return "data:image/png;base64," + base64.b64encode(self.path.read_bytes()).decode("ascii")


@dataclass(frozen=True)
class Section:
    """One heading of the report with paragraphs, then perhaps a table, then perhaps pictures."""

    heading: str
    paragraphs: Sequence[str] = ()
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    pictures: Sequence[Picture] = ()


def write(
    path: Path, summary: Summary, *, title: str, question: str, sections: Sequence[Section]
) -> None:
    """Render the report of a run.

    Parameters
    ----------
    path : where the page goes; replaced atomically.
    summary : of the run, finished or not.
    title, question : of the study.
    sections : of the study; verdicts, provenance and the command are added here.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("studies"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    page = environment.get_template("report.html.j2").render(
        summary=summary,
        title=title,
        question=question,
        sections=sections,
        commit=commit_text(summary.commit),
    )
    write_atomically(path, lambda temporary: temporary.write_text(page, encoding="utf-8"))


def commit_text(commit: Mapping[str, Any] | None) -> str:
    """The commit in words."""
    if commit is None:
        return "not run from a git checkout"
    return commit["sha"] + (" with uncommitted changes" if commit["dirty"] else "")


def number(value: float | None, digits: int = 4) -> str:
    """A number as a table shows it; a dash where there is none."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "∞" if value > 0 else "not a number" if math.isnan(value) else "-∞"
    if value == 0:
        return "0"
    if abs(value) >= 10**digits:
        return f"{value:,.0f}" if abs(value) < 1e7 else f"{value:.2e}"
    return f"{value:.{digits}g}" if abs(value) >= 1e-3 else f"{value:.2e}"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for the terminal: the first column to the left, the others to the right."""
    lines = [columns, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]

    def text(line: Sequence[str]) -> str:
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        return "  ".join(cells).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([text(columns), rule, *map(text, rows)])
