"""Work beside other work: a generator in a process of its own, and an iterable in a thread.

What holds Python's interpreter lock for long (HDF5, JSON, word taggers) would make a model of small
operations wait in the same process; measured, threads gained nothing there. The process is forked,
so that it takes with it what is loaded already and starts at once. It must not touch CUDA.

The stages of the pipeline are generators. Put one into `ahead` and it works while its consumer
does; without, the same generators run one after the other in one thread.
"""

import gc
import multiprocessing
import pickle
import signal
import socket
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
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
        self._pipe, theirs = map(Pipe, socket.socketpair())
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
            self._pipe.send(item)
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
            item = self._pipe.receive()
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


class Pipe:
    """An end of a pipe for items; arrays go as they lie in memory.

    Each goes in one call of the system, without Python's lock: a busy thread would otherwise be
    waited for again and again.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def send(self, item: Any) -> None:
        """Waits until the other end takes it."""
        buffers: list[pickle.PickleBuffer] = []
        data = pickle.dumps(item, protocol=5, buffer_callback=buffers.append)
        views = [buffer.raw() for buffer in buffers]
        head = pickle.dumps((data, [view.nbytes for view in views]))
        self._end.sendall(len(head).to_bytes(8) + head)
        for view in views:
            self._end.sendall(view)

    def receive(self) -> Any:
        """Waits; raises EOFError when the other end is closed."""
        head = self._bytes(int.from_bytes(self._bytes(8)))
        data, sizes = pickle.loads(head)
        return pickle.loads(data, buffers=[*map(self._bytes, sizes)])

    def _bytes(self, size: int) -> np.ndarray:
        array = np.empty(size, np.uint8)
        rest = memoryview(array)
        while rest:
            got = self._end.recv_into(rest, flags=socket.MSG_WAITALL)
            if not got:
                raise EOFError
            rest = rest[got:]
        return array

    def poll(self) -> bool:
        """Whether something has arrived."""
        return bool(wait([self._end], 0))

    def close(self) -> None:
        """What the other end sends or waits for fails."""
        self._end.close()


def _run(function: Callable[[Iterator[Any]], Iterable[Any]], pipe: Pipe, theirs: Pipe) -> None:
    theirs.close()
    children.serve(sigterm=signal.SIG_IGN)  # what it is at will be finished
    torch.set_num_threads(1)  # the threads of the model did not come along
    gc.freeze()  # garbage of the other process may be CUDA's
    message: Any = _End()
    try:
        for item in function(_received(pipe)):
            pipe.send(item)
    except BaseException as error:  # noqa: BLE001 - it is raised on the other side
        message = _Failure(_portable(error), traceback.format_exc())
    with suppress(OSError):  # nobody listens any more
        pipe.send(message)


def _portable(error: BaseException) -> BaseException:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever its constructor wants
        return RuntimeError(repr(error))
    return error


def _received(pipe: Pipe) -> Iterator[Any]:
    while not isinstance(item := pipe.receive(), _End):
        yield item


T = TypeVar("T")


@contextmanager
def ahead(
    items: Iterable[T], room: int, name: str, weight: Callable[[T], int] = lambda item: 1
) -> Iterator[Iterator[T]]:
    """Iterate in a thread that stays a bounded number of items ahead of who consumes them.

    An exception of the iterable is raised in the consumer, the very object, after the items that
    came before it. Leaving the context ends the thread after the item it is at, whoever failed.

    Args:
        items: consumed in the thread; a generator is closed there.
        room: the thread waits while the finished items weigh this much; 0 takes no thread.
        weight: of an item.
    """
    if room == 0:
        yield iter(items)
        return
    lane: _Lane[T] = _Lane(items, room, name, weight)
    try:
        yield lane
    finally:
        lane.stop()


class _Lane(Generic[T]):
    def __init__(
        self, items: Iterable[T], room: int, name: str, weight: Callable[[T], int]
    ) -> None:
        self._items, self._room, self._weight = items, room, weight
        self._waiting: deque[tuple[T, int]] = deque()
        self._error: BaseException | None = None
        self._ended = self._stopped = False
        self._changed = threading.Condition()
        # A daemon: a second Ctrl-C ends the process without waiting for the item at hand.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ended)
            if self._waiting:
                item, weight = self._waiting.popleft()
                self._room += weight
                self._changed.notify_all()
                return item
            error, self._error = self._error, None
        if error is not None:
            raise error
        raise StopIteration

    def stop(self) -> None:
        """End the thread and wait for it; what it had finished is dropped."""
        with self._changed:
            self._stopped = True
            self._waiting.clear()
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        items = iter(self._items)
        try:
            for item in items:
                if not self._put(item):
                    break
                del item  # no second reference while the next one is made
        except BaseException as error:  # noqa: BLE001 - it is the consumer's to handle
            self._error = error
        finally:
            try:
                if hasattr(items, "close"):
                    items.close()
            finally:
                with self._changed:
                    self._ended = True
                    self._changed.notify_all()

    def _put(self, item: T) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._room > 0 or self._stopped)
            if not self._stopped:
                weight = self._weight(item)
                self._room -= weight
                self._waiting.append((item, weight))
                self._changed.notify_all()
            return not self._stopped
