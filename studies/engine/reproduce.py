"""Runs the studies of a paper and puts their answers, claim by claim, into one report.

The experiments are ours; the paper's own code and data are not used. What is done and how it will
be judged is taken from the studies and written to ``summary.json`` before anything runs.
"""

from __future__ import annotations

import dataclasses
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptive.files import plain
from studies.engine import page
from studies.engine.checks import Verdict, worst
from studies.engine.configuring import configure, uses_images
from studies.engine.errors import UserError
from studies.engine.files import output_folder, write_atomically
from studies.engine.protocol import Claim, Paper, Study
from studies.engine.provenance import command_line, commit, machine, versions
from studies.engine.runner import run
from studies.engine.summary import Answer, Summary
from studies.engine.text import number, table

__all__ = ["reproduce"]


@dataclass
class _Part:
    """One study of the paper: what it will run, and what came of it."""

    study: Study
    config: Any
    folder: Path
    command: str
    summary: Summary | None = None
    error: str | None = None

    @property
    def answer(self) -> Answer:
        """The study's own answer; inconclusive when it did not run to its end."""
        if self.summary is None or self.summary.answer is None:
            reason = self.error or "It has not been run."
            return Answer(self.study.experiment, self.study.rule, reason=reason)
        answer = self.summary.answer
        if self.summary.status != "complete":
            reason = f"The study is {self.summary.status}. {answer.reason}"
            answer = dataclasses.replace(answer, verdict="inconclusive", reason=reason)
        return answer

    @property
    def status(self) -> str:
        """In a word or two."""
        if self.summary is None:
            return "failed" if self.error else "not run"
        return self.summary.status

    def row(self) -> dict[str, Any]:
        """For ``summary.json``."""
        return {
            "study": self.study.name,
            "folder": self.folder.name,
            "status": self.status,
            "duration": self.summary.duration if self.summary else None,
            **plain(self.answer),
        }


def reproduce(
    paper: Paper,
    find: Callable[[str], Study],
    preset: str,
    out: str | Path,
    *,
    device: str = "auto",
    workers: int | None = None,
    command: str | None = None,
    **choices: Any,
) -> Summary:
    """Run the studies of a paper, and put their answers into one report.

    A study that raises is recorded as such and the others go on. Run again in the same folder, it
    measures only the cells that are not finished.

    Parameters
    ----------
    paper : what to reproduce.
    find : from the name of a study to the study.
    preset : of every study.
    out : folder; each study has its own folder in it.
    device : ``auto``, ``cpu`` or ``cuda``.
    workers : processes; None for one per core.
    command : what to print as the command that repeats the run.
    **choices : ``data``, ``data_root``, ``seed``: for the studies to which they mean something.

    Returns
    -------
    Summary, as written; ``complete`` when every claim's studies are, whatever the verdicts.

    Raises
    ------
    UserError : the preset or the folder will not do, or no study could be run.
    """
    whole = _Whole(paper, _parts(paper, find, preset, Path(out), device, choices), Path(out))
    output_folder(whole.out)
    whole.summary = Summary(
        study=paper.name,
        config={
            "preset": preset,
            **{name: value for name, value in choices.items() if name != "seed"},
            "studies": {name: plain(part.config) for name, part in whole.parts.items()},
        },
        seed=choices.get("seed", 0),
        device=device,
        command=command or f"naturalmodes reproduce {paper.name} --preset {preset} --out {out}",
        versions=versions(),
        machine=machine(),
        commit=commit(),
    )
    whole.save()
    refused = []
    try:
        for number, (name, part) in enumerate(whole.parts.items(), 1):
            print(f"\n== Study {number} of {len(whole.parts)}: {name}", flush=True)
            error = _run(part, device, workers)
            refused += [error] if error is not None else []
            if part.error is not None:
                whole.summary.problems.append(f"Study {name} could not be run: {part.error}")
            elif part.summary is not None and part.summary.status != "complete":
                whole.summary.problems.append(f"Study {name} is {part.summary.status}.")
            whole.save()
        whole.summary.status = "incomplete" if whole.summary.problems else "complete"
    except BaseException as error:
        whole.summary.status = "interrupted"
        problem = f"The run ended early: {type(error).__name__}: {error}".strip(": ")
        whole.summary.problems.append(problem)
        raise
    finally:
        whole.save()
        whole.write_report()
    if len(refused) == len(whole.parts):
        raise refused[0]
    whole.tell()
    return whole.summary


def _parts(
    paper: Paper,
    find: Callable[[str], Study],
    preset: str,
    out: Path,
    device: str,
    choices: Mapping[str, Any],
) -> dict[str, _Part]:
    """The studies in the order of the claims, every one configured before any is run."""
    parts = {}
    for name in dict.fromkeys(name for claim in paper.claims for name in claim.studies):
        study = find(name)
        taken = {
            choice: value
            for choice, value in choices.items()
            if choice == "seed" or uses_images(study)
        }
        config = configure(study, preset, **taken)
        words = ["run", name, "--preset", preset]
        for choice, value in {**taken, "device": device, "out": out / name}.items():
            if value is not None:
                words += [f"--{choice.replace('_', '-')}", str(value)]
        parts[name] = _Part(study, config, out / name, command_line(words))
    return parts


