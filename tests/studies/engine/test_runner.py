"""The runner: what is on disk when, what a failure costs, and what is refused."""

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from studies.engine.checks import at_most
from studies.engine.errors import UserError
from studies.engine.protocol import Figure, Findings, Study, Table, seeds
from studies.engine.runner import configure, rejudge, run
from studies.engine.summary import Summary


@dataclass(frozen=True)
class Pictures:
    """Like the images of a real study."""

    data: str = "mnist5k"
    root: str | None = None
    limit: int | None = None
    seed: int = 0

    def check(self):
        if self.data == "missing":
            raise UserError("there are no pictures.")


@dataclass(frozen=True)
class Cell:
    seed: int = 0
    pictures: Pictures = Pictures()
    scale: float = 1.0
    widths: tuple[int, ...] = (1, 2)
    log: str = ""
    device: str = "cpu"


@dataclass(frozen=True)
class Config:
    preset: str
    seed: int = 0
    seeds: int = 2
    cell: Cell = Cell()


def cells(config, device):
    return [
        dataclasses.replace(config.cell, seed=s, device=device)
        for s in seeds(config.seed, config.seeds)
    ]


def measure(cell):
    if cell.log:
        folder = Path(cell.log)
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["answer"]["rule"] == "All errors are at most 1."
        assert summary["answer"]["verdict"] == "inconclusive"
        with (folder / "log").open("a") as log:
            log.write(f"{cell.seed}\n")
    if cell.scale < 0:
        raise ValueError("scale is negative")
    return {"error": 0.5 * cell.scale, "path": np.arange(3.0)}


def line(ax):
    ax.plot([0, 1])


def broken(ax):
    raise ZeroDivisionError("no room")


def judge(config, measured):
    found = [one for one in measured if one.error is None]
    if not found:
        return Findings("inconclusive", reason="Nothing was measured.")
    checks = [at_most(f"seed {m.cell.seed}", m.result["error"], 1.0, unit="") for m in found]
    rows = [[str(m.cell.seed), str(m.result["error"])] for m in found]
    plot = broken if config.preset == "broken" else line
    return Findings(
        verdict=checks[0].verdict,
        checks=checks,
        tables=[
            Table("Every seed", ("seed", "error"), rows),
            Table("More", figures=[Figure("more", "More.", "A line.", [line])]),
        ],
        answer=Figure("answer", "A line.", "A straight line.", [plot]),
        against=["It is made up."],
        results={"slope": math.inf},
        arrays={"paths": {"first": found[0].result["path"]}},
    )


STUDY = Study(
    name="made-up",
    title="A made-up study",
    question="Is it so?",
    experiment="We made it up.",
    rule="All errors are at most 1.",
    presets={name: Config(name) for name in ("smoke", "broken")},
    cells=cells,
    measure=measure,
    judge=judge,
)


def config_in(folder, preset="smoke", **cell):
    folder.mkdir(exist_ok=True)
    return Config(preset, cell=Cell(log=str(folder), **cell))


def measured_in(folder):
    return (folder / "log").read_text().split()


def test_everything_is_there(tmp_path, capsys):
    summary = run(STUDY, config_in(tmp_path), tmp_path, device="cpu", command="repeat me")
    assert (summary.status, summary.answer.verdict) == ("complete", "holds")
    assert summary.answer.reason == "2 of 2 checks hold."
    assert summary.answer.figure == "answer.png"
    assert summary.results["every-seed"][1] == {"seed": "1001", "error": "0.5"}
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")}
    assert {"report.html", "summary.json", "answer.png", "more.svg", "paths.npz"} <= names
    assert "tables/every-seed.csv" in names
    assert len([name for name in names if name.startswith("cells/")]) == 4
    with np.load(tmp_path / "paths.npz") as arrays:
        assert arrays["first"].tolist() == [0, 1, 2]
    report = (tmp_path / "report.html").read_text()
    assert "It is made up." in report
    assert "repeat me" in report
    printed = capsys.readouterr().out
    assert "1001" in printed
    assert "Verdict: holds." in printed
    assert Summary.read(tmp_path / "summary.json").to_dict() == summary.to_dict()


def test_rule_is_on_disk_before_a_cell_and_cells_are_kept(tmp_path):
    config = config_in(tmp_path)
    run(STUDY, config, tmp_path)  # ``measure`` looks at the summary
    assert measured_in(tmp_path) == ["1000", "1001"]
    run(STUDY, config, tmp_path)
    assert measured_in(tmp_path) == ["1000", "1001"]
    more = dataclasses.replace(config, preset="another", seeds=3)
    assert run(STUDY, more, tmp_path, workers=1).status == "complete"
    assert measured_in(tmp_path) == ["1000", "1001", "1002"]


