"""The report needs nothing but itself."""

import re
from html.parser import HTMLParser

import pytest

from studies.engine import style as figures
from studies.engine.checks import at_most, inconclusive, median_check, tally, within
from studies.engine.page import (
    Picture,
    Section,
    anchors,
    limit_text,
    numbers,
    print_verdicts,
    write,
)
from studies.engine.summary import Answer, Summary
from studies.engine.text import number, table
from tests.studies.browser import look


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
    assert not re.search(r"url\(|@import|<link|fetch\(|XMLHttp|import\(", page)
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


@pytest.fixture
def page(tmp_path, summary):
    figure, (ax,) = figures.panels(1)
    ax.plot([0, 1])
    png, svg = figures.save(figure, tmp_path / "line")
    assert svg.read_text().startswith("<?xml")
    summary.answer = Answer(
        experiment="We did something.",
        rule="It holds when the ratio is above 2.",
        verdict="holds",
        reason="The ratio is 3.",
        numbers=[("ratio", "3")],
        figure=png.name,
        against=["But <i>once</i> it was 1."],
    )
    rows = [
        ["b", "1,234", "holds"],
        ["a", "1.2e-11", "fails"],
        ["c2", "–", "holds"],
        ["c10", "12", "inconclusive"],
    ]
    sections = [
        Section("Heading", ["Text & more."], ["name", "size", "verdict"], rows),
        Section("Pictures", pictures=[Picture(png, "A line.", "A straight line from 0 to 1.")]),
    ]
    write(tmp_path / "report.html", summary, title="Title", question="Why?", sections=sections)
    return tmp_path / "report.html"


def test_report_is_self_contained(page):
    text = page.read_text()
    assert_self_contained(text)
    assert "&lt;b&gt;error" in text
    assert "Text &amp; more." in text
    assert "1 hold" in text
    assert "with uncommitted changes" in text
    assert "naturalmodes run conv-modes" in text


def test_report_gives_the_answer(page):
    text = page.read_text()
    for part in ("We did something.", "the ratio is above 2", "Holds. The ratio is 3."):
        assert part in text
    assert "But &lt;i&gt;once&lt;/i&gt; it was 1." in text


def test_tables_are_there_as_csv(page):
    tables = page.parent / "tables"
    assert {p.name for p in tables.iterdir()} == {"checks.csv", "heading.csv", "the-answer.csv"}
    assert (tables / "heading.csv").read_text().splitlines()[:2] == [
        "name,size,verdict",
        'b,"1,234",holds',
    ]
    assert "<b>error</b>,0.0,1e-12,1e-09,holds" in (tables / "checks.csv").read_text()


def test_smoke_is_labelled(tmp_path, summary, page):
    assert "regression check" not in page.read_text()
    summary.config = {"preset": "smoke"}
    write(tmp_path / "smoke.html", summary, title="Title", question="Why?", sections=[])
    assert "regression check" in (tmp_path / "smoke.html").read_text()


def test_headings_have_names_of_their_own():
    headings = ["A: b", "A  b", "checks", "→", "→"]
    names = anchors([Section(heading) for heading in headings])
    assert names == ["a-b", "a-b-2", "checks-2", "section", "section-2"]


def test_report_in_a_browser(page, tmp_path):
    seen = look(page, tmp_path)
    assert [picture["alt"] for picture in seen["pictures"]] == ["A straight line from 0 to 1."]
    answer, heading, checks = seen["tables"]
    assert answer == []  # one row: nothing to sort
    assert len(checks) == 6
    name, size, _ = heading
    given = ["b", "a", "c2", "c10"]
    ascending, descending = ["a", "b", "c2", "c10"], ["c10", "c2", "b", "a"]
    assert name == [given, ascending, "ascending", descending, "descending", given, None]
    assert size[1] == ["1.2e-11", "12", "1,234", "–"]
    assert size[3] == ["1,234", "12", "1.2e-11", "–"]


def test_the_browser_would_have_seen_an_error(tmp_path):
    (tmp_path / "bad.html").write_text("<html><body><script>nonsense()</script></body></html>")
    with pytest.raises(AssertionError, match="nonsense is not defined"):
        look(tmp_path / "bad.html", tmp_path)
    (tmp_path / "bad.html").write_text("<html><body><img src='absent.png' alt='x'></body></html>")
    with pytest.raises(AssertionError):
        look(tmp_path / "bad.html", tmp_path)


def test_numbers():
    shown = [number(v) for v in (None, 0.0, 1.0, 0.123456, 1.2e-11, 123456.0, 1e9, float("inf"))]
    assert shown == ["–", "0", "1", "0.1235", "1.20e-11", "123,456", "1.00e+09", "∞"]


def test_terminal_table():
    text = table(["layer", "L"], [["conv1", "9"], ["c", "10"]])
    assert text.splitlines() == ["layer   L", "-----  --", "conv1   9", "c      10"]


def test_the_verdicts_for_the_terminal(tmp_path, capsys):
    checks = [
        at_most("error", 0.25, 0.5, unit="of the step", note="over 3 layers"),
        at_most("ratio", 2.0, 1.0, unit=""),
    ]
    assert tally(checks) == "1 of 2 checks hold, 1 fail and 0 are inconclusive"
    assert numbers(checks) == [("error", "0.25 of the step"), ("ratio", "2")]
    summary = Summary(
        study="s",
        config={},
        seed=0,
        device="cpu",
        command="c",
        versions={},
        machine={},
        commit=None,
        checks=checks,
        problems=["one cell failed."],
        answer=Answer("", "", "fails", "One check fails."),
    )
    print_verdicts(summary, tmp_path)
    assert capsys.readouterr().out.splitlines() == [
        "",
        "HOLDS         error: 0.25 (limit: at most 0.5); over 3 layers",
        "FAILS         ratio: 2 (limit: at most 1)",
        "Verdict: fails. One check fails.",
        "PROBLEM: one cell failed.",
        f"Report: {tmp_path / 'report.html'}",
    ]


@pytest.mark.parametrize(
    ("check", "limit"),
    [
        (at_most("x", 1.0, 2.0, unit=""), "limit: at most 2"),
        (within("x", 3.0, 3.1, 0.1, unit=""), "wanted: 3, within 0.1"),
        (median_check("x", [(1.0, 1.0)] * 5, 0.5, "at least", unit=""), "limit: at least 0.5"),
        (median_check("x", [(1.0, 1.0)] * 5, 0.5, "at most", unit=""), "limit: at most 0.5"),
        (inconclusive("x", 0.2, "no seed"), "limit: 0.2"),
        (inconclusive("x", 0.0, "no seed"), ""),
    ],
)
def test_every_verdict_line_has_its_limit(check, limit):
    assert limit_text(check) == limit
