"""A module of the user's in the working directory, for every test of the command."""

import sys

import pytest

from tests.studies.inspecting.nets import MODULE


@pytest.fixture
def nets(tmp_path, monkeypatch):
    """The folder that it lies in."""
    (tmp_path / "nets.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("nets", None)
    yield tmp_path
    sys.modules.pop("nets", None)
