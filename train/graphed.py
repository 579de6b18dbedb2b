"""A head's forward and backward pass as two CUDA graphs, which replace hundreds of launches.

The operations are those of the head itself, recorded once for each shape of the inputs and repeated
on new numbers. Where a graph cannot be recorded, and without a GPU, the head runs as it is.
"""

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from train.models import HeadInputs, HeadOutput

#: Sentences are padded to a multiple of so many words, so that few shapes occur.
WORDS = 8
#: Shapes that are recorded; others run as they are.
SHAPES = 12
WARM_UP = 3  # before recording, for libraries that choose their kernels

Shape = tuple[torch.Size, ...]


class GraphedHead:
    """Calls a head in training.

    Args:
        head: its parameters stay where they are.
        autocast: reduced precision of the head.
        enabled: whether graphs are recorded where that is possible.

    Attributes:
        graphs: of each shape; None where recording failed.
    """

    def __init__(self, head: nn.Module, autocast: torch.dtype | None, *, enabled: bool) -> None:
        self.head, self.autocast, self.enabled = head, autocast, enabled
        self.graphs: dict[Shape, _Graphs | None] = {}

    def __call__(self, inputs: HeadInputs) -> list[HeadOutput]:
        """What the head says, in float32, one output a decoder layer.

        After a replay it lies in memory that the next call overwrites.
        """
        if not (self.enabled and inputs.words.is_cuda and torch.is_grad_enabled()):
            return _outputs(self.run(*_tensors(inputs)))
        tensors = _tensors(padded(inputs))
        graphs = self._graphs_for(tensors)
        return _outputs(graphs(tensors) if graphs else self.run(*tensors))

    def run(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Logits (L, B, N_m), mask embeddings (L, B, N_m, C_mask), and sources if there are any."""
        with self._reduced(tensors[0].device):
            outputs = self.head(HeadInputs(*tensors))
        logits = torch.stack([output.logits.float() for output in outputs])
        embeds = torch.stack([output.mask_embeds.float() for output in outputs])
        sources = outputs[-1].sources
        return (logits, embeds) if sources is None else (logits, embeds, sources)

    def _reduced(self, device: torch.device) -> AbstractContextManager:
        if self.autocast is None:
            return nullcontext()
        # What a graph uses must not be kept from outside it.
        return torch.autocast(device.type, self.autocast, cache_enabled=device.type == "cpu")

    def _graphs_for(self, tensors: Sequence[Tensor]) -> "_Graphs | None":
        shape = tuple(tensor.shape for tensor in tensors)
        if shape not in self.graphs and len(self.graphs) < SHAPES:
            try:
                # Dropout of this step is to be what it is in a run that recorded before.
                with torch.random.fork_rng([tensors[0].device]):
                    self.graphs[shape] = _Graphs(self, tensors)
            except RuntimeError as error:
                warnings.warn(f"the head runs without CUDA graphs: {error}", stacklevel=2)
                self.graphs[shape] = None
        return self.graphs.get(shape)


def padded(inputs: HeadInputs) -> HeadInputs:
    """Words of zeros that do not count, up to a multiple of `WORDS`."""
    more = -inputs.words.shape[1] % WORDS
    if more == 0:
        return inputs
    masks = {n: F.pad(getattr(inputs, n), (0, more)) for n in ("word_mask", "static", "motion")}
    return replace(inputs, words=F.pad(inputs.words, (0, 0, 0, more)), **masks)


class _Graphs:
    """The two passes for inputs of one shape."""

    def __init__(self, head: GraphedHead, tensors: Sequence[Tensor]) -> None:
        self._inputs = [tensor.clone() for tensor in tensors]
        self.parameters = [p for p in head.head.parameters() if p.requires_grad]
        current, beside = torch.cuda.current_stream(), torch.cuda.Stream()
        beside.wait_stream(current)
        with torch.cuda.stream(beside):
            for _ in range(WARM_UP):
                outputs = head.run(*self._inputs)
                self._gradients(outputs, [torch.zeros_like(o) for o in outputs[:2]])
            del outputs
        current.wait_stream(beside)
        # Other threads, which load, go on meanwhile.
        pool, quietly = torch.cuda.graph_pool_handle(), {"capture_error_mode": "thread_local"}
        self.forward, self.backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.forward, pool=pool, **quietly):
            outputs = head.run(*self._inputs)
        self.asked = [torch.zeros_like(output) for output in outputs[:2]]
        with torch.cuda.graph(self.backward, pool=pool, **quietly):
            self.gradients = self._gradients(outputs, self.asked)
        self.outputs = [output.detach() for output in outputs]
        self._anchor = torch.zeros((), device=tensors[0].device, requires_grad=True)

    def __call__(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        for own, tensor in zip(self._inputs, tensors, strict=True):
            own.copy_(tensor, non_blocking=True)
        return _Replay.apply(self, self._anchor)

    def _gradients(self, outputs: Sequence[Tensor], asked: Sequence[Tensor]) -> list[Tensor | None]:
        found = torch.autograd.grad(outputs[:2], self.parameters, asked, allow_unused=True)
        # The optimiser goes through them as they lie in memory.
        return [own if own is None else own.contiguous() for own in found]


class _Replay(torch.autograd.Function):
    """Repeats what was recorded.

    Autograd sees an anchor in place of the parameters: hundreds of them, each by itself, cost more
    than the launches that are saved.
    """

    @staticmethod
    def forward(ctx: Any, graphs: _Graphs, anchor: Tensor) -> tuple[Tensor, ...]:
        ctx.graphs = graphs
        graphs.forward.replay()
        outputs = tuple(output.detach() for output in graphs.outputs)
        ctx.mark_non_differentiable(*outputs[2:])
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None]:
        graphs = ctx.graphs
        torch._foreach_copy_(graphs.asked, list(gradients[:2]))
        graphs.backward.replay()
        for parameter, gradient in zip(graphs.parameters, graphs.gradients, strict=True):
            if parameter.grad is None:
                parameter.grad = gradient
            elif gradient is not None:
                parameter.grad += gradient
        return None, None


def _tensors(inputs: HeadInputs) -> list[Tensor]:
    return [getattr(inputs, field.name) for field in fields(HeadInputs)]


def _outputs(tensors: tuple[Tensor, ...]) -> list[HeadOutput]:
    logits, embeds, *sources = tensors
    return [
        HeadOutput(own, its, sources[0] if sources else None)
        for own, its in zip(logits, embeds, strict=True)
    ]
