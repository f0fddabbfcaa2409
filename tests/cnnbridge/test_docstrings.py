"""The examples run, and every public function says what it raises."""

import doctest
import importlib
import importlib.util
import inspect
import pkgutil

import pytest

import cnnbridge


def has_examples(name):
    """Whether a module has an example that runs without an optional package."""
    source = importlib.util.find_spec(name).loader.get_source(name)
    examples = doctest.DocTestParser().get_examples(source)
    return any(doctest.SKIP not in example.options for example in examples)


MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(cnnbridge.__path__, "cnnbridge.")
    if has_examples(module.name)
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
