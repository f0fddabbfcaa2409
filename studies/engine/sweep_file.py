"""A sweep told in a TOML file, so that a model is swept without a line of code about it.

::

    function = "mypackage.training:train"    # called as train(lr=..., seed=..., epochs=...)
    version = "1"                            # optional; change it when the function changes

    [grid]                                   # every combination
    lr = [0.01, 0.1, 1.0]
    seed = [0, 1, 2]

    [fixed]
    epochs = 5
"""

from __future__ import annotations

import importlib
import inspect
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from studies.engine import grid as sweep
from studies.engine import page as report
from studies.engine._cells import function_name
from studies.engine.errors import UserError
from studies.engine.files import flat, write_csv
from studies.engine.grid import Outlook, Record
from studies.engine.provenance import commit, machine, versions
from studies.engine.summary import Summary
from studies.engine.text import commit_text, number, table

__all__ = ["SweepFile", "plan", "read", "run"]

KEYS = {"function", "version", "grid", "fixed"}
SHOWN_IN_PLAN = 20
SHOWN_IN_REPORT = 2000
NAMED_FAILURES = 5


@dataclass(frozen=True)
class SweepFile:
    """What a file asks for.

    Attributes
    ----------
    name : of the file, without its suffix.
    target : the import path as written.
    function : what it names.
    version : see ``sweep.run_grid``.
    axes, fixed : the tables.
    keywords : whether the function takes the names as keywords, rather than one ``config``.
    """

    name: str
    target: str
    function: Callable[..., Any]
    version: str
    axes: Mapping[str, Sequence[Any]]
    fixed: Mapping[str, Any]
    keywords: bool

    @property
    def grid(self) -> list[dict[str, Any]]:
        """Every config."""
        return sweep.product(self.fixed, **self.axes)

    def label(self, config: Mapping[str, Any]) -> str:
        """A cell by what tells it from the others."""
        return ", ".join(f"{name}={config[name]}" for name in self.axes) or "the only cell"


def read(path: str | Path) -> SweepFile:
    """Read a file and import what it names, from its own folder or the current one too.

    Raises
    ------
    UserError : the file cannot be read, or asks for what is not there.
    """
    path = Path(path)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}.") from error
    except ValueError as error:
        raise UserError(f"{path} is not TOML: {error}.") from error
    if unknown := sorted(data.keys() - KEYS):
        wanted = ", ".join(sorted(KEYS))
        raise UserError(f"{path} has {', '.join(unknown)}, but only {wanted} mean something.")
    target, version = data.get("function"), data.get("version", "")
    axes, fixed = data.get("grid", {}), data.get("fixed", {})
    if not isinstance(target, str):
        raise UserError(f'{path} must name a function, as in function = "package.module:train".')
    if not isinstance(version, str):
        raise UserError(f'the version in {path} must be a string, as in version = "{version}".')
    for name, part in (("grid", axes), ("fixed", fixed)):
        if not isinstance(part, dict):
            raise UserError(f"{name} in {path} must be a table: write [{name}] above its lines.")
    for name, values in axes.items():
        if not isinstance(values, list):
            raise UserError(
                f"{name} in [grid] of {path} must be a list, got {values!r}; "
                "what stays the same belongs in [fixed]."
            )
        if not values:
            raise UserError(f"{name} in [grid] of {path} is an empty list.")
        if name in fixed:
            raise UserError(f"{name} is in [grid] and in [fixed] of {path}.")
    function = find(target, [path.resolve().parent, Path.cwd()])  # the last is looked in first
    keywords = fit(function, [*axes, *fixed])
    return SweepFile(path.stem, target, function, version, axes, fixed, keywords)


