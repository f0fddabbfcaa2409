"""Two runs compared."""

import json

import pytest

from studies.engine.comparison import compare, sentences, text, write
from studies.engine.errors import UserError
from studies.engine.runner import configure
from studies.engine.runner import run as run_study
from tests.studies import fake_study
from tests.studies.browser import look


@pytest.fixture
def runs(tmp_path):
    def run(name, how="ok", seed=0):
        fake_study.BEHAVIOUR["fake-a"] = how
        study = fake_study.STUDIES["fake-a"]
        config = configure(study, "laptop", seed=seed)
        run_study(study, config, tmp_path / name, command="again")
        return tmp_path / name

    yield run
    fake_study.BEHAVIOUR.clear()


def test_what_differs(runs):
    found = compare(runs("a"), runs("b", "wrong", seed=1))
    assert ["seed", "0", "1"] in found.settings
    assert found.checks == [["error", "0", "0", "0.5", "2", "holds", "fails"]]
    assert found.changed == ["error"]
    assert found.numbers == [["loss", "0.25", "1.25", "5"]]
    assert found.same == 1
    shown = text(found)
    assert "Verdicts that differ: error." in shown
    assert "Numbers: 1 are the same, 1 are not." in shown


def test_nothing_differs(runs):
    found = compare(runs("a"), runs("b"))
    assert (found.numbers, found.changed, found.settings) == ([], [], [])
    assert "No check that is in both runs has another verdict." in sentences(found)


def test_what_only_one_has(runs, tmp_path):
    one, other = runs("a"), runs("b")
    path = other / "summary.json"
    path.write_text(path.read_text().replace('"name": "error"', '"name": "edge"'))
    found = compare(one, other)
    assert [row[0] for row in found.checks] == ["error", "edge"]
    assert found.checks[1] == ["edge", "–", "0", "–", "0.5", "–", "holds"]


def test_different_studies_are_said_to_be(runs):
    one, other = runs("a"), runs("b")
    path = other / "summary.json"
    path.write_text(path.read_text().replace('"study": "fake-a"', '"study": "other"'))
    assert "These are different studies: fake-a and other." in sentences(compare(one, other))


def test_page_in_a_browser(runs, tmp_path):
    one, other = runs("a"), runs("b", "wrong", seed=1)
    write(compare(one, other), tmp_path / "compare.html", one, other)
    seen = look(tmp_path / "compare.html", tmp_path)
    assert seen["pictures"] == []
    assert seen["tables"][0][0][0] == ["folder", "study", "status", "started", "seconds"]
    assert "<td>seed</td><td>0</td><td>1</td>" in (tmp_path / "compare.html").read_text()


def test_no_run(tmp_path):
    with pytest.raises(UserError, match=r"no summary\.json"):
        compare(tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("commit", {}),
        ("commit", "abc"),
        ("versions", ["numpy 2"]),
        ("config", ["a"]),
        ("machine", None),
        ("results", [1]),
        ("problems", "none"),
        ("duration", "long"),
        ("status", "lost"),
        ("seed", "x"),
        ("checks", [{"name": "only"}]),
        ("checks", 3),
        ("checks.observed", "text"),
        ("checks.verdict", "perhaps"),
        ("answer.verdict", "perhaps"),
        ("answer", [1]),
    ],
)
def test_a_summary_that_somebody_edited_is_refused_in_one_sentence(runs, name, value):
    folder = runs("a")
    data = json.loads((folder / "summary.json").read_text())
    part, _, field = name.partition(".")
    if field:
        where = data[part][0] if part == "checks" else data[part]
        where[field] = value
    else:
        data[name] = value
    (folder / "summary.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match=r"summary\.json is not the summary of a run: "):
        compare(folder, folder)
