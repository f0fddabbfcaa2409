"""The folder of an inspection: table, JSON, arrays and page, each written whole or not at all."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import numpy as np

from cnnbridge.inspection.page import page
from cnnbridge.inspection.record import COLUMNS, DIGITS, Inspection

__all__ = ["write"]


def write(inspection: Inspection, folder: Path) -> Path:
    """Write the files that ``Inspection.save`` names, the page last."""
    folder.mkdir(parents=True, exist_ok=True)
    _whole(folder / "layers.csv", _csv(inspection).encode())
    _whole(folder / "inspection.json", inspection.to_json().encode())
    arrays = {
        f"{name}/{key}": value
        for name, layer in inspection.layers.items()
        for key, value in layer.arrays.items()
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    _whole(folder / "arrays.npz", buffer.getvalue())
    # last, since it needs a package that the others do not
    _whole(folder / "report.html", page(inspection).encode("utf-8", errors="backslashreplace"))
    return folder


def _csv(inspection: Inspection) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, [*COLUMNS], lineterminator="\n")
    writer.writeheader()
    for layer in inspection.layers.values():
        row = layer.row
        writer.writerow(
            {k: f"{v:.{DIGITS}g}" if isinstance(v, float) else v for k, v in row.items()}
        )
    return text.getvalue()


def _whole(path: Path, content: bytes) -> None:
    """Replace a file in one move, so that an interrupted run leaves the old one or the new one."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
