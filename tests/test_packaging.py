"""What the distributions promise: versions, extras that exist, files without carriage returns."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import adaptive

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PYPROJECT["project"]["optional-dependencies"]


def tracked(*patterns):
    done = subprocess.run(
        ["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / line for line in done.stdout.splitlines() if (ROOT / line).is_file()]


def test_version_is_told_once():
    assert PYPROJECT["project"]["dynamic"] == ["version"]
    assert PYPROJECT["tool"]["hatch"]["version"]["path"] == "adaptive/__init__.py"
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {adaptive.__version__}\n" in citation
    assert f"\n## {adaptive.__version__}\n" in (ROOT / "CHANGELOG.md").read_text()


def test_every_package_ships_its_types():
    for package in PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]:
        assert (ROOT / package / "py.typed").exists(), package


def test_every_extra_that_is_named_exists():
    found = set()
    for path in tracked("*.py", "*.md", "*.toml", "Makefile", "*.jinja"):
        for names in re.findall(r"(?:naturalmodes|'\.)\[([\w, ]+)\]", path.read_text()):
            found |= {name.strip() for name in names.split(",")}
    assert {"cnn", "studies", "cluster", "dev"} <= found
    assert found <= set(EXTRAS), found - set(EXTRAS)


def test_no_hint_needs_the_package_index_to_know_us():
    for path in tracked("adaptive/*.py", "cnnbridge/*.py", "studies/*.py", "*.md"):
        assert not re.search(r"pip install ['\"]?naturalmodes", path.read_text()), path


def test_no_carriage_returns():
    text = tracked(
        "*.py", "*.md", "*.toml", "*.txt", "*.cff", "*.yaml", "*.json", "Makefile", ".ci/*"
    )
    assert len(text) > 100
    assert not [path for path in text if b"\r" in path.read_bytes()]


def test_the_tested_set_is_within_the_bounds_and_complete():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    tested = dict(line.split("==") for line in lines if not line.startswith("#"))
    asked = [*PYPROJECT["project"]["dependencies"], *(w for e in EXTRAS.values() for w in e)]
    for wanted in map(Requirement, asked):
        if wanted.name != "naturalmodes":
            assert tested[wanted.name] in wanted.specifier, wanted


def test_compilers_are_bounded_since_their_internals_are_used():
    bounded = {
        wanted.name
        for wanted in map(Requirement, [*PYPROJECT["project"]["dependencies"], *EXTRAS["cnn"]])
        if any(part.operator == "<" for part in wanted.specifier)
    }
    assert bounded == {"numba", "llvmlite", "torch", "torchvision"}
