"""One step of SGD beside a normalization and the NLMS step of the same batch, layer by layer.

What the studies ``first-step`` and ``after-first-step`` both do, at different times of training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

import cnnbridge
from cnnbridge import FirstStep, SplitBatchNorm
from studies.engine import summary as results
from studies.engine.summary import Check
from studies.training.networks import PlainVGG

__all__ = ["STEP_COLUMNS", "TOLERANCE", "WORDS", "adjacent", "compare", "equality", "step_rows"]

TOLERANCE = 1e-9
WORDS = {"pre": "before the layer", "post": "after the layer"}
STEP_COLUMNS = (
    "position",
    "layer",
    "comparisons",
    "largest difference",
    "from least norm",
    "radial",
    "from LMS, least",
)


def adjacent(model: PlainVGG) -> list[tuple[str, str, str]]:
    """(layer in words, name of the normalization, name of the convolution beside it)."""
    names = [(f"features.{i}", part) for i, part in enumerate(model.features)]
    if model.position == "post":
        names.reverse()
    convs = [name for name, part in names if isinstance(part, nn.Conv2d)]
    numbers = {name: i for i, name in enumerate(sorted(convs, key=lambda n: int(n[9:])), start=1)}
    found = []
    for i, (name, part) in enumerate(names):
        if isinstance(part, SplitBatchNorm) and i + 1 < len(names):
            conv = names[i + 1][0]
            found.append((f"conv{numbers[conv]}", name, conv))
    return found if model.position == "pre" else found[::-1]


def compare(model: PlainVGG, images: torch.Tensor, labels: torch.Tensor) -> list[dict[str, Any]]:
    """The two steps of one batch in every layer beside a normalization.

    Parameters
    ----------
    model : in float64 the two agree to rounding; left as it is.
    images, labels : the batch.

    Returns
    -------
    One mapping for each layer: ``position``, ``layer``; ``difference``, ``minimum_norm`` and
    ``radial`` as in ``cnnbridge.FirstStep``; ``lms``, see ``distance_from_lms``.
    """
    rows = []
    for layer, norm, conv in adjacent(model):
        step = cnnbridge.first_step_is_nlms(
            model, norm, conv, images, labels, nn.functional.cross_entropy, lr=0.1
        )
        rows.append(
            {
                "position": model.position,
                "layer": layer,
                "difference": step.difference,
                "minimum_norm": step.minimum_norm,
                "radial": step.radial,
                "lms": distance_from_lms(step),
            }
        )
    return rows


def distance_from_lms(step: FirstStep) -> float:
    """How far SGD's step is from every multiple of the step of LMS: the control.

    The step of LMS is that of NLMS without the division by the power s^2. Where the powers of the
    channels are equal, the two differ by a factor only and nothing is compared; the larger this
    number, the more the equality with NLMS says.
    """
    taken = torch.from_numpy(step.g_sgd - step.g)
    power = torch.from_numpy(step.s).square()
    if step.position == "before":
        groups, _, taps = taken.shape
        power = power.repeat_interleave(groups * taps // len(power)).reshape(groups, 1, taps)
    else:
        power = power.reshape(taken.shape[0], -1, 1)
    lms = taken * power
    along = (taken * lms).sum() / lms.square().sum() * lms
    return float((taken - along).norm() / taken.norm())


def equality(rows: Sequence[dict[str, Any]], name: str) -> list[Check]:
    """Are the two steps equal to rounding? One check per position, on the largest difference."""
    checks = []
    for position, words in WORDS.items():
        here = [row for row in rows if row["position"] == position]
        what = f"BatchNorm {words}: {name}"
        if not here:
            checks.append(results.inconclusive(what, TOLERANCE, "no step was taken"))
            continue
        # a NaN is larger than anything
        largest = max(here, key=lambda row: (math.isnan(row["difference"]), row["difference"]))
        layers = len({row["layer"] for row in here})
        note = f"Over {len(here)} comparisons in {layers} layers; largest in {largest['layer']}"
        checks.append(
            results.at_most(
                what, largest["difference"], TOLERANCE, unit="of the largest entry", note=note
            )
        )
    return checks


def step_rows(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """One line per position and layer: the largest over seeds and times; of LMS, the least."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["position"], row["layer"]), []).append(row)

    def cell(group: list[dict[str, Any]], name: str) -> str:
        values = [row[name] for row in group if row[name] is not None and math.isfinite(row[name])]
        if not values:
            return "–"
        return f"{min(values):.2g}" if name == "lms" else f"{max(values):.1e}"

    return [
        [
            position,
            layer,
            str(len(group)),
            *(cell(group, name) for name in ("difference", "minimum_norm", "radial", "lms")),
        ]
        for (position, layer), group in groups.items()
    ]
