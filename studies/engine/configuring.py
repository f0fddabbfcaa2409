"""A study's presets with the user's choices put in, and configs read back from a summary."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from studies.engine.errors import UserError, near
from studies.engine.protocol import Study

__all__ = ["configure", "restored", "uses_images", "values_in"]


def configure(study: Study, preset: str, **choices: Any) -> Any:
    """A preset of a study with the user's choices put in.

    Parameters
    ----------
    study : whose preset.
    preset : its name.
    **choices : fields by name, those of nested dataclasses with dots, as in
        ``**{"cell.images.limit": 100}``. Three have short names: ``data`` and ``data_root`` are
        ``data`` and ``root`` of the images that the study uses, and ``seed`` is the study's own and
        that of its images. None leaves the preset's value.

    Returns
    -------
    A config of the study.

    Raises
    ------
    UserError : there is no such preset or field, or the value is of another kind.

    Examples
    --------
    >>> from studies.related.small_batches import STUDY
    >>> configure(STUDY, "smoke", **{"cell.images.limit": 20, "data": "cifar10"}).cell.images
    Images(data='cifar10', root=None, limit=20, size=16, seed=0)
    """
    if preset not in study.presets:
        meant, presets = near(preset, study.presets), ", ".join(study.presets)
        raise UserError(f"unknown preset {preset!r}{meant}: choose {presets}.")
    config = study.presets[preset]
    images = list(dict.fromkeys(_images_paths(config)))
    for name, value in choices.items():
        if value is None:
            continue
        value = str(value) if isinstance(value, Path) else value
        if name in ("data", "data_root"):
            if len(images) != 1:
                kinds = "no images" if not images else "several sets of images"
                option = f"--{name.replace('_', '-')}"
                raise UserError(f"the study {study.name} uses {kinds}: leave out {option}.")
            config = _put(config, f"{images[0]}.{'data' if name == 'data' else 'root'}", value)
        elif name == "seed":
            for path in ["seed", *(f"{where}.seed" for where in images)]:
                config = _put(config, path, value)
        else:
            config = _put(config, name, value)
    return config


def uses_images(study: Study) -> bool:
    """Whether ``data`` means something to the study."""
    return any(list(_images_paths(preset)) for preset in study.presets.values())


def _fields(value: Any) -> list[dataclasses.Field[Any]]:
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return []
    return list(dataclasses.fields(value))


def _images_paths(value: Any, prefix: str = "") -> Iterator[str]:
    """Where the values with ``data`` and ``root`` are."""
    for field in _fields(value):
        part = getattr(value, field.name)
        if {"data", "root"} <= {f.name for f in _fields(part)}:
            yield f"{prefix}{field.name}"
        else:
            yield from _images_paths(part, f"{prefix}{field.name}.")


def _put(config: Any, path: str, value: Any, within: str = "") -> Any:
    """The config with one field, named with dots, replaced."""
    name, _, rest = path.partition(".")
    where = f"{within}{name}"
    known = [field.name for field in _fields(config)]
    if name not in known:
        raise UserError(
            f"{type(config).__name__} has no {name!r}; it has: {', '.join(known) or 'no fields'}."
        )
    before = getattr(config, name)
    new = _put(before, rest, value, f"{where}.") if rest else _like(before, value, where)
    return dataclasses.replace(config, **{name: new})


def _like(before: Any, value: Any, name: str) -> Any:
    """The value as the kind it replaces: an integer does for a float, a list for a tuple."""
    if isinstance(before, tuple) and isinstance(value, list | tuple):
        return tuple(value)
    if before is None or value is None:
        return value
    if isinstance(before, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not type(before):
        raise UserError(
            f"{name} must be of the kind of {before!r}, {type(before).__name__}, got {value!r}."
        )
    return value


def restored(study: Study, data: Mapping[str, Any]) -> Any:
    """A config from the plain data that ``summary.json`` holds.

    Raises
    ------
    UserError : the data are not of a config of this study.
    """
    preset = data.get("preset")
    template = study.presets.get(str(preset), next(iter(study.presets.values())))
    try:
        return _restored(template, data)
    except (TypeError, AttributeError) as error:
        raise UserError(
            f"the run's configuration is not one of {study.name} as it is now: {error}."
        ) from error


def _restored(template: Any, data: Any) -> Any:
    if _fields(template) and isinstance(data, Mapping):
        unknown = data.keys() - {field.name for field in _fields(template)}
        if unknown:
            raise TypeError(f"{type(template).__name__} has no {', '.join(sorted(unknown))}")
        parts = {name: _restored(getattr(template, name), part) for name, part in data.items()}
        return type(template)(**parts)
    if isinstance(data, list):
        first = template[0] if isinstance(template, tuple | list) and template else None
        return tuple(_restored(first, part) for part in data)
    return data


def values_in(cells: Iterable[Any], method: str) -> Iterator[Any]:
    """Every dataclass inside the cells that has the method."""
    for cell in cells:
        for field in _fields(cell):
            part = getattr(cell, field.name)
            if _fields(part):
                if callable(getattr(part, method, None)):
                    yield part
                yield from values_in([part], method)
