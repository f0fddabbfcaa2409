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

__all__ = [
    "UNFINISHED",
    "flat",
    "output_folder",
    "write_arrays",
    "write_atomically",
    "write_csv",
    "write_json",
]


UNFINISHED = ".unfinished-"  # how the names of files begin that are not whole yet


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
    """Write a table as CSV, atomically; no cell of it is a formula to a spreadsheet."""

    def write(temporary: Path) -> None:
        # names of files may hold bytes that are no text
        with temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            writer = csv.writer(file)
            writer.writerow([_harmless(name) for name in columns])
            writer.writerows([_harmless(value) for value in row] for row in rows)

    write_atomically(path, write)


def _harmless(value: Any) -> Any:
    """Text that a spreadsheet would run as a formula gets an apostrophe in front."""
    if not (isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))):
        return value
    try:
        float(value.replace("∞", "inf"))
    except ValueError:
        return f"'{value}"
    return value


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write named arrays as a compressed ``.npz``, atomically."""
    write_atomically(path, lambda temporary: np.savez_compressed(temporary, **arrays))


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file next to ``path`` and move it there in one step.

    Whoever reads ``path``, and whenever the run dies, finds the old file or the new one, whole.
    The temporary file keeps the suffix of ``path``, by which some writers choose the format.

    Raises
    ------
    UserError : the disk is full, or the folder cannot be written to.
    """
    try:
        _write_atomically(path, write)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}.") from error


def _write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(
        dir=path.parent, prefix=f"{UNFINISHED}{path.stem}-", suffix=path.suffix
    )
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
        _sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise


def _sync_folder(folder: Path) -> None:
    """Let the new name outlast a power cut, where the file system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
