"""Speed and memory of ``patch_autocorrelation`` compared with unfolding, measured in turn.

Contestants alternate, on one thread, by processor time; the ratio is taken within each round and
the median over rounds reported, so that a machine whose speed drifts slows both alike. The
baseline, ``unfold + matmul``, is ``torch.nn.functional.unfold`` and one matrix product in float32.
curvlinops' input factor of KFAC (its ``extract_patches`` and the product that its hook makes) joins
in where curvlinops is installed.

    python -m benchmarks.patch_autocorrelation           # one thread of the CPU
    python -m benchmarks.patch_autocorrelation_cuda      # the first CUDA device
"""

from __future__ import annotations

import gc
import importlib
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.common import from_command_line, processor
from cnnbridge.statistics.autocorrelation import choose_method, patch_autocorrelation
from studies.engine.provenance import commit

Contestant = Callable[[torch.Tensor, nn.Conv2d], torch.Tensor]

# name, channels in, kernel, stride, padding, groups, size, images, target ratio
CASES: tuple[tuple[str, int, int, int, int, int, int, int, float], ...] = (
    ("16 channels, 32x32, k=3", 16, 3, 1, 1, 1, 32, 128, 6.0),
    ("32 channels, 32x32, k=3", 32, 3, 1, 1, 1, 32, 64, 6.0),
    ("64 channels, 32x32, k=3", 64, 3, 1, 1, 1, 32, 64, 6.0),
    ("16 channels, 32x32, k=5", 16, 5, 1, 2, 1, 32, 64, 5.0),
    ("64 channels, 32x32, k=5", 64, 5, 1, 2, 1, 32, 16, 5.0),
    ("stem: 3 channels, 224x224, k=7, stride 2", 3, 7, 2, 3, 1, 224, 8, 1.5),
    ("256 channels, 8x8, k=3", 256, 3, 1, 1, 1, 8, 64, 2.0),
    ("16 channels, 4x4, k=3", 16, 3, 1, 1, 1, 4, 512, 0.95),
    ("64 channels, 4x4, k=3", 64, 3, 1, 1, 1, 4, 128, 0.95),
    ("512 channels, 4x4, k=3", 512, 3, 1, 1, 1, 4, 64, 0.95),
    ("64 channels, 32x32, k=3, no padding", 64, 3, 1, 0, 1, 32, 32, 0.95),
    ("128 channels, 16x16, k=3, stride 2", 128, 3, 2, 1, 1, 16, 32, 0.95),
    ("64 channels, 16x16, k=1", 64, 1, 1, 0, 1, 16, 64, 0.95),
    ("64 channels, 16x16, k=1, stride 2", 64, 1, 2, 0, 1, 16, 64, 0.95),
    ("3 channels, 32x32, k=3", 3, 3, 1, 1, 1, 32, 128, 0.95),
    ("96 channels, depthwise, 16x16, k=7", 96, 7, 1, 3, 96, 16, 16, 0.95),
    # little input, or far less of it than R has entries: what a call costs is in its fixed part
    ("256 channels, 8x8, k=3, 8 images", 256, 3, 1, 1, 1, 8, 8, 0.95),
    ("512 channels, 2x2, k=3", 512, 3, 1, 1, 1, 2, 64, 0.95),
    ("64 channels, 4x4, k=1, 4 images", 64, 1, 1, 0, 1, 4, 4, 0.95),
    ("8 channels, 16x16, k=3, one image", 8, 3, 1, 1, 1, 16, 1, 0.95),
)
ROUNDS = 21
SECONDS = 12.0


def unfold_matmul(x: torch.Tensor, conv: nn.Conv2d) -> torch.Tensor:
    """The usual way: every patch at once, and one product for each group."""
    padding = tuple(int(p) for p in conv.padding)
    u = F.unfold(x, conv.kernel_size, conv.dilation, padding, conv.stride)
    columns = u.shape[0] * u.shape[2]
    if conv.groups == 1:
        u = u.transpose(0, 1).reshape(-1, columns)
        return (u @ u.T).div_(columns)
    u = u.unflatten(1, (conv.groups, -1)).permute(1, 2, 0, 3).reshape(conv.groups, -1, columns)
    return (u @ u.mT).div_(columns)


def curvlinops_factor() -> Contestant | None:
    """The patch statistics of curvlinops' KFAC; None where it is not installed."""
    extract = None
    for module in ("curvlinops.computers.kfac_math", "curvlinops.kfac_utils"):
        try:
            with warnings.catch_warnings():
                # ignore warnings of curvlinops' dependencies
                warnings.simplefilter("ignore")
                extract = importlib.import_module(module).extract_patches
            break
        except (ImportError, AttributeError):
            continue
    if extract is None:
        return None

    def factor(x: torch.Tensor, conv: nn.Conv2d) -> torch.Tensor:
        u = extract(
            x, conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups
        ).flatten(0, 1)
        return torch.einsum("bi,bj->ij", u, u).div_(len(u))

    return factor


def run(out: Path) -> dict[str, Any]:
    """Measure on one thread of the CPU; write the results as .json and as .md into a folder."""
    about = machine()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        cases = [_case(*case) for case in CASES]
    finally:
        torch.set_num_threads(threads)
    about |= {"threads used": 1, "load average at the end": round(os.getloadavg()[0], 1)}
    found = {"machine": about, "rounds": ROUNDS, "cases": cases}
    _write(found, out, _table(found))
    return found


