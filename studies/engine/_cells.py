"""What names a cell of a grid, what came of it, and how both become plain data."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import inspect
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from studies.engine.errors import UserError
from studies.engine.files import flat
from studies.engine.protocol import Lazy

__all__ = [
    "Outcome",
    "Record",
    "Task",
    "canonical",
    "decode",
    "encode",
    "function_name",
    "tasks_of",
    "text_of",
]

Config = Any  # a mapping with string keys, or a dataclass
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Record:
    """One config of a grid and what came of it.

    Attributes
    ----------
    key : the hash of function, version and config; names the file.
    config : as plain data.
    result : what the function returned, as it reads from disk; None after an error.
    error : type and message of what it raised; None when it returned.
    seconds : how long it took.
    manifest : seed, versions, machine, device, commit, time of start.
    """

    key: str
    config: Mapping[str, Any]
    result: Any
    error: str | None
    seconds: float
    manifest: Mapping[str, Any]

    def row(self) -> dict[str, Any]:
        """One flat mapping: the config, the result, ``seconds`` and ``error``.

        Names inside mappings are joined with dots. A number of the result that is called like one
        of the config gets ``result.`` in front; a result that is no mapping is called ``result``.
        """
        row = flat(self.config)
        found = self.result if isinstance(self.result, Mapping) else {"result": self.result}
        for name, value in flat(found if self.error is None else {}).items():
            row[f"result.{name}" if name in row else name] = value
        return {**row, "seconds": self.seconds, "error": self.error}


@dataclass(frozen=True)
class Outcome:
    """What a worker sends back for one cell."""

    document: Any = None  # the result as plain data, arrays by name
    arrays: Arrays = dataclasses.field(default_factory=dict)
    error: Mapping[str, str] | None = None
    seconds: float = 0.0
    manifest: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """Everything a worker needs for one cell; it travels by pickle."""

    key: str
    name: str  # with the version and the config, what the key is made of
    version: str
    path: str  # where to import the function from
    function: Callable[..., Any] | None  # None: import it by its path
    root: str | None  # where its top-level module lies, in case the worker's path lacks it
    config: Config
    data: Mapping[str, Any]  # the config as plain data
    keywords: bool


def tasks_of(
    function: Callable[..., Any],
    grid: Sequence[Config],
    version: str,
    keywords: bool,
    name: str | None = None,
) -> list[Task]:
    path = function_name(function)
    name = path if name is None else name
    if not len(grid):
        raise UserError("the grid is empty.")
    tasks = []
    for config in grid:
        data = canonical(config)
        if not isinstance(data, dict):
            raise UserError(f"a config must be a mapping or a dataclass, got {config!r}.")
        try:
            identity = text_of({"function": name, "version": version, "config": data})
        except ValueError as error:  # an integer of too many digits
            raise UserError(f"a config cannot be written down: {error}.") from error
        tasks.append(
            Task(
                key=hashlib.sha256(identity.encode()).hexdigest()[:24],
                name=name,
                version=version,
                path=path,
                function=function if path.startswith("__main__:") else None,
                root=_root(function),
                config=config,
                data=data,
                keywords=keywords,
            )
        )
    return tasks


def function_name(function: Callable[..., Any]) -> str:
    """``package.module:function``, for a function that has one."""
    if isinstance(function, Lazy):
        return function.path
    name = getattr(function, "__qualname__", None)
    module = getattr(function, "__module__", None)
    if name is None or module is None or "<" in name:
        raise UserError(
            f"a sweep needs a function defined at the top level of a module, got {function!r}: "
            "what it depends on must be in the config, which names the results."
        )
    return f"{module}:{name}"


def canonical(value: Any, where: str = "the config") -> Any:
    """Plain data that is the same whenever the config is: what the hash is made of."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise UserError(f"names in {where} must be strings, got {name!r}.")
        return _escaped(
            {name: canonical(part, f"{where}[{name!r}]") for name, part in value.items()}
        )
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, list | tuple):
        return [canonical(part, f"{where}[{i}]") for i, part in enumerate(value)]
    if isinstance(value, float):
        return value if math.isfinite(value) else {"__float__": repr(value)}
    if isinstance(value, str | int | None):
        return value
    if isinstance(value, Path):
        return str(value)
    raise UserError(
        f"{where} is a {type(value).__name__}; a config holds numbers, strings, lists and mappings."
    )


def text_of(data: Any) -> str:
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _root(function: Callable[..., Any]) -> str | None:
    if isinstance(function, Lazy):
        module = function.path.partition(":")[0]
        spec = importlib.util.find_spec(module)
        source = None if spec is None else spec.origin
    else:
        module = function.__module__
        try:
            source = inspect.getfile(function)
        except TypeError:  # a builtin
            source = None
    if source is None:
        return None
    file = Path(source).resolve()
    return str(file.parents[module.count(".") + (file.name == "__init__.py")])


def encode(value: Any) -> tuple[Any, Arrays]:
    """Plain data and the arrays that were in it."""
    arrays: Arrays = {}
    torch = sys.modules.get("torch")

    def encode(value: Any, where: str) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        if torch and isinstance(value, torch.Tensor):
            value = value.detach().cpu().numpy()
        if isinstance(value, Mapping):
            parts: dict[str, Any] = {}
            for name, part in value.items():
                if str(name) in parts:
                    raise ValueError(f"two names in {where} are written {str(name)!r}")
                parts[str(name)] = encode(part, f"{where}[{name!r}]")
            return _escaped(parts)
        if isinstance(value, list | tuple):
            return [encode(part, f"{where}[{i}]") for i, part in enumerate(value)]
        if isinstance(value, np.ndarray) and not value.dtype.hasobject:
            name = f"array{len(arrays)}"
            arrays[name] = value
            return {"__array__": name}
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, float) and not math.isfinite(value):
            return {"__float__": repr(value)}
        if isinstance(value, str | int | float | None):
            return value
        if isinstance(value, Path):
            return str(value)
        raise TypeError(
            f"{where} is a {type(value).__name__}; a result holds numbers, strings, arrays, "
            "lists and mappings"
        )

    document = encode(value, "the result")
    text_of(document)  # an integer of too many digits cannot be written down
    if isinstance(document, dict):
        names = Counter(_leaves(document))
        if twice := [name for name, count in names.items() if count > 1]:
            raise ValueError(f"two numbers of the result are called {twice[0]!r} in a table")
    return document, arrays


MARKS = ("__float__", "__array__", "__mapping__")  # how plain data says what it cannot hold


def _escaped(parts: dict[str, Any]) -> dict[str, Any]:
    """A mapping that reads like a mark of ours, as one that does not."""
    return {"__mapping__": parts} if len(parts) == 1 and next(iter(parts)) in MARKS else parts


def _leaves(document: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Names as ``flat`` joins them."""
    for name, part in document.items():
        if isinstance(part, dict) and not (len(part) == 1 and next(iter(part)) in MARKS):
            yield from _leaves(part, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def decode(document: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if isinstance(document, dict):
        if document.keys() == {"__float__"}:
            return float(document["__float__"])
        if document.keys() == {"__array__"}:
            return arrays[document["__array__"]]
        if document.keys() == {"__mapping__"}:
            document = document["__mapping__"]
        return {name: decode(part, arrays) for name, part in document.items()}
    if isinstance(document, list):
        return [decode(part, arrays) for part in document]
    return document
