"""Who may write a cache: one process, or the ranks of one run. The kernel ends every lock with
the process that holds it, so no crash leaves one behind."""

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

from cache_schema.cli import InputError

LOCK = ".lock"
WAIT = 60.0  # seconds for the first rank to heal the cache
PAUSE = 0.05


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

    def __init__(self, folder: Path, rank: int = 0, world_size: int = 1):
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} of {world_size}")
        self._folder, self._world_size = folder, world_size
        self._files: list[int] = []
        try:
            if world_size > 1 and not _try(self._open(f"{LOCK}-{rank}"), fcntl.LOCK_EX):
                raise self._refusal()
            self._main = self._open(LOCK)
            self.alone = _try(self._main, fcntl.LOCK_EX)
            if world_size == 1:
                if not self.alone:
                    raise self._refusal()
            elif self.alone:
                os.ftruncate(self._main, 0)
                os.pwrite(self._main, str(world_size).encode(), 0)
            else:
                self.share()
        except BaseException:
            self.release()
            raise

    def share(self) -> None:
        """Hold the lock together with the other ranks of this run; a single process keeps it.

        Raises:
            InputError: another run got it.
        """
        if self._world_size == 1:
            return
        end = time.monotonic() + WAIT
        while not _try(self._main, fcntl.LOCK_SH):
            if time.monotonic() > end:
                raise self._refusal()
            time.sleep(PAUSE)
        self.alone = False
        # Ranks of runs of different sizes would write shards of the same number.
        if os.pread(self._main, 32, 0) != str(self._world_size).encode():
            raise self._refusal()

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
            f"another process is writing the cache {self._folder}: "
            "wait for it, or use another folder"
        )


def _try(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
