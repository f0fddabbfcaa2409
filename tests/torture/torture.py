"""Strikes at runs at random moments, then asks whether anything was lost.

A round starts a run on an empty folder, waits for a random part of the time that an undisturbed
run takes, strikes, and lets the run end. Three things are then demanded. No process of the run is
left. Every file of a finished cell is still there after a further run, which ends well, unchanged
byte for byte unless the strike itself damaged it. The numbers of that run are, bit for bit, those
of a run which nobody disturbed.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
MARK = "TORTURE_ROUND"  # every process of a round inherits this variable
PATIENCE = 180  # seconds until a process counts as stuck
NAMES = {"seconds", "duration", "manifest", "started", "commit", "command", "machine", "folder"}
SWEEP = 'function = "tests.torture.victim:learn"\n[grid]\nx = [{}]\n'


@dataclass
class Round:
    """A run under way, and what is to be said of it."""

    name: str
    work: Path
    words: list[str]
    chance: random.Random
    processes: list[subprocess.Popen[str]] = field(default_factory=list)
    spoilt: set[Path] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)
    ends_badly: bool = False  # the strike may end the run with an error

    @property
    def out(self) -> Path:
        return self.work / "out"

    def start(self) -> subprocess.Popen[str]:
        """Start a run on the round's folder."""
        command = [sys.executable, "-m", "tests.torture.victim", *self.words]
        command += ["--workers", "2", "--out", str(self.out)]
        environment = {
            **os.environ,
            MARK: self.name,
            "NUMBA_CACHE_DIR": str(self.work / "numba"),
            "PYTHONPATH": str(ROOT),
        }
        process = subprocess.Popen(
            command,
            cwd=self.work,
            env=environment,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    def end(self, process: subprocess.Popen[str]) -> str:
        """Wait for a run and return what it printed; a pipe that stays open is a fault."""
        try:
            return process.communicate(timeout=PATIENCE)[0]
        except subprocess.TimeoutExpired:
            self.faults.append("a run does not end, or somebody holds its output")
            for left in self.living():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(left, signal.SIGKILL)
            return process.communicate()[0]

    def living(self) -> list[int]:
        """The processes of this round."""
        wanted = f"{MARK}={self.name}".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if wanted in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
        return found

    def workers(self) -> list[int]:
        """The processes of this round that measure cells."""
        found = []
        for process in self.living():
            with contextlib.suppress(OSError):
                if b"popen_loky" in Path(f"/proc/{process}/cmdline").read_bytes():
                    found.append(process)
        return found


Strike = Callable[[Round], None]
Cells = dict[Path, tuple[bytes, int]]


def _signal(number: signal.Signals) -> Strike:
    def strike(of: Round) -> None:
        of.ends_badly = True
        of.processes[0].send_signal(number)

    return strike


def lose_a_worker(of: Round) -> None:
    """Kill a worker; the cell it had is measured again."""
    if workers := of.workers():
        with contextlib.suppress(ProcessLookupError):
            os.kill(of.chance.choice(workers), signal.SIGKILL)


def fill_the_disk(of: Round) -> None:
    """From now on no file can be written by any process of the run."""
    of.ends_badly = True
    for process in of.living():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            resource.prlimit(process, resource.RLIMIT_FSIZE, (0, 0))


def run_twice(of: Round) -> None:
    """Start a second run on the same folder."""
    of.start()


def damage_files(of: Round) -> None:
    """Cut, empty, overwrite or remove some of the files that are there."""
    of.ends_badly = True
    files = sorted(p for p in of.out.rglob("*") if p.is_file() and not p.name.startswith("."))
    for path in of.chance.sample(files, min(3, len(files))):
        spoil(path, of.chance)
        of.spoilt.add(path)


def damage_caches(of: Round) -> None:
    """Do the same to all files of compiled functions; a run does not notice."""
    for path in sorted((of.work / "numba").rglob("*.nb[ic]")):
        spoil(path, of.chance)


def spoil(path: Path, chance: random.Random) -> None:
    """Damage one file."""
    with contextlib.suppress(FileNotFoundError):
        content = bytearray(path.read_bytes())
        how = chance.choice(("cut", "empty", "overwrite", "remove"))
        if how == "remove":
            path.unlink()
            return
        if how == "cut":
            content = content[: len(content) // 2]
        elif how == "empty":
            content = bytearray()
        else:
            middle = len(content) // 2
            content[middle : middle + 16] = chance.randbytes(16)
        path.write_bytes(content)


STRIKES: dict[str, Strike] = {
    "SIGKILL": _signal(signal.SIGKILL),
    "SIGHUP": _signal(signal.SIGHUP),
    "SIGTERM": _signal(signal.SIGTERM),
    "SIGINT": _signal(signal.SIGINT),
    "lost worker": lose_a_worker,
    "full disk": fill_the_disk,
    "two runs": run_twice,
    "damaged files": damage_files,
    "damaged caches": damage_caches,
}
RUNS = {
    "sweep": ["sweep", "grid.toml"],
    "study": ["run", "lms-spread", "--preset", "smoke"],
    "reproduce": ["reproduce", "torture", "--preset", "smoke"],
}


@dataclass(frozen=True)
class Reference:
    """An undisturbed run: its time, its numbers, and the compiled functions it left."""

    seconds: float
    numbers: dict[str, Any]
    cache: Path


def begin(run: str, name: str, work: Path, chance: random.Random) -> Round:
    """Make the folder of a round."""
    work.mkdir(parents=True)
    xs = ", ".join(map(str, range(16)))
    (work / "grid.toml").write_text(SWEEP.format(xs))
    return Round(name, work, RUNS[run], chance)


def undisturbed(run: str, work: Path) -> Reference:
    """Run once to compile, and once more to see how long it takes."""
    first = begin(run, f"{run}-first", work / "first", random.Random(0))
    second = begin(run, f"{run}-second", work / "second", random.Random(0))
    said = first.end(first.start())
    assert first.processes[0].returncode == 0, said
    shutil.copytree(first.work / "numba", second.work / "numba")
    began = time.monotonic()
    said = second.end(second.start())
    assert second.processes[0].returncode == 0, said
    seconds = time.monotonic() - began
    assert numbers(first.out) == numbers(second.out)
    return Reference(seconds, numbers(second.out), second.work / "numba")


def torture(run: str, strike: str, moment: float, seed: int, work: Path, true: Reference) -> Round:
    """One round; ``moment`` is a part of the time that the undisturbed run takes."""
    of = begin(run, f"{work.name}-{os.getpid()}", work, random.Random(seed))
    shutil.copytree(true.cache, work / "numba")
    first = of.start()
    with contextlib.suppress(subprocess.TimeoutExpired):
        first.wait(moment * true.seconds)
    STRIKES[strike](of)
    for process in of.processes:
        said = of.end(process)
        if "Traceback" in said:
            of.faults.append(f"a stack trace: {said[-1500:]}")
        if process.returncode != 0 and not of.ends_badly:
            of.faults.append(f"a run ends with {process.returncode}: {said[-1500:]}")
    nothing_survives(of)
    kept = cells(of.out)
    said = of.end(of.start())
    if of.processes[-1].returncode != 0 or "Traceback" in said:
        of.faults.append(f"the rerun ends with {of.processes[-1].returncode}: {said[-1500:]}")
    nothing_survives(of)
    after = cells(of.out)
    of.faults += lost(kept, after, of.spoilt)
    of.faults += differences(true.numbers, numbers(of.out))
    return of


def lost(kept: Cells, after: Cells, spoilt: set[Path]) -> list[str]:
    """The files of finished cells that are not what they were, but for those struck at.

    A cell has two files where it has arrays; when one is damaged, both are written again.
    """
    struck = {path.name.partition(".")[0] for path in spoilt}
    return [
        f"a finished cell is lost: {path.name}"
        for path, content in kept.items()
        if after.get(path) != content and path.name.partition(".")[0] not in struck
    ]


def nothing_survives(of: Round, seconds: float = 20) -> None:
    """Give the processes of a run that has ended a moment to follow it."""
    end = time.monotonic() + seconds
    while (left := of.living()) and time.monotonic() < end:
        time.sleep(0.05)
    if left:
        of.faults.append(f"{len(left)} processes survive")
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


def cells(out: Path) -> Cells:
    """The files of finished cells: their bytes, and when they were written."""
    paths = [p for p in out.rglob("cells/*") if not p.name.startswith(".unfinished-")]
    finished = {p.name.partition(".")[0] for p in paths if p.suffix == ".json"}
    return {
        p: (p.read_bytes(), p.stat().st_mtime_ns)
        for p in paths
        if p.name.partition(".")[0] in finished
    }


def numbers(out: Path) -> dict[str, Any]:
    """Everything in a folder that has to be the same in every run."""
    found: dict[str, Any] = {}
    for path in sorted(out.rglob("*.json")):
        if not path.name.startswith("."):
            data = json.loads(path.read_text(encoding="utf-8"))
            found[str(path.relative_to(out))] = timeless(data, str(out))
    for path in sorted(out.rglob("*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            rows = [
                {k: v for k, v in row.items() if k not in NAMES} for row in csv.DictReader(file)
            ]
        if path.parent.name != "tables" or "seconds" not in path.read_text(encoding="utf-8"):
            found[str(path.relative_to(out))] = rows
    return found


def timeless(data: Any, out: str) -> Any:
    """Plain data without what says when, where and how long."""
    if isinstance(data, dict):
        return {name: timeless(part, out) for name, part in data.items() if name not in NAMES}
    if isinstance(data, list):
        return [timeless(part, out) for part in data]
    return data.replace(out, "OUT") if isinstance(data, str) else data


def differences(wanted: dict[str, Any], got: dict[str, Any]) -> Iterator[str]:
    """What a run lacks, has too much, or has otherwise."""
    for name in sorted(wanted.keys() | got.keys()):
        if wanted.get(name) != got.get(name):
            what = (
                "is missing" if name not in got else "is new" if name not in wanted else "differs"
            )
            yield f"{name} {what}"


def rounds(
    count: int,
    seed: int,
    work: Path,
    runs: Sequence[str] = tuple(RUNS),
    strikes: Sequence[str] = tuple(STRIKES),
) -> list[Round]:
    """Every strike in turn, on every kind of run in turn, each at a random moment."""
    chance = random.Random(seed)
    true = {run: undisturbed(run, work / run) for run in runs}
    done = []
    for i in range(count):
        run, strike = runs[i % len(runs)], strikes[(i // len(runs) + i) % len(strikes)]
        moment, own = chance.random(), chance.randrange(2**32)
        of = torture(run, strike, moment, own, work / f"round{i}", true[run])
        of.name = f"{i + 1:3} {run:9} {strike:14} at {moment:.2f}"
        print(of.name, "; ".join(of.faults) or "nothing lost", flush=True)
        if not of.faults:
            shutil.rmtree(of.work)
        done.append(of)
    return done


def tell(done: list[Round]) -> None:
    """Print how many rounds of each kind there were, and how many found a fault."""
    struck = Counter(of.name[4:29].strip() for of in done)
    failed = Counter(of.name[4:29].strip() for of in done if of.faults)
    print()
    for kind, count in sorted(struck.items()):
        print(f"{kind:25} {count:3} rounds, {failed[kind]} with a fault")
    print(f"{len(done)} rounds, {sum(map(bool, (of.faults for of in done)))} with a fault")
