"""Studies: one question per module, asked of real training and answered with verdicts.

Run them with ``naturalmodes run <study>`` or ``python -m studies run <study>``; ``naturalmodes
list`` names them. Importing this package imports nothing heavy.
"""

from studies.errors import UserError

__all__ = ["UserError"]
