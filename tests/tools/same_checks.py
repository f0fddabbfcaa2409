"""Compares the checks of two runs, or of two folders of runs, to the last digit.

    python tests/tools/same_checks.py BEFORE AFTER

Every check that one of the two lacks, or whose predicted value, observed value, tolerance or
verdict differs, is printed, and so is every verdict of a study that differs. Exit status 1 when
anything does.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

COMPARED = ("predicted", "observed", "tolerance", "verdict")


def differences(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    """What differs between two summaries, a line each."""
    old, new = ({c["name"]: c for c in summary["checks"]} for summary in (before, after))
    for name in [*old, *(n for n in new if n not in old)]:
        if name not in old or name not in new:
            yield f"{'only before' if name in old else 'only after'}: {name}"
            continue
        for what in COMPARED:
            if _value(old[name][what]) != _value(new[name][what]):
                yield f"{name}: {what} was {old[name][what]!r}, is {new[name][what]!r}"
    verdicts = [(summary.get("answer") or {}).get("verdict") for summary in (before, after)]
    if verdicts[0] != verdicts[1]:
        yield f"verdict was {verdicts[0]}, is {verdicts[1]}"
    if before["status"] != after["status"]:
        yield f"status was {before['status']}, is {after['status']}"


def _value(written: Any) -> Any:
    """A value as ``summary.json`` has it; infinities were once written as null."""
    return None if written in ("inf", "-inf") else written


def main(before: Path, after: Path) -> int:
    """Compare, print, and return the exit status."""
    if (before / "summary.json").exists():
        pairs = [(before, after)]
    else:
        pairs = [(path.parent, after / path.parent.name) for path in before.glob("*/summary.json")]
    status = 0 if pairs else 1
    for old, new in sorted(pairs):
        if not (new / "summary.json").exists():
            print(f"{old.name}: there is no run in {new}")
            status = 1
            continue
        summaries = [json.loads((folder / "summary.json").read_text()) for folder in (old, new)]
        lines = list(differences(*summaries))
        print(
            f"{old.name}: {len(lines) or 'no'} differences in {len(summaries[0]['checks'])} checks"
        )
        print("".join(f"  {line}\n" for line in lines), end="")
        status = status or bool(lines)
    return int(status)


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:3])))
