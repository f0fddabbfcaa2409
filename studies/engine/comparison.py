"""Two result folders side by side: what was set differently, and what came out differently."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studies.engine import page as report
from studies.engine.checks import Check
from studies.engine.files import flat
from studies.engine.summary import Summary
from studies.engine.text import commit_text, number, table

__all__ = ["Comparison", "compare", "write"]


@dataclass(frozen=True)
class Comparison:
    """What two runs have in common and where they differ, as rows of text.

    Attributes
    ----------
    a, b : the summaries.
    settings : (name, A, B) of what was set differently.
    checks : (name, predicted A and B, observed A and B, verdict A and B) of every check.
    changed : names of the checks whose verdicts differ.
    numbers : (name, A, B, B / A) of the numbers that differ.
    same : how many numbers are the same in both.
    """

    a: Summary
    b: Summary
    settings: list[list[str]]
    checks: list[list[str]]
    changed: list[str]
    numbers: list[list[str]]
    same: int


SETTINGS = ("setting", "A", "B")
CHECKS = (
    "check",
    "predicted A",
    "predicted B",
    "observed A",
    "observed B",
    "verdict A",
    "verdict B",
)
NUMBERS = ("number", "A", "B", "B / A")


def compare(a: str | Path, b: str | Path) -> Comparison:
    """Compare the runs in two folders.

    Raises
    ------
    UserError : one of them holds no run.
    """
    first, second = (Summary.read(Path(folder) / "summary.json") for folder in (a, b))
    left, right = _numbers(first.results), _numbers(second.results)
    both = [name for name in left if name in right]
    differing = [
        name for name in {**left, **right} if name not in both or left[name] != right[name]
    ]
    checks = _paired(first.checks, second.checks)
    return Comparison(
        a=first,
        b=second,
        settings=_settings(first, second),
        checks=[_check_row(name, *pair) for name, pair in checks.items()],
        changed=[name for name, (x, y) in checks.items() if x and y and x.verdict != y.verdict],
        numbers=[_number_row(name, left.get(name), right.get(name)) for name in differing],
        same=len(both) - sum(left[name] != right[name] for name in both),
    )


def sentences(found: Comparison) -> list[str]:
    """The comparison in a few words."""
    lines = []
    if found.a.study != found.b.study:
        lines.append(f"These are different studies: {found.a.study} and {found.b.study}.")
    if found.changed:
        lines.append(f"Verdicts that differ: {'; '.join(found.changed)}.")
    else:
        lines.append("No check that is in both runs has another verdict.")
    lines.append(f"Numbers: {found.same:,} are the same, {len(found.numbers):,} are not.")
    return lines


def text(found: Comparison) -> str:
    """The comparison for the terminal."""
    blocks = [
        table(columns, rows)
        for columns, rows in (
            (SETTINGS, found.settings),
            (CHECKS, found.checks),
            (NUMBERS, found.numbers),
        )
        if rows
    ]
    return "\n\n".join([*blocks, "\n".join(sentences(found))])


def write(found: Comparison, path: Path, a: str | Path, b: str | Path) -> None:
    """The comparison as a self-contained page."""
    sections = [
        report.Section(
            "The runs",
            sentences(found),
            ("what", "A", "B"),
            [
                ["folder", str(a), str(b)],
                ["study", found.a.study, found.b.study],
                ["status", found.a.status, found.b.status],
                ["started", found.a.started, found.b.started],
                ["seconds", number(found.a.duration), number(found.b.duration)],
            ],
        ),
        report.Section(
            "What was set differently",
            [] if found.settings else ["Nothing."],
            SETTINGS,
            found.settings,
        ),
        report.Section("Checks", [] if found.checks else ["None."], CHECKS, found.checks),
        report.Section(
            "Numbers that differ",
            [] if found.numbers else ["None."],
            NUMBERS,
            found.numbers,
        ),
    ]
    report.write_page(path, "Two runs, side by side", " ".join(sentences(found)[:1]), sections)


def _settings(a: Summary, b: Summary) -> list[list[str]]:
    def told(summary: Summary) -> dict[str, Any]:
        return {
            "command": summary.command,
            "seed": summary.seed,
            "device": summary.device,
            "commit": commit_text(summary.commit),
            **flat(summary.config),
            **flat(summary.versions, "version of "),
            **flat(summary.machine, "machine: "),
        }

    left, right = told(a), told(b)
    return [
        [name, _shown(left.get(name)), _shown(right.get(name))]
        for name in {**left, **right}
        if left.get(name) != right.get(name)
    ]


def _shown(value: Any) -> str:
    return "–" if value is None else str(value)


def _paired(a: Sequence[Check], b: Sequence[Check]) -> dict[str, tuple[Check | None, Check | None]]:
    left, right = {check.name: check for check in a}, {check.name: check for check in b}
    return {name: (left.get(name), right.get(name)) for name in {**left, **right}}


def _check_row(name: str, a: Check | None, b: Check | None) -> list[str]:
    return [
        name,
        *(number(check.predicted, 6) if check else "–" for check in (a, b)),
        *(number(check.observed, 6) if check else "–" for check in (a, b)),
        *(check.verdict if check else "–" for check in (a, b)),
    ]


def _numbers(data: Any, name: str = "") -> dict[str, float]:
    """Every number in nested results, under a name that says where it is."""
    if isinstance(data, bool) or data is None:
        return {}
    if isinstance(data, int | float):
        return {name: data}
    found: dict[str, float] = {}
    if isinstance(data, Mapping):
        for key, part in data.items():
            found |= _numbers(part, f"{name}.{key}" if name else str(key))
    elif isinstance(data, list):
        for place, part in enumerate(data):
            named = part if isinstance(part, Mapping) else {}
            label = named.get("name") or named.get("layer") or named.get("study") or place
            found |= _numbers(part, f"{name}[{label}]")
    return found


def _number_row(name: str, a: float | None, b: float | None) -> list[str]:
    ratio = b / a if a and b is not None else math.nan
    shown = number(ratio) if math.isfinite(ratio) else "–"
    return [name, number(a, 6), number(b, 6), shown]
