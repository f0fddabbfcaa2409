"""Pages of the reference: one for each public name, with an index for each module."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from types import ModuleType

__all__ = ["modules", "public", "write"]

# packages whose modules are public; those named in a package's __all__ are found
PACKAGES = ("adaptive", "cnnbridge")
FURTHER = (
    "adaptive.plotting",
    "cnnbridge.results",
    "cnnbridge.normalization",
    "cnnbridge.plotting",
    "studies.engine.protocol",
)


def public(module: ModuleType) -> list[str]:
    """The names of a module that are for its users, in the alphabet's order."""
    names = getattr(module, "__all__", None)
    if names is None:
        names = [
            name
            for name, value in vars(module).items()
            if getattr(value, "__module__", None) == module.__name__ and not name.startswith("_")
        ]
    return sorted(names, key=str.lower)


def modules() -> list[str]:
    """All modules that have a page."""
    found: list[str] = []
    for package in PACKAGES:
        module = importlib.import_module(package)
        inside = [f"{package}.{n}" for n in public(module) if inspect.ismodule(getattr(module, n))]
        further = [name for name in FURTHER if name.startswith(package)]
        found += dict.fromkeys([package, *inside, *further])
    return [*found, *(name for name in FURTHER if not name.startswith(PACKAGES))]


def write(folder: Path) -> None:
    """Write the pages; one that is already there with the same text keeps its date."""
    folder.mkdir(parents=True, exist_ok=True)
    pages = {}
    pages["index"] = _contents(modules())
    for path in modules():
        module = importlib.import_module(path)
        names = [n for n in public(module) if not inspect.ismodule(getattr(module, n))]
        pages[path] = _index(path, {name: _summary(getattr(module, name)) for name in names})
        for name in names:
            pages[f"{path}.{name}"] = _page(path, name, getattr(module, name))
    for path in folder.glob("*.rst"):
        if path.stem not in pages:
            path.unlink()
    for name, text in pages.items():
        file = folder / f"{name}.rst"
        if not file.exists() or file.read_text() != text:
            file.write_text(text)


def _contents(paths: list[str]) -> str:
    about = "Every public name, from the docstrings. Their examples run in the tests."
    lines = ["Reference", "=========", "", about, "", ".. toctree::", "   :maxdepth: 1", ""]
    return "\n".join([*lines, *(f"   {path}" for path in paths), ""])


def _summary(value: object) -> str:
    """The first line of a docstring; a constant has none of its own."""
    described = inspect.isclass(value) or inspect.isroutine(value) or inspect.isfunction(value)
    line = (inspect.getdoc(value) or "").partition("\n")[0] if described else f"``{value!r}``"
    return re.sub(r"(``.*?``)|([*|_])", lambda found: found[1] or f"\\{found[2]}", line)


def _index(path: str, names: dict[str, str]) -> str:
    lines = [path, "=" * len(path), "", f".. automodule:: {path}", "   :no-members:", ""]
    lines += [".. list-table::", "   :widths: 1 2", ""]
    for name, summary in names.items():
        lines += [f"   * - :doc:`{name} <{path}.{name}>`", f"     - {summary}"]
    lines += ["", ".. toctree::", "   :hidden:", ""]
    lines += [f"   {name} <{path}.{name}>" for name in names]
    return "\n".join([*lines, ""])


def _page(path: str, name: str, value: object) -> str:
    kind = "class" if inspect.isclass(value) else "function" if callable(value) else "data"
    members = ["   :members:", "   :exclude-members: __init__"] if kind == "class" else []
    head = [name, "=" * len(name), "", f".. currentmodule:: {path}", ""]
    return "\n".join([*head, f".. auto{kind}:: {name}", *members, ""])
