"""Who may write a cache: one process, or the ranks of one run. The kernel ends every lock with
the process that holds it, so no crash leaves one behind."""

import errno
import fcntl
import os
import time
import weakref
from contextlib import suppress
from pathlib import Path

from cache_schema.host.cli import InputError

LOCK = ".lock"
WAIT = 60.0  # seconds for the first rank to heal the cache
PAUSE = 0.05
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)

_held: weakref.WeakSet["CacheLock"] = weakref.WeakSet()


def _let_go_in_child() -> None:
    # A forked worker that outlives a killed parent must not keep its locks.
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_let_go_in_child)


class CacheLock:
    """The right to write the cache ``folder``, from the start until `release`.

    A single process holds ``.lock`` alone. Ranks share it, and each holds ``.lock-<rank>`` alone.

    Attributes:
        alone: nobody else writes now, so everything in the folder may be healed; a rank lets its
            fellows in with `share`.

    Raises:
        InputError: another process writes the cache.
        ValueError: no rank of that world.
    """

    def __init__(
        self, folder: Path, rank: int = 0, world_size: int = 1, *, what: str = "the cache"
    ):
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} of {world_size}")
        self._folder, self._world_size, self._what = folder, world_size, what
        self._files: list[int] = []
        _held.add(self)
        try:
            if world_size > 1 and not _try(self._open(f"{LOCK}-{rank}"), fcntl.LOCK_EX):
                raise self._refusal()
            self._main = self._open(LOCK)
            single = world_size == 1
            kinds = (fcntl.LOCK_EX,) if single else (fcntl.LOCK_EX, fcntl.LOCK_SH)
            self.alone = self._take(kinds, 0 if single else WAIT) == fcntl.LOCK_EX
            if not self.alone:
                self._check_size()
            elif not single:
                os.ftruncate(self._main, 0)
                os.pwrite(self._main, str(world_size).encode(), 0)
        except BaseException:
            self.release()
            raise

    def share(self) -> None:
        """Hold the lock together with the other ranks of this run; a single process keeps it.

        Raises:
            InputError: another run got it.
        """
        if self._world_size > 1:
            self._take((fcntl.LOCK_SH,), WAIT)
            self.alone = False
            self._check_size()

    def _take(self, kinds: tuple[int, ...], patience: float) -> int:
        """Take and return the first of these kinds of lock that can be had."""
        end = time.monotonic() + patience
        while True:
            for kind in kinds:
                if _try(self._main, kind):
                    return kind
            if time.monotonic() >= end:
                raise self._refusal()
            time.sleep(PAUSE)

    def _check_size(self) -> None:
        # Ranks of runs of different sizes would write shards of the same number.
        if os.pread(self._main, 32, 0) != str(self._world_size).encode():
            raise self._refusal()

    def __enter__(self) -> "CacheLock":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Let go; calling it twice is fine."""
        while self._files:
            with suppress(OSError):
                os.close(self._files.pop())

    def _open(self, name: str) -> int:
        self._files.append(os.open(self._folder / name, os.O_RDWR | os.O_CREAT, 0o644))
        return self._files[-1]

    def _refusal(self) -> InputError:
        return InputError(
            f"another process is writing {self._what} {self._folder}: "
            "wait for it, or use another folder"
        )


def _try(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        raise InputError(
            "the file system has no locks (flock), so that two processes could write at once: "
            "mount it with them, or write to another one"
        ) from error
    return True
