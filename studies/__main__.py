"""The command ``naturalmodes``; also ``python -m studies``."""

from __future__ import annotations

import io
import os
import sys

from studies.engine.errors import missing

__all__ = ["main"]


def main() -> None:
    """Run the command line; say in one sentence what to install when a package is missing.

    Letters that the terminal lacks are spelt out, and a stream that is closed takes no output.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        from studies.cli import app
    except ModuleNotFoundError as error:
        sys.exit(missing(error))
    app(prog_name="naturalmodes")


if __name__ == "__main__":
    main()
