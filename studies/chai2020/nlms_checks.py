"""Judges comparisons of SGD's step with the NLMS step: one check per position, one table.

``first-step`` and ``after-first-step`` both use it; the comparisons come from ``nlms.compare``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from studies.engine.checks import Check, at_most, inconclusive
from studies.engine.text import number

__all__ = ["STEP_COLUMNS", "TOLERANCE", "WORDS", "equality", "step_rows"]

TOLERANCE = 1e-9
WORDS = {"pre": "before the layer", "post": "after the layer"}
STEP_COLUMNS = (
    "position",
    "layer",
    "comparisons",
    "largest difference",
    "radial",
    "variation of |c/s|²",
    "μ̄, 10 and 90 %",
    "from LMS, least",
)


def equality(rows: Sequence[Mapping[str, Any]], name: str) -> list[Check]:
    """Check, for each position, that the largest difference of the two steps is rounding.

    Parameters
    ----------
    rows : from ``nlms.compare``.
    name : of what was compared.
    """
    checks = []
    for position, words in WORDS.items():
        here = [row for row in rows if row["position"] == position]
        what = f"BatchNorm {words}: {name}"
        if not here:
            checks.append(inconclusive(what, TOLERANCE, "no step was taken"))
            continue
        # NaN counts as the largest
        largest = max(here, key=lambda row: (math.isnan(row["difference"]), row["difference"]))
        layers = len({row["layer"] for row in here})
        note = f"Over {len(here)} comparisons in {layers} layers; largest in {largest['layer']}"
        checks.append(
            at_most(what, largest["difference"], TOLERANCE, unit="of the largest entry", note=note)
        )
    return checks


def _textbook(group: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the textbook's NLMS would need to be the same for all patches."""
    known = [row for row in group if row["variation"] is not None]
    if not known:
        return ["–", "–"]
    low, high = np.median([row["step_sizes"] for row in known], axis=0)
    variation = float(np.median([row["variation"] for row in known]))
    return [number(variation, 2), f"{number(float(low), 2)} to {number(float(high), 2)}"]


def step_rows(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """One line per position and layer: the largest value over seeds and updates.

    In the column about LMS, where a large value is the good one, it is the smallest; the last two
    columns have medians.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["position"], row["layer"]), []).append(row)

    def cell(group: Sequence[Mapping[str, Any]], name: str) -> str:
        values = [row[name] for row in group if row[name] is not None and math.isfinite(row[name])]
        if not values:
            return "–"
        return f"{min(values):.2g}" if name == "lms" else f"{max(values):.1e}"

    return [
        [
            position,
            layer,
            str(len(group)),
            *(cell(group, name) for name in ("difference", "radial")),
            *_textbook(group),
            cell(group, "lms"),
        ]
        for (position, layer), group in groups.items()
    ]
