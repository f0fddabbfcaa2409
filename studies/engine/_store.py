"""Cells on disk: written atomically, checked when they are read."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from studies.engine._cells import Outcome, Record, Task, decode, text_of
from studies.engine.errors import UserError
from studies.engine.files import UNFINISHED, write_atomically, write_json

__all__ = ["Store"]

FORMAT = 1
STALE = 86400  # seconds after which a file that was never finished is nobody's

logger = logging.getLogger(__name__)


class Store:
    """The files of one folder: ``sweep.json``, and per cell ``cells/KEY.json``.

    Arrays of a cell are in ``cells/KEY.HASH.npz``, named by their content and written first: a cell
    is there when its JSON is, and two runs that write the same cell do not mix their halves. What
    raised is in ``cells/KEY.error.json``.
    """

    def __init__(self, out: Path) -> None:
        self.plan_path = out / "sweep.json"
        self.cells = out / "cells"

    def has(self, key: str) -> bool:
        """Whether there is a file for a cell, whatever it holds."""
        return (self.cells / f"{key}.json").exists() or self.error_path(key).exists()

    def sweep_up(self) -> None:
        """Remove what runs that were killed long ago left half written."""
        for path in self.cells.glob(f"{UNFINISHED}*"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > STALE:
                    path.unlink()

    def error_path(self, key: str) -> Path:
        """Where the error of a cell is."""
        return self.cells / f"{key}.error.json"

    def write_plan(self, tasks: Sequence[Task]) -> None:
        plan = {
            "format": FORMAT,
            "function": tasks[0].name,
            "version": tasks[0].version,
            "cells": [task.key for task in tasks],
        }
        write_json(self.plan_path, plan)

    def read_plan(self) -> list[str]:
        """The keys of the last grid, in order, each once."""
        try:
            plan = json.loads(self.plan_path.read_text(encoding="utf-8"))
            return list(dict.fromkeys(map(str, plan["cells"])))
        except FileNotFoundError:
            raise UserError(f"no sweep was run in {self.plan_path.parent}.") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{self.plan_path} is damaged: {error}.") from error

    def write(self, task: Task, outcome: Outcome) -> Record:
        record = {
            "format": FORMAT,
            "key": task.key,
            "function": task.name,
            "version": task.version,
            "config": task.data,
            "seconds": outcome.seconds,
            "manifest": outcome.manifest,
        }
        if outcome.error is not None:
            self._write_text(self.error_path(task.key), {**record, "error": outcome.error})
            return _failed(record, outcome.error)
        path = self.cells / f"{task.key}.json"
        record["arrays"] = None
        if outcome.arrays:
            buffer = io.BytesIO()
            np.savez_compressed(buffer, **outcome.arrays)  # type: ignore[arg-type]
            content = buffer.getvalue()
            digest = hashlib.sha256(content).hexdigest()
            record["arrays"], arrays = digest, self._arrays_path(task.key, digest)
            write_atomically(arrays, lambda t: t.write_bytes(content))
        record["result"] = outcome.document
        record["digest"] = _digest(record)
        self._write_text(path, record)
        self.error_path(task.key).unlink(missing_ok=True)
        cell = self.read(task.key)
        if cell is None:
            raise UserError(f"{path} did not read back as it was written.")
        return cell

    def read(self, key: str) -> Record | None:
        """The cell, or None when it is not there or not whole; the latter is said."""
        path = self.cells / f"{key}.json"
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["format"] != FORMAT or record["key"] != key:
                raise ValueError("it is not the result that its name says")
            if record["digest"] != _digest(record):
                raise ValueError("its content does not match its checksum")
            return Record(
                key=key,
                config=decode(record["config"], {}),
                result=decode(record["result"], self._read_arrays(key, record["arrays"])),
                error=None,
                seconds=float(record["seconds"]),
                manifest=_manifest(record["manifest"]),
            )
        except FileNotFoundError as error:
            if not path.exists():
                return None
            reason: Exception = error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = error
        logger.warning("The result %s is damaged and does not count: %s.", path, reason)
        return None

    def read_error(self, key: str) -> Record | None:
        """The cell that raised, or None when it did not."""
        try:
            record = json.loads(self.error_path(key).read_text(encoding="utf-8"))
            return _failed(record, record["error"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def _arrays_path(self, key: str, digest: str) -> Path:
        return self.cells / f"{key}.{digest[:16]}.npz"

    def _read_arrays(self, key: str, digest: str | None) -> Mapping[str, np.ndarray]:
        if digest is None:
            return {}
        content = self._arrays_path(key, digest).read_bytes()
        if hashlib.sha256(content).hexdigest() != digest:
            raise ValueError("its arrays do not match their checksum")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return dict(arrays)

    def _write_text(self, path: Path, record: Mapping[str, Any]) -> None:
        text = json.dumps(record, indent=1, allow_nan=False) + "\n"
        write_atomically(path, lambda t: t.write_text(text, encoding="utf-8"))


def _failed(record: Mapping[str, Any], error: Mapping[str, str]) -> Record:
    return Record(
        key=record["key"],
        config=decode(record["config"], {}),
        result=None,
        error=f"{error['type']}: {error['message']}",
        seconds=float(record["seconds"]),
        manifest=_manifest(record["manifest"]),
    )


def _manifest(data: Any) -> Mapping[str, Any]:
    """The manifest, if it has the shape of one: people edit files."""
    commit, versions = data.get("commit"), data.get("versions")
    if not (commit is None or {"sha", "dirty"} <= commit.keys()):
        raise ValueError("the commit in its manifest is not one")
    if not (versions is None or isinstance(versions, Mapping)):
        raise ValueError("the versions in its manifest are not a mapping")
    return data


def _digest(record: Mapping[str, Any]) -> str:
    """Hash of what was asked and answered, without when, where and how long."""
    names = ("function", "version", "config", "result")
    return hashlib.sha256(text_of({name: record[name] for name in names}).encode()).hexdigest()
