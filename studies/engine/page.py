"""One self-contained HTML page per run: pictures inside, no network, light and dark, printable.

Its tables sort by a click or a key where scripts run, and are plain tables where they do not. The
same tables are written as CSV files.
"""

from __future__ import annotations

import base64
import dataclasses
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import jinja2

from studies.engine.checks import Check, Verdict
from studies.engine.files import flat, write_atomically, write_csv
from studies.engine.summary import Answer, Summary
from studies.engine.text import commit_text, number

__all__ = [
    "Picture",
    "Section",
    "answer_sections",
    "limit_text",
    "numbers",
    "print_verdicts",
    "write",
    "write_page",
]

SMOKE = (
    "Preset smoke: this run is a regression check of the code. It is too small for its verdicts "
    "to be evidence of anything else."
)


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
    """One heading of the report and what is under it, in the order of the fields.

    Attributes
    ----------
    heading : of the section.
    paragraphs : plain text.
    columns, rows : of a table.
    pictures : below the table.
    facts : (name, text) pairs, between the paragraphs and the table.
    items : a list at the end.
    caption : of the table.
    verdict : shown beside the heading.
    level : of the heading; 2 to 4.
    """

    heading: str
    paragraphs: Sequence[str] = ()
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    pictures: Sequence[Picture] = ()
    facts: Sequence[tuple[str, str]] = ()
    items: Sequence[str] = ()
    caption: str = ""
    verdict: Verdict | None = None
    level: int = 2


def write(
    path: Path,
    summary: Summary,
    *,
    title: str,
    question: str,
    sections: Sequence[Section],
    checks: bool = True,
) -> None:
    """Render the report of a run, and its tables as CSV in ``tables`` beside it.

    Parameters
    ----------
    path : where the page goes; replaced atomically.
    summary : of the run, finished or not.
    title, question : of the study.
    sections : of the study; the answer, the checks, provenance and the command are added here.
    checks : False for a run that compares no prediction with anything.
    """
    answer = [] if summary.answer is None else answer_sections("The answer", summary.answer)
    notices = [SMOKE] if summary.config.get("preset") == "smoke" else []
    sections = [*answer, *sections]
    write_page(path, title, question, sections, summary=summary, notices=notices, checks=checks)
    tables = path.parent / "tables"
    if checks:
        columns = [field.name for field in dataclasses.fields(Check)]
        rows = [[getattr(check, name) for name in columns] for check in summary.checks]
        write_csv(tables / "checks.csv", columns, rows)
    for section, anchor in zip(sections, anchors(sections), strict=True):
        if section.rows:
            write_csv(tables / f"{anchor}.csv", section.columns, section.rows)


def write_page(
    path: Path,
    title: str,
    question: str,
    sections: Sequence[Section],
    *,
    summary: Summary | None = None,
    notices: Sequence[str] = (),
    checks: bool = True,
) -> None:
    """Render a page, with checks and provenance where there is a summary to take them from."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("studies.engine"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    names = anchors(sections)
    contents = [
        (section.heading, name)
        for section, name in zip(sections, names, strict=True)
        if section.level == 2
    ]
    if summary is not None:
        contents += [("Every check", "checks")] if checks else []
        contents += [("Reproduce", "reproduce"), ("Configuration", "configuration")]
    page = environment.get_template("page.html.j2").render(
        summary=summary,
        title=title,
        question=question,
        sections=sections,
        anchors=names,
        contents=contents,
        notices=notices,
        checks=checks,
        config=flat(summary.config) if summary is not None else {},
        verdicts=get_args(Verdict),
        commit=commit_text(summary.commit) if summary is not None else "",
    )
    content = page.encode("utf-8", errors="backslashreplace")  # names of files may be no text
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def answer_sections(
    heading: str, answer: Answer, *, level: int = 2, folder: Path | None = None
) -> list[Section]:
    """What a study answers: experiment, rule, verdict, numbers, and what speaks against it.

    The figure is shown when ``folder``, where it lies, is given.
    """
    pictures = []
    if folder is not None and answer.figure is not None and (folder / answer.figure).exists():
        pictures = [Picture(folder / answer.figure, answer.caption, answer.alt or answer.caption)]
    facts = [
        ("Experiment, ours", answer.experiment),
        ("Rule, fixed before the run", answer.rule),
        ("Verdict", f"{answer.verdict.capitalize()}. {answer.reason}"),
    ]
    columns = ("what", "number")
    sections = [
        Section(
            heading,
            facts=facts,
            columns=columns,
            rows=answer.numbers,
            pictures=pictures,
            verdict=answer.verdict,
            level=level,
        )
    ]
    if answer.against:
        against = "Against the simple reading"
        sections.append(Section(against, items=answer.against, level=min(level + 1, 4)))
    return sections


def anchors(sections: Sequence[Section]) -> list[str]:
    """A name for each section that an address or a file can have, each once."""
    taken = {"content", "checks", "reproduce", "configuration"}
    names = []
    for section in sections:
        stem = re.sub(r"[^a-z0-9]+", "-", section.heading.lower()).strip("-")[:60] or "section"
        numbered = (f"{stem}-{i}" for i in itertools.count(2))
        name = next(n for n in itertools.chain([stem], numbered) if n not in taken)
        taken.add(name)
        names.append(name)
    return names


def numbers(checks: Sequence[Check], digits: int = 3) -> list[tuple[str, str]]:
    """What was observed in each check, with its unit, as an answer quotes it."""
    return [(c.name, f"{number(c.observed, digits)} {c.unit}".strip()) for c in checks]


def limit_text(check: Check) -> str:
    """What the observation had to satisfy, as a verdict line shows it; empty where it had none."""
    predicted, tolerance = (number(v, 3) for v in (check.predicted, check.tolerance))
    if check.rule == "observed <= tolerance":
        return f"limit: at most {tolerance}"
    for side in ("at least", "at most"):
        if f"{side} the predicted" in check.rule:
            return f"limit: {side} {predicted}"
    if check.predicted is None:
        return f"limit: {tolerance}" if check.tolerance else ""
    within = f", within {tolerance}" if check.tolerance else ""
    return f"wanted: {predicted}{within}"


def print_verdicts(summary: Summary, out: Path) -> None:
    """For the terminal: every check, the answer, what went wrong, and where the report is."""
    print()
    for check in summary.checks:
        note = f"; {check.note}" if check.note else ""
        limit = f" ({limit_text(check)})" if limit_text(check) else ""
        observed = number(check.observed, 3)
        print(f"{check.verdict.upper():<12}  {check.name}: {observed}{limit}{note}")
    if summary.answer is not None:
        print(f"Verdict: {summary.answer.verdict}. {summary.answer.reason}")
    for problem in summary.problems:
        print(f"PROBLEM: {problem}")
    print(f"Report: {out / 'report.html'}")
