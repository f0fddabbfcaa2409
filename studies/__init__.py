"""Studies: one question per module, asked of real training and answered with verdicts.

Run them with ``naturalmodes run <study>`` or ``python -m studies run <study>``; ``naturalmodes
list`` names them. Importing this package imports nothing heavy.
"""

from typing import NamedTuple

from studies.errors import UserError

__all__ = ["STUDIES", "Study", "UserError"]


class Study(NamedTuple):
    """Where a study lives, and the question it asks; its module has ``configure`` and ``run``."""

    module: str
    question: str


# Modules are named, not imported, so that listing the studies needs none of what they need.
STUDIES = {
    "conv-modes": Study(
        "studies.conv_modes",
        "Do the conv layers of a trained CNN learn along the natural modes that LMS theory gives?",
    ),
}
