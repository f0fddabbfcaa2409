"""``patch_autocorrelation`` and the monitor on a CUDA device, measured at ImageNet shapes.

Times are those of the device, by CUDA events, the least of several calls after one that loads the
kernels; memory is the rise of the allocator's peak in a call of its own. The yardstick is a plain
matrix product of the same precision, measured in the same run: the fraction of its rate is that of
one unfolded product, 2 L^2 operations a patch, done in the same time. Lag products do fewer, so
theirs can exceed 1.

    python -m benchmarks.patch_autocorrelation_cuda --out results/benchmarks
"""

from __future__ import annotations

import gc
import json
import math
import statistics
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from benchmarks.common import from_command_line
from benchmarks.monitor_overhead import Overhead, measure_overhead
from benchmarks.patch_autocorrelation import Contestant, machine, unfold_matmul
from cnnbridge.layers.geometry import Geometry
from cnnbridge.statistics.autocorrelation import choose_method, patch_autocorrelation

__all__ = ["IMAGENET", "run"]

# name, channels in, kernel, stride, padding, size
IMAGENET: tuple[tuple[str, int, int, int, int, int], ...] = (
    ("stem: 3 channels, 224x224, k=7, stride 2", 3, 7, 2, 3, 224),
    ("64 channels, 56x56, k=3", 64, 3, 1, 1, 56),
    ("128 channels, 28x28, k=3", 128, 3, 1, 1, 28),
    ("256 channels, 14x14, k=3", 256, 3, 1, 1, 14),
    ("512 channels, 7x7, k=3", 512, 3, 1, 1, 7),
)
DTYPES = (torch.float32, torch.bfloat16)
CALLS = 9
# how many images are unfolded at a time for the exact result
SLICE = 8

CONTESTANTS: dict[str, Contestant] = {
    "unfold + matmul": unfold_matmul,
    "unfold + matmul of x.float()": lambda x, conv: unfold_matmul(x.float(), conv),
    "auto": lambda x, conv: patch_autocorrelation(x, conv),
    "lags": lambda x, conv: patch_autocorrelation(x, conv, method="lags"),
    "unfold": lambda x, conv: patch_autocorrelation(x, conv, method="unfold"),
}


def run(
    out: Path,
    *,
    images: int = 256,
    monitor_steps: int = 4000,
) -> dict[str, Any]:
    """Measure the first CUDA device; write patch_autocorrelation_cuda.json and .md into out.

    Both are rewritten after each case, so that nothing measured is lost.

    Parameters
    ----------
    out : folder, made if missing.
    images : of a batch.
    monitor_steps : training steps of a CIFAR ResNet-18 beside which the monitor is measured.

    Raises
    ------
    RuntimeError : there is no CUDA device.
    """
    if not torch.cuda.is_available():
        raise RuntimeError("there is no CUDA device to measure")
    found: dict[str, Any] = {
        "machine": machine() | device_facts(),
        "matmul_flops": {str(dtype): matmul_rate(dtype) for dtype in DTYPES},
        "calls": CALLS,
        "cases": [],
        "monitor": None,
    }
    cases = [(case, dtype) for case in IMAGENET for dtype in DTYPES]
    for case, dtype in tqdm(cases, desc="bench", unit="case", disable=None):
        rate = found["matmul_flops"][str(dtype)]
        found["cases"].append(_case(case, dtype, images, rate))
        _write(found, out)
    found["monitor"] = measure_overhead(device="cuda", batch=128, steps=monitor_steps)._asdict()
    _write(found, out)
    return found


def device_facts() -> dict[str, Any]:
    """The device and the software that decide its speed."""
    return {
        "device": torch.cuda.get_device_name(),
        "device memory, GiB": round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1),
        "driver": _driver(),
        "CUDA": torch.version.cuda,
        "cuDNN": torch.backends.cudnn.version(),
        "TF32 in float32 products": torch.backends.cuda.matmul.allow_tf32,
    }


