"""CUDA graphs: what is captured once for a size is one launch afterwards, and not a thousand."""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from extract.segmenters.vita.forms import holding

#: Graphs that are kept, the ones used last.
GRAPHS = 8
#: Frames are rounded up to a multiple of this, so that few graphs serve chunks of every length.
STEP = 4
#: Runs before a capture, in which libraries choose their algorithms and constants are made.
WARM_UPS = 2


@dataclass
class _Graph:
    """A captured call.

    Attributes:
        images: (t, ...), what it reads.
        outputs: (t, ...) each, what it writes.
        constants: tensors that it reads and that nobody else may keep.
    """

    graph: torch.cuda.CUDAGraph
    images: Tensor
    outputs: tuple[Tensor, ...]
    constants: list[Any]


class Graphs:
    """A function of frames that do not see each other, by captured graphs.

    A call copies the frames to where the graph reads them and its outputs away, so that they stay
    what they are when the next call comes. If a capture fails, the function itself runs from then
    on, and a warning says why.

    Attributes:
        error: of a capture that failed.

    Args:
        function: (t, ...) to some tensors (t, ...), the same work for every input of a size.
    """

    def __init__(self, function: Callable[[Tensor], tuple[Tensor, ...]]) -> None:
        self._function = function
        self._graphs: OrderedDict[Hashable, _Graph] = OrderedDict()
        self._pool: Any = None
        self._stream: torch.cuda.Stream | None = None
        self._state: Any = None
        self.error: str | None = None

    def __call__(self, images: Tensor, state: Hashable) -> tuple[Tensor, ...]:
        """What the function says of images (t, ...).

        Args:
            images: on a CUDA device.
            state: when it is another than before, all graphs are captured anew.
        """
        if self.error:
            return self._function(images)
        if state != self._state:
            self._graphs.clear()
            self._state = state
        count = len(images)
        size = (count + -count % STEP, *images.shape[1:])
        graph = self._graphs.get(size)
        if graph is None:
            try:
                graph = self._capture(images.new_zeros(size))
            except RuntimeError as error:  # also of too little memory
                self._graphs.clear()
                self.error = f"{type(error).__name__}: {error}"
                warnings.warn(f"no CUDA graph, launches one by one: {self.error}", stacklevel=2)
                return self._function(images)
            self._graphs[size] = graph
            if len(self._graphs) > GRAPHS:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(size)
        graph.images[:count].copy_(images)
        graph.graph.replay()
        return tuple(output[:count].clone() for output in graph.outputs)

    def _capture(self, images: Tensor) -> _Graph:
        if self._stream is None:
            self._stream = torch.cuda.Stream(images.device)
            # One for all: they run one after the other, and their outputs are copied at once.
            self._pool = torch.cuda.graph_pool_handle()
        current = torch.cuda.current_stream(images.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            for _ in range(WARM_UPS):
                self._function(images)
        current.wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads go on with their streams in the meantime. The outer stream is put back even
        # if a capture that failed is not ended as it should be.
        with (
            torch.cuda.stream(current),
            holding() as constants,
            torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ),
        ):
            outputs = self._function(images)
        return _Graph(graph, images, outputs, constants)
