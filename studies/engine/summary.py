"""The summary of a run: everything about it that is not an array, on disk from the start."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from adaptive.files import plain, unplain
from studies.engine.checks import Check, Verdict
from studies.engine.errors import UserError
from studies.engine.files import write_json

__all__ = ["Answer", "Summary"]

Status = Literal["running", "complete", "incomplete", "interrupted"]


@dataclass(frozen=True)
class Answer:
    """What a study answers, by a rule that was fixed before it ran.

    A study sets it before it runs anything, with the verdict ``inconclusive``, and replaces it at
    the end: so the rule is on disk before the numbers are.

    Attributes
    ----------
    experiment : what was done; ours, not the paper's.
    rule : how the verdict follows from the numbers, fixed before the run.
    verdict : ``holds``, ``fails``, or ``inconclusive``.
    reason : why it came out so, in one sentence.
    numbers : (what it is, the number as a reader should see it).
    figure : file name of the PNG that shows it, in the folder of the run.
    caption, alt : of the figure; ``alt`` is for a reader who cannot see it.
    against : evidence against the simple reading of the claim, a sentence each.
    """

    experiment: str
    rule: str
    verdict: Verdict = "inconclusive"
    reason: str = "The study has not finished."
    numbers: Sequence[tuple[str, str]] = ()
    figure: str | None = None
    caption: str = ""
    alt: str = ""
    against: Sequence[str] = ()


@dataclass
class Summary:
    """Everything about a run that is not an array; it grows while the run goes on.

    ``write`` may be called at any time: what is on disk is always one whole, valid summary.
    """

    study: str
    config: Mapping[str, Any]
    seed: int | None
    device: str
    command: str
    versions: Mapping[str, str | None]
    machine: Mapping[str, Any]
    commit: Mapping[str, Any] | None
    status: Status = "running"
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    duration: float = 0.0
    checks: list[Check] = field(default_factory=list)
    results: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    answer: Answer | None = None

    @classmethod
    def read(cls, path: Path) -> Summary:
        """The summary in a ``summary.json``.

        Raises
        ------
        UserError : there is none, or it is not one.
        """
        try:
            data = unplain(json.loads(path.read_text(encoding="utf-8")))
            known = {f.name for f in dataclasses.fields(cls)}
            summary = cls(**{name: value for name, value in data.items() if name in known})
            summary.checks = [Check(**check) for check in summary.checks]  # type: ignore[arg-type]
            if summary.answer is not None:
                summary.answer = Answer(**summary.answer)  # type: ignore[arg-type]
            _check_shape(summary)
        except FileNotFoundError:
            raise UserError(f"there is no {path.name} in {path.parent}.") from None
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is not the summary of a run: {error}.") from error
        return summary

    def count(self, verdict: Verdict) -> int:
        """How many checks came out so."""
        return sum(check.verdict == verdict for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as ``summary.json`` holds it; ``duration`` is in seconds."""
        return plain({f.name: getattr(self, f.name) for f in dataclasses.fields(self)})

    def write(self, path: Path) -> None:
        """Write ``summary.json``."""
        write_json(path, self.to_dict())


def _check_shape(summary: Summary) -> None:
    """Raise a ``ValueError`` for what somebody's editor has turned into something else."""
    number, text = (int, float, type(None)), (str, type(None))
    shapes = {
        "study": str,
        "config": Mapping,
        "seed": (int, type(None)),
        "device": str,
        "command": str,
        "versions": Mapping,
        "machine": Mapping,
        "commit": (Mapping, type(None)),
        "status": str,
        "started": str,
        "duration": (int, float),
        "results": Mapping,
        "problems": list,
    }
    _check_fields(summary, shapes, "")
    if summary.commit is not None and not {"sha", "dirty"} <= summary.commit.keys():
        raise ValueError("its commit has no sha and dirty")
    if summary.status not in get_args(Status):
        raise ValueError(f"its status is {summary.status!r}")
    check_shapes = {
        "name": str,
        "predicted": number,
        "observed": number,
        "tolerance": number,
        "verdict": str,
        "rule": str,
        "unit": text,
        "note": text,
    }
    for check in summary.checks:
        _check_fields(check, check_shapes, "the check's ")
    verdicts = [check.verdict for check in summary.checks]
    verdicts += [summary.answer.verdict] if summary.answer is not None else []
    for verdict in verdicts:
        if verdict not in get_args(Verdict):
            raise ValueError(f"a verdict is {verdict!r}")


def _check_fields(value: object, shapes: Mapping[str, Any], whose: str) -> None:
    for name, kinds in shapes.items():
        found = getattr(value, name)
        if not isinstance(found, kinds):
            raise ValueError(f"{whose}{name} is a {type(found).__name__}")
