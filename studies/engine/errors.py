"""``UserError``: shown as one sentence, without a traceback; and what to install."""

import difflib
from collections.abc import Iterable

__all__ = ["UserError", "missing", "near"]


class UserError(Exception):
    """Something the user asked for cannot be done; the message is one sentence that says why.

    The command line prints the message without a traceback and exits with status 2.
    """


def missing(error: ModuleNotFoundError) -> str:
    """What to do about a package that is not installed."""
    return f"naturalmodes needs {error.name} for this. In a checkout: pip install '.[studies]'"


def near(name: str, names: Iterable[str]) -> str:
    """A question that names what the user may have meant; empty when nothing is close.

    Examples
    --------
    >>> near("conv-mode", ["conv-modes", "spectra"])
    ' (did you mean conv-modes?)'
    >>> near("x", ["conv-modes", "spectra"])
    ''
    """
    close = difflib.get_close_matches(name, list(names), n=1)
    return f" (did you mean {close[0]}?)" if close else ""
