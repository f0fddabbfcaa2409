"""Figures drawn again for a paper."""

import dataclasses
import re

import pytest

from studies.engine.errors import UserError
from studies.engine.redraw import inches, redraw
from studies.engine.runner import run
from tests.studies.engine.test_runner import STUDY, config_in


@pytest.mark.parametrize(("text", "size"), [("3.5in", 3.5), ("3.5", 3.5), ("5.08 cm", 2.0)])
def test_widths(text, size):
    assert inches(text) == pytest.approx(size)


@pytest.mark.parametrize("text", ["wide", "-3in", "3 feet", "0.1in", "90in", "3in 4in"])
def test_a_width_that_is_none_is_one_sentence(text):
    with pytest.raises(UserError, match="--width"):
        inches(text)


def test_files_of_the_width_asked_for_with_text_that_is_text(tmp_path):
    folder = tmp_path / "run"
    run(STUDY, config_in(folder), folder)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    paths = redraw(STUDY, folder, tmp_path / "figures", width=3.5, formats=["svg", "pdf", "png"])
    assert {p.suffix for p in paths} == {".svg", ".pdf", ".png"}
    for path in paths:
        assert path.stat().st_size > 500
        if path.suffix == ".svg":
            picture = path.read_text()
            assert "<text" in picture
            assert float(re.search(r'width="([\d.]+)pt"', picture)[1]) == pytest.approx(3.5 * 72)
        if path.suffix == ".pdf":
            assert b"/Type3" not in path.read_bytes()
    assert before == {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_what_cannot_be_drawn_is_one_sentence(tmp_path):
    folder = tmp_path / "run"
    run(STUDY, config_in(folder), folder)
    with pytest.raises(UserError, match="unknown format 'gif': choose from pdf, png, svg"):
        redraw(STUDY, folder, tmp_path / "figures", width=3.5, formats=["gif"])
    with pytest.raises(UserError, match="not of other"):
        redraw(dataclasses.replace(STUDY, name="other"), folder, tmp_path / "figures", width=3.5)
    plain = STUDY.judge

    def judge(config, measured):
        return dataclasses.replace(plain(config, measured), answer=None, tables=())

    with pytest.raises(UserError, match="has no figures"):
        redraw(dataclasses.replace(STUDY, judge=judge), folder, tmp_path / "figures", width=3.5)
