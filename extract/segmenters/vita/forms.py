"""Which form of an operation a device takes, and tensors that depend on a frame's size only."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

#: Deformable attention by `deformable_kernel`, not by `deformable`; False once it failed.
KERNEL = True


def gpu(tensor: Tensor) -> bool:
    """Whether a tensor is where these forms pay."""
    return tensor.is_cuda


def layout(device: torch.device) -> torch.memory_format:
    """Of the maps that convolutions take, in the precision that is set where this is called.

    Tensor cores want channels last, and a processor does as well.
    """
    narrow = torch.is_autocast_enabled(device.type) or torch.backends.cudnn.allow_tf32
    last = device.type == "cpu" or narrow
    return torch.channels_last if last else torch.contiguous_format


F = TypeVar("F", bound=Callable[..., Any])

_thread = threading.local()


def constant(maxsize: int) -> Callable[[F], F]:
    """`functools.lru_cache` for the sizes used last, whose results `holding` notes."""

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
