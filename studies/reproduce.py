"""The claims of a paper, each with the studies that stand for it, in one report.

The experiments are ours; the paper's own code and data are not used. What is done and how it will
be judged is taken from the studies and written to ``summary.json`` before anything runs.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studies import STUDIES, Study, ported
from studies.engine import page as report
from studies.engine import protocol
from studies.engine import summary as results
from studies.engine.configuring import configure, uses_images
from studies.engine.errors import UserError
from studies.engine.runner import run as run_study
from studies.engine.summary import Answer, Summary, worst

__all__ = ["PAPERS", "Claim", "Paper", "accepted", "reproduce"]


@dataclass(frozen=True)
class Claim:
    """One claim of a paper, in our words, and the letters of the studies that stand for it."""

    number: int
    name: str
    text: str
    letters: str


@dataclass(frozen=True)
class Paper:
    """A paper and its claims."""

    title: str
    citation: str
    claims: tuple[Claim, ...]


PAPERS = {
    "chai2020": Paper(
        "What BatchNorm does to training, claim by claim",
        "E. Chai, M. Pilanci, B. Murmann, Separating the Effects of Batch Normalization on CNN "
        "Training Speed and Stability Using Classical Adaptive Filter Theory, Asilomar 2020",
        (
            Claim(
                1,
                "Natural modes",
                "The updates of a conv layer's weights have natural modes. The eigenvalues of the "
                "autocorrelation matrix of the layer's input set how fast each converges and "
                "where it becomes unstable, and BatchNorm controls these eigenvalues channel by "
                "channel.",
                "AB",
            ),
            Claim(
                2,
                "Two distinct effects",
                "Speed and stability are separate benefits of BatchNorm: at low learning rates, "
                "raising the smallest eigenvalues makes training faster; at high learning rates, "
                "lowering the largest ones keeps it stable.",
                "C",
            ),
            Claim(
                3,
                "NLMS at the first step, and after",
                "In the first step of training BatchNorm solves the same optimization problem as "
                "NLMS, and in the steps after that it goes on doing so approximately. (A study for "
                "each half; the claim holds when both do.)",
                "D",
            ),
        ),
    )
}


@dataclass
class _Part:
    """One study of the paper: what it will run, and what came of it."""

    letter: str
    name: str
    study: Study
    module: Any
    config: Any
    folder: Path
    command: str
    summary: Summary | None = None
    error: str | None = None
    kept: bool = False

    @property
    def answer(self) -> Answer:
        """The study's own answer, or one made of its checks when it gives none."""
        if isinstance(self.module, protocol.Study):
            experiment, rule = self.module.experiment, self.module.rule
        else:
            experiment = getattr(self.module, "EXPERIMENT", self.study.question)
            rule = getattr(self.module, "RULE", "It holds when every check of the study holds.")
        if self.summary is None:
            return Answer(experiment, rule, reason=self.error or "It has not been run.")
        answer = self.summary.answer
        if answer is None:
            checks = self.summary.checks
            holding = f"{self.summary.count('holds')} of {len(checks)} checks hold."
            figure = min((path.name for path in self.folder.glob("*.png")), default=None)
            answer = Answer(
                experiment,
                rule,
                worst(check.verdict for check in checks),
                holding,
                figure=figure,
                caption=self.study.question,
            )
        if self.summary.status != "complete":
            reason = f"The study is {self.summary.status}. {answer.reason}"
            answer = dataclasses.replace(answer, verdict="inconclusive", reason=reason)
        return answer

    def row(self) -> dict[str, Any]:
        """For ``summary.json``."""
        return {
            "study": self.name,
            "letter": self.letter,
            "folder": self.folder.name,
            "status": self.status,
            "duration": self.summary.duration if self.summary else None,
            **results.plain(self.answer),
        }

    @property
    def status(self) -> str:
        """In a word or two."""
        if self.summary is None:
            return "failed" if self.error else "not run"
        return self.summary.status + (", kept from an earlier run" if self.kept else "")


