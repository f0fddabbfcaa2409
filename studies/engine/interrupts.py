"""Signals that end a run, kept apart from a ``KeyboardInterrupt`` that somebody's code raises."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

__all__ = ["Interrupted", "deferred", "interruptible"]

_held = 0  # depth of ``deferred``
_late: list[int] = []  # signals that came meanwhile


class Interrupted(KeyboardInterrupt):
    """The user, the terminal or the system asked this process to end."""


@contextlib.contextmanager
def interruptible(*signals: signal.Signals) -> Iterator[None]:
    """Raise ``Interrupted`` on these signals while the context is open.

    A signal that is ignored stays so (``nohup`` relies on it), and so does one that the calling
    program handles itself. Outside the main thread, which alone may set handlers, nothing changes.
    """

    def stop(signum: int, frame: FrameType | None) -> None:
        if _held:
            _late.append(signum)
            return
        raise Interrupted(signal.Signals(signum).name)

    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in signals if main}
    usual = (signal.SIG_DFL, signal.default_int_handler)
    ours = [number for number, handler in before.items() if handler in usual]
    for number in ours:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Put off ``Interrupted`` to the end of the context.

    For calls that take locks: an exception between taking one and entering the block that gives it
    back would leave it taken for ever. Use it in the main thread, for moments.
    """
    global _held
    _held += 1
    try:
        yield
    finally:
        _held -= 1
    if _late and not _held:
        signum = _late[0]
        _late.clear()
        raise Interrupted(signal.Signals(signum).name)
