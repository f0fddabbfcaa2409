"""What every study does around its own work: a summary that is always on disk, and an end."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from studies.engine import summary as results
from studies.engine.errors import UserError
from studies.engine.grid import Record, run_grid
from studies.engine.summary import Answer, Summary

__all__ = ["device_name", "measured", "pick", "running", "usable"]


@contextlib.contextmanager
def running(
    study: str,
    config: Any,
    out: Path,
    *,
    device: torch.device,
    command: str | None,
    answer: Answer,
    finish: Callable[[Summary], None],
) -> Iterator[tuple[Summary, Callable[[], None]]]:
    """A summary that records how the block inside ended, and a function that writes it.

    Parameters
    ----------
    study : its name.
    config : a dataclass with ``preset`` and ``seed``.
    out : folder that can be written to.
    device : where the numbers are made.
    command : that repeats the run.
    answer : with the rule, before anything has run.
    finish : called at the end, also of a run that failed, to write the report.
    """
    began = time.monotonic()
    summary = Summary(
        study=study,
        config=dataclasses.asdict(config),
        seed=config.seed,
        device=device_name(device),
        command=command or f"naturalmodes run {study} --preset {config.preset} --out {out}",
        versions=results.versions(),
        machine=results.machine(),
        commit=results.commit(),
        answer=answer,
    )

    def save() -> None:
        summary.duration = time.monotonic() - began
        summary.write(out / "summary.json")

    save()
    try:
        yield summary, save
        summary.status = "incomplete" if summary.problems else "complete"
    except BaseException as error:
        summary.status = "interrupted"
        summary.problems.append(f"The run ended early: {type(error).__name__}: {error}".strip())
        raise
    finally:
        save()
        finish(summary)


def device_name(device: torch.device) -> str:
    """The device as a reader of the report wants it."""
    if device.type != "cuda":
        return device.type
    return f"cuda ({torch.cuda.get_device_name(device)})"


def pick(presets: dict[str, Any], preset: str, **choices: Any) -> Any:
    """A preset with the user's choices put in; paths become text.

    Raises
    ------
    UserError : there is no such preset.
    """
    if preset not in presets:
        raise UserError(f"unknown preset {preset!r}: choose {', '.join(presets)}.")
    plain = {k: str(v) if isinstance(v, Path) else v for k, v in choices.items()}
    return dataclasses.replace(presets[preset], **plain)


def usable(cells: list[Record], summary: Summary) -> list[Record]:
    """The cells that came to a result; the others go on record as problems of the run."""
    failed = [cell for cell in cells if cell.error is not None]
    if failed:
        summary.problems.append(
            f"{len(failed)} of {len(cells)} cells failed, the first with {failed[0].error}."
        )
    return [cell for cell in cells if cell.error is None]


def measured(
    function: Callable[[Any], Any],
    grid: Sequence[Any],
    out: Path,
    summary: Summary,
    *,
    workers: int | None,
    version: str,
    serial: bool = False,
) -> list[Record]:
    """A study's grid, run into its folder: ``run_grid``, and of that what is ``usable``.

    Parameters
    ----------
    function, grid, workers, version : as in ``run_grid``.
    out : of the study.
    summary : to put failures on record.
    serial : in this process, for so little that processes take longer to start.
    """
    cells = run_grid(
        function,
        grid,
        out / "cells",
        workers=workers,
        engine="serial" if serial else None,
        version=version,
    )
    return usable(cells, summary)