def _run(part: _Part, device: str, workers: int | None) -> UserError | None:
    """Run one study; what it raises is recorded, and returned when it is the user's."""
    try:
        part.summary = run(
            part.study,
            part.config,
            part.folder,
            device=device,
            command=part.command,
            workers=workers,
        )
    except UserError as error:
        part.error = str(error)
        return error
    except Exception as error:
        part.error = f"It raised {type(error).__name__}: {error}"
        output_folder(part.folder)
        told = traceback.format_exc().encode("utf-8", errors="backslashreplace")
        write_atomically(part.folder / "traceback.txt", lambda path: path.write_bytes(told))
    return None


COLUMNS = ("claim", "studies", "verdict")


@dataclass
class _Whole:
    """The paper under way: its studies, and how what is known of them gets to disk."""

    paper: Paper
    parts: Mapping[str, _Part]
    out: Path
    summary: Summary = dataclasses.field(init=False)
    began: float = dataclasses.field(default_factory=time.monotonic)

    def of(self, claim: Claim) -> list[_Part]:
        """The studies of one claim."""
        return [self.parts[name] for name in claim.studies]

    def verdict(self, claim: Claim) -> Verdict:
        """All its studies hold, or one fails, or it is open."""
        return worst(part.answer.verdict for part in self.of(claim))

    def save(self) -> None:
        """Write ``summary.json``."""
        summary, parts = self.summary, self.parts.values()
        summary.duration = time.monotonic() - self.began
        summary.results["claims"] = [
            {
                "claim": i,
                "text": claim.text,
                "verdict": self.verdict(claim),
                "studies": [part.row() for part in self.of(claim)],
            }
            for i, claim in enumerate(self.paper.claims, 1)
        ]
        summary.checks = [
            dataclasses.replace(check, name=f"{part.study.name}: {check.name}")
            for part in parts
            if part.summary is not None
            for check in part.summary.checks
        ]
        devices = dict.fromkeys(part.summary.device for part in parts if part.summary is not None)
        summary.device = ", ".join(devices) or summary.device
        summary.write(self.out / "summary.json")

    def rows(self) -> list[list[str]]:
        """One line per claim."""
        return [
            [
                f"{i}. {claim.name}",
                ", ".join(f"{part.study.name}: {part.answer.verdict}" for part in self.of(claim)),
                self.verdict(claim),
            ]
            for i, claim in enumerate(self.paper.claims, 1)
        ]

    def sections(self) -> list[page.Section]:
        """Those of the report: the claims, each claim with its studies, and a list of these."""
        sections = [
            page.Section(
                "The claims",
                [
                    f"{self.paper.citation}. The claims are told here in our words, and the "
                    "experiments that test them are ours, not the paper's.",
                    "Each study's rule was written down before it ran. A claim holds when all its "
                    "studies hold, fails when one fails, and is inconclusive otherwise; the "
                    "verdict of each study follows its name.",
                ],
                COLUMNS,
                self.rows(),
            )
        ]
        for i, claim in enumerate(self.paper.claims, 1):
            heading = f"Claim {i}: {claim.name}"
            sections.append(page.Section(heading, [claim.text], verdict=self.verdict(claim)))
            for part in self.of(claim):
                heading, answer = f"{part.study.name}: {part.study.question}", part.answer
                sections += page.answer_sections(heading, answer, level=3, folder=part.folder)
                if not answer.against:
                    text = ["This study recorded no evidence against the simple reading."]
                    sections.append(page.Section("Against the simple reading", text, level=4))
        about = ["Each folder holds the study's own report with everything it measured."]
        columns = ("study", "status", "seconds", "hold", "fail", "inconclusive", "folder")
        lines = [_study_row(part) for part in self.parts.values()]
        return [*sections, page.Section("The studies", about, columns, lines)]

    def write_report(self) -> None:
        """Write ``report.html``."""
        page.write(
            self.out / "report.html",
            self.summary,
            title=self.paper.title,
            question="Which claims of the paper hold in experiments that could have refuted them?",
            sections=self.sections(),
        )

    def tell(self) -> None:
        """Print the claims and what went wrong."""
        print()
        print(table(COLUMNS, self.rows()))
        print()
        for problem in self.summary.problems:
            print(f"PROBLEM: {problem}")
        if self.summary.config["preset"] == "smoke":
            print(page.SMOKE)
        print(f"After {self.summary.duration:.0f} s. Report: {self.out / 'report.html'}")


def _study_row(part: _Part) -> list[str]:
    found = part.summary
    verdicts: tuple[Verdict, ...] = ("holds", "fails", "inconclusive")
    counts = [str(found.count(v)) if found else "–" for v in verdicts]
    seconds = number(found.duration, 3) if found else "–"
    return [part.study.name, part.status, seconds, *counts, part.folder.name]
