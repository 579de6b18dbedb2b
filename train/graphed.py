"""A head's forward and backward pass and its optimiser's step as CUDA graphs.

They replace hundreds of launches. The operations are those of the head and of the optimiser
themselves, recorded once for each shape of the inputs and repeated on new numbers. Where a graph
cannot be recorded, and without a GPU, they run as they are.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from train.heads.base import HeadInputs, HeadOutput

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
        return _outputs(self.found(inputs))

    def found(self, inputs: HeadInputs) -> dict[str, Tensor]:
        """What `run` finds, by graphs where that is possible."""
        if not (self.enabled and inputs.words.is_cuda and torch.is_grad_enabled()):
            return self.run(inputs)
        inputs = padded(inputs)
        graphs = self._graphs_for(inputs)
        return graphs(inputs) if graphs else self.run(inputs)

    def run(self, inputs: HeadInputs) -> dict[str, Tensor]:
        """What the fields of `HeadOutput` that are there hold, in all layers.

        Logits (L, B, N_m) and mask embeddings (L, B, N_m, C_mask), what the last layer has more,
        and sources (B, N_m).
        """
        with self._reduced(inputs.words.device):
            return _found(self.head(inputs))

    def _reduced(self, device: torch.device) -> AbstractContextManager:
        if self.autocast is None:
            return nullcontext()
        # What a graph uses must not be kept from outside it.
        return torch.autocast(device.type, self.autocast, cache_enabled=device.type == "cpu")

    def _graphs_for(self, inputs: HeadInputs) -> "_Graphs | None":
        shape = tuple(tensor.shape for tensor in inputs.present().values())
        if shape not in self.graphs and len(self.graphs) < SHAPES:
            try:
                # Dropout of this step is to be what it is in a run that recorded before.
                with torch.random.fork_rng([inputs.words.device]):
                    self.graphs[shape] = _Graphs(self, inputs)
            except RuntimeError as error:
                warnings.warn(f"the head runs without CUDA graphs: {error}", stacklevel=2)
                self.graphs[shape] = None
        return self.graphs.get(shape)


class GraphedHeads(GraphedHead):
    """Heads that differ in their weights alone, as one: an operation is one for all of them.

    Dropout draws other numbers than it does for each by itself.

    Args:
        heads: of one configuration.
    """

    def __init__(self, heads: Sequence[GraphedHead]) -> None:
        first = heads[0]
        every = nn.ModuleList(own.head for own in heads)
        super().__init__(every, first.autocast, enabled=first.enabled)

    def __call__(self, inputs: HeadInputs) -> list[list[HeadOutput]]:
        """What each head says, as of `GraphedHead`."""
        found = self.found(inputs)
        each = range(len(self.head))
        return [_outputs({name: own[k] for name, own in found.items()}) for k in each]

    def run(self, inputs: HeadInputs) -> dict[str, Tensor]:
        """As of `GraphedHead`, each with the heads as its first axis."""
        weights = [dict(head.named_parameters()) for head in self.head]
        stacked = {name: torch.stack([own[name] for own in weights]) for name in weights[0]}

        def one(own: dict[str, Tensor]) -> dict[str, Tensor]:
            return _found(functional_call(self.head[0], own, (inputs,)))

        # Not every fused attention takes one mask for many heads.
        with self._reduced(inputs.words.device), sdpa_kernel(SDPBackend.MATH), _flat_linear():
            return vmap(one, randomness="different")(stacked)


@contextmanager
def _flat_linear() -> Iterator[None]:
    """Linear layers as one product of matrices: `vmap` would repeat their weights for each row."""

    def flat(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        found = rows.flatten(0, -2) @ weight.mT
        return (found if bias is None else found + bias).unflatten(0, rows.shape[:-1])

    own, F.linear = F.linear, flat
    try:
        yield
    finally:
        F.linear = own


def padded(inputs: HeadInputs) -> HeadInputs:
    """Words of zeros that do not count, up to a multiple of `WORDS`."""
    more = -inputs.words.shape[1] % WORDS
    if more == 0:
        return inputs
    masks = {n: F.pad(getattr(inputs, n), (0, more)) for n in ("word_mask", "static", "motion")}
    return replace(inputs, words=F.pad(inputs.words, (0, 0, 0, more)), **masks)


class _Graphs:
    """The two passes for inputs of one shape."""

    def __init__(self, head: GraphedHead, inputs: HeadInputs) -> None:
        self._inputs = {name: tensor.clone() for name, tensor in inputs.present().items()}
        own = HeadInputs.of(self._inputs)
        self.parameters = [p for p in head.head.parameters() if p.requires_grad]
        current, beside = torch.cuda.current_stream(), torch.cuda.Stream()
        beside.wait_stream(current)
        with torch.cuda.stream(beside):
            for _ in range(WARM_UP):
                outputs = _learning(head.run(own))
                self._gradients(outputs, [torch.zeros_like(output) for output in outputs])
            del outputs
        current.wait_stream(beside)
        # Other threads, which load, go on meanwhile.
        pool, quietly = torch.cuda.graph_pool_handle(), {"capture_error_mode": "thread_local"}
        self.forward, self.backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.forward, pool=pool, **quietly):
            outputs = head.run(own)
        learning = _learning(outputs)
        self.asked = [torch.zeros_like(output) for output in learning]
        with torch.cuda.graph(self.backward, pool=pool, **quietly):
            self.gradients = self._gradients(learning, self.asked)
        self.outputs = {name: output.detach() for name, output in outputs.items()}
        self._anchor = torch.zeros((), device=own.words.device, requires_grad=True)

    def __call__(self, inputs: HeadInputs) -> dict[str, Tensor]:
        for name, tensor in inputs.present().items():
            self._inputs[name].copy_(tensor, non_blocking=True)
        return dict(zip(self.outputs, _Replay.apply(self, self._anchor), strict=True))

    def _gradients(self, outputs: Sequence[Tensor], asked: Sequence[Tensor]) -> list[Tensor | None]:
        found = torch.autograd.grad(outputs, self.parameters, asked, allow_unused=True)
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
        outputs = tuple(output.detach() for output in graphs.outputs.values())
        ctx.mark_non_differentiable(*outputs[len(graphs.asked) :])
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None]:
        graphs = ctx.graphs
        torch._foreach_copy_(graphs.asked, list(gradients[: len(graphs.asked)]))
        graphs.backward.replay()
        for parameter, gradient in zip(graphs.parameters, graphs.gradients, strict=True):
            if parameter.grad is None:
                parameter.grad = gradient
            elif gradient is not None:
                parameter.grad += gradient
        return None, None


class GraphedStep:
    """Calls what changes the parameters of an optimiser by their gradients.

    It is recorded when gradients lie where they lay before, as `_Graphs` leaves them.

    Args:
        step: without a wait for the device; what it returns is in memory of its own.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, step: Callable[[], Tensor]) -> None:
        self._optimizer, self._step = optimizer, step
        self._rates: list[Tensor] = []
        self._graphs: dict[tuple[int, ...], tuple[torch.cuda.CUDAGraph, Tensor] | None] = {}

    def forget(self) -> None:
        """To be called when the optimiser's state lies elsewhere."""
        self._graphs.clear()

    def __call__(self) -> Tensor:
        groups = self._optimizer.param_groups
        gradients = (p.grad for group in groups for p in group["params"])
        places = tuple(0 if own is None else own.data_ptr() for own in gradients)
        if places not in self._graphs:
            if len(self._graphs) < SHAPES:
                self._graphs[places] = None
            return self._step()
        recorded = self._graphs[places]
        if recorded is None:
            try:
                recorded = self._graphs[places] = self._record(groups)
            except RuntimeError as error:
                warnings.warn(f"the optimiser runs without CUDA graphs: {error}", stacklevel=2)
                self._graphs = dict.fromkeys(range(SHAPES))  # which no places are
                return self._step()
        for rate, group in zip(self._rates, groups, strict=True):
            rate.fill_(group["lr"])
        graph, said = recorded
        graph.replay()
        return said.clone()

    def _record(self, groups: Sequence[dict[str, Any]]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        device = groups[0]["params"][0].device
        self._rates = self._rates or [torch.zeros((), device=device) for _ in groups]
        before = [{name: group[name] for name in ("lr", "capturable")} for group in groups]
        graph = torch.cuda.CUDAGraph()
        try:
            for group, rate in zip(groups, self._rates, strict=True):
                group |= {"lr": rate, "capturable": True}
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                said = self._step()
        finally:
            for group, own in zip(groups, before, strict=True):
                group |= own
        return graph, said


def _found(outputs: Sequence[HeadOutput]) -> dict[str, Tensor]:
    """See `GraphedHead.run`."""
    found = {"logits": torch.stack([output.logits.float() for output in outputs])}
    if outputs[-1].mask_embeds is not None:
        found["mask_embeds"] = torch.stack([own.mask_embeds.float() for own in outputs])
    found |= {name: own.float() for name, own in outputs[-1].more.items()}
    if outputs[-1].sources is not None:
        found["sources"] = outputs[-1].sources
    return found


def _learning(found: Mapping[str, Tensor]) -> list[Tensor]:
    """The outputs that gradients come from; they are the first."""
    return [tensor for tensor in found.values() if tensor.is_floating_point()]


def _outputs(found: Mapping[str, Tensor]) -> list[HeadOutput]:
    more = dict(found)
    logits, sources = more.pop("logits"), more.pop("sources", None)
    embeds = more.pop("mask_embeds", [None] * len(logits))
    return [HeadOutput(own, its, sources, more) for own, its in zip(logits, embeds, strict=True)]
