"""Write constraints.txt: what is installed here of everything that any extra needs."""

import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

HEAD = """\
# The versions that the tests pass with; `make` and CI install these. Not a limit for users, whose
# bounds are in pyproject.toml. Written by `make constraints` from what is installed in .venv.
"""


def plain(name: str) -> str:
    """The one spelling of a package's name."""
    return re.sub(r"[-_.]+", "-", name).lower()


project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
found: dict[str, str] = {}
todo = [("naturalmodes", extra) for extra in project["optional-dependencies"]]
seen = set(todo)
while todo:
    name, extra = todo.pop()
    if name == project["name"]:
        lines = project["dependencies"] + project["optional-dependencies"].get(extra, [])
    else:
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            sys.exit(f"{name} is not installed, though an extra needs it: install every extra")
        found[name] = installed.version.partition("+")[0]
        lines = installed.requires or []
    for wanted in map(Requirement, lines):
        if wanted.marker is None or wanted.marker.evaluate({"extra": extra}):
            for further in ("", *wanted.extras):
                entry = plain(wanted.name), further
                if entry not in seen:
                    seen.add(entry)
                    todo.append(entry)
text = "".join(f"{name}=={version}\n" for name, version in sorted(found.items()))
Path("constraints.txt").write_text(HEAD + text)
print(f"constraints.txt: {len(found)} packages")
