"""Studies: one question per package, asked of real training and answered with verdicts.

Run them with ``naturalmodes run <study>`` or ``python -m studies run <study>``; ``naturalmodes
list`` names them. Importing this package imports nothing.
"""

__version__ = "0.2.0"
