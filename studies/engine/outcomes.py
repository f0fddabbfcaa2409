"""What became of a training run: it explodes, dies, learns, or does none of these.

A course is what a run leaves behind, update by update. The rules read it afterwards, so that their
constants can be swept without training again. None of them looks at the end of a run alone: float32
hides most explosions, since an overflow behind a normalization turns features to zero, after which
gradients vanish and the loss falls back to that of a constant guess.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from studies.engine.smoothing import running_mean
from studies.engine.text import number

__all__ = [
    "ALLOWANCE",
    "Course",
    "Interval",
    "fails_text",
    "highest",
    "learns_text",
    "lowest",
]

Array = np.ndarray
Interval = tuple[float, float]

# How many times the learning rate times the number of updates the parameters may move from their
# start before a run counts as exploding. A gradient of norm below 100 at every update stays inside.
ALLOWANCE = 100.0


@dataclass(frozen=True)
class Course:
    """One training run at one learning rate.

    Attributes
    ----------
    lr : learning rate.
    loss : (n,) loss of each update's batch, before the update.
    accuracy : (n,) accuracy on each update's batch, before the update.
    norm : (n + 1,) Euclidean norm of all learned parameters before each update and at the end.
    dead_at : number of updates after which the features of a fixed batch were first seen not to
        depend on the input and stayed so to the end; None where they do depend on it.
    steps : updates that the run was to make; it ends early only where it is no longer finite, or
        was told to end once its outcome is decided (``train_course``).
    """

    lr: float
    loss: Array
    accuracy: Array
    norm: Array
    dead_at: int | None
    steps: int

    @classmethod
    def of(cls, record: dict[str, Any]) -> Course:
        """A course from the plain record that a cell leaves on disk."""
        names = ("loss", "accuracy", "norm")
        arrays = {name: np.asarray(record[name], dtype=float) for name in names}
        return cls(lr=record["lr"], dead_at=record["dead_at"], steps=record["steps"], **arrays)

    @property
    def finite(self) -> bool:
        """Whether loss and parameters stayed finite."""
        return bool(np.isfinite(self.loss).all() and np.isfinite(self.norm).all())

    @property
    def complete(self) -> bool:
        """Whether the run made all its updates."""
        return len(self.loss) == self.steps

    def explodes(self, allowance: float = ALLOWANCE) -> bool:
        """Whether the parameters at any time passed |theta_0| + allowance lr t, or overflowed."""
        bound = self.norm[0] + allowance * self.lr * np.arange(len(self.norm))
        return not self.finite or bool((self.norm > bound).any())

    def explodes_at_huge_rate(self, power: float = 1.5) -> bool:
        """The rule for rates of 1e4 and more: loss and norm both peak above lr to the power.

        The norm alone would flag activations that saturate after one jump, and the loss alone
        would flag optimizers whose step is bounded.
        """
        if not self.finite:
            return True
        return bool(min(self.loss.max(), self.norm.max()) > self.lr**power)

    @property
    def dies(self) -> bool:
        """Whether the features stopped depending on the input."""
        return self.dead_at is not None

    def learns_by_loss(self, ceiling: float = 1.5) -> bool:
        """Whether the smoothed loss ends below a fixed value: a ceiling, and so not free of scale.

        A network whose loss is proportional to the learning rate crosses it at some rate however
        well it classifies.
        """
        return self.complete and self.finite and bool(running_mean(self.loss)[-1] < ceiling)

    def learns_by_accuracy(self, floor: float = 0.7) -> bool:
        """Whether the smoothed batch accuracy ends above a fixed value; free of scale."""
        return self.complete and self.finite and bool(running_mean(self.accuracy)[-1] > floor)

    def passes_ceiling(self, ceiling: float, classes: int, patience: int = 20) -> bool:
        """The rule that most people use: a loss that stays too high has "diverged".

        The loss, averaged over 10 updates, has been above ``ceiling`` times the larger of its start
        and ln(classes) for ``patience`` updates on end, or is not finite, or the run was ended for
        its parameters. The ceiling decides the answer for a network whose loss is proportional to
        the learning rate, so it must be swept.
        """
        if not self.finite or (not self.complete and not self.dies):
            return True
        over = running_mean(self.loss) > ceiling * max(self.loss[0], math.log(classes))
        longest = max(
            (len(run) for run in "".join("01"[int(o)] for o in over).split("0")), default=0
        )
        return longest >= patience

    def outcome(self, allowance: float = ALLOWANCE) -> str:
        """One word: "explodes", "dies", "learns" (by accuracy) or "neither"."""
        if self.explodes(allowance):
            return "explodes"
        if self.dies:
            return "dies"
        return "learns" if self.learns_by_accuracy() else "neither"


def lowest(rates: Sequence[float], happens: Sequence[bool]) -> Interval:
    """Interval that holds the lowest rate at which something happens, on a grid of rates.

    >>> lowest([1, 2, 4, 8], [False, False, True, True])
    (2, 4)

    It is (0, lowest rate) where it always happens, and (highest rate, inf) where it never does. A
    rate at which it does not happen above one at which it does leaves the first where it is.
    """
    at = next((k for k, yes in enumerate(happens) if yes), None)
    if at is None:
        return (rates[-1] if len(rates) else 0.0, np.inf)
    return (rates[at - 1] if at else 0.0, rates[at])


def highest(rates: Sequence[float], happens: Sequence[bool]) -> Interval:
    """Interval that holds the highest rate at which something happens, on a grid of rates.

    >>> highest([1, 2, 4, 8], [True, True, False, False])
    (2, 4)
    """
    at = next((k for k in range(len(rates) - 1, -1, -1) if happens[k]), None)
    if at is None:
        return (0.0, rates[0] if len(rates) else np.inf)
    return (rates[at], rates[at + 1] if at + 1 < len(rates) else np.inf)


def _middle(intervals: Sequence[Interval]) -> Interval:
    low, high = np.median(np.asarray(intervals, dtype=float), axis=0)
    return float(low), float(high)


def fails_text(intervals: Sequence[Interval]) -> str:
    """The lowest rate of something, median over seeds, as a table shows it."""
    if not intervals:
        return "–"
    low, high = _middle(intervals)
    if math.isinf(high):
        return f"not up to {number(low, 3)}"
    return f"{number(low, 3)} to {number(high, 3)}" if low > 0 else f"below {number(high, 3)}"


def learns_text(intervals: Sequence[Interval]) -> str:
    """The highest rate of something, median over seeds, as a table shows it."""
    if not intervals:
        return "–"
    low, high = _middle(intervals)
    if low <= 0:
        return "nowhere"
    if math.isinf(high):
        return f"{number(low, 3)} and more"
    return f"{number(low, 3)} to {number(high, 3)}"
