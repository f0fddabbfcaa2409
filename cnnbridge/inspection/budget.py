"""How long an inspection may take, in seconds or in training steps."""

from __future__ import annotations

import re
import time

from cnnbridge import _checks

__all__ = ["Budget"]

FORM = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(s|m|h|seconds?|minutes?|hours?|steps?)\s*")
SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}
# a step of training costs about as much as three forward passes: the backward pass is two
PASSES_PER_STEP = 3.0


class Budget:
    """A time limit that says what still fits.

    Parameters
    ----------
    given : seconds, or a text such as "90s", "2m", "1h" or "12 steps"; None for no limit. A step
        is a step of training, taken to cost three forward passes over a batch.

    Raises
    ------
    TypeError, ValueError : anything else.

    Examples
    --------
    >>> Budget("2m").limit
    120.0
    """

    def __init__(self, given: str | float | None) -> None:
        self.limit: float | None = None
        self.steps: float | None = None
        self._begin = time.perf_counter()
        if isinstance(given, str):
            form = FORM.fullmatch(given)
            if form is None:
                raise ValueError(
                    f"budget must be seconds, or a text such as '90s', '2m' or '12 steps'; "
                    f"got {given!r}"
                )
            number = _checks.positive("budget", float(form[1]))
            if form[2].startswith("step"):
                self.steps = number
            else:
                self.limit = number * SECONDS[form[2][0]]
        elif given is not None:
            self.limit = _checks.positive("budget", given)

    def measured(self, forward: float) -> None:
        """Learn what a forward pass over a batch takes, in seconds."""
        if self.steps is not None:
            self.limit = self.steps * PASSES_PER_STEP * forward

    @property
    def spent(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self._begin

    def fits(self, seconds: float, *, share: float = 1.0) -> bool:
        """Whether work of this length ends within a share of the budget."""
        return self.limit is None or self.spent + seconds <= share * self.limit
