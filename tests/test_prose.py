"""Docstrings begin with a sentence that a stranger understands."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(f for p in ("adaptive", "cnnbridge", "studies") for f in (ROOT / p).rglob("*.py"))
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_docstring_begins_in_the_middle_of_a_sentence(path):
    found = [
        text.splitlines()[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, DOCUMENTED) and (text := ast.get_docstring(node))
    ]
    assert not [line for line in found if line.split()[0] in ("Of", "And", "At", "By")]
