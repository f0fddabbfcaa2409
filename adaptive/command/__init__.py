"""``python -m adaptive simulate``, ``filter`` and ``design``, which ``naturalmodes`` names, too.

Each command is a module with ``parser``, its options, and ``run``, which returns an exit status.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence

from adaptive.command import exits

COMMANDS = {
    "simulate": "adaptive.command.simulating",
    "filter": "adaptive.command.filtering",
    "design": "adaptive.command.designing",
}

__all__ = ["COMMANDS", "main"]


def main(arguments: Sequence[str] | None = None, *, prog: str = "python -m adaptive") -> int:
    """Run a command, ``simulate`` where none is named; the exit status, one of ``exits``."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = words.pop(0) if words and not words[0].startswith("-") else ""
    if name and name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        print(f"{prog}: there is no command {name!r}{hint}; there is: {', '.join(COMMANDS)}; "
              f"see {prog} --help", file=sys.stderr)  # fmt: skip
        return exits.USAGE
    command = importlib.import_module(COMMANDS[name or "simulate"])
    options = command.parser(f"{prog} {name}".strip())
    given = vars(options.parse_args(words))
    try:
        status: int = command.run(given)
        return status
    except (ValueError, TypeError, NotImplementedError, OSError) as error:
        return options.error(str(error))
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return exits.INTERRUPTED
