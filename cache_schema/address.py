"""Where a cache is: a folder of this machine, or an address that fsspec reads.

What is asked of a server is asked again when the connection breaks, after a pause that grows.
"""

import asyncio
import errno
import os
import re
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cache_schema.host.cli import InputError
from cache_schema.host.system import SystemTrouble

ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://.+")
PAUSES = (0.5, 1, 2, 4, 8)  # seconds before what failed is asked again
AGAIN = (408, 425, 429)  # of the answers 4xx of HTTP, those that may change
# What servers say of the state of a file: of HTTP, of S3 and others, of files.
STATE = ("ETag", "Last-Modified", "LastModified", "mtime")


class Address:
    """A folder or a file that fsspec reads; what a reader does with a `Path` can be done with it.

    Every method raises `SystemTrouble` when the server does not answer, `InputError` when nothing
    is installed that could ask it.

    Args:
        text: such as ``https://...`` or ``s3://...``.
    """

    def __init__(self, text: str) -> None:
        self._text = text.rstrip("/")

    def __str__(self) -> str:
        return self._text

    def __truediv__(self, name: str) -> "Address":
        return Address(f"{self._text}/{name}")

    @property
    def name(self) -> str:
        """What follows the last slash."""
        return self._text.rpartition("/")[2]

    @property
    def parent(self) -> "Address":
        """What is before the last slash."""
        return Address(self._text.rpartition("/")[0])

    def exists(self) -> bool:
        """Whether a file is there."""
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    def stat(self) -> tuple[int, str]:
        """Size of the file in bytes, and what tells it from another one of that size.

        Raises:
            FileNotFoundError: there is none.
        """
        found: dict[str, Any] = self._ask("info")
        if found.get("size") is None:
            raise InputError(f"{self} does not say how long it is: put the cache on another server")
        return found["size"], " ".join(str(found[name]) for name in STATE if name in found)

    def read_range(self, start: int, end: int) -> bytes:
        """Bytes of the file, or all of it from a server that gives no parts.

        Raises:
            FileNotFoundError: there is no file.
        """
        return self._ask("cat_file", end - start, start=start, end=end)

    def _ask(self, method: str, least: int = 0, **how: Any) -> Any:
        """What a method of fsspec's file system says of the path, of so many items at least."""
        system, loop = self._system()
        path = system._strip_protocol(self._text)
        for pause in (*PAUSES, None):
            try:
                if system.async_impl:
                    found = _run(loop, getattr(system, f"_{method}")(path, **how))
                else:
                    found = getattr(system, method)(path, **how)
                if len(found) < least:
                    raise ConnectionError(f"only {len(found)} bytes of {least} came")
                return found
            except Exception as error:  # each protocol has exceptions of its own
                trouble = error
                # fsspec calls it a missing file when a server of HTTP gives no answer.
                if isinstance(error, FileNotFoundError) and error.__cause__:
                    trouble = error.__cause__
                status = getattr(trouble, "status", None)
                if isinstance(trouble, FileNotFoundError) or status in (404, 410):
                    gone = errno.ENOENT
                    raise FileNotFoundError(gone, os.strerror(gone), str(self)) from None
                refused = isinstance(trouble, PermissionError) or status in range(400, 500)
                if pause is None or (refused and status not in AGAIN):
                    raise SystemTrouble(
                        f"{self} cannot be read: {trouble or type(trouble).__name__}; that is no "
                        "damage, so mend it and repeat the command"
                    ) from error
                time.sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _system(self) -> tuple[Any, asyncio.AbstractEventLoop]:
        """The file system of fsspec that reads this, and the loop that it needs."""
        try:
            import fsspec  # only for who reads from afar
        except ModuleNotFoundError:
            raise InputError(
                f"{self} is read with fsspec, which is not installed: pip install fsspec aiohttp "
                "(the extra 'remote')"
            ) from None
        protocol, _, path = self._text.partition("://")
        key = os.getpid(), threading.get_ident(), f"{protocol}://{path.partition('/')[0]}"
        try:
            if key not in _SYSTEMS:
                how = {"asynchronous": True, "skip_instance_cache": True}
                system, _ = fsspec.core.url_to_fs(self._text, **how)
                _SYSTEMS[key] = system, asyncio.new_event_loop()
                # Which would complain of connections that only the end of the process closes.
                _SYSTEMS[key][1].set_exception_handler(lambda loop, context: None)
            return _SYSTEMS[key]
        except (ImportError, ValueError) as error:  # no such protocol, or its package is absent
            raise InputError(f"{self} cannot be read ({error})") from None


# File systems of fsspec by process, thread and server, none of them ever given up: a forked process
# would take its parent's connections out of the epoll that they share. Each has an event loop of
# its own and not fsspec's thread: while HDF5 waits for bytes it holds a lock, for which a thread
# that collects garbage of HDF5 waits.
_SYSTEMS: dict[tuple[int, int, str], tuple[Any, asyncio.AbstractEventLoop]] = {}


def _run(loop: asyncio.AbstractEventLoop, question: Coroutine[Any, Any, Any]) -> Any:
    """Run a loop in this thread until it has the answer."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return loop.run_until_complete(question)
    with ThreadPoolExecutor(1) as pool:  # a notebook has a loop that runs
        return pool.submit(loop.run_until_complete, question).result()


Place = Path | Address
Where = str | os.PathLike[str] | Address  # as users say it


def place(where: Where) -> Place:
    """The place that a user means."""
    if isinstance(where, str) and ADDRESS.fullmatch(where):
        where = Address(where)
    return where if isinstance(where, Address) else Path(where)


def local_folder(where: str | os.PathLike[str]) -> Path:
    """A folder or file that is to be written; `InputError` if it is an address."""
    found = place(where)
    if isinstance(found, Address):
        raise InputError(f"{found} can be read, but not written to: give a path of this machine")
    return found