def reproduce(
    paper: str,
    preset: str,
    out: str | Path,
    *,
    device: str = "auto",
    workers: int | None = None,
    command: str | None = None,
    studies: Mapping[str, Study] = STUDIES,
    **choices: Any,
) -> Summary:
    """Run the studies of a paper, and put their answers into one report.

    A study that an earlier run in the same folder has completed, with the same config, device,
    library versions and commit, is kept. One that raises is recorded as such and the others go on.

    Parameters
    ----------
    paper : one of ``PAPERS``.
    preset : of every study.
    out : folder; each study has its own folder in it.
    device : ``auto``, ``cpu`` or ``cuda``.
    workers : for the studies that can use them.
    command : what to print as the command that repeats the run.
    studies : the registry to take them from.
    **choices : ``data``, ``data_root``, ``seed``: for the studies to which they mean something.

    Returns
    -------
    Summary, as written; ``complete`` when every claim's studies are, whatever the verdicts.

    Raises
    ------
    UserError : the paper, the preset or the folder will not do, or no study could be run.
    """
    began = time.monotonic()
    if paper not in PAPERS:
        raise UserError(f"there is no paper {paper!r}; there is: {', '.join(PAPERS)}.")
    claims = PAPERS[paper].claims
    parts = _parts(claims, studies, preset, Path(out), device, choices)
    if not parts:
        raise UserError(f"no study stands for a claim of {paper} yet.")
    out = results.output_folder(Path(out))
    summary = Summary(
        study=paper,
        config={
            "preset": preset,
            **{name: value for name, value in choices.items() if name != "seed"},
            "studies": {part.name: results.plain(part.config) for part in parts},
        },
        seed=choices.get("seed", 0),
        device=device,
        command=command or f"naturalmodes reproduce {paper} --preset {preset} --out {out}",
        versions=results.versions(),
        machine=results.machine(),
        commit=results.commit(),
    )
    for claim in claims:
        for letter in claim.letters:
            if not any(part.letter == letter for part in parts):
                summary.problems.append(f"Claim {claim.number}: there is no study {letter} yet.")

    def save() -> None:
        summary.duration = time.monotonic() - began
        summary.results["claims"] = [_claim_row(claim, parts) for claim in claims]
        summary.checks = [
            dataclasses.replace(check, name=f"{part.letter} {part.name}: {check.name}")
            for part in parts
            if part.summary is not None
            for check in part.summary.checks
        ]
        devices = dict.fromkeys(part.summary.device for part in parts if part.summary is not None)
        summary.device = ", ".join(devices) or device
        summary.write(out / "summary.json")

    save()
    refused = []
    try:
        for number, part in enumerate(parts, 1):
            print(f"\n== {part.letter}, study {number} of {len(parts)}: {part.name}", flush=True)
            part.summary = _earlier(part, device, summary)
            if part.summary is not None:
                part.kept = True
                print(f"Kept from an earlier run: {part.folder}")
                continue
            try:
                _run(part, device, workers)
            except UserError as error:
                part.error = str(error)
                refused.append(error)
            except Exception as error:
                part.error = f"It raised {type(error).__name__}: {error}"
                results.output_folder(part.folder)
                (part.folder / "traceback.txt").write_text(traceback.format_exc())
            if part.error is not None:
                summary.problems.append(f"Study {part.name} could not be run: {part.error}")
            elif part.summary is not None and part.summary.status != "complete":
                summary.problems.append(f"Study {part.name} is {part.summary.status}.")
            save()
        summary.status = "incomplete" if summary.problems else "complete"
    except BaseException as error:
        summary.status = "interrupted"
        summary.problems.append(f"The run ended early: {type(error).__name__}: {error}".strip(": "))
        raise
    finally:
        save()
        _write_report(out, PAPERS[paper], summary, parts)
    if len(refused) == len(parts):
        raise refused[0]
    _print(claims, parts, summary, out)
    return summary


