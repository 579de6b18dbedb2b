"""Copies between host and device beside the model: on a CUDA device, in a stream of their own."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


class Transfer:
    """Moves arrays to the device, and lets another thread work on results, without either waiting.

    On the CPU nothing is copied and nothing waits.

    Attributes:
        beside: whether results are on a CUDA device, where many small steps and many waits cost
            more than few large ones.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.beside = device.type == "cuda"
        # Two, so that no upload waits for work on results. That work is little and much waits for
        # it, so it goes before what the model has asked for.
        self._uploads = torch.cuda.Stream(device) if self.beside else None
        self._stream = torch.cuda.Stream(device, priority=-1) if self.beside else None

    def upload(self, array: np.ndarray) -> Tensor:
        """An array on the device, for the calling thread's current stream."""
        here = torch.from_numpy(array)
        if self._uploads is None:
            return here.to(self._device)
        current = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._uploads):
            uploaded = here.pin_memory().to(self._device, non_blocking=True)
        current.wait_stream(self._uploads)
        uploaded.record_stream(current)  # its memory is not given away before the model is done
        return uploaded

    def computed(self) -> torch.cuda.Event | None:
        """Marks that everything the calling thread has asked for so far is to be done by then."""
        return torch.cuda.current_stream(self._device).record_event() if self._stream else None

    @contextmanager
    def after(self, event: torch.cuda.Event | None, results: Iterable[Tensor]) -> Iterator[None]:
        """Work beside the model's stream, on results that were `computed`."""
        if self._stream is None or event is None:
            yield
            return
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(event)
            for result in results:
                result.record_stream(self._stream)  # as in `upload`, the other way round
            yield

    def download(self, arrays: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        """Arrays on the host, of the calling thread's current stream; one wait for all of them."""
        return self.downloading(arrays)()

    def downloading(self, arrays: Mapping[str, Tensor]) -> Callable[[], dict[str, np.ndarray]]:
        """`download`, whose wait is put off until what this returns is called."""
        if self._stream is None:
            here = {name: array.cpu().numpy() for name, array in arrays.items()}
            return lambda: here
        copies = {}
        for name, array in arrays.items():
            copies[name] = torch.empty(array.shape, dtype=array.dtype, pin_memory=True)
            copies[name].copy_(array, non_blocking=True)
        copied = torch.cuda.Event(blocking=True)  # waits without a core
        copied.record()

        def wait() -> dict[str, np.ndarray]:
            copied.synchronize()
            return {name: copy.numpy() for name, copy in copies.items()}

        return wait
