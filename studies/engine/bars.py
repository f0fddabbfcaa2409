"""Progress bars: one line that changes on a terminal, whole lines in a file."""

from __future__ import annotations

import sys
from typing import Any, TextIO

from tqdm import tqdm

__all__ = ["bar"]


class _Lines:
    """A stream that gets every state of a bar as a line, without carriage returns."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> None:
        """Pass on what is not blank."""
        line = text.replace("\r", "").rstrip()
        if line:
            self.stream.write(f"{line}\n")

    def flush(self) -> None:
        """Pass it on."""
        self.stream.flush()


def bar(*over: Any, **settings: Any) -> tqdm:
    """A bar by tqdm on stderr, with its settings; in a file, a line every 30 seconds.

    Examples
    --------
    >>> sum(bar(range(4), disable=True))
    6
    """
    if sys.stderr.isatty():
        return tqdm(*over, **settings)
    return tqdm(*over, **{"mininterval": 30, "file": _Lines(sys.stderr), "ncols": 79, **settings})
