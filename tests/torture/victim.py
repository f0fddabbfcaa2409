"""What is tortured: a function to sweep, a small study, and a paper of it and a real study.

``python -m tests.torture.victim`` is the command ``naturalmodes`` that knows this paper.
"""

import time
from dataclasses import dataclass, replace

import numpy as np

import adaptive
from studies import registry
from studies.engine.checks import at_most
from studies.engine.protocol import Claim, Findings, Paper, Study

CELLS = 16
PAUSE = 0.05  # seconds, so that there is a moment to strike in


@dataclass(frozen=True)
class Cell:
    x: int = 0


@dataclass(frozen=True)
class Config:
    preset: str
    seed: int = 0


def learn(x):
    """A run of compiled LMS: a number and an array, both decided by x."""
    u = np.random.default_rng(x).standard_normal(400)
    d = np.convolve(u, [1.0, -0.5, 0.25])[: u.size]
    found = adaptive.lms(u, d, mu=0.01, taps=3)
    time.sleep(PAUSE)
    return {"power": float(np.mean(np.abs(found.error) ** 2)), "weights": found.weights}


def measure(cell):
    return learn(cell.x)


def cells(config, _device):
    return [replace(Cell(), x=x) for x in range(CELLS)]


def judge(config, measured):
    powers = [one.result["power"] for one in measured if one.result is not None]
    check = at_most("largest error power", max(powers, default=np.inf), 100.0, unit="")
    arrays = {"powers": {"powers": np.array(powers)}}
    return Findings(check.verdict, [check], results={"powers": powers}, arrays=arrays)


STUDY = Study(
    name="learn",
    title="Runs of LMS",
    question="Does LMS learn?",
    experiment="LMS learns three taps from 400 samples.",
    rule="The power of the error is at most 100.",
    presets={"smoke": Config("smoke")},
    cells=cells,
    measure=measure,
    judge=judge,
    serial=(),
)
PAPER = Paper(
    name="torture",
    title="Two studies that are interrupted",
    citation="nobody",
    claims=(
        Claim("learns", "LMS learns.", ("tests.torture.victim:STUDY",)),
        Claim("as said", "It does so as theory says.", ("lms-spread",)),
    ),
)

if __name__ == "__main__":
    from studies.__main__ import main

    registry.PAPERS["torture"] = "tests.torture.victim"
    main()
