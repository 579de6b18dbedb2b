"""Tensors that depend on a frame's size only: made once, and kept for the sizes used last."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

_thread = threading.local()


def constant(maxsize: int) -> Callable[[F], F]:
    """`functools.lru_cache`, whose results `holding` notes."""

    def decorate(function: F) -> F:
        cached = lru_cache(maxsize)(function)

        @wraps(function)
        def call(*args: Any) -> Any:
            made = cached(*args)
            if (held := getattr(_thread, "held", None)) is not None:
                held.append(made)
            return made

        return call

    return decorate


@contextmanager
def holding() -> Iterator[list[Any]]:
    """Collect all constants that this thread uses, for who reads them after they left the cache."""
    _thread.held = []
    try:
        yield _thread.held
    finally:
        _thread.held = None
