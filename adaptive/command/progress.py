"""How far a command has come, told while it runs."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any, TextIO

import numpy as np

from adaptive.checks import Array
from adaptive.regressors import Regressors
from adaptive.signals import Scenario
from adaptive.wiener import WienerProblem

PATIENCE = 2.0  # seconds before progress is shown
WIDTH = 50


@dataclass
class Progress:
    """Tells how much of a whole is done and how long the rest takes, after two seconds.

    A terminal shows one line that changes; a file gets a line of its own every ten seconds.
    """

    total: int
    unit: str
    stream: TextIO
    done: int = 0
    began: float = field(default_factory=time.perf_counter)
    told: float = 0.0
    lock: Any = field(default_factory=threading.Lock)

    def add(self, more: int = 1) -> None:
        """Count what was done."""
        with self.lock:
            self.done += more
            now = time.perf_counter() - self.began
            terminal = self.stream.isatty()
            if now > PATIENCE and (self.told == 0 or now - self.told > (0.2 if terminal else 10)):
                self.told = now
                left = now * (self.total - self.done) / self.done
                line = f"{self.done} of {self.total} {self.unit}, about {max(left, 0):.0f} s left"
                self.stream.write(f"\r{line:<{WIDTH}}" if terminal else f"{line}\n")
                self.stream.flush()
            if terminal and self.told and self.done >= self.total:
                self.stream.write(f"\r{'':<{WIDTH}}\r")


class Watched:
    """A scenario that tells how many of its runs were drawn."""

    def __init__(self, scenario: Scenario, runs: int, stream: TextIO) -> None:
        self.scenario, self.progress = scenario, Progress(runs, "runs", stream)

    @property
    def problem(self) -> WienerProblem:
        """The scenario's Wiener problem."""
        return self.scenario.problem

    def draw(self, rng: np.random.Generator, samples: int) -> tuple[Regressors, Array]:
        """One run of the scenario, counted."""
        result = self.scenario.draw(rng, samples)
        self.progress.add()
        return result
