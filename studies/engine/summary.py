"""What a run leaves on disk: checks with verdicts, a summary, and how both get there safely."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np

from studies.engine.errors import UserError

__all__ = [
    "Answer",
    "Check",
    "Summary",
    "at_most",
    "commit",
    "flat",
    "inconclusive",
    "machine",
    "output_folder",
    "tally",
    "versions",
    "within",
    "worst",
    "write_arrays",
    "write_atomically",
    "write_csv",
    "write_json",
]

Verdict = Literal["holds", "fails", "inconclusive"]
Status = Literal["running", "complete", "incomplete", "interrupted"]

VERSIONED = ("numpy", "scipy", "numba", "torch", "torchvision", "matplotlib", "naturalmodes")


@dataclass(frozen=True)
class Check:
    """One prediction laid beside one observation.

    Attributes
    ----------
    name : what was compared, e.g. ``"conv1: largest mode error, float64"``.
    predicted : the theory's number, in ``unit``.
    observed : the run's number, in ``unit``; None when there is none.
    tolerance : how far apart the two may be, as ``rule`` says.
    verdict : ``holds``, ``fails``, or ``inconclusive`` when the run could not decide.
    rule : the sentence by which the verdict was reached.
    unit : of predicted and observed.
    note : whatever a reader needs to know besides.
    """

    name: str
    predicted: float | None
    observed: float | None
    tolerance: float
    verdict: Verdict
    rule: str
    unit: str = ""
    note: str = ""


def at_most(name: str, observed: float, tolerance: float, *, unit: str, note: str = "") -> Check:
    """A check that an error, predicted to be nil, is no larger than the tolerance."""
    holds = observed <= tolerance  # a NaN fails
    return Check(
        name=name,
        predicted=0.0,
        observed=observed,
        tolerance=tolerance,
        verdict="holds" if holds else "fails",
        rule="observed <= tolerance",
        unit=unit,
        note=note,
    )


def within(
    name: str, predicted: float, observed: float, tolerance: float, *, unit: str, note: str = ""
) -> Check:
    """A check that observed equals predicted to a relative tolerance."""
    holds = abs(observed - predicted) <= tolerance * abs(predicted)
    return Check(
        name=name,
        predicted=predicted,
        observed=observed,
        tolerance=tolerance,
        verdict="holds" if holds else "fails",
        rule="|observed - predicted| <= tolerance x |predicted|",
        unit=unit,
        note=note,
    )


def inconclusive(name: str, tolerance: float, reason: str, predicted: float | None = None) -> Check:
    """A check that could not be made, and why."""
    return Check(
        name=name,
        predicted=predicted,
        observed=None,
        tolerance=tolerance,
        verdict="inconclusive",
        rule="could not be decided",
        note=reason,
    )


@dataclass(frozen=True)
class Answer:
    """What a study says to the claim that it stands for.

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


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """One verdict for several: they all hold, one fails, or it is not decided."""
    found = set(verdicts)
    if "fails" in found:
        return "fails"
    return "holds" if found == {"holds"} else "inconclusive"


def tally(checks: Sequence[Check]) -> str:
    """How many checks came out which way, in words."""
    holds, fails, open_ = (
        sum(check.verdict == verdict for check in checks)
        for verdict in ("holds", "fails", "inconclusive")
    )
    return f"{holds} of {len(checks)} checks hold, {fails} fail and {open_} are inconclusive"


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
            data = json.loads(path.read_text(encoding="utf-8"))
            known = {f.name for f in dataclasses.fields(cls)}
            summary = cls(**{name: value for name, value in data.items() if name in known})
            summary.checks = [Check(**check) for check in summary.checks]  # type: ignore[arg-type]
            if summary.answer is not None:
                summary.answer = Answer(**summary.answer)  # type: ignore[arg-type]
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


def plain(value: Any) -> Any:
    """Data that JSON can carry: arrays become lists, what is not finite becomes null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str | int | None):
        return value
    if isinstance(value, Iterable):
        return [plain(part) for part in value]
    return str(value)


def flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, the names joined with dots."""
    row: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, Mapping):
            row |= flat(value, f"{prefix}{name}.")
        else:
            row[f"{prefix}{name}"] = value
    return row


def write_json(path: Path, data: Any) -> None:
    """Write data as JSON that any parser takes, atomically."""
    text = json.dumps(plain(data), indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def output_folder(out: Path) -> Path:
    """The folder, made if need be; a ``UserError`` when nothing can be written there."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise UserError(f"cannot write results to {out}: {error.strerror or error}.") from error
    return out


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table as CSV, atomically."""

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(rows)

    write_atomically(path, write)


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write named arrays as a compressed ``.npz``, atomically."""
    write_atomically(path, lambda temporary: np.savez_compressed(temporary, **arrays))


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path`` and move it there in one step.

    Whoever reads ``path``, and whenever the run dies, finds the old file or the new one, whole.
    The temporary file keeps the suffix of ``path``, by which some writers choose the format.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    temporary = Path(name)
    try:
        os.close(handle)
        write(temporary)
        # mkstemp makes files private; a result is as readable as any other file of the user
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise


def versions() -> dict[str, str | None]:
    """The versions that a result depends on; None for what is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in VERSIONED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    if found["naturalmodes"] is None:
        import adaptive

        found["naturalmodes"] = getattr(adaptive, "__version__", None)
    return found


def machine() -> dict[str, Any]:
    """The kind of machine, without its name."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"system": platform.system(), "architecture": platform.machine(), "cpus": cpus}


def commit(source: Path | None = None) -> dict[str, Any] | None:
    """The commit this code was run from, and whether the tree differed from it.

    None outside git, and when the code merely lies inside somebody else's repository (as a
    virtual environment does), whose commit would say nothing about it.
    """
    source = source or Path(__file__)

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments],
            cwd=source.parent,
            check=True,
            capture_output=True,
            text=True,
            timeout=30,
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", source.name)
        return {"sha": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def command_line(arguments: Iterable[str] | None = None) -> str:
    """The command that repeats this run, quoted for a shell."""
    import shlex

    return shlex.join(["naturalmodes", *(sys.argv[1:] if arguments is None else arguments)])
