"""A tensor on its way from the device to the host, so that others can work meanwhile."""

import torch
from torch import Tensor


class Fetch:
    """Asks for a copy of a tensor at once and waits for it when it is looked at.

    On a CPU it is the tensor itself.

    Args:
        tensor: of any shape and type, without gradients.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        self._host = tensor
        if tensor.is_cuda:
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            self._event = torch.cuda.current_stream(tensor.device).record_event()

    def get(self) -> Tensor:
        """The copy on the host."""
        if self._event is not None:
            self._event.synchronize()
        return self._host
