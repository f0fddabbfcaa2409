"""An inspection that was interrupted goes on from what it left in its folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cnnbridge.inspection.files import read, whole
from cnnbridge.inspection.record import Inspection
from cnnbridge.learning.batch_loss import tensors

__all__ = ["Kept", "fingerprint"]

STATE = "resume.json"


@dataclass
class Kept:
    """What an earlier call left, and which of its parts came to their end.

    Attributes
    ----------
    inspection : as far as it got; None if there is nothing to go on from.
    done : by part, the entries that it made in ``skipped``.
    """

    inspection: Inspection | None = None
    done: dict[str, dict[str, str]] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path | None, mark: str) -> Kept:
        """What the folder holds, if that is an inspection of the same things."""
        if folder is None:
            return cls()
        try:
            state = json.loads((folder / STATE).read_text("utf-8"))
            if state["mark"] != mark:
                return cls()
            return cls(read(folder), state["done"])
        except (OSError, ValueError, LookupError, TypeError):
            # nothing there, or nothing of use: it is computed and written again
            return cls()

    @staticmethod
    def write(folder: Path, mark: str, done: dict[str, dict[str, str]]) -> None:
        """Note, after the inspection is written, what it was of and which parts ended."""
        text = json.dumps({"mark": mark, "done": done}, indent=1)
        whole(folder / STATE, text.encode())

    @staticmethod
    def forget(folder: Path) -> None:
        """Remove the note, while the files of the folder change."""
        (folder / STATE).unlink(missing_ok=True)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers whose spectra are known."""
        return () if self.inspection is None else tuple(self.inspection.layers)


def fingerprint(model: nn.Module, batch: Any, *settings: Any) -> str:
    """A hash of the weights, the buffers, the first batch and the settings."""
    found = hashlib.sha256(repr(settings).encode())
    for name, tensor in _named(model, batch):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        found.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    found.update(repr([m.training for m in model.modules()]).encode())
    return found.hexdigest()


def _named(model: nn.Module, batch: Any) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()
    for index, tensor in enumerate(tensors(batch)):
        yield f"batch[{index}]", tensor
