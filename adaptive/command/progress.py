"""How far a simulation has come, told while it runs."""

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


@dataclass
class Watched:
    """A scenario that tells how many of its runs were drawn, once that takes over two seconds."""

    scenario: Scenario
    runs: int
    stream: TextIO
    drawn: int = 0
    began: float = field(default_factory=time.perf_counter)
    told: float = 0.0
    lock: Any = field(default_factory=threading.Lock)

    @property
    def problem(self) -> WienerProblem:
        """The scenario's Wiener problem."""
        return self.scenario.problem

    def draw(self, rng: np.random.Generator, samples: int) -> tuple[Regressors, Array]:
        """One run of the scenario, counted."""
        result = self.scenario.draw(rng, samples)
        with self.lock:
            self.drawn += 1
            now = time.perf_counter() - self.began
            terminal = self.stream.isatty()
            if now > PATIENCE and (self.told == 0 or now - self.told > (0.2 if terminal else 10)):
                self.told = now
                left = now * (self.runs - self.drawn) / self.drawn
                line = f"{self.drawn} of {self.runs} runs, about {max(left, 0):.0f} s left"
                self.stream.write(f"\r{line:<50}" if terminal else f"{line}\n")
                self.stream.flush()
            if terminal and self.told and self.drawn == self.runs:
                self.stream.write(f"\r{'':<50}\r")
        return result
