"""Runs a study: the only place where a study's folder, grid, verdict and report are made.

Order is the point. The rule is on disk before the first cell runs, every cell when it is done, the
verdict before the first figure is drawn; so whatever breaks, nothing that was known is lost.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from studies.engine import page, style, text
from studies.engine.configuring import configure, restored, values_in
from studies.engine.device import choose_device, device_name
from studies.engine.errors import UserError
from studies.engine.files import output_folder, write_arrays
from studies.engine.grid import Record, load_cells, run_grid
from studies.engine.protocol import Figure, Findings, Measured, Study, Table
from studies.engine.provenance import commit, machine, versions
from studies.engine.summary import Answer, Summary

__all__ = ["configure", "read_back", "rejudge", "run"]


def run(
    study: Study,
    config: Any,
    out: str | Path,
    *,
    device: str = "auto",
    command: str | None = None,
    workers: int | None = None,
) -> Summary:
    """Measure a study's cells, judge them, and leave summary, report, tables and figures.

    Cells that an earlier run has finished in the folder are not measured again.

    Parameters
    ----------
    study : what to run.
    config : one of its presets, or what ``configure`` made of one.
    out : folder for the results; made if need be.
    device : ``auto``, ``cpu`` or ``cuda``.
    command : what to print as the command that repeats the run.
    workers : processes; None for one per core. The numbers do not depend on it.

    Returns
    -------
    Summary, as written.

    Raises
    ------
    UserError : the device, the data or the folder are not to be had.
    """
    where, cells = _cells(study, config, device)
    for value in dict.fromkeys(values_in(cells, "check")):
        value.check()
    importlib.import_module("matplotlib")  # missing, it is said now and not after the last cell
    out = output_folder(Path(out))
    command = command or f"naturalmodes run {study.name} --preset {config.preset} --out {out}"
    run_ = _Run(
        study,
        out,
        Summary(
            study=study.name,
            config=dataclasses.asdict(config),
            seed=config.seed,
            device=device_name(where),
            command=command
            or f"naturalmodes run {study.name} --preset {config.preset} --out {out}",
            versions=versions(),
            machine=machine(),
            commit=commit(),
            answer=Answer(experiment=study.experiment, rule=study.rule),
        ),
    )
    with run_.recorded():
        serial = config.preset in study.serial or len(cells) == 1
        found = run_grid(
            study.measure,
            cells,
            out,
            workers=workers,
            engine="serial" if serial else None,
            progress=len(cells) > 1,
            version=study.version,
            name=study.name,
        )
        run_.conclude(config, _measured(cells, found))
    run_.tell()
    return run_.summary


def rejudge(study: Study, out: str | Path) -> Summary:
    """Judge the finished cells of an old run again, by the study's code of today.

    Parameters
    ----------
    study : of which the run was.
    out : its folder.

    Returns
    -------
    Summary, as written in place of the old one; its checks, answer and results are new.

    Raises
    ------
    UserError : the folder holds no run of this study.
    """
    out = Path(out)
    summary, config, measured = read_back(study, out)
    before = summary.answer
    summary.answer = Answer(experiment=study.experiment, rule=study.rule)
    summary.checks, summary.results, summary.problems = [], {}, []
    again = _Run(study, out, summary, took=summary.duration)
    with again.recorded():
        again.conclude(config, measured)
        if before is not None and before.rule != study.rule:
            note = f"The rule has changed since the run, before which it read: {before.rule}"
            summary.answer = replace(summary.answer, against=[*summary.answer.against, note])
    again.tell()
    return summary


def read_back(study: Study, out: Path) -> tuple[Summary, Any, list[Measured]]:
    """Summary, settings and measured cells of an old run, from its folder.

    Raises
    ------
    UserError : the folder holds no run of this study.
    """
    summary = Summary.read(out / "summary.json")
    if summary.study != study.name:
        raise UserError(f"{out} holds a run of {summary.study}, not of {study.name}.")
    config = restored(study, summary.config)
    cells = study.cells(config, summary.device.split()[0])
    found = load_cells(study.measure, cells, out, version=study.version, name=study.name)
    return summary, config, _measured(cells, found)


def _cells(study: Study, config: Any, device: str) -> tuple[str, Sequence[Any]]:
    """The device and the cells; a study whose cells have no ``device`` runs without torch."""
    cells = study.cells(config, "cpu")
    if any(hasattr(cell, "device") for cell in cells):
        where = choose_device(device)
        return where, study.cells(config, where)
    if device not in ("auto", "cpu"):
        if device == "cuda":
            raise UserError(f"the study {study.name} runs on the CPU: leave out --device.")
        raise UserError(f"unknown device {device!r}: choose auto, cpu or cuda.")
    return "cpu", cells


def _measured(cells: Sequence[Any], found: Sequence[Record | None]) -> list[Measured]:
    return [
        Measured(cell, error="it was not measured")
        if got is None
        else Measured(cell, got.result, got.error)
        for cell, got in zip(cells, found, strict=True)
    ]


@dataclass
class _Run:
    """A run under way: what is known of it, and how that gets to disk and terminal."""

    study: Study
    out: Path
    summary: Summary
    took: float | None = None  # seconds, of an earlier run
    tables: Sequence[Table] = ()
    pictures: dict[str, page.Picture] = dataclasses.field(default_factory=dict)
    answer: Figure | None = None

    @contextlib.contextmanager
    def recorded(self) -> Iterator[None]:
        """Keep the summary on disk from now on; at the end, however it comes, write the report."""
        began = time.monotonic()
        self.summary.status = "running"
        self.save()
        try:
            yield
            self.summary.status = "incomplete" if self.summary.problems else "complete"
        except BaseException as error:
            self.summary.status = "interrupted"
            self.summary.problems.append(
                f"The run ended early: {type(error).__name__}: {error}".strip(": ")
            )
            raise
        finally:
            self.summary.duration = time.monotonic() - began if self.took is None else self.took
            self.save()
            page.write(
                self.out / "report.html",
                self.summary,
                title=self.study.title,
                question=self.study.question,
                sections=self.sections(),
            )

    def save(self) -> None:
        """Write ``summary.json``."""
        self.summary.write(self.out / "summary.json")

    def conclude(self, config: Any, measured: Sequence[Measured]) -> None:
        """Judge; put verdict, tables and arrays on disk; then draw."""
        failed = [one for one in measured if one.error is not None]
        if failed:
            self.summary.problems.append(
                f"{len(failed)} of {len(measured)} cells failed, the first with {failed[0].error}."
            )
        findings = self.study.judge(config, measured)
        self.record(findings)
        self.save()
        for name, arrays in findings.arrays.items():
            write_arrays(self.out / f"{name}.npz", arrays)
        self.draw(findings)

    def record(self, findings: Findings) -> None:
        """Put the findings into the summary."""
        summary = self.summary
        summary.checks = list(findings.checks)
        self.tables = findings.tables
        names = page.anchors([page.Section(table.heading) for table in findings.tables])
        for name, table in zip(names, findings.tables, strict=True):
            if table.columns:
                summary.results[name] = [
                    dict(zip(table.columns, row, strict=True)) for row in table.rows
                ]
        summary.results |= findings.results
        summary.answer = Answer(
            experiment=self.study.experiment,
            rule=self.study.rule,
            verdict=findings.verdict,
            reason=findings.reason
            or f"{summary.count('holds')} of {len(findings.checks)} checks hold.",
            numbers=findings.numbers or page.numbers(findings.checks),
            against=findings.against,
        )

    def draw(self, findings: Findings) -> None:
        """Draw every figure; one that cannot be drawn is a problem of the run, no more."""
        self.answer = findings.answer
        for figure in findings.figures:
            try:
                png = style.draw(figure, self.out)
            except Exception as error:
                self.summary.problems.append(
                    f"The figure {figure.name} could not be drawn: {type(error).__name__}: {error}."
                )
                continue
            self.pictures[figure.name] = page.Picture(png, figure.caption, figure.alt)
            if figure is findings.answer and self.summary.answer is not None:
                self.summary.answer = replace(
                    self.summary.answer, figure=png.name, caption=figure.caption, alt=figure.alt
                )

    def sections(self) -> list[page.Section]:
        """Those of the report: the answer's figure, then the tables with theirs."""
        sections = []
        if self.answer is not None and self.answer.name in self.pictures:
            sections.append(page.Section("Figure", pictures=[self.pictures[self.answer.name]]))
        for table in self.tables:
            drawn = [self.pictures[f.name] for f in table.figures if f.name in self.pictures]
            sections.append(
                page.Section(table.heading, table.text, table.columns, table.rows, drawn)
            )
        return sections

    def tell(self) -> None:
        """Print tables, checks and verdict."""
        for table in self.tables:
            if table.printed and table.columns:
                print()
                print(text.table(table.columns, table.rows))
        page.print_verdicts(self.summary, self.out)
