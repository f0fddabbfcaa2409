"""Takes the first step of one network by SGD and by NLMS."""

from __future__ import annotations

from typing import Any

from studies.chai2020.first_step import Cell
from studies.chai2020.nlms import compare
from studies.training.images import tensors
from studies.training.networks import PlainVGG, draw_weights

__all__ = ["measure"]


def measure(cell: Cell) -> dict[str, Any]:
    """Compare the two first steps in every layer; ``steps`` has the rows of ``nlms.compare``."""
    images, labels, classes = tensors(cell.images)
    model = PlainVGG(images.shape[1], classes, cell.widths, "full", cell.position)
    draw_weights(model, "spread", cell.seed)
    first = slice(cell.step_images)
    rows = compare(
        model.to(cell.device).double().train(),
        images[first].to(cell.device).double(),
        labels[first].to(cell.device),
    )
    return {"steps": [row | {"seed": cell.seed} for row in rows]}
