"""Copies between host and device beside the model: on a CUDA device, in a stream of their own."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


class Transfer:
    """Moves images to the device, and lets another thread work on results, without either waiting.

    On the CPU nothing is copied and nothing waits.

    Args:
        device: where the model runs.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def upload(self, images: np.ndarray) -> Tensor:
        """Images on the device, for the calling thread's current stream."""
        pixels = torch.from_numpy(images)
        if self._stream is None:
            return pixels.to(self._device)
        current = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._stream):
            uploaded = pixels.pin_memory().to(self._device, non_blocking=True)
        current.wait_stream(self._stream)
        uploaded.record_stream(current)  # its memory is not given away before the model is done
        return uploaded

    def computed(self) -> torch.cuda.Event | None:
        """Marks that everything the calling thread has asked for so far is to be done by then."""
        return torch.cuda.current_stream(self._device).record_event() if self._stream else None

    @contextmanager
    def after(self, event: torch.cuda.Event | None) -> Iterator[None]:
        """Work beside the model's stream, on results that were `computed`."""
        if self._stream is None or event is None:
            yield
            return
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(event)
            yield
