"""The folder of an inspection, written and read: each file is there whole or not at all."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from adaptive.checks import Array
from adaptive.files import unplain
from cnnbridge.inspection.page import page
from cnnbridge.inspection.record import (
    COLUMNS,
    DIGITS,
    Inspection,
    LayerCurvature,
    LayerHorizon,
    LayerInspection,
    Sharpness,
)
from cnnbridge.learning.sgd import SGD

__all__ = ["read", "whole", "write"]

PICTURES = ("strongest", "weakest", "strongest_bias", "weakest_bias")


def write(inspection: Inspection, folder: Path) -> Path:
    """Write the files that ``Inspection.save`` names, the page last."""
    folder.mkdir(parents=True, exist_ok=True)
    whole(folder / "layers.csv", _csv(inspection).encode())
    whole(folder / "inspection.json", inspection.to_json().encode())
    arrays = {
        f"{name}/{key}": value
        for name, layer in inspection.layers.items()
        for key, value in layer.arrays.items()
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    whole(folder / "arrays.npz", buffer.getvalue())
    # last, since it needs a package that the others do not
    whole(folder / "report.html", page(inspection).encode("utf-8", errors="backslashreplace"))
    return folder


def read(folder: Path) -> Inspection:
    """The inspection that ``write`` left in a folder.

    Raises
    ------
    ValueError : the folder holds none, or one whose files do not fit together.
    """
    try:
        data = unplain(json.loads((folder / "inspection.json").read_text("utf-8")))
        with np.load(folder / "arrays.npz", allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in stored.files}
        return _inspection(data, arrays)
    except FileNotFoundError as error:
        raise ValueError(
            f"folder must hold an inspection; {folder} has no {Path(error.filename).name}"
        ) from error
    except (OSError, EOFError, ValueError, LookupError, TypeError, zipfile.BadZipFile) as e:
        raise ValueError(
            f"folder must hold an inspection of this version; that in {folder} cannot be read: {e}"
        ) from e


def _inspection(data: dict[str, Any], arrays: Mapping[str, Array]) -> Inspection:
    layers = {
        name: _layer(name, layer, _under(f"{name}/", arrays))
        for name, layer in data.pop("layers").items()
    }
    sharpness = data.pop("sharpness")
    if sharpness is not None:
        sharpness = Sharpness(**sharpness | {"largest": np.asarray(sharpness["largest"])})
    sgd = data.pop("sgd")
    data |= {key: _number(data[key]) for key in ("loss", "advised_lr")}
    data |= {key: tuple(data[key]) for key in ("warnings", "notes")}
    return Inspection(
        layers=layers, sharpness=sharpness, sgd=None if sgd is None else SGD(**sgd), **data
    )


def _layer(name: str, data: dict[str, Any], arrays: Mapping[str, Array]) -> LayerInspection:
    """The layer of these numbers; the arrays hold more digits than JSON and replace its own."""
    kept = {key: data[key] for key in LayerInspection.__dataclass_fields__ if key in data}
    for key in ("kernel", "stride", "dead_channels", "constant_channels"):
        kept[key] = tuple(kept[key])
    for key in ("largest_low", "mean_share", "seconds"):
        kept[key] = _number(kept[key])
    sgd, curvature = kept["sgd"], kept["curvature"]
    kept["sgd"] = None if sgd is None else SGD(**sgd)
    kept["horizons"] = tuple(LayerHorizon(**each) for each in kept["horizons"])
    kept["normalization"] = _under("normalization/", arrays)
    kept["rounding"] = np.asarray(kept["rounding"], dtype=float)
    if curvature is not None:
        kept["curvature"] = LayerCurvature(
            eigenvalues=arrays["curvature_eigenvalues"],
            curvature=arrays["curvature"],
            standard_error=arrays["curvature_standard_error"],
            largest=_number(curvature["largest"]),
            bound=_number(curvature["bound"]),
        )
    pictures = {key: arrays[key] for key in PICTURES}
    return LayerInspection(**kept | pictures | {"eigenvalues": arrays["eigenvalues"]})


def _under(prefix: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def _number(value: float | None) -> float:
    # JSON has null for NaN
    return math.nan if value is None else float(value)


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


def whole(path: Path, content: bytes) -> None:
    """Replace a file in one move, so that an interrupted run leaves the old one or the new one."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