def test_a_cell_that_fails_is_a_problem(tmp_path):
    summary = run(STUDY, config_in(tmp_path, scale=-1.0), tmp_path)
    assert (summary.status, summary.answer.verdict) == ("incomplete", "inconclusive")
    assert summary.problems == [
        "2 of 2 cells failed, the first with ValueError: scale is negative."
    ]
    assert "scale is negative" in (tmp_path / "report.html").read_text()


def test_a_figure_that_fails_loses_no_verdict(tmp_path):
    summary = run(STUDY, config_in(tmp_path, "broken"), tmp_path, workers=1)
    assert (summary.status, summary.answer.verdict) == ("incomplete", "holds")
    assert summary.answer.figure is None
    (problem,) = summary.problems
    assert problem == ("The figure answer could not be drawn: ZeroDivisionError: no room.")
    assert (tmp_path / "more.png").exists()


def test_a_judge_that_fails_loses_no_cell(tmp_path):
    def bad(config, measured):
        raise ZeroDivisionError("by zero")

    with pytest.raises(ZeroDivisionError):
        run(dataclasses.replace(STUDY, judge=bad), config_in(tmp_path), tmp_path)
    summary = Summary.read(tmp_path / "summary.json")
    assert summary.status == "interrupted"
    assert summary.problems == ["The run ended early: ZeroDivisionError: by zero"]
    assert (tmp_path / "report.html").exists()
    assert rejudge(STUDY, tmp_path).answer.verdict == "holds"
    assert measured_in(tmp_path) == ["1000", "1001"]


def test_judged_again(tmp_path):
    before = run(STUDY, config_in(tmp_path), tmp_path).to_dict()
    after = rejudge(STUDY, tmp_path).to_dict()
    assert {**after, "duration": 0} == {**before, "duration": 0}
    harder = dataclasses.replace(STUDY, rule="All errors are at most 0.1.")
    changed = rejudge(harder, tmp_path).answer
    assert changed.rule == "All errors are at most 0.1."
    assert changed.against[-1].endswith("it read: All errors are at most 1.")
    with pytest.raises(UserError, match="holds a run of made-up, not of other"):
        rejudge(dataclasses.replace(STUDY, name="other"), tmp_path)
    with pytest.raises(UserError, match=r"there is no summary.json"):
        rejudge(STUDY, tmp_path / "nowhere")


def test_cells_that_are_gone_are_problems_when_judged_again(tmp_path):
    run(STUDY, config_in(tmp_path), tmp_path)
    for path in (tmp_path / "cells").iterdir():
        path.unlink()
    summary = rejudge(STUDY, tmp_path)
    assert summary.status == "incomplete"
    assert summary.problems == ["2 of 2 cells failed, the first with it was not measured."]


def test_choices():
    config = configure(
        STUDY,
        "smoke",
        data="cifar10",
        data_root=Path("somewhere"),
        seed=3,
        **{"cell.scale": 2, "cell.widths": [3], "seeds": 4, "cell.pictures.limit": 7},
    )
    pictures = Pictures("cifar10", "somewhere", limit=7, seed=3)
    assert config == Config("smoke", 3, 4, Cell(pictures=pictures, scale=2.0, widths=(3,)))
    assert configure(STUDY, "smoke", data=None) == Config("smoke")


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"nothing": 1}, "Config has no 'nothing'; it has: preset, seed, seeds, cell"),
        ({"cell.pictures.nothing": 1}, "Pictures has no 'nothing'"),
        ({"seeds.more": 1}, "int has no 'more'; it has: no fields"),
        ({"seeds": "many"}, "seeds must be of the kind of 2, int, got 'many'"),
        ({"cell.scale": True}, "cell.scale must be of the kind of 1.0, float, got True"),
    ],
)
def test_choices_that_are_refused(choices, message):
    with pytest.raises(UserError) as caught:
        configure(STUDY, "smoke", **choices)
    assert message in str(caught.value)


def test_refused(tmp_path):
    with pytest.raises(UserError, match="unknown preset 'huge': choose smoke, broken"):
        configure(STUDY, "huge")
    with pytest.raises(UserError, match="unknown device 'tpu'"):
        run(STUDY, Config("smoke"), tmp_path, device="tpu")
    with pytest.raises(UserError, match="there are no pictures"):
        run(STUDY, configure(STUDY, "smoke", data="missing"), tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write results"):
        run(STUDY, Config("smoke"), tmp_path / "file")


def test_a_study_without_images_or_device(tmp_path):
    @dataclass(frozen=True)
    class Plain:
        seed: int = 0

    @dataclass(frozen=True)
    class Setting:
        preset: str = "smoke"
        seed: int = 0

    plain = dataclasses.replace(
        STUDY, presets={"smoke": Setting()}, cells=lambda config, _: [Plain(config.seed)]
    )
    with pytest.raises(UserError, match="made-up uses no images: leave out --data"):
        configure(plain, "smoke", data="mnist5k")
    with pytest.raises(UserError, match="made-up runs on the CPU: leave out --device"):
        run(plain, Setting(), tmp_path, device="cuda")
