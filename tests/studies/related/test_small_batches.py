"""Edges of small batches, and what the checks notice."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from studies.engine.runner import run
from studies.related.small_batches import STUDY, Cell, Config
from studies.related.small_batches.judge import Edges, checks
from studies.related.small_batches.measure import edges
from studies.training.images import Images
from studies.training.pixels import prediction_problem
from tests.studies.engine.test_report import assert_self_contained

TINY = Cell(Images(limit=6, size=8), patch=2, positions=9, products=4, factors=40)


def compute(images, cell=TINY):
    return Edges(**edges(images, cell))


def made_up(count=6):
    return np.random.default_rng(0).standard_normal((count, 9, 9))


def test_patches_and_the_pixel_beside_them():
    images = made_up(10)
    u, d = prediction_problem(images, 3)
    assert u.shape == (10, 7 * 6, 9)
    row, column = 2, 4
    place = row * 6 + column
    np.testing.assert_array_equal(
        u[3, place].reshape(3, 3), images[3, row : row + 3, column : column + 3]
    )
    assert d[3, place] == images[3, row + 1, column + 3]


def test_edge_of_single_images_is_that_of_the_whole_map():
    """Batch 1: the spectral radius of K -> mean of (I - mu R_i) K (I - mu R_i), as a matrix."""
    images = made_up()
    found = compute(images, dataclasses.replace(TINY, positions=1000))
    u, _ = prediction_problem(images, TINY.patch)
    R = [np.mean([np.outer(v, v) for v in patches], axis=0) for patches in u]

    def radius(mu):
        steps = [np.eye(4) - mu * one for one in R]
        return abs(np.linalg.eigvals(sum(np.kron(s, s) for s in steps) / len(R))).max()

    assert found.batches.tolist() == [1, 2, 4, 6]
    assert radius(found.edges[0] * 0.999) < 1 < radius(found.edges[0] * 1.001)
    assert found.bound == pytest.approx(2 / np.linalg.eigvalsh(np.mean(R, axis=0))[-1])
    assert found.sure[-1] == pytest.approx(found.bound)


def test_checks_notice():
    found = compute(made_up())
    assert [c.verdict for c in checks(found)] == ["holds"] * 3
    bad = dataclasses.replace(found, edges=found.edges[::-1] * 1.5)
    assert [c.verdict for c in checks(bad)] == ["fails"] * 3


def test_a_run(tmp_path):
    summary = run(STUDY, Config("tiny", cell=TINY), tmp_path)
    assert (summary.status, summary.answer.verdict) == ("complete", "holds")
    assert {"small-batches.png", "small-batches.svg"} <= {p.name for p in tmp_path.iterdir()}
    assert_self_contained((tmp_path / "report.html").read_text())
    assert len(summary.results["edges-of-small-batches"]) == 4


def test_a_run_without_torch(tmp_path):
    code = (
        "import sys; sys.modules['torch'] = None; from studies.__main__ import main; "
        f"sys.argv = ['naturalmodes', 'run', 'small-batches', '--preset', 'smoke', "
        f"'--out', {str(tmp_path)!r}]; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Verdict: holds." in done.stdout
