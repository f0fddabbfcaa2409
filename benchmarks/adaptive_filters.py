"""Speed of ``adaptive`` compared with other implementations: ratios, measured in turn in one run.

Every comparison alternates between the contestants and takes the median over rounds of the ratio
within a round, so that a machine whose speed drifts slows both. Peers are asked for the same work:
one float64 LMS run over a delay line, errors returned. Single runs are timed by their thread's
processor time, ensembles and processes by the clock. Peers that are not installed are left out,
and said to be. FraNC is run as an outside program: name a Python that has it in the environment
variable ``NATURALMODES_FRANC_PYTHON``.

    python -m benchmarks.adaptive_filters --out results/benchmarks
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import adaptive
from adaptive import long_filters
from benchmarks.common import from_command_line, processor

TAPS = (8, 16, 32, 64, 128, 512, 1024, 2048, 4096, 8192, 16384)
ROUNDS = 7

C_LOOP = r"""
#include <stddef.h>
void lms(const double *x, const double *d, double mu, double *w, double *e, ptrdiff_t N,
         ptrdiff_t L) {
  for (ptrdiff_t n = 0; n < N; n++) {
    const double *u = x + n;
    double y = 0;
    for (ptrdiff_t k = 0; k < L; k++) y += w[k] * u[k];
    e[n] = d[n] - y;
    double g = mu * e[n];
    for (ptrdiff_t k = 0; k < L; k++) w[k] += g * u[k];
  }
}
"""

FRANC = """
import sys, time, warnings
warnings.simplefilter("ignore")
import numpy as np
from franc.filtering import LMSFilter
taps, N, rounds = map(int, sys.argv[1:])
rng = np.random.default_rng(0)
u, d = rng.standard_normal(N), rng.standard_normal(N)
f = LMSFilter(1, taps, 0, normalized=False, step_scale=0.1 / taps)
f.condition(u, d)
f.apply(u[:1000 + taps], d[:1000 + taps])
for _ in range(rounds):
    sys.stdin.readline()
    start = time.thread_time()
    f.apply(u, d)
    print((time.thread_time() - start) / N, flush=True)
