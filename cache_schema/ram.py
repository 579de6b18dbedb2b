"""Small arrays of a cache kept in memory up to a limit; the least recently used goes first."""

import threading
from collections import OrderedDict
from collections.abc import Hashable

import numpy as np

ENTRY = 400  # bytes that an entry costs beside its data: key, array object, place in the table


class RamTier:
    """Arrays by key; threads may share it.

    Args:
        limit: bytes in all; 0 keeps nothing.

    Attributes:
        bytes: what is kept, never above the limit.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self._kept: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> np.ndarray | None:
        """What was put there, not to be written to; None when it is not kept."""
        if not self.limit:
            return None
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            return found

    def put(self, key: Hashable, array: np.ndarray) -> None:
        """Keep a copy of an array, unless it is larger than the limit."""
        size = array.nbytes + ENTRY
        if size > self.limit:
            return
        with self._lock:
            if key in self._kept:
                return
            while self.bytes + size > self.limit:
                self.bytes -= self._kept.popitem(last=False)[1].nbytes + ENTRY
            self._kept[key] = array.copy()
            self.bytes += size
