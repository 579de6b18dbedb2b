"""A generator in a process of its own: items go in, items come out.

What holds Python's interpreter lock for long (HDF5, JSON, word taggers) would make a model of small
operations wait in the same process; measured, threads gained nothing there. The process is forked,
so that it takes with it what is loaded already and starts at once. It must not touch CUDA.
"""

import gc
import multiprocessing
import pickle
import signal
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Generic, Self, TypeVar

import numpy as np
import torch

from cache_schema.host import children
from cache_schema.host.system import SystemTrouble

In = TypeVar("In")
Out = TypeVar("Out")

PAUSE = 0.1  # seconds


class _End:
    """No more items."""


@dataclass
class _Failure:
    error: BaseException
    where: str


class Child(Generic[In, Out]):
    """Runs ``function`` over the items that are `put`; iterating gives what it yields.

    A pipe lies between, so that neither side gets more than an item ahead. An exception in
    the process is raised here as what it was, with the traceback of there as a note. Leaving
    the context lets the process finish what it is at: its next look for an item raises EOFError.
    Signals to the process group are for this side alone, and the process never outlives it.

    Args:
        function: a generator function of one argument, the items.
        name: for messages: "the <name> process".

    Raises:
        SystemTrouble: the process was killed.
    """

    def __init__(self, function: Callable[[Iterator[In]], Iterable[Out]], name: str) -> None:
        self._name, self._ended = name, False
        fork = multiprocessing.get_context("fork")
        self._pipe, theirs = fork.Pipe()
        self._process = fork.Process(
            target=_run, args=(function, theirs, self._pipe), name=name, daemon=True
        )
        self._process.start()
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()
        try:
            while self._process.is_alive() and not children.is_stopped(self._process.pid):
                self._process.join(PAUSE)
        finally:
            self.kill()

    def kill(self) -> None:
        """End it at once, whatever it is at."""
        self._process.kill()
        self._process.join()

    def put(self, item: In) -> None:
        """Hand over an item, as soon as the process takes it."""
        try:
            send(self._pipe, item)
        except OSError:
            for _ in self:  # raises what ended the process
                pass
            raise self._killed() from None

    def end(self) -> None:
        """There are no more items; what the process still yields can be iterated over."""
        self.put(_End())

    def ready(self) -> Iterator[Out]:
        """What it has yielded so far, without waiting."""
        while not self._ended and self._pipe.poll():
            yield from self._next()

    def __iter__(self) -> Iterator[Out]:
        while not self._ended:
            yield from self._next()

    def _next(self) -> Iterator[Out]:
        try:
            item = receive(self._pipe)
        except (EOFError, OSError):
            raise self._killed() from None
        if isinstance(item, (_End, _Failure)):
            self._ended = True
        if isinstance(item, _Failure):
            item.error.add_note(f"in the {self._name} process:\n{item.where}")
            raise item.error
        if not isinstance(item, _End):
            yield item

    def _killed(self) -> SystemTrouble:
        self._ended = True
        self._process.join()
        return children.died(f"the {self._name} process", f" with status {self._process.exitcode}")


@contextmanager
def cut_off(*producers: Child) -> Iterator[None]:
    """Kill children that only produce if the block fails: whoever waits for them waits no more."""
    try:
        yield
    except BaseException:
        for child in producers:
            child.kill()
        raise


def send(pipe: Connection, item: Any) -> None:
    """Pickle an item into a pipe; arrays go as they lie in memory."""
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(item, protocol=5, buffer_callback=buffers.append)
    views = [buffer.raw() for buffer in buffers]
    pipe.send_bytes(pickle.dumps((data, [view.nbytes for view in views])))
    for view in views:
        if view.nbytes:
            pipe.send_bytes(view)


def receive(pipe: Connection) -> Any:
    """The other end of `send`; waits."""
    data, sizes = pickle.loads(pipe.recv_bytes())
    buffers = [np.empty(size, np.uint8) for size in sizes]
    for buffer in buffers:
        if buffer.nbytes:
            pipe.recv_bytes_into(buffer)
    return pickle.loads(data, buffers=buffers)


def _run(
    function: Callable[[Iterator[Any]], Iterable[Any]], pipe: Connection, theirs: Connection
) -> None:
    theirs.close()
    children.serve(sigterm=signal.SIG_IGN)  # what it is at will be finished
    torch.set_num_threads(1)  # the threads of the model did not come along
    gc.freeze()  # garbage of the other process may be CUDA's
    message: Any = _End()
    try:
        for item in function(_received(pipe)):
            send(pipe, item)
    except BaseException as error:  # noqa: BLE001 - it is raised on the other side
        message = _Failure(_portable(error), traceback.format_exc())
    with suppress(OSError):  # nobody listens any more
        send(pipe, message)


def _portable(error: BaseException) -> BaseException:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever its constructor wants
        return RuntimeError(repr(error))
    return error


def _received(pipe: Connection) -> Iterator[Any]:
    while not isinstance(item := receive(pipe), _End):
        yield item
