"""Two inspections of networks with layers in common: what changed, layer by layer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from cnnbridge.results import Inspection, LayerInspection
from studies.engine.errors import UserError
from studies.engine.page import Section, write_page
from studies.engine.text import number, table

__all__ = ["InspectionComparison", "compare", "text", "write"]

# what a layer is compared by, and the attribute that has it
QUANTITIES = {
    "largest eigenvalue": "largest",
    "smallest": "smallest",
    "effective rank": "effective_rank",
    "power in the mean": "mean_share",
    "bound": "bound",
    "curvature along modes": "curvature",
}
COLUMNS = ("layer", "quantity", "A", "B", "B / A")
# a change by more than this factor is told in words
MUCH = 2.0


@dataclass(frozen=True)
class InspectionComparison:
    """What two inspections have in common and where they differ.

    Attributes
    ----------
    rows : (layer, quantity, A, B, B / A), as text.
    only_a, only_b : layers that one of them lacks.
    sentences : the largest changes in words.
    """

    rows: list[list[str]]
    only_a: list[str]
    only_b: list[str]
    sentences: list[str]


def compare(a: str | Path, b: str | Path) -> InspectionComparison:
    """Compare the inspections in two folders.

    Raises
    ------
    UserError : one of them holds no inspection.
    """
    first, second = _read(Path(a)), _read(Path(b))
    both = [name for name in first if name in second.layers]
    rows = [
        [name, quantity, *_pair(first[name], second[name], attribute)]
        for name in both
        for quantity, attribute in QUANTITIES.items()
    ]
    sentences = [f"{len(both)} layers are in both inspections."]
    if both:
        sentences += _changes({name: (first[name], second[name]) for name in both})
    return InspectionComparison(
        rows=rows,
        only_a=[name for name in first if name not in second.layers],
        only_b=[name for name in second if name not in first.layers],
        sentences=sentences,
    )


def _read(folder: Path) -> Inspection:
    try:
        return Inspection.load(folder)
    except ValueError as error:
        raise UserError(str(error)) from error


def _value(layer: LayerInspection, attribute: str) -> float:
    if attribute == "curvature":
        return float(layer.row["curvature"])
    return float(getattr(layer, attribute))


def _pair(a: LayerInspection, b: LayerInspection, attribute: str) -> list[str]:
    x, y = _value(a, attribute), _value(b, attribute)
    ratio = y / x if x else math.nan
    return [*(number(v, 4) if not math.isnan(v) else "–" for v in (x, y, ratio))]


def _changes(pairs: dict[str, tuple[LayerInspection, LayerInspection]]) -> list[str]:
    """The layer whose quantity moved by the largest factor, for those that moved much."""
    sentences = []
    for quantity, attribute in QUANTITIES.items():
        factors = {}
        for name, (a, b) in pairs.items():
            x, y = _value(a, attribute), _value(b, attribute)
            if x > 0 and y > 0 and math.isfinite(x) and math.isfinite(y):
                factors[name] = y / x
        most = max(factors, key=lambda name: abs(math.log(factors[name])), default=None)
        if most is not None and not 1 / MUCH < factors[most] < MUCH:
            moved = sum(not 1 / MUCH < f < MUCH for f in factors.values())
            sentences.append(
                f"{quantity.capitalize()}: {moved} of {len(factors)} layers changed by a factor of "
                f"{MUCH:.0f} or more, {most} the most, by {factors[most]:.3g}."
            )
    return sentences or [f"No quantity of a layer changed by a factor of {MUCH:.0f}."]


def text(found: InspectionComparison) -> str:
    """The comparison for the terminal."""
    return "\n\n".join([table(COLUMNS, found.rows), "\n".join(_told(found))])


def _told(found: InspectionComparison) -> list[str]:
    only = (("A", found.only_a), ("B", found.only_b))
    return found.sentences + [
        f"Only in {which}: {', '.join(names)}." for which, names in only if names
    ]


def write(found: InspectionComparison, path: Path, a: str | Path, b: str | Path) -> None:
    """The comparison as a self-contained page."""
    sections = [
        Section("The inspections", _told(found), ("what", "A", "B"), [["folder", str(a), str(b)]]),
        Section("Layers in both", [] if found.rows else ["None."], COLUMNS, found.rows),
    ]
    write_page(path, "Two inspections compared", found.sentences[0], sections)
