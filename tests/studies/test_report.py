"""The report needs nothing but itself."""

import re
from html.parser import HTMLParser

import pytest

from studies import figures
from studies.report import Picture, Section, number, table, write
from studies.results import Summary, at_most, inconclusive


class Loads(HTMLParser):
    """Collects every address that a browser would fetch for the page, and every picture."""

    def __init__(self):
        super().__init__()
        self.addresses, self.pictures = [], []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.addresses += [
            attributes[key] for key in ("src", "href", "srcset") if key in attributes
        ]
        if tag == "img":
            self.pictures.append(attributes)


def assert_self_contained(page):
    found = Loads()
    found.feed(page)
    assert all(address.startswith(("data:", "#")) for address in found.addresses)
    assert not re.search(r"url\(|@import|<script|<link", page)
    assert found.pictures
    assert all(len(picture["alt"]) > 20 for picture in found.pictures)


@pytest.fixture
def summary():
    return Summary(
        study="conv-modes",
        config={"steps": 3, "image_size": None},
        seed=1,
        device="cpu",
        command="naturalmodes run conv-modes",
        versions={"numpy": "2.0", "torch": None},
        machine={"cpus": 2},
        commit={"sha": "a" * 40, "dirty": True},
        status="complete",
        checks=[at_most("<b>error</b>", 1e-12, 1e-9, unit="x"), inconclusive("edge", 0.1, "why")],
    )


def test_report_is_self_contained(tmp_path, summary):
    figure, (ax,) = figures.panels(1)
    ax.plot([0, 1])
    png, svg = figures.save(figure, tmp_path / "line")
    assert svg.read_text().startswith("<?xml")
    sections = [
        Section("Heading", ["Text & more."], ["a", "b"], [["1", "2"]]),
        Section("Pictures", pictures=[Picture(png, "A line.", "A straight line from 0 to 1.")]),
    ]
    write(tmp_path / "report.html", summary, title="Title", question="Why?", sections=sections)
    page = (tmp_path / "report.html").read_text()
    assert_self_contained(page)
    assert "&lt;b&gt;error" in page
    assert "Text &amp; more." in page
    assert "1 hold" in page
    assert "with uncommitted changes" in page
    assert "naturalmodes run conv-modes" in page


def test_numbers():
    shown = [number(v) for v in (None, 0.0, 1.0, 0.123456, 1.2e-11, 123456.0, 1e9, float("inf"))]
    assert shown == ["–", "0", "1", "0.1235", "1.20e-11", "123,456", "1.00e+09", "∞"]


def test_terminal_table():
    text = table(["layer", "L"], [["conv1", "9"], ["c", "10"]])
    assert text.splitlines() == ["layer   L", "-----  --", "conv1   9", "c      10"]