def find(target: str, folders: Sequence[Path]) -> Callable[..., Any]:
    """Import ``package.module:function``, with some folders added to the path."""
    module_name, colon, name = target.partition(":")
    if not (module_name and colon and name):
        raise UserError(f"a function is named as package.module:function, got {target!r}.")
    for folder in map(str, folders):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UserError(f"cannot import {module_name}: {error}.") from error
    except (Exception, SystemExit) as error:
        kind = type(error).__name__
        raise UserError(f"importing {module_name} raises {kind}: {error}.") from error
    function = getattr(module, name, None)
    if not callable(function):
        what = "has no" if function is None else "cannot call its"
        raise UserError(f"{module_name} {what} {name}.")
    function_name(function)
    return function


def fit(function: Callable[..., Any], names: Sequence[str]) -> bool:
    """Whether a function takes these names as keywords; False when it takes one ``config``.

    Raises
    ------
    UserError : it takes neither.
    """
    try:
        parameters = inspect.signature(function).parameters
    except ValueError as error:
        raise UserError(
            f"{function.__name__} does not say which parameters it has: sweep a function of your "
            "own that calls it."
        ) from error
    if list(parameters) == ["config"]:
        return False
    kinds = {parameter.kind for parameter in parameters.values()}
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        for name in names:
            if name not in parameters:
                wanted = ", ".join(parameters) or "nothing"
                raise UserError(f"{function.__name__} has no parameter {name}; it has: {wanted}.")
    for name, parameter in parameters.items():
        variadic = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        if parameter.default is parameter.empty and not variadic and name not in names:
            raise UserError(
                f"{function.__name__} needs {name}, which is neither in [grid] nor in [fixed]."
            )
    return True


def plan(asked: SweepFile, out: Path, *, workers: int | None = None, time_one: bool = False) -> str:
    """The grid and its cost, in words and a table; ``time_one`` runs a cell that is missing."""

    def look() -> Outlook:
        return sweep.outlook(
            asked.function,
            grid,
            out,
            workers=workers,
            version=asked.version,
            keywords=asked.keywords,
        )

    grid = asked.grid
    found = look()
    if time_one and found.done < found.cells:
        _time_one(asked, out)
        found = look()
    lines = [f"{asked.target}, {len(grid):,} cells:", ""]
    lines.append(
        table(
            list(asked.axes) or ["cell"],
            [[str(c[n]) for n in asked.axes] or ["the only one"] for c in grid[:SHOWN_IN_PLAN]],
        )
    )
    if len(grid) > SHOWN_IN_PLAN:
        lines.append(f"and {len(grid) - SHOWN_IN_PLAN:,} more")
    if asked.fixed:
        lines += ["", "Always: " + ", ".join(f"{k} = {v!r}" for k, v in asked.fixed.items())]
    left = found.cells - found.done
    again = f", {found.failed:,} of them failed before" if found.failed else ""
    lines += ["", f"{found.done:,} done, {left:,} to run{again}."]
    if not left:
        lines.append("Nothing is left to compute.")
    elif found.seconds is None:
        lines.append("How long a cell takes is not known yet; --time-one runs one to find out.")
    else:
        lines.append(
            f"A cell takes {duration(found.seconds_per_cell or 0.0)} (median of those done); "
            f"what is left takes about {duration(found.seconds)}."
        )
    return "\n".join(lines)


def _time_one(asked: SweepFile, out: Path) -> None:
    """Run the first cell that has no result; it is kept, so that the time is not lost."""
    common: dict[str, Any] = {"version": asked.version, "keywords": asked.keywords}
    for config in asked.grid:
        if not sweep.outlook(asked.function, [config], out, **common).done:
            (cell,) = sweep.run_grid(
                asked.function, [config], out, workers=1, progress=False, **common
            )
            if cell.error is not None:
                raise UserError(f"the cell that was to be timed failed: {cell.error}.")
            return


