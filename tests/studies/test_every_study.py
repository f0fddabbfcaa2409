"""What every study must be; a new one is checked by being registered."""

import dataclasses
import importlib
import subprocess
import sys

import pytest

from studies.engine.configuring import configure, uses_images
from studies.engine.errors import UserError
from studies.engine.grid import canonical, cell_keys
from studies.engine.protocol import Findings, Lazy, Measured
from studies.engine.runner import run
from studies.registry import PAPERS, STUDIES, find, find_paper

PRESETS = ("smoke", "laptop", "full")


@pytest.fixture(params=STUDIES)
def study(request):
    return find(request.param)


def keys(study, config):
    cells = study.cells(config, "cpu")
    return cell_keys(study.measure, cells, version=study.version, name=study.name)


def counts(config):
    """Fields of the config that say how many of something there are."""
    return [
        field.name
        for field in dataclasses.fields(config)
        if field.name.endswith("seeds") and isinstance(getattr(config, field.name), int)
    ]


@pytest.mark.parametrize("name", STUDIES)
def test_registered_under_its_name(name):
    study = find(name)
    assert study.name == name
    assert study.measure.path.startswith(f"{STUDIES[name]}.")
    assert study.question.endswith("?")


def test_every_study_of_a_paper_is_registered_and_every_one_in_its_folder_is_of_it():
    for name, package in PAPERS.items():
        paper = find_paper(name)
        assert paper.name == name
        named = [study for claim in paper.claims for study in claim.studies]
        assert sorted(named) == sorted(s for s, p in STUDIES.items() if p.startswith(package))


def test_names_that_are_not_there():
    with pytest.raises(
        UserError,
        match=r"no study 'conv-mods' \(did you mean conv-modes\?\); there is: conv-modes, ",
    ):
        find("conv-mods")
    with pytest.raises(UserError, match=r"no paper 'chai2021' .*; there is: chai2020"):
        find_paper("chai2021")
    with pytest.raises(UserError, match="there is no module nothing_here"):
        find("nothing_here:STUDY")
    with pytest.raises(UserError, match=r"studies.registry has no STUDY"):
        find("studies.registry:STUDY")
    with pytest.raises(UserError, match=r"studies.registry:STUDIES is a dict, not a Study"):
        find("studies.registry:STUDIES")


def test_presets(study):
    assert tuple(study.presets) == PRESETS
    for name, config in study.presets.items():
        assert (config.preset, config.seed) == (name, 0)
        assert study.cells(config, "cpu")


@pytest.mark.parametrize("preset", PRESETS)
def test_cells_can_be_named(study, preset):
    cells = study.cells(study.presets[preset], "cpu")
    assert len(set(cells)) == len(cells)
    for cell in cells:
        assert dataclasses.is_dataclass(cell)
        assert "seed" in canonical(cell)
    assert len(set(keys(study, study.presets[preset]))) == len(cells)


def test_a_further_seed_keeps_finished_cells(study):
    config = study.presets["smoke"]
    before = set(keys(study, config))
    assert set(keys(study, dataclasses.replace(config, preset="mine"))) == before
    for name in counts(config):  # one that a smoke run leaves unused may add no cell
        more = dataclasses.replace(config, **{name: getattr(config, name) + 1})
        assert before <= set(keys(study, more)), name
    if counts(config):
        more = {name: getattr(config, name) + 1 for name in counts(config)}
        assert before < set(keys(study, dataclasses.replace(config, **more)))


def test_another_seed_shares_no_cell(study):
    config = study.presets["smoke"]
    assert not set(keys(study, config)) & set(keys(study, configure(study, "smoke", seed=1)))


def test_a_device_reaches_every_cell_that_has_one(study):
    devices = {getattr(cell, "device", None) for cell in study.cells(study.presets["full"], "cuda")}
    assert devices in ({"cuda"}, {None})


def test_nothing_measured_is_inconclusive(study):
    config = study.presets["smoke"]
    for measured in ([], [Measured(c, error="lost") for c in study.cells(config, "cpu")]):
        findings = study.judge(config, measured)
        assert isinstance(findings, Findings)
        assert findings.verdict == "inconclusive"
        assert findings.reason


def test_four_files(study):
    assert isinstance(study.measure, Lazy)
    assert isinstance(study.judge, Lazy)
    package = study.measure.path.rpartition(".")[0]
    assert study.measure.path == f"{package}.measure:measure"
    assert study.judge.path == f"{package}.judge:judge"
    assert importlib.import_module(package).STUDY is study
    importlib.import_module(f"{package}.figures")
    for old in ("run", "configure", "write_report", "print_results", "draw"):
        for part in ("", ".measure", ".judge", ".figures"):
            assert not hasattr(importlib.import_module(package + part), old), (part, old)


def test_judging_and_drawing_import_no_torch_and_no_matplotlib():
    code = (
        "import importlib, sys\n"
        # a None in sys.modules would not do: scipy.stats takes it for torch that is imported
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('torch', 'matplotlib'): raise ImportError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        f"for package in {list(STUDIES.values())!r}:\n"
        "    for part in ('', '.judge', '.figures'): importlib.import_module(package + part)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_images_that_are_not_there_are_said_at_once(study, tmp_path):
    if not uses_images(study):
        with pytest.raises(UserError, match="uses no images: leave out --data"):
            configure(study, "smoke", data="mnist5k")
        return
    config = configure(study, "smoke", data="folder:/no/such")
    with pytest.raises(UserError, match="there is no folder /no/such"):
        run(study, config, tmp_path, device="cpu")
    assert not list(tmp_path.iterdir())
