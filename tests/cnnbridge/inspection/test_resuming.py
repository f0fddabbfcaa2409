"""An inspection is read back as it was written, and goes on where it was interrupted."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

import cnnbridge
from cnnbridge.results import Inspection


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    )


@pytest.fixture
def loader():
    torch.manual_seed(1)
    return [(torch.randn(8, 2, 6, 6), torch.arange(8) % 3) for _ in range(3)]


def look(model, loader, keep=None, **options):
    given = {"loss": nn.CrossEntropyLoss(), "lr": 0.1, "parts": ("curvature", "sharpness")}
    return cnnbridge.inspect(model, loader, keep=keep, **given | options)


def timeless(data):
    """The numbers without those that no two runs share."""
    return {k: timeless(v) if isinstance(v, dict) else v for k, v in data.items() if k != "seconds"}


def test_what_is_saved_is_read_back(model, loader, tmp_path):
    found = look(model, loader, closely=["0"])
    assert found.layers["0"].normalization
    again = Inspection.load(found.save(tmp_path))
    assert again.to_json() == found.to_json()
    for name, layer in found.layers.items():
        for key, value in layer.arrays.items():
            np.testing.assert_array_equal(again[name].arrays[key], value)
    assert str(again).splitlines()[0] == str(found).splitlines()[0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "has no inspection.json"),
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"layers": {"0": {}}}', "cannot be read"),
    ],
)
def test_a_folder_without_an_inspection_is_one_sentence(content, words, tmp_path):
    np.savez(tmp_path / "arrays.npz", x=np.zeros(1))
    if content is not None:
        (tmp_path / "inspection.json").write_text(content)
    with pytest.raises(ValueError, match=words):
        Inspection.load(tmp_path)


def test_arrays_that_are_no_archive_are_one_sentence(model, loader, tmp_path):
    look(model, loader, tmp_path)
    (tmp_path / "arrays.npz").write_bytes(b"PK broken")
    with pytest.raises(ValueError, match="cannot be read"):
        Inspection.load(tmp_path)


class Stop(BaseException):
    """Ends an inspection as Ctrl-C does, when a sentence is reported."""

    def __init__(self, words):
        self.words = words

    def __call__(self, sentence, seconds):
        if self.words in sentence:
            raise self


@pytest.mark.parametrize("words", ["spectrum 1 of 2", "spectrum 2 of 2", "curvature", "sharpness"])
def test_an_interrupted_inspection_goes_on(words, model, loader, tmp_path):
    wanted = look(model, loader)
    with pytest.raises(Stop):
        look(model, loader, tmp_path, progress=Stop(words))
    kept = list(Inspection.load(tmp_path))
    assert kept == (["0"] if words == "spectrum 1 of 2" else ["0", "4"])
    done = json.loads((tmp_path / "resume.json").read_text())["done"]
    assert list(done) == (["curvature"] if words == "sharpness" else [])

    sentences = []
    found = look(model, loader, tmp_path, progress=lambda sentence, _: sentences.append(sentence))
    assert timeless(found.to_dict()) == timeless(wanted.to_dict())
    assert list(found) == ["0", "4"]
    new = [each for each in sentences if each.startswith("spectrum")]
    assert len(new) == 2 - len(kept)
    assert ("curvature along the modes" in sentences) == (words != "sharpness")
    # one batch is enough where nothing is left to read
    assert sum("read" in each for each in sentences) == (3 if new else 1)


def test_a_finished_inspection_is_not_computed_again(model, loader, tmp_path):
    first = look(model, loader, tmp_path, closely=["0"])
    sentences = []
    again = look(
        model, loader, tmp_path, closely=["0"], progress=lambda text, _: sentences.append(text)
    )
    assert not any("spectrum" in each or "closely" in each for each in sentences)
    assert timeless(again.to_dict()) == timeless(first.to_dict())


@pytest.mark.parametrize("change", ["weights", "batch", "rate", "mode"])
def test_other_things_are_looked_at_from_the_beginning(change, model, loader, tmp_path):
    look(model, loader, tmp_path)
    options = {}
    if change == "weights":
        with torch.no_grad():
            model[0].weight[0, 0, 0, 0] += 1
    elif change == "batch":
        loader[0] = (loader[0][0] + 1, loader[0][1])
    elif change == "rate":
        options = {"lr": 0.2}
    else:
        model.eval()
    sentences = []
    look(model, loader, tmp_path, progress=lambda text, _: sentences.append(text), **options)
    assert sum("spectrum" in each for each in sentences) == 2


def test_nothing_is_kept_of_a_reading_that_the_budget_cut(model, loader, tmp_path):
    found = look(model, loader, tmp_path, budget=1e-6)
    assert found.batches == 1
    assert not (tmp_path / "resume.json").exists()
    assert look(model, loader, tmp_path).batches == 3


def test_an_exception_before_any_spectrum_writes_nothing(model, loader, tmp_path):
    with pytest.raises(Stop):
        look(model, loader, tmp_path / "new", progress=Stop("batch 2"))
    assert not (tmp_path / "new").exists()


def test_keep_must_be_a_folder(model, loader):
    with pytest.raises(TypeError, match="keep must be the path of a folder; got int"):
        look(model, loader, 3)


def test_a_loss_that_is_not_there_stays_so(model, loader, tmp_path):
    batches = [x for x, _ in loader]
    for _ in range(2):
        found = cnnbridge.inspect(model, batches, keep=tmp_path)
        assert math.isnan(found.loss)
        assert "curvature" in found.skipped
