"""Where numbers come from: versions, machine, commit and command of a run."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable

from adaptive import files as provenance
from adaptive.files import commit, machine

__all__ = ["command_line", "commit", "machine", "versions"]

VERSIONED = ("numpy", "scipy", "numba", "torch", "torchvision", "matplotlib", "naturalmodes")


def versions() -> dict[str, str | None]:
    """The versions that a result depends on; None for what is not installed."""
    return provenance.versions(*VERSIONED)


def command_line(arguments: Iterable[str] | None = None) -> str:
    """The command that repeats this run, quoted for a shell."""
    return shlex.join(["naturalmodes", *(sys.argv[1:] if arguments is None else arguments)])
