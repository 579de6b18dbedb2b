"""Errors of the system, told apart from what is wrong with a file.

No memory, no descriptors, a disk that answers with an error, an interrupt in the middle of HDF5:
they say nothing about the bytes of a file, so nothing may be called damaged, dropped or replaced
for them.
"""

import errno
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ABSENT = (errno.ENOENT, errno.ENOTDIR)
NO_MEMORY = "there is not enough memory"
# What HDF5 says then: "can't allocate ...", "... allocation failed", and so on.
HDF5_NO_MEMORY = re.compile(
    r"allocate\b|allocation (and/or initialization )?failed|available for allocation|out of memory",
    re.IGNORECASE,
)


class SystemTrouble(Exception):
    """An error of the system, in one sentence.

    It is no `InputError`, so that nothing that handles bad input takes it for that.
    """


def check(error: BaseException, what: str | Path) -> None:
    """Return if an error tells something about a file, such as that it is not there.

    Args:
        error: met while reading, also one in which HDF5 quotes the system.

    Raises:
        SystemTrouble: it is the system's, or an interrupt's.
    """
    if reason := reason_of(error):
        raise SystemTrouble(
            f"{what} cannot be read: {reason}; that is no damage, so mend it and repeat the command"
        ) from error


def reason_of(error: BaseException) -> str | None:
    """What the system says in an error; None if the error is not the system's."""
    text = str(error)
    quoted = re.search(r"errno = (\d+)", text)  # HDF5 quotes it in exceptions of any type
    number = getattr(error, "errno", None) or (int(quoted[1]) if quoted else None)
    if number and number not in ABSENT:
        return os.strerror(number)
    if isinstance(error, MemoryError) or HDF5_NO_MEMORY.search(text):
        return NO_MEMORY
    # h5py makes it of an exception of Python, such as an interrupt, in the middle of HDF5.
    return "it was interrupted" if isinstance(error, SystemError) else None


@contextmanager
def undisturbed() -> Iterator[None]:
    """Hold back Ctrl-C and SIGTERM to the end of the block, where HDF5 would garble them."""
    caught: list[int] = []
    old = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if callable(signal.getsignal(number)):
                old[number] = signal.signal(number, lambda number, _: caught.append(number))
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
        if caught:
            signal.raise_signal(caught[0])
