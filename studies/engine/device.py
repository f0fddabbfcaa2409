"""Where the numbers are made: on the CPU or on a GPU. torch is imported when it is needed."""

from __future__ import annotations

from studies.engine.errors import UserError

__all__ = ["choose_device", "device_name", "known_device"]


def known_device(device: str) -> None:
    """Check the name of a device, without torch.

    Raises
    ------
    UserError : neither ``auto``, ``cpu`` nor ``cuda``.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"unknown device {device!r}: choose auto, cpu or cuda.")


def choose_device(device: str) -> str:
    """``cpu`` or ``cuda``, for ``auto``, ``cpu`` or ``cuda``.

    Raises
    ------
    UserError : there is no such device here.
    """
    known_device(device)
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda was asked for, but torch finds no CUDA device here.")
    return device


def device_name(device: str) -> str:
    """The device as a reader of the report wants it."""
    if device != "cuda":
        return device
    import torch

    return f"cuda ({torch.cuda.get_device_name()})"
