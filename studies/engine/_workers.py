"""Runs cells: one on its own, or many on processes of this machine or on a cluster."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import inspect
import logging
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import threadpoolctl

from studies.engine._cells import Arrays, Outcome, Task, encode
from studies.engine.errors import UserError
from studies.engine.interrupts import Interrupted, deferred
from studies.engine.provenance import commit, machine, versions

__all__ = ["on_cluster", "on_processes", "one_thread", "run_cell", "worker_count"]

DEATHS = 2  # a cell that has taken so many workers with it is given up
WAIT_FOR_CLUSTER = 20  # seconds, for a scheduler and then for its first worker
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)

logger = logging.getLogger(__name__)

# Random generators and thread counts belong to the process: where a worker has several threads,
# they take turns.
_turn = threading.Lock()


def run_cell(task: Task) -> Outcome:
    with _turn:
        started = datetime.now(UTC).isoformat(timespec="seconds")
        began = time.perf_counter()
        document, error, source = None, None, None
        arrays: Arrays = {}
        try:
            function = task.function or _import(task.path, task.root)
            source = inspect.getsourcefile(function) if inspect.isfunction(function) else None
            with one_thread(), _seeded(task.key), _folder_kept():
                result = function(**task.config) if task.keywords else function(task.config)
            document, arrays = encode(result)
        except Interrupted:
            raise
        except BaseException as caught:  # whatever a cell raises is its own affair
            error = {
                "type": type(caught).__name__,
                "message": _message(caught),
                "traceback": traceback.format_exc(),
            }
        seconds = time.perf_counter() - began
        manifest = {
            "seed": task.data.get("seed"),
            "started": started,
            "device": _device(),
            "versions": _versions(),
            "machine": machine(),
            "commit": _commit(source),
        }
        return Outcome(document, arrays, error, seconds, manifest)


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "its message cannot be shown"


@contextlib.contextmanager
def _folder_kept() -> Iterator[None]:
    """Come back to the current folder, so that no cell moves the next one."""
    here = Path.cwd()
    try:
        yield
    finally:
        os.chdir(here)


def _import(name: str, root: str | None) -> Callable[..., Any]:
    module, _, attributes = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError:
        if root is None or root in sys.path:
            raise
        sys.path.append(root)
        found = importlib.import_module(module)
    for attribute in attributes.split("."):
        found = getattr(found, attribute)
    return found


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Give BLAS, OpenMP, torch and numba one thread each while the context is open.

    Workers that each take every core wait for one another, and the number of threads can change
    the last digits of a sum.
    """
    torch, numba = sys.modules.get("torch"), sys.modules.get("numba")
    before_torch = torch.get_num_threads() if torch else 1
    # to ask numba is to start its threads, which changes the number that OpenMP gives torch
    before_numba = numba.get_num_threads() if numba else 1
    try:
        with threadpoolctl.threadpool_limits(1):
            try:
                if torch:
                    torch.set_num_threads(1)
                if numba:
                    numba.set_num_threads(1)
                yield
            finally:
                if numba:
                    numba.set_num_threads(before_numba)
    finally:
        if torch:
            torch.set_num_threads(before_torch)


@contextlib.contextmanager
def _seeded(key: str) -> Iterator[None]:
    """Global random generators that depend on the config alone, and their old state afterwards.

    A function should seed its own; one that forgets to is then at least the same every time.
    """
    seed = int(key[:8], 16)
    torch = sys.modules.get("torch")
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng() if torch else contextlib.nullcontext():
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        if torch:
            torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002


@functools.cache
def _versions() -> dict[str, str | None]:
    return versions()


@functools.cache
def _commit(source: str | None) -> dict[str, Any] | None:
    return None if source is None else commit(Path(source))


def _device() -> str:
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_initialized():
        return f"cuda ({torch.cuda.get_device_name()})"
    return "cpu"


def worker_count(workers: int | None, cells: int) -> int:
    import joblib

    if workers is not None and workers < 1:
        raise UserError(f"the number of workers must be at least 1, got {workers}.")
    return max(1, min(workers or joblib.cpu_count(), cells))


