"""``naturalmodes inspect``: what works leaves a folder, what cannot work is one sentence."""

import json
import sys

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from cnnbridge.results import Inspection
from studies.cli import app


def call(*arguments):
    return CliRunner().invoke(app, ["inspect", *map(str, arguments)])


def test_own_model_and_batches(nets):
    result = call("nets:build", "--data", "nets:loader", "--lr", "0.1", "--parts", "sharpness")
    assert result.exit_code == 0, result.output
    assert "2 layers from 12 images in 2 batches." in result.stdout
    assert "Learning rate to start from" in result.stdout
    found = Inspection.load(nets / "results" / "nets-build")
    assert list(found) == ["0", "4"]
    assert found.sgd.lr == 0.1
    assert (nets / "results" / "nets-build" / "report.html").exists()


def test_images_of_another_depth_are_made_to_fit(tmp_path):
    result = call(
        *("torchvision:squeezenet1_1", "--images", 4, "--layers", "features.0"),
        *("--image-size", 32, "--out", tmp_path),
    )
    assert result.exit_code == 0, result.output
    assert "The images are grey" in result.stdout
    assert "The images are grey" in Inspection.load(tmp_path).notes[0]


def test_layers_are_chosen_by_pattern(nets):
    result = call("nets:build", "--data", "nets:loader", "--layers", "4, 0*", "--out", "o")
    assert result.exit_code == 0, result.output
    assert list(Inspection.load(nets / "o")) == ["0", "4"]


@pytest.mark.parametrize("form", ["plain", "inside", "wrapped"])
def test_weights_are_loaded(form, nets):
    import nets as module

    torch.manual_seed(5)
    state = module.build().state_dict()
    saved = {
        "plain": state,
        "inside": {"epoch": 3, "state_dict": state},
        "wrapped": {f"module._orig_mod.{k}": v for k, v in state.items()},
    }
    torch.save(saved[form], "w.pt")
    from studies.inspecting.targets import Request, model

    loaded = model(Request(target="nets:build", weights="w.pt"))
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, state[name])


def spoilt_weights(kind, path):
    import nets as module

    state = module.build().state_dict()
    if kind == "whole model":
        torch.save(module.build(), path)
    elif kind == "lacks":
        state.pop("4.bias")
        torch.save(state, path)
    elif kind == "too many":
        torch.save(state | {"5.weight": torch.zeros(1)}, path)
    elif kind == "shape":
        torch.save(state | {"4.bias": torch.zeros(3)}, path)
    elif kind == "list":
        torch.save([1, 2], path)
    elif kind == "bytes":
        path.write_bytes(b"no archive")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("whole model", "save model.state_dict(), not the model"),
        ("lacks", "it lacks 4.bias"),
        ("too many", "has weights that the model lacks: 5.weight"),
        ("shape", "size mismatch for 4.bias"),
        ("list", "must hold a state_dict; got list"),
        ("bytes", "w.pt"),
        ("none", "there is no file w.pt"),
    ],
)
def test_weights_that_do_not_fit(kind, words, nets):
    spoilt_weights(kind, nets / "w.pt")
    refused(call("nets:build", "--data", "nets:loader", "--weights", "w.pt"), words)


def refused(result, *words):
    assert result.exit_code == 2, result.output
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    for word in words:
        assert word in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["resnet18"], "package.module:function, got 'resnet18'"),
        (["no_such_module:build"], "cannot import no_such_module"),
        (["nets:built"], "nets has no built"),
        (["nets:number"], "nets:number must return a torch.nn.Module; got int"),
        (["nets:broken"], "nets:broken raised RuntimeError: no such disk."),
        (["torchvision:resnet19"], "torchvision has no model 'resnet19' (did you mean resnet"),
        (["nets:build", "--data", "nets:empty"], "must give at least one batch"),
        (["nets:build", "--data", "nets:poisoned"], "must be finite; got nan"),
        (["nets:build", "--data", "nets:misfit"], "batch 0, of shapes (6, 2, 8, 8), (6,)"),
        (["nets:build", "--data", "nets:dying"], "the batches of nets:dying raised KeyError"),
        (["nets:build", "--data", "nets:broken"], "nets:broken raised RuntimeError"),
        (["nets:build", "--data", "folder:nowhere"], "there is no folder nowhere"),
        (["nets:build", "--data", "nets:loader", "--layers", "9"], "layers must name layers"),
        (["nets:build", "--data", "nets:loader", "--closely", "9"], "closely must name layers"),
        (["nets:build", "--data", "nets:loader", "--parts", "hessian"], "parts"),
        (["nets:build", "--data", "nets:loader", "--budget", "soon"], "budget must be seconds"),
        (["nets:build", "--data", "nets:loader", "--lr", "-1"], "lr"),
        (["nets:build", "--data", "nets:loader", "--momentum", "0.9"], "must come with lr"),
        (["nets:build", "--data", "nets:loader", "--loss", "mes"], "did you mean mse?"),
        (["nets:build", "--data", "nets:loader", "--device", "tpu"], "unknown device 'tpu'"),
        (["nets:build", "--data", "nets:loader", "--out", "nets.py/x"], "cannot write results"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_one_sentence(arguments, words, nets):
    refused(call(*arguments), words)


def test_ctrl_c_keeps_what_was_found_and_a_rerun_goes_on(nets):
    arguments = ["nets:build", "--data", "nets:loader", "--loss", "nets:loss", "--out", "o"]
    result = call(*arguments)
    assert result.exit_code == 130, result.output
    assert "Interrupted; what was finished is in o." in result.stderr
    stopped = np.load(nets / "o" / "arrays.npz")["0/eigenvalues"]
    assert json.loads((nets / "o" / "resume.json").read_text())["done"] == {}
    (nets / "resumed").touch()
    assert call(*arguments).exit_code == 0
    found = Inspection.load(nets / "o")
    assert found["0"].curvature is not None
    np.testing.assert_array_equal(found["0"].eigenvalues, stopped)


def test_progress_follows_on_a_terminal_alone(monkeypatch, capsys):
    from studies.inspecting.looking import progress_line

    progress_line("2m")("batch 1 read", 3.0)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    progress_line("2m")("batch 1 read", 3.0)
    assert capsys.readouterr().err.endswith("3 s of 2m: batch 1 read")
