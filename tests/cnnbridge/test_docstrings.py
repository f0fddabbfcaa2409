"""The examples run, and every public function says what it raises."""

import doctest
import importlib
import inspect

import pytest

import cnnbridge

MODULES = ["", ".patches", ".autocorrelation", ".capture", ".problem", ".predict", ".observe"]
MODULES += [
    ".compare",
    ".in_place",
    ".network",
    ".replay",
    ".audit",
    ".minibatch",
    ".sharpness",
    ".plotting",
    ".spectrum",
    ".first_step",
    ".normalization",
    ".normalized_spectra",
    ".spectrum_bounds",
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    result = doctest.testmod(importlib.import_module("cnnbridge" + name))
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
