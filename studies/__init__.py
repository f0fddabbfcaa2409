"""Studies: one question per module, asked of real training and answered with verdicts.

Run them with ``naturalmodes run <study>`` or ``python -m studies run <study>``; ``naturalmodes
list`` names them. Importing this package imports nothing heavy.
"""

import importlib
from typing import Any, NamedTuple

from studies.engine.errors import UserError

__all__ = ["STUDIES", "Study", "UserError", "ported"]


class Study(NamedTuple):
    """Where a study lives, the question it asks and the claim it stands for.

    Its module has ``configure(preset, **choices) -> config``, which takes those of ``data``,
    ``data_root`` and ``seed`` that mean something to it, and ``run(config, out, *, device, command)
    -> Summary``, which may take ``workers`` too. ``EXPERIMENT`` and ``RULE``, two strings in the
    module, say what is done and how it will be judged; ``naturalmodes reproduce`` writes them down
    before anything runs.

    Attributes
    ----------
    module : import path.
    question : in one sentence.
    claim : A to D for a study that ``naturalmodes reproduce chai2020`` runs (A and B stand for
        the paper's first claim, C for the second, D, of which there are two, for the halves of the
        third), E beside them.
    """

    module: str
    question: str
    claim: str = ""


# Modules are named, not imported, so that listing the studies needs none of what they need.
STUDIES = {
    "conv-modes": Study(
        "studies.chai2020.conv_modes.measure",
        "Do the conv layers of a trained CNN learn along the natural modes that LMS theory gives?",
        claim="A",
    ),
    "in-network": Study(
        "studies.chai2020.in_network.judge",
        "Do the natural modes of a conv layer predict how it learns inside the network, and how "
        "far does the prediction carry?",
        claim="A",
    ),
    "spectra": Study(
        "studies.chai2020.spectra.measure",
        "What do BatchNorm and its parts do to the spectrum that a layer learns on?",
        claim="B",
    ),
    "two-effects": Study(
        "studies.chai2020.two_effects.judge",
        "Does amplifying weak channels give the speed, and suppressing strong ones the stability?",
        claim="C",
    ),
    "first-step": Study(
        "studies.chai2020.first_step.judge",
        "Is BatchNorm's first step a step of NLMS?",
        claim="D",
    ),
    "after-first-step": Study(
        "studies.chai2020.after_first_step.measure",
        "Does BatchNorm go on approximating NLMS after the first step?",
        claim="D",
    ),
    "bn-any-rate": Study(
        "studies.related.bn_any_rate.measure",
        "Does gradient descent with BatchNorm converge at any rate on least squares?",
        claim="E",
    ),
    "small-batches": Study(
        "studies.related.small_batches.measure",
        "How far below 2 / λmax does the edge of small batches lie?",
        claim="E",
    ),
    "edge-of-stability": Study(
        "studies.related.edge_of_stability.measure",
        "Does training drive the sharpness to 2 / lr, and is it any single layer's?",
        claim="E",
    ),
    "conditioning": Study(
        "studies.related.conditioning.measure",
        "Does BatchNorm condition the layers, and is the last one left worst?",
        claim="E",
    ),
    "lms-spread": Study(
        "studies.related.lms_spread.measure",
        "Does theory predict LMS over eigenvalue spreads from 1 to 1000?",
        claim="E",
    ),
    "horizons": Study(
        "studies.related.horizons.judge",
        "Does the horizon of a prediction grow with width, and what does re-linearising buy?",
        claim="E",
    ),
    "degree": Study(
        "studies.related.degree.measure",
        "Does the degree of the loss say which networks SGD can make explode, and how?",
        claim="E",
    ),
}


def ported(entry: Study) -> Any:
    """The study as a ``studies.engine.protocol.Study``; None where its package has none."""
    package, _, _ = entry.module.rpartition(".")
    return getattr(importlib.import_module(package), "STUDY", None) if package else None
