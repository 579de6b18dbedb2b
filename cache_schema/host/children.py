"""Processes that a command starts: none outlives it, and a dead one is one sentence.

Importing `cache_schema.host.orphan` in a fork server ties that to its parent, too.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from cache_schema.host.system import SystemTrouble

PR_SET_PDEATHSIG = 1
PATIENCE = 1.0  # seconds for the kernel to end a process
#: What a fork server loads before it forks: the program, as it does anyway, and its own end.
PRELOAD = ["__main__", "cache_schema.host.orphan"]


def end_with_parent() -> None:
    """Let the kernel kill this process when its parent ends, even if it is stopped (Linux)."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():  # it died before that
        os._exit(1)


def serve(*, sigterm: signal.Handlers = signal.SIG_DFL) -> None:
    """What a child does first: Ctrl-C is for the parent, which ends its children."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, sigterm)
    end_with_parent()


@contextmanager
def no_survivors() -> Iterator[None]:
    """Kill the children that were started in the block if an exception, or a signal, leaves it.

    A stopped child would not hear anything less, and everything that waits for it waits for ever.
    """
    before = set(multiprocessing.active_children())
    try:
        yield
    except BaseException:
        _kill(set(multiprocessing.active_children()) - before)
        raise


def _kill(processes: Iterable[multiprocessing.Process]) -> None:
    # Torch raises an error of its own when a process that loads data ends.
    main = threading.current_thread() is threading.main_thread()
    old = signal.signal(signal.SIGCHLD, signal.SIG_DFL) if main else None
    for process in processes:
        process.kill()
    for process in processes:
        process.join(PATIENCE)
    if main:
        signal.signal(signal.SIGCHLD, old or signal.SIG_DFL)


def is_stopped(pid: int) -> bool:
    """Whether a process has been stopped (SIGSTOP), so that it does nothing until it goes on."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] in "Tt"
    except OSError:  # no Linux, or it is gone
        return False


def died(name: str, how: str = "") -> SystemTrouble:
    """What is said of a child that ended before its work did."""
    return SystemTrouble(
        f"{name} ended{how}, perhaps for want of memory: run the same command again to continue, "
        "with fewer processes if it happens again"
    )
