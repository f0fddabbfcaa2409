"""Every checkpoint of a training run inspected, as a sweep, and each layer's spectrum over them."""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from studies.engine.errors import UserError
from studies.engine.files import output_folder, write_csv
from studies.engine.grid import Record, one_thread, run_grid
from studies.engine.page import Picture, Section, write_page
from studies.engine.style import BLUE, ORANGE, panels, save, style
from studies.engine.text import number
from studies.inspecting.looking import look
from studies.inspecting.targets import Request

__all__ = ["found_files", "inspect_checkpoints", "look_at"]

# of a layer's spectrum that is drawn
QUANTILES = (0.0, 0.1, 0.5, 0.9, 1.0)
COLUMNS = ("checkpoint", "layer", "largest", "smallest", "effective_rank", "bound", "curvature")
# layers that are drawn; the table has all
DRAWN = 12
# checkpoints that an axis names
TICKS = 8
# rows of the table that the page shows
SHOWN = 200
NAME = "inspect-checkpoint"


def found_files(pattern: str) -> list[Path]:
    """The files that a pattern names, in the order of the numbers in their names.

    Raises
    ------
    UserError : there is none.
    """
    files = [Path(name) for name in glob.glob(pattern, recursive=True) if Path(name).is_file()]
    if not files:
        raise UserError(f"--checkpoints {pattern} names no file.")
    return sorted(files, key=_order)


def _order(path: Path) -> list[tuple[int, Any]]:
    parts = re.split(r"(\d+)", str(path))
    return [(0, int(part)) if part.isdigit() else (1, part) for part in parts]


def look_at(config: dict[str, Any]) -> dict[str, Any]:
    """Inspect one checkpoint: the cell of the sweep.

    Parameters
    ----------
    config : ``request``, the fields of a ``Request``; ``digest``, of the file.
    """
    fields = dict(config["request"])
    for name in ("layers", "parts", "closely"):
        fields[name] = None if fields[name] is None else tuple(fields[name])
    with one_thread():
        found = look(Request(**fields))
    rows = {}
    for name, layer in found.layers.items():
        spectrum = layer.excited
        quantiles = np.quantile(spectrum, QUANTILES) if spectrum.size else np.zeros(len(QUANTILES))
        numbers = {key: float(layer.row[key]) for key in COLUMNS[2:]}
        rows[name] = numbers | {"quantiles": quantiles}
    return {"layers": rows, "warnings": list(found.warnings), "loss": found.loss}


def inspect_checkpoints(
    request: Request,
    files: Sequence[Path],
    out: Path,
    *,
    workers: int | None = None,
    cluster: str | None = None,
    progress: bool = True,
) -> list[Record]:
    """Inspect every file; leaves ``checkpoints.csv``, ``report.html`` and a figure in a folder.

    A checkpoint that an earlier run has inspected is not inspected again, unless it changed.

    Raises
    ------
    UserError : the folder or the cluster will not do.
    """
    plain = dataclasses.asdict(request)
    grid = [
        {
            "request": plain | {"weights": str(path.absolute())},
            "digest": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in files
    ]
    cells = run_grid(
        look_at,
        grid,
        output_folder(out),
        workers=workers,
        cluster=cluster,
        progress=progress,
        name=NAME,
    )
    names = [path.stem for path in files]
    rows = [
        [name, layer, *(numbers[key] for key in COLUMNS[2:])]
        for name, cell in zip(names, cells, strict=True)
        if cell.error is None
        for layer, numbers in cell.result["layers"].items()
    ]
    write_csv(out / "checkpoints.csv", COLUMNS, rows)
    _write_page(out, request, names, cells, rows)
    return cells


def _write_page(
    out: Path, request: Request, names: list[str], cells: list[Record], rows: list[list[Any]]
) -> None:
    failed = [
        f"{name}: {cell.error}"
        for name, cell in zip(names, cells, strict=True)
        if cell.error is not None
    ]
    done = [(n, c.result["layers"]) for n, c in zip(names, cells, strict=True) if c.error is None]
    pictures = []
    if done:
        path = _draw(done, out / "spectra")
        drawn = len(list(done[0][1])[:DRAWN])
        caption = (
            f"Spectrum of R of the first {drawn} layers over {len(done)} checkpoints: from the "
            f"smallest to the largest excited eigenvalue, the middle 80 % darker; the line is the "
            f"largest."
        )
        pictures = [Picture(path, caption, caption)]
    told = [
        f"{len(done)} of {len(names)} checkpoints were inspected; checkpoints.csv has all numbers."
    ]
    shown = [[*row[:2], *(number(value) for value in row[2:])] for row in rows[:SHOWN]]
    sections = [
        Section("Spectra over training", told, pictures=pictures, items=failed),
        Section("Layers", [], COLUMNS, shown),
    ]
    write_page(out / "report.html", f"Checkpoints of {request.target}", told[0], sections)


def _draw(done: list[tuple[str, Any]], stem: Path) -> Path:
    layers = list(done[0][1])[:DRAWN]
    places = np.arange(len(done))
    with style():
        figure, axes = panels(len(layers), height=2.2)
        for axis, layer in zip(axes, layers, strict=True):
            spectra = np.array(
                [found[layer]["quantiles"] if layer in found else [np.nan] * 5 for _, found in done]
            )
            # one checkpoint is a point, which no area shows
            axis.fill_between(places, spectra[:, 0], spectra[:, 4], color=BLUE, alpha=0.25, lw=0)
            axis.fill_between(places, spectra[:, 1], spectra[:, 3], color=BLUE, alpha=0.5, lw=0)
            axis.plot(places, spectra[:, 4], color=ORANGE, marker=".")
            axis.set_yscale("log")
            axis.set_title(layer)
            few = places[:: max(1, -(-len(places) // TICKS))]
            axis.set_xticks(few, [done[place][0] for place in few], rotation=45, ha="right")
        axes[0].set_ylabel("eigenvalue of R")
        return save(figure, stem)[0]
