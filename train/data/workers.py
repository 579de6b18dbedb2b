"""Processes that load data: they end with the training, and what goes wrong in them is a sentence.

Torch wraps an error of such a process into the traceback that it had there, tells of one that ended
in words of its own, and waits for ever for a batch that was lost on its way.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.queues import Queue

from cache_schema.host import children
from cache_schema.host.cli import InputError
from cache_schema.host.system import SystemTrouble

ADVICE = (
    "raise the limit (shared memory: --shm-size of a container; open files: ulimit -n), or set "
    "data.num_workers=0; --resume goes on from the last checkpoint"
)
#: How torch says that a batch cannot pass from one process to another.
LIMITS = ("</torch_", "allocate shared memory", "ommunication with the workers", "ancdata")
#: How the system says that processes and what is between them cannot be made.
LACKS = (errno.ENOSPC, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM)


def start(worker: int) -> None:
    """For `DataLoader`: what a process does first."""
    children.serve()
    # A batch that cannot be handed over is dropped otherwise, and its receiver waits for ever.
    Queue._on_queue_feeder_error = staticmethod(lambda error, batch: os._exit(1))


@contextmanager
def one_sentence() -> Iterator[None]:
    """Around all that happens while a `DataLoader` has processes, which begin with `start`.

    Raises:
        InputError, SystemTrouble: met by one of them, or of its end, as one sentence.
    """
    try:
        yield
    except (InputError, SystemTrouble, MemoryError, OSError, RuntimeError) as error:
        text = str(error)
        lacking = isinstance(error, OSError) and error.errno in LACKS and not error.filename
        if lacking or any(sign in text for sign in LIMITS):
            raise SystemTrouble(f"the processes that load data lack room: {ADVICE}") from error
        if text.startswith("DataLoader worker"):
            raise SystemTrouble(
                f"a process that loads data has ended, perhaps for want of memory: {ADVICE}"
            ) from error
        if "DataLoader worker" in text and not isinstance(error, RuntimeError):
            # The last line of the traceback is "module.Class: sentence".
            sentence = text.splitlines()[-1].partition(": ")[2]
            raise (InputError if isinstance(error, InputError) else SystemTrouble)(
                sentence
            ) from error
        raise
