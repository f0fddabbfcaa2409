"""Calls one public thing and says what is wrong with what came of it."""

from __future__ import annotations

import copy
import dataclasses
import re
import traceback
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.fuzz.calls import Call, UsersOwn

ROOT = Path(__file__).parents[2]
OURS = (str(ROOT / "adaptive"), str(ROOT / "cnnbridge"))
SENTENCES = (ValueError, TypeError, NotImplementedError)
CHANGES = {"cnnbridge.convert_batch_norm": "model"}  # what a call is for
# NaN where the question does not arise, as the docstrings say
NAN_MEANS_NONE = {
    "FirstStep.minimum_norm",
    "FirstStep.radial",
    "LayerCurvature.largest",
    "LayerInspection.largest_low",
    "Inspection.loss",
    "Inspection.advised_lr",
}
NEIGHBOURS = {"model", "module", "layer", "conv", "loss", "data", "batch", "images", "algorithm"}


def fault(call: Call, arguments: dict[str, Any], spoilt: list[str]) -> str | None:
    """What is wrong with the outcome; None when it is a number or one sentence.

    Parameters
    ----------
    call : what to call.
    arguments : by name; those named in ``spoilt`` are hostile.
    spoilt : names of arguments. When there are none, the call must succeed.
    """
    before = {name: _state(value) for name, value in arguments.items()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            result = call.function(**arguments)
            found = None
            if _has_nan(result) and not _says_when_it_diverged(result):
                found = f"NaN without diverged_at in {type(result).__name__}"
    except SENTENCES as error:
        found = _of_sentence(call, error) if spoilt else f"refused: {error}"
    except BaseException as error:
        if _users_own(error):
            return None
        found = f"raised {type(error).__name__}: {error}; {_raised_in(error)}"
    for name, value in arguments.items():
        if CHANGES.get(call.name) != name and not _same(before[name], _state(value)):
            return f"changed {name}"
    return found


def _of_sentence(call: Call, error: Exception) -> str | None:
    text = str(error)
    if _users_own(error):
        return None
    where = _raised_in(error)
    if not where.startswith(OURS):
        return f"foreign {type(error).__name__}: {text}; {where}"
    if len(text.strip().splitlines()) != 1:
        return f"{len(text.splitlines())} lines: {text}"
    words = set(re.findall(r"\w+", text))
    if not words & ({*call.parameters} | NEIGHBOURS):
        return f"names no argument: {text}; {where}"
    return None


def _users_own(error: BaseException) -> bool:
    """Whether a model or a loss raised it, called with what does not fit it.

    Their errors pass through as they are: nobody knows better what they wanted.
    """
    if isinstance(error, UsersOwn):
        return True
    modules = (nn.modules.module.__file__, nn.functional.__file__)
    frames = traceback.extract_tb(error.__traceback__)
    return any(frame.filename in modules and frame.name != "to" for frame in frames)


def _raised_in(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "?"


def _parts(value: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """(name, array, tensor or number) of everything in a result."""
    if depth > 6:
        return
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from (
                (name or f"{type(value).__name__}.{field.name}", part)
                for name, part in _parts(getattr(value, field.name, None), depth + 1)
            )
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _parts(part, depth + 1)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _parts(part, depth + 1)
    else:
        yield "", value


def _has_nan(result: Any) -> bool:
    for name, part in _parts(result):
        if name in NAN_MEANS_NONE:
            continue
        if isinstance(part, torch.Tensor) and part.device.type != "meta":
            if part.is_floating_point() and bool(part.detach().isnan().any()):
                return True
        elif isinstance(part, float | complex | np.ndarray | np.generic):
            array = np.asarray(part)
            if array.dtype.kind in "fc" and bool(np.isnan(array).any()):
                return True
    return False


def _says_when_it_diverged(result: Any) -> bool:
    """Whether the result says itself when it diverged."""
    return any(
        name.endswith(".diverged_at") and part is not None and np.any(np.asarray(part) >= 0)
        for name, part in _parts(result)
    )


def _state(value: Any) -> Any:
    """All of an argument that a call might change."""
    if isinstance(value, nn.Module):
        return (
            {name: part.detach().clone() for name, part in value.state_dict().items()
             if not nn.parameter.is_lazy(part)},
            [(m.training, len(m._forward_hooks), sorted(vars(m))) for m in value.modules()],
            [None if p.grad is None else p.grad.clone() for p in value.parameters()],
        )  # fmt: skip
    if isinstance(value, torch.Tensor):
        return value.detach().clone() if value.layout == torch.strided else None
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, list | dict | set):
        return copy.deepcopy(value)
    if isinstance(value, tuple):
        return tuple(_state(part) for part in value)
    return None


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        if a.device.type == "meta":
            return True
        return a.dtype == b.dtype and torch.equal(
            a.nan_to_num() if a.is_floating_point() else a,
            b.nan_to_num() if b.is_floating_point() else b,
        )
    if isinstance(a, np.ndarray):
        return a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[name], b[name]) for name in a)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(_same, a, b))
    return repr(a) == repr(b)
