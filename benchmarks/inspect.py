"""What looking at a network costs: ``python -m benchmarks.inspect``.

Each piece of work runs in a process of its own, whose peak memory is that of the work: a few steps
of training, ``inspect`` with the curvature along the modes of all layers, and the sharpness of
resnet18 by this package, PyHessian and curvlinops. The figures go to ``inspect.md`` and
``inspect.json``; a bound that is missed is reported as missed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import cnnbridge
from adaptive.files import json_text, versions
from benchmarks.common import from_command_line, processor

__all__ = ["main", "measure"]

# training steps that an inspection may cost
BOUNDS = {
    "resnet18": 12,
    "densenet121": 15,
    "mobilenet_v3_small": 15,
    "convnext_tiny": 15,
    "vit_b_16": 15,
}
MEMORY_BOUND = 1.15
SIZES = {"vit_b_16": 224}
SIZE, BATCH, BATCHES = 64, 32, 4
# of the sharpness
SMALL_BATCH, TOLERANCE = 8, 1e-3
TRAINED, REPEATS = 3, 1


def _network(name: str) -> tuple[nn.Module, list[tuple[torch.Tensor, torch.Tensor]]]:
    from torchvision import models

    torch.manual_seed(0)
    size = SIZES.get(name, SIZE)
    batch = BATCH if size == SIZE else BATCH // 4
    loader = [
        (torch.randn(batch, 3, size, size), torch.randint(1000, (batch,))) for _ in range(BATCHES)
    ]
    return models.get_model(name, weights=None), loader


def _train(name: str) -> dict[str, float]:
    """The median of a few training steps after the first."""
    model, loader = _network(name)
    sgd = torch.optim.SGD(model.parameters(), lr=0.01)
    seconds = []
    for step in range(TRAINED + 1):
        x, y = loader[step % BATCHES]
        begin = time.perf_counter()
        sgd.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        sgd.step()
        seconds.append(time.perf_counter() - begin)
    return {"seconds": statistics.median(seconds[1:])}


def _inspect(name: str) -> dict[str, float]:
    model, loader = _network(name)
    begin = time.perf_counter()
    found = cnnbridge.inspect(model, loader, loss=nn.CrossEntropyLoss(), lr=0.01)
    return {"seconds": time.perf_counter() - begin, "layers": len(found)}


def _sharpness(tool: str) -> dict[str, float]:
    """The largest Hessian eigenvalue of resnet18 on one small batch."""
    model, loader = _network("resnet18")
    # PyHessian computes in evaluation mode whatever it is given
    model.eval()
    x, y = (part[:SMALL_BATCH] for part in loader[0])
    begin = time.perf_counter()
    value = _SHARPNESS[tool](model, x, y)
    return {"seconds": time.perf_counter() - begin, "value": value}


def _own(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    return float(
        cnnbridge.sharpness(model, (x, y), nn.CrossEntropyLoss(), tolerance=TOLERANCE)  # type: ignore[arg-type]
    )


def _pyhessian(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    made = importlib.import_module("pyhessian").hessian(
        model, nn.CrossEntropyLoss(), data=(x, y), cuda=False
    )
    return float(made.eigenvalues(maxIter=100, tol=TOLERANCE)[0][0])


def _curvlinops(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    from scipy.sparse.linalg import eigsh

    package = importlib.import_module("curvlinops")
    parameters = list(model.parameters())
    operator = package.HessianLinearOperator(
        model, nn.CrossEntropyLoss(), parameters, [(x, y)], check_deterministic=False
    )
    found = eigsh(operator.to_scipy(), k=1, which="LA", tol=TOLERANCE, return_eigenvectors=False)
    return float(found[0])


_SHARPNESS: dict[str, Callable[[nn.Module, torch.Tensor, torch.Tensor], float]] = {
    "cnnbridge": _own,
    "PyHessian": _pyhessian,
    "curvlinops": _curvlinops,
}
_WORK: dict[str, Callable[[str], dict[str, float]]] = {
    "train": _train,
    "inspect": _inspect,
    "sharpness": _sharpness,
}


def _alone(work: str, what: str) -> dict[str, float] | None:
    """The work in a process of its own, the median of ``REPEATS``; None if it fails."""
    runs = []
    for _ in range(REPEATS):
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.inspect", "--one", work, what],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            print(f"{work} {what}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
            return None
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def measure(out: Path) -> dict[str, Any]:
    """Measure everything, and write ``inspect.json`` and ``inspect.md`` into a folder."""
    found: dict[str, Any] = {"machine": processor(), "versions": versions("torch", "naturalmodes")}
    found["networks"] = {}
    for name in BOUNDS:
        train, inspected = _alone("train", name), _alone("inspect", name)
        if train and inspected:
            found["networks"][name] = {
                "layers": int(inspected["layers"]),
                "step_seconds": train["seconds"],
                "inspect_seconds": inspected["seconds"],
                "steps": inspected["seconds"] / train["seconds"],
                "steps_wanted": BOUNDS[name],
                "memory_ratio": inspected["megabytes"] / train["megabytes"],
            }
    tools = {tool: _alone("sharpness", tool) for tool in _SHARPNESS}
    found["sharpness"] = {tool: run for tool, run in tools.items() if run}
    out.mkdir(parents=True, exist_ok=True)
    (out / "inspect.json").write_text(json_text(found))
    (out / "inspect.md").write_text(_page(found))
    print(_page(found))
    return found


def _page(found: dict[str, Any]) -> str:
    lines = [
        "# What looking at a network costs",
        "",
        f"One thread of {found['machine']}, {REPEATS} process for each piece of work; "
        f"`python -m benchmarks.inspect`. {BATCHES} batches of {BATCH} images of {SIZE} pixels "
        f"({BATCH // 4} of 224 for vit_b_16), every convolution and linear layer, with the "
        f"curvature along the modes shown. Memory is the peak of the process over training's.",
        "",
        "| network | layers | training step | inspect | in steps | wanted | memory | wanted |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, run in found["networks"].items():
        steps, memory = run["steps"], run["memory_ratio"]
        lines.append(
            f"| {name} | {run['layers']} | {run['step_seconds']:.3g} s | "
            f"{run['inspect_seconds']:.3g} s | {steps:.1f} | "
            f"at most {run['steps_wanted']}: {_kept(steps <= run['steps_wanted'])} | "
            f"{memory:.2f} | at most {MEMORY_BOUND}: {_kept(memory <= MEMORY_BOUND)} |"
        )
    lines += [
        "",
        f"The sharpness of resnet18, {SMALL_BATCH} images of {SIZE} pixels, in evaluation mode, to "
        f"a tolerance of {TOLERANCE:g} as each tool means it:",
        "",
        "| tool | seconds | peak memory | largest eigenvalue |",
        "|---|---|---|---|",
    ]
    for tool, run in found["sharpness"].items():
        lines.append(
            f"| {tool} | {run['seconds']:.3g} | {run['megabytes']:,.0f} MB | {run['value']:.5g} |"
        )
    return "\n".join(lines) + "\n"


def _kept(bound: bool) -> str:
    return "kept" if bound else "**missed**"


def main(arguments: list[str] | None = None) -> None:
    """Run from the command line; ``--one WORK WHAT`` does one piece and prints its figures."""
    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] != ["--one"]:
        from_command_line(__doc__ or "", measure, given)
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("--one", nargs=2)
    work, what = parser.parse_args(given).one
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        # the peers use calls that torch is about to drop
        warnings.simplefilter("ignore")
        run = _WORK[work](what)
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps(run | {"megabytes": kilobytes / 1024}))


if __name__ == "__main__":
    main()
