"""A study of one computation: everything about its run but the computation itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from studies.engine import page as report
from studies.engine import summary as results
from studies.engine.running import running
from studies.engine.summary import Answer, Check, Summary, Verdict
from studies.training.sgd import choose_device

__all__ = ["Findings", "Table", "single_run"]


@dataclass(frozen=True)
class Table:
    """A table for the report, the terminal and ``summary.json``, and what is said above it."""

    heading: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    paragraphs: Sequence[str] = ()


@dataclass(frozen=True)
class Findings:
    """What a study's computation came to.

    Attributes
    ----------
    checks : every one.
    verdict : of the study, by its rule.
    tables : in the order of the report.
    picture : the figure of the answer, a PNG in the folder of the run.
    against : evidence against the simple reading, a sentence each.
    """

    checks: Sequence[Check]
    verdict: Verdict
    tables: Sequence[Table]
    picture: report.Picture
    against: Sequence[str]


def single_run(
    study: str,
    config: Any,
    out: str | Path,
    work: Callable[[Path, torch.device, Summary], Findings],
    *,
    title: str,
    question: str,
    experiment: str,
    rule: str,
    device: str = "auto",
    command: str | None = None,
) -> Summary:
    """Run a study and leave summary, figure and report in a folder.

    Parameters
    ----------
    study, title, question : of the report.
    config : of the study.
    out : folder for the results; made if need be.
    work : takes the folder, the device and the summary, to which it may add problems; draws the
        figure in the folder, returns what it found.
    experiment, rule : on disk before ``work`` is called.
    device : ``auto``, ``cpu`` or ``cuda``.
    command : what to print as the command that repeats the run.

    Returns
    -------
    Summary, as written.

    Raises
    ------
    UserError : the device, the data or the folder are not to be had.
    """
    where = choose_device(device)
    out = results.output_folder(Path(out))
    answer = Answer(experiment=experiment, rule=rule)
    sections: list[report.Section] = []

    def finish(summary: Summary) -> None:
        report.write(
            out / "report.html", summary, title=title, question=question, sections=sections
        )

    with running(
        study, config, out, device=where, command=command, answer=answer, finish=finish
    ) as (summary, save):
        found = work(out, where, summary)
        summary.checks += found.checks
        for table in found.tables:
            name = report.anchors([report.Section(table.heading)])[0]
            summary.results[name] = [
                dict(zip(table.columns, row, strict=True)) for row in table.rows
            ]
            sections.append(
                report.Section(table.heading, table.paragraphs, table.columns, table.rows)
            )
        sections.append(report.Section("Figure", pictures=[found.picture]))
        summary.answer = replace(
            answer,
            verdict=found.verdict,
            reason=f"{summary.count('holds')} of {len(found.checks)} checks hold.",
            numbers=report.numbers(found.checks),
            figure=found.picture.path.name,
            caption=found.picture.caption,
            alt=found.picture.alt,
            against=found.against,
        )
        save()
    for table in found.tables:
        print()
        print(report.table(table.columns, table.rows))
    report.print_verdicts(summary, out)
    return summary