def machine() -> dict[str, Any]:
    """The machine that the numbers were measured on."""
    return {
        "cpu": processor(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "commit": commit(Path(__file__)),
    }


def _ours() -> dict[str, Contestant]:
    return {
        "auto": lambda x, conv: patch_autocorrelation(x, conv),
        "lags": lambda x, conv: patch_autocorrelation(x, conv, method="lags"),
        "unfold": lambda x, conv: patch_autocorrelation(x, conv, method="unfold"),
    }


def _setting(case: tuple[Any, ...]) -> tuple[torch.Tensor, nn.Conv2d]:
    _, channels, kernel, stride, padding, groups, size, images, _ = case
    conv = nn.Conv2d(channels, channels, kernel, stride=stride, padding=padding, groups=groups)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(images, channels, size, size, generator=generator), conv


def _case(*case: Any) -> dict[str, Any]:
    x, conv = _setting(case)
    contestants: dict[str, Contestant] = {"unfold + matmul": unfold_matmul, **_ours()}
    factor = curvlinops_factor()
    if factor is not None and conv.groups == 1:
        contestants["curvlinops"] = factor
    exact = patch_autocorrelation(x.double(), conv, method="unfold")
    errors = {
        name: float((one(x, conv).reshape(exact.shape) - exact).abs().max() / exact.abs().max())
        for name, one in contestants.items()
    }
    del exact
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    start = time.monotonic()
    while len(seconds["auto"]) < ROUNDS and (
        len(seconds["auto"]) < 7 or time.monotonic() - start < SECONDS
    ):
        for name, one in contestants.items():
            gc.disable()
            before = time.process_time()
            one(x, conv)
            seconds[name].append(time.process_time() - before)
            gc.enable()
    ratios = {
        name: [a / b for a, b in zip(seconds[name], seconds["auto"], strict=True)]
        for name in contestants
    }
    L = x.shape[1] // conv.groups * math.prod(conv.kernel_size)
    row = {
        "name": case[0],
        "images": len(x),
        "method": choose_method(conv, tuple(x.shape)),
        "target": case[-1],
        "rounds": len(seconds["auto"]),
        "milliseconds": {name: 1e3 * min(times) for name, times in seconds.items()},
        "ratio": {name: statistics.median(some) for name, some in ratios.items()},
        "quartiles": {name: statistics.quantiles(some, n=4) for name, some in ratios.items()},
        "error": errors,
        "input_bytes": x.numel() * x.itemsize,
        "result_bytes": 8 * conv.groups * L * L,
        "extra_bytes": {name: _memory(case[0], name) for name in ("unfold + matmul", "auto")},
    }
    row["met"] = row["ratio"]["unfold + matmul"] >= row["target"]
    print(json.dumps(row), flush=True)
    return row


def _memory(case: str, contestant: str) -> int | None:
    """Peak memory beyond the input, result included, in a process of its own."""
    code = (
        "from benchmarks.patch_autocorrelation import peak_memory; "
        f"print(peak_memory({case!r}, {contestant!r}))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(done.stdout) if done.returncode == 0 else None


def peak_memory(case: str, contestant: str) -> int:
    """For the process that ``_memory`` starts: bytes by which the peak rises in one call."""
    torch.set_num_threads(1)
    x, conv = _setting(next(one for one in CASES if one[0] == case))
    one = {"unfold + matmul": unfold_matmul, **_ours()}[contestant]
    # libraries are loaded here
    small = 2 * conv.kernel_size[0]
    one(x[:1, :, :small, :small].repeat(1, 1, 2, 2)[:, :, :small, :small], conv)
    # Linux: reset the peak. That of getrusage would be inherited from the parent.
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak()
    one(x, conv)
    return _peak() - before


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))


def _table(found: dict[str, Any]) -> str:
    lines = [
        "| layer | images | method | ms | over unfold + matmul (quartiles) | target | "
        "over curvlinops | largest error | extra memory, MB: ours / unfold + matmul | "
        "input, R, MB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in found["cases"]:
        low, _, high = row["quartiles"]["unfold + matmul"]
        ratio = row["ratio"]["unfold + matmul"]
        peer = row["ratio"].get("curvlinops")
        extra = [
            "?" if size is None else f"{size / 1e6:.1f}"
            for size in (row["extra_bytes"]["auto"], row["extra_bytes"]["unfold + matmul"])
        ]
        lines.append(
            f"| {row['name']} | {row['images']} | {row['method']} | "
            f"{row['milliseconds']['auto']:.2f} | {ratio:.2f}x ({low:.2f} to {high:.2f}) | "
            f"{row['target']:g}x {'met' if row['met'] else '**missed**'} | "
            f"{'' if peer is None else f'{peer:.2f}x'} | {row['error']['auto']:.0e} | "
            f"{' / '.join(extra)} | {row['input_bytes'] / 1e6:.1f}, "
            f"{row['result_bytes'] / 1e6:.1f} |"
        )
    return "\n".join(lines) + "\n"


def _write(found: dict[str, Any], out: Path, table: str) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "patch_autocorrelation.json").write_text(json.dumps(found, indent=1) + "\n")
    about = "\n".join(f"- {key}: {value}" for key, value in found["machine"].items())
    head = (
        "# patch_autocorrelation compared with unfolding\n\n"
        "Written by `python -m benchmarks.patch_autocorrelation`. Times are processor time of one "
        "thread, the least over alternating rounds; ratios are medians over rounds of the ratio "
        "within a round, above 1 where this package is faster. R comes in float64, the others' in "
        "float32. "
        "Errors are relative to the largest entry of R. Extra memory is the rise of the peak in "
        "a process of its own, R included.\n\n"
    )
    (out / "patch_autocorrelation.md").write_text(f"{head}{about}\n\n{table}")


if __name__ == "__main__":
    from_command_line(str(__doc__), run)
