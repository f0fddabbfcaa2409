"""The command ``naturalmodes``; also ``python -m studies``."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; say in one sentence what to install when a package is missing."""
    try:
        from studies.cli import app
    except ModuleNotFoundError as error:
        sys.exit(missing(error))
    app(prog_name="naturalmodes")


def missing(error: ModuleNotFoundError) -> str:
    """What to do about a package that is not installed."""
    return f"naturalmodes needs {error.name} for this: pip install 'naturalmodes[studies]'"


if __name__ == "__main__":
    main()
