"""The examples in the studies' docstrings run."""

import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import studies

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(studies.__path__, "studies.")
    if not module.ispkg
    and ">>>" in Path(*studies.__path__, *module.name.split(".")[1:]).with_suffix(".py").read_text()
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
