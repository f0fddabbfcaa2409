"""Files of a run: written in one step, so that a reader finds the old one or the new one."""

from __future__ import annotations

import contextlib
import csv
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adaptive.files import json_text
from studies.engine.errors import UserError

__all__ = ["flat", "output_folder", "write_arrays", "write_atomically", "write_csv", "write_json"]


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
    text = json_text(data)
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
    """Let ``write`` fill a temporary file next to ``path`` and move it there in one step.

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
