"""What every benchmark needs: the machine in words, and a folder from the command line."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable
from pathlib import Path

__all__ = ["from_command_line", "processor"]


def processor() -> str:
    """Name of the processor's model, or its architecture where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(x.split(":")[1].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def from_command_line(
    description: str, measure: Callable[[Path], object], arguments: list[str] | None = None
) -> None:
    """Call ``measure`` with the folder that ``--out`` names."""
    parser = argparse.ArgumentParser(description=description.split("\n")[0])
    parser.add_argument(
        "--out", type=Path, default=Path("results", "benchmarks"), help="folder (%(default)s)"
    )
    measure(parser.parse_args(arguments).out)
