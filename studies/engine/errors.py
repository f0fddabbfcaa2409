"""``UserError``: shown as one sentence, without a traceback; and what to install."""

__all__ = ["UserError", "missing"]


class UserError(Exception):
    """Something the user asked for cannot be done; the message is one sentence that says why.

    The command line prints the message without a traceback and exits with status 2.
    """


def missing(error: ModuleNotFoundError) -> str:
    """What to do about a package that is not installed."""
    return f"naturalmodes needs {error.name} for this: pip install 'naturalmodes[studies]'"