def _driver() -> str | None:
    """Version of the device's driver, which torch does not tell."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def matmul_rate(dtype: torch.dtype, side: int = 8192) -> float:
    """Operations a second of a square product of random matrices."""
    a = torch.randn(side, side, device="cuda").to(dtype)
    return 2 * side**3 / min(_seconds(lambda: a @ a))


def _case(
    case: tuple[str, int, int, int, int, int], dtype: torch.dtype, images: int, rate: float
) -> dict[str, Any]:
    name, channels, kernel, stride, padding, size = case
    conv = nn.Conv2d(channels, 64, kernel, stride=stride, padding=padding)
    generator = torch.Generator(device="cuda").manual_seed(0)
    # what a layer sees behind a ReLU: of mean other than zero
    x = torch.randn((images, channels, size, size), generator=generator, device="cuda")
    x = x.add_(0.5).relu_().to(dtype)
    L = channels * kernel**2
    patches = images * math.prod(Geometry.of(conv).output_size(size, size))
    exact = torch.zeros(L, L, dtype=torch.float64, device="cuda")
    for some in x.split(SLICE):
        exact += unfold_matmul(some.double(), conv) * (len(some) / images)
    row: dict[str, Any] = {
        "name": name,
        "input": str(dtype),
        "shape": list(x.shape),
        "method": choose_method(conv, tuple(x.shape), dtype=dtype, device="cuda"),
        "input_bytes": x.numel() * x.itemsize,
        "result_bytes": 8 * L * L,
        "contestants": {},
    }
    for label, one in CONTESTANTS.items():
        if label.endswith("float()") and dtype == torch.float32:
            continue
        try:
            got = _measured(one, x, conv, exact)
        except torch.OutOfMemoryError:
            row["contestants"][label] = None
        else:
            got["fraction_of_matmul_rate"] = 2 * L * L * patches / got["seconds"] / rate
            row["contestants"][label] = got
    return row


def _measured(
    one: Contestant, x: torch.Tensor, conv: nn.Conv2d, exact: torch.Tensor
) -> dict[str, float]:
    seconds = _seconds(lambda: one(x, conv))
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    R = one(x, conv)
    extra = torch.cuda.max_memory_allocated() - before
    return {
        "seconds": min(seconds),
        "median_seconds": statistics.median(seconds),
        "extra_bytes": extra,
        "error": float((R - exact).abs().max() / exact.abs().max()),
    }


def _seconds(call: Callable[[], Any]) -> list[float]:
    """Device time of several calls, the first left out: it loads the kernels."""
    times = []
    for _ in range(1 + CALLS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return times[1:]


def _write(found: dict[str, Any], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "patch_autocorrelation_cuda.json").write_text(json.dumps(found, indent=1) + "\n")
    (out / "patch_autocorrelation_cuda.md").write_text(_page(found))


def _page(found: dict[str, Any]) -> str:
    rates = ", ".join(
        f"{rate / 1e12:.0f} TFLOP/s in {name.removeprefix('torch.')}"
        for name, rate in found["matmul_flops"].items()
    )
    lines = [
        "# patch_autocorrelation on a CUDA device",
        "",
        "Written by `python -m benchmarks.patch_autocorrelation_cuda`. Times are the device's, by "
        f"events, the least of {found['calls']} calls after one that loads the kernels. A matrix "
        f"product of side 8192 reached {rates}: the fraction is that of one unfolded product, "
        "2 L² operations a patch, done in the same time at the input's precision, so lag products "
        "can exceed 1. Errors are relative to the largest entry of R, against float64 products of "
        "the same input. Extra memory is the rise of the allocator's peak, R (float64) included.",
        "",
        *(f"- {key}: {value}" for key, value in found["machine"].items()),
        "",
        "| layer | input | method | ms | over unfold + matmul | fraction of matmul rate | error | "
        "extra memory / input | R / input |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in found["cases"]:
        base = row["contestants"]["unfold + matmul"]
        for label, got in row["contestants"].items():
            name = f"{label} ({row['method']})" if label == "auto" else label
            head = f"| {row['name']} | {row['input'].removeprefix('torch.')} | {name} |"
            if got is None:
                lines.append(f"{head} out of memory | | | | | |")
                continue
            ratio = "" if base is None else f"{base['seconds'] / got['seconds']:.2f}x"
            lines.append(
                f"{head} {1e3 * got['seconds']:.2f} | {ratio} | "
                f"{got['fraction_of_matmul_rate']:.2f} | {got['error']:.0e} | "
                f"{got['extra_bytes'] / row['input_bytes']:.2f} | "
                f"{row['result_bytes'] / row['input_bytes']:.2f} |"
            )
    if found["monitor"] is not None:
        lines += ["", "## The monitor in training", "", Overhead(**found["monitor"]).sentence()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    from_command_line(str(__doc__), run)