"""

Contestant = Callable[[], float]  # seconds per sample of one round


def _timed(run: Callable[[], object], samples: int) -> Contestant:
    def once() -> float:
        start = time.thread_time()
        run()
        return (time.thread_time() - start) / samples

    return once


def _ours(taps: int, samples: int, **options: Any) -> Contestant:
    u, d = _signals(samples)
    return _timed(lambda: adaptive.lms(u, d, mu=0.1 / taps, taps=taps, **options), samples)


def _signals(samples: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal(samples), rng.standard_normal(samples)


def _c_loop(folder: str) -> Callable[[int, int], Contestant] | None:
    """The plain loop, compiled here with gcc -O3 -march=native -ffast-math; None without gcc."""
    if shutil.which("gcc") is None:
        return None
    source, library = Path(folder, "lms.c"), Path(folder, "lms.so")
    source.write_text(C_LOOP)
    flags = ["-O3", "-march=native", "-ffast-math", "-shared", "-fPIC"]
    subprocess.run(["gcc", *flags, str(source), "-o", str(library)], check=True)
    function = ctypes.CDLL(str(library)).lms

    def contestant(taps: int, samples: int) -> Contestant:
        u, d = _signals(samples)

        def run() -> None:
            x = np.concatenate([np.zeros(taps - 1), u])
            w, e = np.zeros(taps), np.empty(samples)
            pointers = [a.ctypes.data_as(ctypes.c_void_p) for a in (x, d, w, e)]
            function(
                pointers[0], pointers[1], ctypes.c_double(0.1 / taps), pointers[2], pointers[3],
                ctypes.c_ssize_t(samples), ctypes.c_ssize_t(taps),
            )  # fmt: skip

        return _timed(run, samples)

    return contestant


def _padasip() -> Callable[[int, int], Contestant] | None:
    try:
        padasip = importlib.import_module("padasip")
    except ImportError:
        return None

    def contestant(taps: int, samples: int) -> Contestant:
        n = max(200, min(samples, 4_000_000 // taps, 5_000))  # its regressors are a matrix
        u, d = _signals(n + taps - 1)

        def run() -> None:
            rows = padasip.input_from_history(u, taps)
            padasip.filters.FilterLMS(n=taps, mu=0.1 / taps, w="zeros").run(d[taps - 1 :], rows)

        return _timed(run, n)

    return contestant


def _pyroomacoustics() -> Callable[[int, int], Contestant] | None:
    try:
        filters = importlib.import_module("pyroomacoustics.adaptive")
    except ImportError:
        return None

    def contestant(taps: int, samples: int) -> Contestant:
        n = max(200, min(samples, 5_000))
        u, d = _signals(n)

        def run() -> None:
            f = filters.NLMS(taps, mu=0.5)
            for x, y in zip(u, d, strict=True):
                f.update(x, y)

        return _timed(run, n)

    return contestant


def _franc() -> Callable[[int, int], Contestant] | None:
    python = os.environ.get("NATURALMODES_FRANC_PYTHON")
    if not python:
        return None

    def contestant(taps: int, samples: int) -> Contestant:
        process = subprocess.Popen(
            [python, "-c", FRANC, str(taps), str(samples), str(ROUNDS + 1)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        to, back = process.stdin, process.stdout

        def once() -> float:
            to.write("\n")
            to.flush()
            return float(back.readline())

        return once

    return contestant


def _outputs(M: int, samples: int = 200_000) -> Contestant:
    """M outputs that share a regressor of 16 taps; seconds per sample and output."""
    u, _ = _signals(samples)
    D = np.random.default_rng(1).standard_normal((samples, M))
    return _timed(lambda: adaptive.lms(u, D, mu=0.005, taps=16), samples * M)


def _direct(taps: int, samples: int) -> Contestant:
    """The sample-by-sample kernel where the block form would be chosen."""
    u, d = _signals(samples)

    def run() -> None:
        shortest, long_filters.SHORTEST = long_filters.SHORTEST, 1 << 62
        try:
            adaptive.lms(u, d, mu=0.1 / taps, taps=taps)
        finally:
            long_filters.SHORTEST = shortest

    return _timed(run, samples)


def _normalised(taps: int, samples: int) -> Contestant:
    u, d = _signals(samples)
    return _timed(lambda: adaptive.nlms(u, d, mu=0.5, taps=taps), samples)


def _rounds(contestants: dict[str, Contestant], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Times of every contestant in turn, after one round that does not count."""
    for once in contestants.values():
        once()
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, once in contestants.items():
            times[name].append(once())
    return times


def _ratio(times: dict[str, list[float]], slow: str, fast: str) -> float:
    """Median over rounds of how many times as fast ``fast`` is."""
    pairs = zip(times[slow], times[fast], strict=True)
    return statistics.median(a / b for a, b in pairs)


def _processes(rounds: int = 11) -> dict[str, float]:
    """Import cost beside numba's alone, and the first call of a second process."""
    call = (
        "import time, numpy as np, adaptive; u = np.ones(1000); t = time.perf_counter(); "
        "adaptive.lms(u, u, mu=0.01, taps=8); print(time.perf_counter() - t)"
    )
    codes = {"numba": "import numba", "adaptive": "import adaptive"}
    times: dict[str, list[float]] = {name: [] for name in codes}
    first: list[float] = []
    # an installed package has its bytecode on disk, whatever this process was told
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}

    def python(code: str) -> str:
        arguments = [sys.executable, "-c", code]
        done = subprocess.run(arguments, env=env, check=True, capture_output=True, text=True)
        return done.stdout

    python(call)
    for _ in range(rounds):
        for name, code in codes.items():
            start = time.perf_counter()
            python(code)
            times[name].append(time.perf_counter() - start)
        first.append(float(python(call)))
    return {
        "import numba, s": statistics.median(times["numba"]),
        "import adaptive, s": statistics.median(times["adaptive"]),
        "import adaptive / import numba": _ratio(times, "adaptive", "numba"),
        "first call of a second process, s": statistics.median(first),
    }


