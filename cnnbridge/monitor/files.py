"""Where a monitor writes its readings: a CSV file, TensorBoard."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from cnnbridge.monitor.reading import LayerReading


class Table:
    """A CSV file with one line for each reading, new or continued from an earlier run."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        header = [column.name for column in fields(LayerReading)]
        if self.path.exists() and self.path.stat().st_size:
            with self.path.open(newline="") as file:
                found = next(csv.reader(file), [])
            if found != header:
                raise ValueError(
                    f"csv_path must be a new file or one of a monitor; got {self.path}, whose "
                    f"first line is {','.join(found)!r}"
                )
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("w", newline="") as file:
            csv.writer(file).writerow(header)

    def write(self, readings: Iterable[LayerReading]) -> None:
        """Append the readings in one piece."""
        text = io.StringIO()
        csv.writer(text).writerows(list(asdict(r).values()) for r in readings)
        with self.path.open("a", newline="") as file:
            file.write(text.getvalue())

    def close(self) -> None:
        """Nothing is left open between writes."""


class Scalars:
    """A TensorBoard writer; one that was made here, for a directory, is closed here."""

    def __init__(self, target: Any) -> None:
        self.own = not hasattr(target, "add_scalar")
        if self.own and not isinstance(target, str | os.PathLike):
            raise TypeError(
                f"tensorboard must be a SummaryWriter or a directory; got {type(target).__name__}"
            )
        self.writer = _summary_writer(target) if self.own else target

    def write(self, readings: Iterable[LayerReading]) -> None:
        """Add every number of every reading, as "<layer>/<quantity>"."""
        for r in readings:
            for key, value in asdict(r).items():
                if key not in ("step", "layer", "patches", "taps"):
                    self.writer.add_scalar(f"{r.layer}/{key}", value, r.step)

    def close(self) -> None:
        """Close a writer of our own."""
        if self.own:
            self.writer.close()


def _summary_writer(directory: str | os.PathLike[str]) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ImportError(
            "tensorboard must be installed to write to a directory: pip install tensorboard"
        ) from None
    return SummaryWriter(str(directory))  # type: ignore[no-untyped-call]
