"""The command ``naturalmodes``; also ``python -m studies``."""

from __future__ import annotations

import sys

from studies.engine.errors import missing

__all__ = ["main"]


def main() -> None:
    """Run the command line; say in one sentence what to install when a package is missing."""
    try:
        from studies.cli import app
    except ModuleNotFoundError as error:
        sys.exit(missing(error))
    app(prog_name="naturalmodes")


if __name__ == "__main__":
    main()
