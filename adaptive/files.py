"""What a run leaves on disk: strict JSON, and where its numbers come from.

``cnnbridge`` has no files of its own; the studies use these.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["commit", "json_text", "machine", "plain", "unplain", "versions"]


def plain(value: Any) -> Any:
    """Data that strict JSON can hold.

    Dataclasses become mappings, arrays lists, complex numbers ``real`` and ``imag``, infinities the
    strings ``"inf"`` and ``"-inf"``, NaN null.

    Examples
    --------
    >>> plain({"mse": np.array([1.0, np.inf, np.nan])})
    {'mse': [1.0, 'inf', None]}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, complex):
        return {"real": plain(value.real), "imag": plain(value.imag)}
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if isinstance(value, str | int | float | None):
        return value
    if isinstance(value, Iterable):
        return [plain(part) for part in value]
    return str(value)


def unplain(data: Any) -> Any:
    """Data read from JSON, with the infinities that ``plain`` wrote as numbers again.

    Examples
    --------
    >>> unplain({"mse": [1.0, "inf", None]})
    {'mse': [1.0, inf, None]}
    """
    if isinstance(data, dict):
        return {key: unplain(part) for key, part in data.items()}
    if isinstance(data, list):
        return [unplain(part) for part in data]
    return float(data) if data in ("inf", "-inf") else data


def json_text(data: Any) -> str:
    """Data as JSON that any parser takes; see ``plain``."""
    return json.dumps(plain(data), indent=2, allow_nan=False) + "\n"


def versions(*packages: str) -> dict[str, str | None]:
    """Versions of Python and of packages; None for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    if "naturalmodes" in found and found["naturalmodes"] is None:
        import adaptive

        found["naturalmodes"] = getattr(adaptive, "__version__", None)
    return found


def machine() -> dict[str, Any]:
    """The kind of machine, without its name."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"system": platform.system(), "architecture": platform.machine(), "cpus": cpus}


def commit(source: Path | None = None) -> dict[str, Any] | None:
    """The commit that a source file was run from, and whether the tree differed from it.

    None outside git, and when the code merely lies inside somebody else's repository (as a
    virtual environment does), whose commit would say nothing about it.

    Parameters
    ----------
    source : file that git must know; None for this one.
    """
    source = source or Path(__file__)

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "--no-optional-locks", *arguments],
            cwd=source.parent,
            check=True,
            capture_output=True,
            text=True,
            timeout=30,
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", source.name)
        return {"sha": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None
