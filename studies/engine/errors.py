"""The one exception that is the user's to mend."""

__all__ = ["UserError"]


class UserError(Exception):
    """Something the user asked for cannot be done; the message is one sentence that says why.

    The command line prints the message without a traceback and exits with status 2.
    """
