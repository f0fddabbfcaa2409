"""Speed and memory of ``patch_autocorrelation`` beside unfolding, measured in turn in one run.

Contestants alternate, on one thread, by processor time; the ratio is taken within each round and
the median over rounds reported, so that a machine whose speed drifts slows both alike. The
baseline, ``unfold + matmul``, is ``torch.nn.functional.unfold`` and one matrix product in float32.
curvlinops' input factor of KFAC (its ``extract_patches`` and the product that its hook makes) joins
in where curvlinops is installed.

    python -m cnnbridge.bench OUT            # CPU
    python -m cnnbridge.bench OUT --cuda     # the first CUDA device, ImageNet shapes
"""

from __future__ import annotations

import argparse
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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from cnnbridge.autocorrelation import choose_method, patch_autocorrelation

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
    ("8 channels, 16x16, k=3, one image", 8, 3, 1, 1, 1, 16, 1, 0.95),
)
IMAGENET: tuple[tuple[str, int, int, int, int, int, int], ...] = (
    ("stem: 3 channels, 224x224, k=7, stride 2", 3, 7, 2, 3, 224, 256),
    ("64 channels, 56x56, k=3", 64, 3, 1, 1, 56, 256),
    ("128 channels, 28x28, k=3", 128, 3, 1, 1, 28, 256),
    ("256 channels, 14x14, k=3", 256, 3, 1, 1, 14, 256),
    ("512 channels, 7x7, k=3", 512, 3, 1, 1, 7, 256),
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
    """What curvlinops' KFAC does to a layer's input; None where it is not installed."""
    extract = None
    for module in ("curvlinops.computers.kfac_math", "curvlinops.kfac_utils"):
        try:
            with warnings.catch_warnings():
                # what its own dependencies remark is not our concern
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


def run(out: Path | str) -> dict[str, Any]:
    """Measure on the CPU, on one thread; write patch_autocorrelation.json and .md into out."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        cases = [_case(*case) for case in CASES]
    finally:
        torch.set_num_threads(threads)
    found = {"machine": machine("cpu"), "rounds": ROUNDS, "cases": cases}
    _write(found, Path(out), "patch_autocorrelation", _table(found))
    return found


def run_cuda(out: Path | str, *, images: int | None = None) -> dict[str, Any]:
    """The same on the first CUDA device, at ImageNet shapes, in float32 and bfloat16 input.

    Raises
    ------
    RuntimeError : there is no CUDA device.
    """
    if not torch.cuda.is_available():
        raise RuntimeError("no CUDA device: run(out) measures on the CPU")
    rate = _matmul_rate()
    rows = []
    for name, channels, kernel, stride, padding, size, many in IMAGENET:
        conv = nn.Conv2d(channels, 64, kernel, stride=stride, padding=padding)
        for dtype in (torch.float32, torch.bfloat16):
            generator = torch.Generator(device="cuda").manual_seed(0)
            shape = (images or many, channels, size, size)
            x = torch.randn(shape, generator=generator, device="cuda").to(dtype)
            row: dict[str, Any] = {"name": name, "input": str(dtype), "shape": list(shape)}
            L = channels * kernel**2
            products = 2 * L * L * shape[0] * (size // stride) ** 2
            for label, contestant in {
                "unfold + matmul": lambda x, conv: unfold_matmul(x.float(), conv),
                **_ours(),
            }.items():
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
                try:
                    seconds = _cuda_seconds(contestant, x, conv)
                except torch.OutOfMemoryError:
                    row[label] = {"seconds": None}
                    continue
                row[label] = {
                    "seconds": seconds,
                    "fraction_of_matmul_rate": products / seconds / rate,
                    "extra_bytes": torch.cuda.max_memory_allocated() - before,
                }
            row["input_bytes"] = x.numel() * x.itemsize
            rows.append(row)
            print(json.dumps(row), flush=True)
    found = {"machine": machine("cuda"), "float32_matmul_flops": rate, "cases": rows}
    lines = [
        f"Float32 matmul of this device: {rate / 1e12:.1f} TFLOP/s. The fraction is that of an "
        f"unfolded product in the same time, so the lags can exceed 1.",
        "",
        "| layer | input | method | ms | fraction of matmul rate | extra memory / input |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        for label in ("unfold + matmul", *_ours()):
            got = row[label]
            if got["seconds"] is None:
                cells = "out of memory | | "
            else:
                cells = (
                    f"{1e3 * got['seconds']:.2f} | {got['fraction_of_matmul_rate']:.2f} | "
                    f"{got['extra_bytes'] / row['input_bytes']:.2f}"
                )
            lines.append(f"| {row['name']} | {row['input']} | {label} | {cells} |")
    _write(found, Path(out), "patch_autocorrelation_cuda", "\n".join(lines) + "\n")
    return found


def machine(kind: str) -> dict[str, Any]:
    """What the numbers were measured on."""
    model = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    about = {
        "cpu": model,
        "cores": os.cpu_count(),
        "threads used": 1,
        "load average at the end": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
    }
    if kind == "cuda":
        about["device"] = torch.cuda.get_device_name()
        about["tf32"] = torch.backends.cuda.matmul.allow_tf32
    return about


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(prog="python -m cnnbridge.bench", description=__doc__)
    parser.add_argument("out", type=Path, help="folder for the results")
    parser.add_argument("--cuda", action="store_true", help="measure the first CUDA device")
    parser.add_argument("--images", type=int, help="images in a batch, with --cuda")
    given = parser.parse_args(argv)
    if given.cuda:
        run_cuda(given.out, images=given.images)
    else:
        run(given.out)


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
    code = f"from cnnbridge.bench import peak_memory; print(peak_memory({case!r}, {contestant!r}))"
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
    # Linux: start the peak anew. The peak that getrusage tells would be inherited from the parent.
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


def _write(found: dict[str, Any], out: Path, name: str, table: str) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    about = "\n".join(f"- {key}: {value}" for key, value in found["machine"].items())
    head = (
        "# patch_autocorrelation beside unfolding\n\n"
        "Written by `naturalmodes bench cnnbridge`. Times are processor time of one thread, the "
        "least over alternating rounds; ratios are medians over rounds of the ratio within a "
        "round, above 1 where this package is faster. R comes in float64, the others' in float32. "
        "Errors are relative to the largest entry of R. Extra memory is the rise of the peak in "
        "a process of its own, R included.\n\n"
    )
    (out / f"{name}.md").write_text(f"{head}{about}\n\n{table}")


def _matmul_rate() -> float:
    a = torch.randn(8192, 8192, device="cuda")
    seconds = _cuda_seconds(lambda x, _: x @ x, a, nn.Conv2d(1, 1, 1))
    return float(2 * 8192**3 / seconds)


def _cuda_seconds(one: Contestant, x: torch.Tensor, conv: nn.Conv2d) -> float:
    times = []
    for _ in range(7):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        one(x, conv)
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    # the first of them loads kernels
    return min(times[1:])


if __name__ == "__main__":
    main()
