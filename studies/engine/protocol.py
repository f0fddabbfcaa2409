"""What a study is: cells to measure, and a judge that turns the measurements into findings.

A study is a value, ``Study``. The engine owns everything around it: folder, grid, resuming,
failed cells, summary, report, tables, figures, terminal. A study's own package has four small
files: the question (``__init__``), ``measure`` (the only one that may import torch), ``judge`` and
``figures``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from studies.engine.checks import Check, Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MplFigure


__all__ = ["Claim", "Figure", "Findings", "Lazy", "Measured", "Paper", "Study", "Table", "seeds"]


def seeds(seed: int, count: int) -> range:
    """Seeds of a study's networks or runs; no two of the first thousand seeds of runs overlap.

    Parameters
    ----------
    seed : of the study, ``config.seed``.
    count : how many are wanted; more keep the first ones.

    Examples
    --------
    >>> list(seeds(0, 3)), list(seeds(1, 2))
    ([1000, 1001, 1002], [2000, 2001])
    """
    return range(1000 * (seed + 1), 1000 * (seed + 1) + count)


@dataclass(frozen=True)
class Lazy:
    """A function named by its import path and imported when it is first called.

    Listing the studies, or judging old results, then imports no torch.

    >>> Lazy("math:hypot")(3, 4)
    5.0
    """

    path: str

    def __call__(self, *args: Any) -> Any:
        """Import the function and call it."""
        return self.function(*args)

    @property
    def function(self) -> Callable[..., Any]:
        """The function itself."""
        module, name = self.path.split(":")
        found: Callable[..., Any] = getattr(importlib.import_module(module), name)
        return found


@dataclass(frozen=True)
class Measured:
    """One cell and what came of it.

    Attributes
    ----------
    cell : the frozen dataclass that ``Study.cells`` gave.
    result : what ``Study.measure`` returned, as read back from disk; None where there is none.
    error : why there is no result, in one line; None where there is one.
    """

    cell: Any
    result: Any = None
    error: str | None = None


@dataclass(frozen=True)
class Figure:
    """A figure that is not drawn yet: the engine draws it once the verdict is on disk.

    Attributes
    ----------
    name : of the files, without suffix.
    caption : what a reader should see in it, every line and marker named.
    alt : for a reader who cannot see it.
    plots : one function of axes for each panel.
    width, height : of the figure and of one row of panels, in inches.
    columns : panels in a row, at most.
    finish : called with the figure and its axes after the plots, as for a shared legend.
    """

    name: str
    caption: str
    alt: str
    plots: Sequence[Callable[[Axes], object]]
    width: float = 9.0
    height: float = 2.9
    columns: int = 3
    finish: Callable[[MplFigure, Sequence[Axes]], object] | None = None


@dataclass(frozen=True)
class Table:
    """A table for the report, the terminal, ``summary.json`` and a CSV file; or text and figures.

    Attributes
    ----------
    heading : of the section in the report.
    columns, rows : text as shown; empty for a section without a table.
    text : paragraphs above the table.
    figures : below the table.
    printed : whether the terminal shows it too.
    """

    heading: str
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    text: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    printed: bool = True


@dataclass(frozen=True)
class Findings:
    """What a judge made of the measurements.

    Attributes
    ----------
    verdict : of the study, by its rule.
    checks : each prediction with its observation, limit and verdict.
    reason : one sentence for the verdict; the count of checks that hold when left empty.
    tables : in the order of the report.
    answer : the figure that shows the answer; None for a study without one.
    against : evidence against the simple reading, one sentence each.
    results : further entries for ``results`` in ``summary.json``, plain data.
    arrays : by file name without suffix, named arrays; each goes to an ``.npz`` file.
    numbers : (what, number) pairs for the answer; those of the checks when left empty.
    """

    verdict: Verdict
    checks: Sequence[Check] = ()
    reason: str = ""
    tables: Sequence[Table] = ()
    answer: Figure | None = None
    against: Sequence[str] = ()
    results: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    numbers: Sequence[tuple[str, str]] = ()

    @property
    def figures(self) -> list[Figure]:
        """All of them, the answer's first; one for each name."""
        answer = [] if self.answer is None else [self.answer]
        found = [*answer, *(figure for table in self.tables for figure in table.figures)]
        first: dict[str, Figure] = {}
        for figure in found:
            first.setdefault(figure.name, figure)
        return list(first.values())


@dataclass(frozen=True)
class Study:
    """A question, how it is measured, and the rule by which it is judged.

    Attributes
    ----------
    name : on the command line; the keys of finished cells are made from it, so files may move.
    title : of the report.
    question : in one sentence.
    experiment, rule : what is done and how it will be judged; on disk before anything runs.
    presets : by name, each a frozen dataclass with ``preset`` and ``seed``. It holds a cell to
        ``replace`` from, so that no field is told twice, and counts such as ``seeds``.
    cells : from (config, device type) to the cells, frozen dataclasses that hold everything that
        decides the numbers and nothing else. A cell's key does not depend on preset or counts, so
        a further seed keeps all finished cells.
    measure : from a cell to a result of plain data and arrays. Pure; runs in a worker process;
        its result is on disk as soon as it is done.
    judge : from (config, measured) to findings, where ``measured`` has every cell in the order of
        ``cells``, failed ones too. Pure, quick, without torch; repeatable on old results.
    version : change it when ``measure`` changes its numbers; old cells are then not reused.
    serial : presets whose cells take less time than starting worker processes does.

    A cell with a field ``device`` is told ``cpu`` or ``cuda`` through it; a study whose cells have
    none runs on the CPU and needs no torch. A value in a cell with a method ``check`` has it
    called once before anything runs, so that missing data is said at once.
    """

    name: str
    title: str
    question: str
    experiment: str
    rule: str
    presets: Mapping[str, Any]
    cells: Callable[[Any, str], Sequence[Any]]
    measure: Callable[[Any], Any]
    judge: Callable[[Any, Sequence[Measured]], Findings]
    version: str = "1"
    serial: Sequence[str] = ("smoke",)


@dataclass(frozen=True)
class Claim:
    """One claim of a paper, in our words, and the names of the studies that test it."""

    name: str
    text: str
    studies: tuple[str, ...]


@dataclass(frozen=True)
class Paper:
    """A paper and its claims."""

    name: str
    title: str
    citation: str
    claims: tuple[Claim, ...]
