"""Work ahead: an iterable runs in a thread of its own, a bounded number of items ahead.

The stages of the pipeline are generators. Put one into `ahead` and it works while its consumer
does; without, the same generators run one after the other in one thread.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

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
