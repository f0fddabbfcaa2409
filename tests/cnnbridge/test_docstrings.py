"""The examples run, and every public function says what it raises."""

import doctest
import importlib
import importlib.util
import inspect
import pkgutil

import pytest

import cnnbridge

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(cnnbridge.__path__, "cnnbridge.")
    if ">>>" in (importlib.util.find_spec(module.name).loader.get_source(module.name))
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("name", cnnbridge.__all__)
def test_public_names_are_documented(name):
    thing = getattr(cnnbridge, name)
    text = inspect.getdoc(thing)
    assert text
    if inspect.isfunction(thing):
        assert ">>>" in text
        assert "Raises\n------" in text