def measure(taps: tuple[int, ...] = TAPS, rounds: int = ROUNDS) -> dict[str, Any]:
    """All of it, as a dictionary that goes to JSON."""
    single, notes = [], []
    with tempfile.TemporaryDirectory() as folder:
        makers = {
            "C loop": _c_loop(folder),
            "padasip": _padasip(),
            "pyroomacoustics (NLMS)": _pyroomacoustics(),
            "FraNC": _franc(),
        }
        notes = [f"{name} was not there to compare with" for name, m in makers.items() if m is None]
        for L in taps:
            samples = max(4 * L, min(1_000_000, 30_000_000 // (L + 20)))
            contestants = {"lms": _ours(L, samples), "nlms": _normalised(L, samples)}
            contestants |= {n: make(L, samples) for n, make in makers.items() if make is not None}
            times = _rounds(contestants, rounds)
            row: dict[str, Any] = {"taps": L}
            row |= {f"{n}, ns per sample": 1e9 * statistics.median(t) for n, t in times.items()}
            row |= {f"{n} / lms": _ratio(times, n, "lms") for n in times if n != "lms"}
            single.append(row)
            print(_line(row), flush=True)

    many = {"1": _outputs(1), "32": _outputs(32)}
    times = _rounds(many, rounds)
    outputs = {"32 outputs against one, per core, 16 taps": _ratio(times, "1", "32")}

    scenario = adaptive.SystemIdentification(
        adaptive.white(taps=16), w_o=np.random.default_rng(0).standard_normal(16), noise_power=0.01
    )
    ensembles = {}
    steps, runs = 10_000, 512
    for threads in (1, os.cpu_count() or 1):
        for record in (1, 100):
            seconds = []
            for _ in range(4):
                start = time.perf_counter()
                adaptive.simulate(
                    scenario, mu=0.02, steps=steps, runs=runs, seed=0, record=record,
                    threads=threads, progress=False,
                )  # fmt: skip
                seconds.append(time.perf_counter() - start)
            speed = 1e-6 * steps * runs / min(seconds)
            name = f"{threads} threads, mean weights every {record}"
            ensembles[f"ensemble of 16 taps, {name}, million samples/s"] = speed

    long = {}
    for L in (8192, 16384):
        times = _rounds({"direct": _direct(L, 3 * L), "blocks": _ours(L, 3 * L)}, rounds)
        long[f"exact block form against the direct kernel, {L:,} taps"] = _ratio(
            times, "direct", "blocks"
        )
    return {
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "system": platform.platform(),
            "python": platform.python_version(),
            "numpy": np.__version__,
            "numba": importlib.import_module("numba").__version__,
        },
        "rounds": rounds,
        "notes": notes,
        "single run": single,
        "figures": outputs | ensembles | long | _processes(),
    }


def _line(row: dict[str, Any]) -> str:
    return "  ".join(f"{k} {v:,.3g}" if k != "taps" else f"{v:>6} taps" for k, v in row.items())


def table(result: dict[str, Any]) -> str:
    """The measurement as Markdown."""
    rows = result["single run"]
    names = [k for k in rows[0] if k != "taps"]
    machine = ", ".join(f"{k} {v}" for k, v in result["machine"].items())
    out = [
        "# Speed of `adaptive`",
        "",
        f"Made by `python -m benchmarks.adaptive_filters`. {machine}.",
        "",
    ]
    out += [
        "Contestants took turns; ratios are medians over "
        f"{result['rounds']} rounds of the ratio within a round. `X / lms`: how many times as long "
        "X takes for one float64 run over a delay line.",
        "",
        "| taps | " + " | ".join(names) + " |",
        "|---" * (len(names) + 1) + "|",
    ]
    out += [
        f"| {r['taps']:,} | " + " | ".join(f"{r[n]:,.3g}" if n in r else "" for n in names) + " |"
        for r in rows
    ]
    out += ["", "| figure | |", "|---|---|"]
    out += [f"| {k} | {v:,.3g} |" for k, v in result["figures"].items()]
    out += ["", *(f"- {note}" for note in result["notes"])]
    return "\n".join(out).rstrip() + "\n"


def run(out: Path, taps: tuple[int, ...] = TAPS, rounds: int = ROUNDS) -> None:
    """Measure, print, and store adaptive.json and adaptive.md in ``out``."""
    result = measure(taps, rounds)
    out.mkdir(parents=True, exist_ok=True)
    (out / "adaptive.json").write_text(json.dumps(result, indent=2) + "\n")
    (out / "adaptive.md").write_text(table(result))
    print(table(result))


if __name__ == "__main__":
    from_command_line(str(__doc__), run)
