"""The site: every public name has a page, every page is reached, nothing is fetched."""

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


@pytest.fixture
def reference(monkeypatch):
    pytest.importorskip("torch")
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(str(DOCS))
    return importlib.import_module("reference")


def test_every_public_name_has_a_page(reference, tmp_path):
    reference.write(tmp_path)
    pages = {path.stem for path in tmp_path.glob("*.rst")}
    for package in ("adaptive", "cnnbridge"):
        module = importlib.import_module(package)
        for name in module.__all__:
            value = getattr(module, name)
            assert f"{package}.{name}" in pages
            if inspect.ismodule(value):
                lacking = {
                    n for n in reference.public(value) if f"{package}.{name}.{n}" not in pages
                }
                assert not lacking
    contents = (tmp_path / "index.rst").read_text().split()
    assert set(reference.modules()) <= set(contents)


def test_every_page_is_in_a_table_of_contents():
    listed = set()
    for page in DOCS.rglob("*.md"):
        for block in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(), re.S):
            for line in block.splitlines():
                if line and not line.startswith(":"):
                    listed |= set(page.parent.glob(f"{line}.md"))
    pages = {p for p in DOCS.rglob("*.md") if "examples" not in p.parts} - {DOCS / "index.md"}
    assert pages == {p for p in listed if "examples" not in p.parts}


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_fetches_nothing(tmp_path):
    pytest.importorskip("sphinx")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "docs", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 150
    fetched = re.compile(r"<(?:script|link|img)[^>]+(?:src|href)=\"https?:", re.I)
    assert not [page for page in pages if fetched.search(page.read_text(encoding="utf-8"))]
