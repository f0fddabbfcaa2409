"""The first page of cnnbridge: a list that is kept, and told from what users only receive."""

import dataclasses
import importlib
import inspect
import subprocess
import sys

import pytest

import cnnbridge
from cnnbridge import results

FIRST_PAGE = """
SGD LayerTask NetworkTask
predict_layer observe_layer compare sharpness
inspect Monitor capture replay degree mode_curvature
patch_autocorrelation sampled_autocorrelation layer_problem layer_problems learning_rate_bounds
unfold_patches group_weights Geometry
full_spectrum extreme_eigenvalues spectral_density PatchOperator
SplitBatchNorm convert_batch_norm compare_normalizations patch_moments first_step_is_nlms
nlms_departures
"""


def test_the_first_page_is_this_list():
    assert sorted(cnnbridge.__all__) == sorted(FIRST_PAGE.split())
    public = {n for n, v in vars(cnnbridge).items() if n[0] != "_" and not inspect.ismodule(v)}
    assert public == set(cnnbridge.__all__)


def test_records_are_importable_from_results_and_not_from_the_top():
    assert set(results.__all__).isdisjoint(cnnbridge.__all__)
    records = [getattr(results, name) for name in results.__all__]
    assert sum(dataclasses.is_dataclass(r) for r in records) >= len(records) - 3


@pytest.mark.parametrize("name", ["results", "normalization", "plotting"])
def test_sub_namespaces_are_documented(name):
    module = importlib.import_module(f"cnnbridge.{name}")
    assert module.__doc__
    for public in getattr(module, "__all__", []):
        thing = getattr(module, public)
        assert inspect.isclass(thing) or not callable(thing) or inspect.getdoc(thing)


@pytest.mark.parametrize("name", cnnbridge.__all__)
def test_every_public_name_has_an_example(name):
    thing = getattr(cnnbridge, name)
    parts = [thing, *(vars(thing).values() if inspect.isclass(thing) else ())]
    texts = [inspect.getdoc(part) or "" for part in parts]
    assert any(">>>" in text for text in texts)


def test_without_torch_one_sentence_says_what_to_install():
    code = "import sys; sys.modules['torch'] = None; import cnnbridge"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    last = run.stderr.strip().splitlines()[-1]
    assert last == (
        "ModuleNotFoundError: cnnbridge needs torch, which is not installed. "
        "In a checkout: pip install '.[cnn]'"
    )