def accepted(function: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options that a function has parameters for."""
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return dict(options)
    names = {parameter.name for parameter in parameters}
    return {name: value for name, value in options.items() if name in names}


def _parts(
    claims: Sequence[Claim],
    studies: Mapping[str, Study],
    preset: str,
    out: Path,
    device: str,
    choices: Mapping[str, Any],
) -> list[_Part]:
    """The studies in the order of the claims, every one configured before any is run."""
    parts = []
    for claim in claims:
        for letter in claim.letters:
            for name, study in studies.items():
                if study.claim != letter:
                    continue
                new = ported(study)
                if new is None:
                    module: Any = importlib.import_module(study.module)
                    given = {k: v for k, v in choices.items() if v is not None}
                    taken = accepted(module.configure, given)
                    config = module.configure(preset, **taken)
                else:
                    module = new
                    fits = uses_images(new)
                    taken = {k: v for k, v in choices.items() if k == "seed" or fits}
                    config = configure(new, preset, **taken)
                folder = out / f"{letter}-{name}"
                parts.append(
                    _Part(
                        letter=letter,
                        name=name,
                        study=study,
                        module=module,
                        config=config,
                        folder=folder,
                        command=_command(name, preset, taken, device, folder),
                    )
                )
    return parts


def _command(name: str, preset: str, choices: Mapping[str, Any], device: str, folder: Path) -> str:
    """The command that runs one study by itself."""
    words = ["run", name, "--preset", preset]
    for choice, value in {**choices, "device": device, "out": folder}.items():
        if value is not None:
            words += [f"--{choice.replace('_', '-')}", str(value)]
    return results.command_line(words)


def _run(part: _Part, device: str, workers: int | None) -> None:
    if isinstance(part.module, protocol.Study):
        part.summary = run_study(
            part.module,
            part.config,
            part.folder,
            device=device,
            command=part.command,
            workers=workers,
        )
        return
    run = part.module.run
    part.summary = run(
        part.config,
        out=part.folder,
        **accepted(run, {"device": device, "command": part.command, "workers": workers}),
    )


def _earlier(part: _Part, device: str, now: Summary) -> Summary | None:
    """The summary of an earlier run that would come out the same."""
    try:
        earlier = Summary.read(part.folder / "summary.json")
    except UserError:
        return None
    same = (
        earlier.status == "complete"
        and earlier.config == results.plain(part.config)
        and earlier.versions == now.versions
        and earlier.commit == now.commit
        and not (now.commit and now.commit["dirty"])
        and earlier.device.split()[0] == _device_type(device)
        and (part.folder / "report.html").exists()
    )
    return earlier if same else None


def _device_type(device: str) -> str:
    from studies.training.sgd import choose_device

    return choose_device(device).type


def _of(claim: Claim, parts: Sequence[_Part]) -> list[_Part]:
    return [part for part in parts if part.letter in claim.letters]


def _verdict(claim: Claim, parts: Sequence[_Part]) -> results.Verdict:
    """All its studies hold, or one fails; a study that is missing leaves it open."""
    answered = {part.letter for part in parts}
    verdicts: list[results.Verdict] = [part.answer.verdict for part in _of(claim, parts)]
    if any(letter not in answered for letter in claim.letters):
        verdicts.append("inconclusive")
    return worst(verdicts)


def _claim_row(claim: Claim, parts: Sequence[_Part]) -> dict[str, Any]:
    return {
        "claim": claim.number,
        "text": claim.text,
        "verdict": _verdict(claim, parts),
        "studies": [part.row() for part in _of(claim, parts)],
    }


COLUMNS = ("claim", "studies", "verdict")


def _claim_rows(claims: Sequence[Claim], parts: Sequence[_Part]) -> list[list[str]]:
    return [
        [
            f"{claim.number}. {claim.name}",
            ", ".join(
                f"{part.letter} {part.name}: {part.answer.verdict}" for part in _of(claim, parts)
            )
            or "–",
            _verdict(claim, parts),
        ]
        for claim in claims
    ]


def _write_report(out: Path, paper: Paper, summary: Summary, parts: Sequence[_Part]) -> None:
    sections = [
        report.Section(
            "The claims",
            [
                f"{paper.citation}. The claims are told here in our words, and the experiments "
                "that stand for them are ours, not the paper's.",
                "Each study's rule was written down before it ran. A claim holds when all its "
                "studies hold, fails when one fails, and is inconclusive otherwise; the verdict of "
                "each study stands beside its name.",
            ],
            COLUMNS,
            _claim_rows(paper.claims, parts),
        )
    ]
    for claim in paper.claims:
        heading = f"Claim {claim.number}: {claim.name}"
        text = [claim.text] + ([] if _of(claim, parts) else ["No study stands for it yet."])
        sections.append(report.Section(heading, text, verdict=_verdict(claim, parts)))
        for part in _of(claim, parts):
            heading = f"{part.letter}, {part.name}: {part.study.question}"
            answer = part.answer
            sections += report.answer_sections(heading, answer, level=3, folder=part.folder)
            if not answer.against:
                text = ["This study recorded no evidence against the simple reading."]
                sections.append(report.Section("Against the simple reading", text, level=4))
    sections.append(
        report.Section(
            "The studies",
            ["Each folder holds the study's own report with everything it measured."],
            ("study", "status", "seconds", "hold", "fail", "inconclusive", "folder"),
            [_study_row(part) for part in parts],
        )
    )
    report.write(
        out / "report.html",
        summary,
        title=paper.title,
        question="Which claims of the paper stand up to experiments that could have refuted them?",
        sections=sections,
    )


def _study_row(part: _Part) -> list[str]:
    found = part.summary
    counts = [str(found.count(v)) if found else "–" for v in ("holds", "fails", "inconclusive")]  # type: ignore[arg-type]
    seconds = report.number(found.duration, 3) if found else "–"
    return [f"{part.letter} {part.name}", part.status, seconds, *counts, part.folder.name]


def _print(claims: Sequence[Claim], parts: Sequence[_Part], summary: Summary, out: Path) -> None:
    print()
    print(report.table(COLUMNS, _claim_rows(claims, parts)))
    print()
    for problem in summary.problems:
        print(f"PROBLEM: {problem}")
    if summary.config["preset"] == "smoke":
        print(report.SMOKE)
    print(f"After {summary.duration:.0f} s. Report: {out / 'report.html'}")
