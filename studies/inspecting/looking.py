"""One inspection from a request, with progress for the terminal and errors in one sentence."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cnnbridge
from cnnbridge.results import Inspection
from studies.engine.errors import UserError
from studies.inspecting import targets
from studies.inspecting.targets import Request

__all__ = ["look", "names", "progress_line", "summary_text"]


def look(
    request: Request,
    keep: Path | None = None,
    progress: Callable[[str, float], object] | None = None,
) -> Inspection:
    """Build what the request names, and inspect it.

    Raises
    ------
    UserError : something in it cannot be had, or cannot be inspected.
    """
    model = targets.model(request)
    given, notes = targets.batches(request, model)
    loss = targets.loss_function(request.loss)
    try:
        found = cnnbridge.inspect(
            model,
            given,
            loss=loss,
            lr=request.lr,
            momentum=request.momentum,
            weight_decay=request.weight_decay,
            layers=request.layers,
            samples=request.samples,
            parts=request.parts,
            closely=request.closely,
            budget=request.budget,
            progress=progress,
            keep=keep,
            seed=request.seed,
        )
    except (TypeError, ValueError, MemoryError) as error:
        raise UserError(str(error)) from error
    except OSError as error:
        raise UserError(f"cannot write results to {keep}: {error.strerror or error}") from error
    found = replace(found, notes=(*notes, *found.notes))
    if keep is not None and notes:
        found.save(keep)
    return found


def progress_line(budget: str | None) -> Callable[[str, float], None]:
    """A line on a terminal's stderr that follows the work; nothing in a log."""

    def show(sentence: str, seconds: float) -> None:
        if sys.stderr.isatty():
            of = f" of {budget}" if budget else ""
            sys.stderr.write("\r\x1b[K" + f"{seconds:.0f} s{of}: {sentence}"[:79])
            sys.stderr.flush()

    return show


def summary_text(found: Inspection) -> str:
    """The inspection for a terminal: how much, what it warns of, what was left out."""
    lines = [
        f"{len(found)} layers from {found.images:,} images in {found.batches} batches.",
        *found.notes,
    ]
    lines += [f"Warning: {warning}" for warning in found.warnings]
    if found.advice:
        lines.append(f"Learning rate to start from: {found.advised_lr:.3g}. {found.advice}")
    lines += [f"Left out: {name}: {reason}" for name, reason in found.skipped.items()]
    return "\n".join(lines)


def names(texts: Any) -> tuple[str, ...] | None:
    """Comma-separated names, from an option that may be given several times."""
    found = tuple(name.strip() for text in texts or () for name in text.split(",") if name.strip())
    return found or None