def duration(seconds: float) -> str:
    """In the unit a person would use."""
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def run(
    asked: SweepFile,
    out: Path,
    *,
    workers: int | None = None,
    cluster: str | None = None,
    command: str = "",
    progress: bool = True,
) -> Summary:
    """Run the sweep; leaves ``results.csv``, ``summary.json`` and ``report.html`` beside the cells.

    The summary is ``complete`` when no cell failed.
    """
    began = time.monotonic()
    out = out.absolute()  # a cell may change the current folder
    cells = sweep.run_grid(
        asked.function,
        asked.grid,
        out,
        workers=workers,
        cluster=cluster,
        progress=progress,
        version=asked.version,
        keywords=asked.keywords,
    )
    failed = [cell for cell in cells if cell.error is not None]
    summary = Summary(
        study=f"sweep {asked.name}",
        config={
            "function": asked.target,
            "version": asked.version,
            "grid": dict(asked.axes),
            "fixed": dict(asked.fixed),
        },
        seed=asked.fixed.get("seed"),
        device=", ".join(dict.fromkeys(c.manifest.get("device", "unknown") for c in cells)),
        command=command,
        versions=versions(),
        machine=machine(),
        commit=commit(),
        status="incomplete" if failed else "complete",
        duration=time.monotonic() - began,
    )
    summary.results = {"cells": {asked.label(c.config): _scalars(c) for c in cells}}
    summary.problems = [
        f"The cell {asked.label(cell.config)} failed: {cell.error}"
        for cell in failed[:NAMED_FAILURES]
    ]
    if len(failed) > NAMED_FAILURES:
        summary.problems.append(f"{len(failed) - NAMED_FAILURES:,} more cells failed.")
    summary.write(out / "summary.json")
    columns, rows = _table(cells)
    write_csv(out / "results.csv", columns, rows)
    _write_report(out, asked, cells, summary, columns, rows)
    return summary


def _scalars(cell: Record) -> dict[str, Any]:
    if cell.error is not None:
        return {}
    found = cell.result if isinstance(cell.result, Mapping) else {"result": cell.result}
    return {k: v for k, v in flat(found).items() if isinstance(v, int | float | str | bool)}


def _table(cells: Sequence[Record]) -> tuple[list[str], list[list[Any]]]:
    """All that fits in a table: arrays and lists stay in the files of the cells."""
    rows = [cell.row() for cell in cells]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    columns = [
        name
        for name in columns
        if not any(isinstance(row.get(name), np.ndarray | list) for row in rows)
        and (name != "error" or any(row["error"] for row in rows))
    ]
    return columns, [[row.get(name) for name in columns] for row in rows]


def _write_report(
    out: Path,
    asked: SweepFile,
    cells: Sequence[Record],
    summary: Summary,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
) -> None:
    shown = [[_shown(value) for value in row] for row in rows[:SHOWN_IN_REPORT]]
    text = [
        f"{len(cells):,} cells; results.csv has them all, cells/ what is too large for a table."
    ]
    if len(rows) > len(shown):
        text.append(f"The first {len(shown):,} are shown.")
    made = Counter(
        (
            commit_text(cell.manifest.get("commit")),
            cell.manifest.get("device", "–"),
            *(
                f"{name} {(cell.manifest.get('versions') or {}).get(name)}"
                for name in ("python", "numpy", "torch", "naturalmodes")
            ),
        )
        for cell in cells
    )
    sections = [
        report.Section("Results", text, columns, shown),
        report.Section(
            "Where they come from",
            ["Cells that an earlier run left were made by what that run had installed."],
            ("function's commit", "device", "python", "numpy", "torch", "naturalmodes", "cells"),
            [[*key, f"{count:,}"] for key, count in made.items()],
        ),
    ]
    report.write(
        out / "report.html",
        summary,
        title=f"Sweep {asked.name}",
        question=f"What {asked.target} gives over {len(cells):,} cells.",
        sections=sections,
        checks=False,
    )


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return "–" if value is None else str(value).lower()
    return number(value, 6) if isinstance(value, int | float) else str(value)