def on_processes(tasks: Sequence[Task], workers: int) -> Iterator[tuple[Task, Outcome]]:
    """Cells on processes of this machine, as they finish.

    Every worker is a pool of one: when it dies, only its own cell is lost, and it is known which.
    """
    from joblib.externals import loky

    queue, deaths = deque(tasks), dict.fromkeys((task.key for task in tasks), 0)
    # the order of sets, too, is the same in every run
    environment = {**dict.fromkeys(THREAD_VARIABLES, "1"), "PYTHONHASHSEED": "0"}
    pools: set[loky.ProcessPoolExecutor] = set()
    idle: list[loky.ProcessPoolExecutor] = []
    running: dict[Future[Outcome], tuple[Task, loky.ProcessPoolExecutor]] = {}
    try:
        while queue or running:
            while queue and len(running) < workers:
                with deferred():  # a pool takes locks
                    if not idle:
                        pool = loky.ProcessPoolExecutor(
                            1, env=environment, initializer=_live_with, initargs=(os.getpid(),)
                        )
                        idle.append(pool)
                        pools.add(pool)
                    pool, task = idle.pop(), queue.popleft()
                    running[pool.submit(run_cell, task)] = task, pool
            with deferred():
                done = wait(running, timeout=0.1, return_when=FIRST_COMPLETED).done
            for future in done:
                task, pool = running.pop(future)
                try:
                    outcome = future.result()
                except loky.BrokenProcessPool as error:
                    pools.discard(pool)
                    pool.shutdown(wait=False, kill_workers=True)
                    deaths[task.key] += 1
                    if deaths[task.key] < DEATHS:
                        logger.warning("A worker died; its cell %s is run again.", task.key)
                        queue.append(task)
                    else:
                        message = f"its worker process died {DEATHS} times: {_first_line(error)}"
                        yield task, _lost("WorkerDied", message)
                else:
                    idle.append(pool)
                    yield task, outcome
    finally:
        # waiting lets a pool take its semaphores with it; only an early end has work to kill
        for pool in pools:
            pool.shutdown(wait=True, kill_workers=bool(running))


def _live_with(parent: int) -> None:
    """Let this worker end when its main process does, and leave Ctrl-C to that process."""
    signal.signal(signal.SIGINT, lambda *_: None)
    if sys.platform == "linux":
        set_death_signal = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it has died already
        os._exit(1)


def on_cluster(tasks: Sequence[Task], address: str) -> Iterator[tuple[Task, Outcome]]:
    """Cells on an existing Dask cluster, as they finish.

    The cluster must answer even when no cell is left to run: to name one that is gone is a mistake.
    """
    try:
        import distributed
    except ModuleNotFoundError as reason:
        raise UserError(
            f"a cluster needs {reason.name}. In a checkout: pip install '.[cluster]'"
        ) from reason
    try:
        client = distributed.Client(address, timeout=WAIT_FOR_CLUSTER, set_as_default=False)
    except (OSError, ValueError) as reason:
        raise UserError(f"no Dask scheduler answers at {address}.") from reason
    with client:
        if not tasks:
            return
        try:
            client.wait_for_workers(1, timeout=WAIT_FOR_CLUSTER)
        except TimeoutError as reason:
            raise UserError(f"the Dask scheduler at {address} has no workers.") from reason
        # Keys of our own: an error that the scheduler remembers from an earlier run is not ours.
        run = os.urandom(8).hex()
        futures = {
            client.submit(run_cell, task, key=f"sweep-{run}-{task.key}", pure=False): task
            for task in tasks
        }
        try:
            stream = distributed.as_completed(list(futures), loop=client.loop, raise_errors=False)
            for future in stream:
                task = futures.pop(future)
                if future.status == "finished":
                    yield task, future.result()
                elif future.status == "error":
                    raised = future.exception()
                    yield task, _lost(type(raised).__name__, _first_line(raised))
                else:
                    raise UserError(f"the Dask scheduler at {address} has gone away.")
                future.release()
        finally:
            with contextlib.suppress(Exception):
                client.cancel(list(futures))


def _lost(kind: str, message: str) -> Outcome:
    return Outcome(error={"type": kind, "message": message, "traceback": ""})


def _first_line(error: BaseException | None) -> str:
    return str(error).strip().partition("\n")[0]
