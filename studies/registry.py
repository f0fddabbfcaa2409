"""The studies and papers by name; each package is imported when it is asked for."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from studies.engine.errors import UserError, near
from studies.engine.protocol import Paper, Study

__all__ = ["PAPERS", "STUDIES", "find", "find_paper"]

STUDIES = {
    "conv-modes": "studies.chai2020.conv_modes",
    "in-network": "studies.chai2020.in_network",
    "mode-curvature": "studies.chai2020.mode_curvature",
    "spectra": "studies.chai2020.spectra",
    "two-effects": "studies.chai2020.two_effects",
    "first-step": "studies.chai2020.first_step",
    "after-first-step": "studies.chai2020.after_first_step",
    "bn-any-rate": "studies.related.bn_any_rate",
    "small-batches": "studies.related.small_batches",
    "edge-of-stability": "studies.related.edge_of_stability",
    "conditioning": "studies.related.conditioning",
    "lms-spread": "studies.related.lms_spread",
    "horizons": "studies.related.horizons",
    "degree": "studies.related.degree",
    "decay": "studies.related.decay",
    "noise-floor": "studies.related.noise_floor",
}
PAPERS = {"chai2020": "studies.chai2020"}


def find(name: str) -> Study:
    """The study of a name in ``STUDIES``, or of the user, as ``my_module:STUDY``.

    A module of the user is looked for in the working directory, too.

    Raises
    ------
    UserError : there is no such study.

    Examples
    --------
    >>> find("small-batches").title
    'The edge of small batches'
    """
    if ":" not in name:
        if name not in STUDIES:
            raise UserError(
                f"there is no study {name!r}{near(name, STUDIES)}; there is: {', '.join(STUDIES)}; "
                "or name one of yours as my_module:STUDY."
            )
        name = f"{STUDIES[name]}:STUDY"
    elif "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    found = _named(name)
    if not isinstance(found, Study):
        raise UserError(f"{name} is a {type(found).__name__}, not a Study.")
    return found


def find_paper(name: str) -> Paper:
    """The paper of a name in ``PAPERS``.

    Raises
    ------
    UserError : there is no such paper.
    """
    if name not in PAPERS:
        raise UserError(
            f"there is no paper {name!r}{near(name, PAPERS)}; there is: {', '.join(PAPERS)}."
        )
    paper: Paper = _named(f"{PAPERS[name]}:PAPER")
    return paper


def _named(path: str) -> Any:
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        # what the module itself imports and lacks is told by the command line
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise UserError(f"there is no module {error.name}.") from error
    except AttributeError as error:
        raise UserError(f"{module} has no {name or 'name after the colon'}.") from error
