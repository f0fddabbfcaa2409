"""One pure function from config to result, over a grid of configs.

A result lands on disk as soon as it is there, in a file named by the hash of its config, so that
a run that dies loses only what was in flight and the next one skips what is done. The numbers do
not depend on the engine, the number of workers or the order: every cell has one thread, random
generators seeded from its config, and a process in which nothing else runs meanwhile.

>>> product({"steps": 100}, lr=[0.1, 0.2], seed=[0])
[{'steps': 100, 'lr': 0.1, 'seed': 0}, {'steps': 100, 'lr': 0.2, 'seed': 0}]
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from studies.engine._cells import Config, Outcome, Record, Task, canonical, tasks_of
from studies.engine._store import Store
from studies.engine._workers import on_cluster, on_processes, one_thread, run_cell, worker_count
from studies.engine.bars import bar as progress_bar
from studies.engine.errors import UserError
from studies.engine.files import output_folder
from studies.engine.interrupts import interruptible

__all__ = [
    "Outlook",
    "Record",
    "canonical",
    "cell_keys",
    "load_cells",
    "load_grid",
    "one_thread",
    "outlook",
    "product",
    "run_grid",
]

Engine = Literal["joblib", "serial", "dask"]

MOST_CELLS = 1_000_000


@dataclass(frozen=True)
class Outlook:
    """What a grid would cost, before it is run.

    Attributes
    ----------
    cells : different configs in the grid.
    done : of them, those whose result is there.
    failed : those that raised last time, and would be tried again.
    seconds_per_cell : the median over the cells done; None when there are none.
    seconds : for what is left, on so many workers; None when unknown.
    """

    cells: int
    done: int
    failed: int
    seconds_per_cell: float | None
    seconds: float | None


def product(base: Config | None = None, /, **axes: Sequence[Any]) -> list[Any]:
    """Every combination of the axes, the last one turning fastest, put into a base config.

    Parameters
    ----------
    base : mapping or dataclass with what stays the same.
    axes : the values of each name.

    Returns
    -------
    A list of dicts, or of such dataclasses.

    Raises
    ------
    UserError : an axis is no list or is empty, or there are more than a million combinations.
    """
    cells = math.prod(map(len, _checked(axes).values()))
    if cells > MOST_CELLS:
        raise UserError(f"the grid has {cells:,} cells; at most {MOST_CELLS:,} can be listed.")
    combinations = [dict(zip(axes, v, strict=True)) for v in itertools.product(*axes.values())]
    if dataclasses.is_dataclass(base) and not isinstance(base, type):
        unknown = axes.keys() - {field.name for field in dataclasses.fields(base)}
        if unknown:
            raise UserError(f"{type(base).__name__} has no {', '.join(sorted(unknown))}.")
        return [dataclasses.replace(base, **combination) for combination in combinations]
    fixed = dict(base or {})  # type: ignore[arg-type]
    return [{**fixed, **combination} for combination in combinations]


def _checked(axes: Mapping[str, Sequence[Any]]) -> Mapping[str, Sequence[Any]]:
    for name, values in axes.items():
        if isinstance(values, str) or not isinstance(values, Sequence | np.ndarray):
            raise UserError(f"the values of {name!r} must be a list, got {values!r}.")
        if len(values) == 0:
            raise UserError(f"the list of values of {name!r} is empty.")
    return axes


def run_grid(
    function: Callable[..., Any],
    grid: Sequence[Config],
    out: str | Path,
    *,
    engine: Engine | None = None,
    workers: int | None = None,
    cluster: str | None = None,
    progress: bool = True,
    version: str = "",
    keywords: bool = False,
    name: str | None = None,
) -> list[Record]:
    """Run a function over a grid of configs; skip what an earlier run has left.

    Parameters
    ----------
    function : of one config; pure, defined at the top level of a module. It returns numbers,
        strings, None, arrays, and lists and mappings of such.
    grid : configs: mappings with string keys, or dataclasses, of plain data. One that appears
        twice is run once.
    out : folder for the results; ``load_grid`` reads it.
    engine : ``joblib``: processes on this machine, by joblib's loky; ``serial``: here, one after
        the other, the default for one worker; ``dask``: on the cluster at ``cluster``, which
        implies it.
    workers : of ``joblib``; None for one per processor.
    cluster : address of a Dask scheduler, such as ``tcp://10.0.0.5:8786``. Its workers must be
        able to import the function. They send results back, so no shared disk is needed.
    progress : show a bar with the time left.
    version : part of what names a result. Change it when the function changes its meaning, and
        nothing computed before will be taken for new.
    keywords : call ``function(**config)`` instead of ``function(config)``.
    name : names the results in place of the function's import path, so that it may move.

    Returns
    -------
    One ``Record`` per config, in the order of the grid. A cell that raised has its ``error`` set
    and is tried again by the next run; the others go on.

    Raises
    ------
    UserError : the grid, the folder or the cluster will not do, or the disk is full.
    KeyboardInterrupt : Ctrl-C, with everything finished on disk. One that the function itself
        raises is an error of its cell.

    Examples
    --------
    >>> import operator, tempfile
    >>> folder = tempfile.mkdtemp()
    >>> grid = product(x=[[1.0, 2.0], [0.5]])
    >>> [c.result for c in run_grid(len, grid, folder, engine="serial", progress=False)]
    [1, 1]
    """
    if cluster is not None:
        engine = "dask"
    elif engine == "dask":
        raise UserError("the engine dask needs the address of a cluster.")
    elif engine is None:
        engine = "serial" if workers == 1 else "joblib"
    if engine not in ("joblib", "serial", "dask"):
        raise UserError(f"unknown engine {engine!r}: choose joblib, serial or dask.")
    tasks = tasks_of(function, grid, version, keywords, name)
    store = Store(output_folder(Path(out).absolute()))  # a cell may change the current folder
    store.sweep_up()
    store.write_plan(tasks)
    done = {key: cell for key in dict.fromkeys(t.key for t in tasks) if (cell := store.read(key))}
    todo = list({t.key: t for t in tasks if t.key not in done}.values())
    count = worker_count(workers, len(todo))

    finished: Iterator[tuple[Task, Outcome]]
    if engine == "dask":
        finished = on_cluster(todo, str(cluster))
    elif not todo:
        finished = iter(())
    elif engine == "serial":
        finished = ((task, run_cell(task)) for task in todo)
    else:
        finished = on_processes(todo, count)

    failures = 0
    with (
        interruptible(signal.SIGINT),
        contextlib.closing(_closable(finished)) as stream,
        _bar(len(done) + len(todo), len(done), progress) as bar,
    ):
        for task, outcome in stream:
            done[task.key] = store.write(task, outcome)
            failures += outcome.error is not None
            if failures:
                bar.set_postfix_str(f"{failures} failed", refresh=False)
            bar.update()
    if lost := sum(not store.has(key) for key in done):
        raise UserError(
            f"{lost:,} of {len(done):,} finished cells are no longer in {store.cells}: somebody "
            "removed them during the run. Run it again to compute them."
        )
    return [done[task.key] for task in tasks]


def load_cells(
    function: Callable[..., Any],
    grid: Sequence[Config],
    out: str | Path,
    *,
    version: str = "",
    name: str | None = None,
) -> list[Record | None]:
    """What ``run_grid`` with these arguments has left: one per config, None for one not run."""
    store = Store(Path(out))
    keys = cell_keys(function, grid, version=version, name=name)
    return [store.read(key) or store.read_error(key) for key in keys]


def cell_keys(
    function: Callable[..., Any],
    grid: Sequence[Config],
    *,
    version: str = "",
    name: str | None = None,
) -> list[str]:
    """The keys that ``run_grid`` with these arguments gives the cells."""
    return [task.key for task in tasks_of(function, grid, version, False, name)]


def outlook(
    function: Callable[..., Any],
    grid: Sequence[Config],
    out: str | Path,
    *,
    workers: int | None = None,
    version: str = "",
    keywords: bool = False,
    name: str | None = None,
) -> Outlook:
    """What ``run_grid`` with these arguments would cost, from what is in the folder already."""
    keys = {task.key for task in tasks_of(function, grid, version, keywords, name)}
    store = Store(Path(out))
    done = {key: cell for key in keys if (cell := store.read(key))}
    left = len(keys) - len(done)
    seconds = float(np.median([cell.seconds for cell in done.values()])) if done else None
    rounds = -(-left // worker_count(workers, left))
    return Outlook(
        cells=len(keys),
        done=len(done),
        failed=sum(store.error_path(key).exists() for key in keys - done.keys()),
        seconds_per_cell=seconds,
        seconds=0.0 if not left else None if seconds is None else seconds * rounds,
    )


def load_grid(out: str | Path) -> list[dict[str, Any]]:
    """The results in a folder, one flat row per cell, ready for a table or a data frame.

    The rows are those of the last grid run there, in its order, as far as they have got; see
    ``Record.row``. Cells that raised are there with their ``error``.

    Raises
    ------
    UserError : no grid was run there.
    """
    store = Store(Path(out))
    found = (store.read(key) or store.read_error(key) for key in store.read_plan())
    return [cell.row() for cell in found if cell is not None]


def _closable(iterator: Iterator[Any]) -> Any:
    """A generator, so that leaving early ends what feeds it."""
    yield from iterator


def _bar(total: int, initial: int, progress: bool) -> tqdm:
    """A bar whose estimate is the mean over the whole run."""
    return progress_bar(
        total=total,
        initial=initial,
        desc="cells",
        unit="cell",
        smoothing=0,
        disable=not progress,
    )
