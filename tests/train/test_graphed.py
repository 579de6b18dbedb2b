"""The head in training as CUDA graphs: the head's own numbers, whatever is recorded."""

import dataclasses

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from train.graphed import WORDS, GraphedHead, GraphedHeads, GraphedStep, padded
from train.heads import CacheSizes, HeadInputs, HeadOutput
from train.heads.dmvs import DMVS

CACHE = CacheSizes(query_dim=16, text_dim=24, mask_dim=16, num_video_queries=7, num_classes=3)
SIZES = dict(hidden_dim=16, num_motion_queries=4, num_layers=2, num_heads=2, feedforward_dim=32)


def inputs(words: int, seed: int = 0, samples: int = 3) -> HeadInputs:
    """Random inputs; sentences end at different words, and one has no static and no motion cue."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(samples, *shape, generator=generator)

    lengths = torch.arange(samples) % words + 1
    cues = torch.rand(2, samples, words, generator=generator) < 0.5
    cues[:, 0] = False
    return HeadInputs(
        frame_queries=normal(5, 6, 16),
        frame_mask=torch.arange(5) < torch.arange(3, 3 + samples)[:, None],
        video_queries=normal(7, 16),
        video_logits=normal(7, 4),
        words=normal(words, 24),
        word_mask=torch.arange(words) < lengths[:, None],
        static=cues[0],
        motion=cues[1],
        sentence=normal(24),
    )


@pytest.mark.parametrize("sentence", ["mean", "max"])
@pytest.mark.parametrize("words", [1, WORDS - 1, WORDS, WORDS + 1])
def test_words_that_are_filled_up_change_nothing(words: int, sentence: str) -> None:
    head = DMVS(CACHE, **SIZES, sentence=sentence)
    own = inputs(words)
    more = padded(own)
    assert more.words.shape[1] % WORDS == 0
    for ours, theirs in zip(head(own), head(more), strict=True):
        for field in dataclasses.fields(ours):
            torch.testing.assert_close(getattr(theirs, field.name), getattr(ours, field.name))


def test_without_a_gpu_the_head_runs_as_it_is() -> None:
    head = DMVS(CACHE, **SIZES)
    graphed = GraphedHead(head, None, enabled=True)
    for ours, theirs in zip(graphed(inputs(3)), head(inputs(3)), strict=True):
        assert torch.equal(ours.logits, theirs.logits)
        assert torch.equal(ours.mask_embeds, theirs.mask_embeds)
        assert torch.equal(ours.sources, theirs.sources)
    assert not graphed.graphs


def several(number: int = 3, device: str = "cpu", **keys: object) -> list[DMVS]:
    heads = []
    for seed in range(number):
        torch.manual_seed(seed)
        heads.append(DMVS(CACHE, **SIZES, **keys).to(device))
    return heads


def total(outputs: list[list[HeadOutput]]) -> torch.Tensor:
    """Of what each head says, with a weight of its own."""
    return sum(
        (1 + k) * (layer.logits.square().sum() + layer.mask_embeds.square().sum())
        for k, layers in enumerate(outputs)
        for layer in layers
    )


def gradients(heads: list[DMVS], outputs: list[list[HeadOutput]]) -> list[torch.Tensor | None]:
    parameters = [p for head in heads for p in head.parameters()]
    return list(torch.autograd.grad(total(outputs), parameters, allow_unused=True))


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"encoder": "plain", "initialisation": "random"},
        {"initialisation": "text", "query_positions": True, "sentence": "max"},
        {"decoder_reads": ["frames", "video"], "encoder": "none"},
    ],
)
@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_heads_as_one_say_what_each_says(keys: dict, autocast: torch.dtype | None) -> None:
    heads, own = several(**keys), inputs(5)
    each = [GraphedHead(head, autocast, enabled=False) for head in heads]
    ours, theirs = GraphedHeads(each)(own), [head(own) for head in each]
    near = {"rtol": 1e-4, "atol": 1e-5} if autocast is None else {"rtol": 0.1, "atol": 0.1}
    for mine, alone in zip(ours, theirs, strict=True):
        for one, other in zip(mine, alone, strict=True):
            torch.testing.assert_close(one.logits, other.logits, **near)
            torch.testing.assert_close(one.mask_embeds, other.mask_embeds, **near)
            assert (one.sources is None) == (other.sources is None)
            assert one.sources is None or torch.equal(one.sources, other.sources)
    if autocast is not None:  # gradients are rounded too far
        return
    for one, other in zip(gradients(heads, ours), gradients(heads, theirs), strict=True):
        assert (one is None) == (other is None)
        if one is not None:  # a part of the largest
            allowed = 1e-5 * max(float(other.abs().max()), 1.0)
            torch.testing.assert_close(one, other, rtol=0, atol=allowed)


class Largest(TorchDispatchMode):
    """Numbers in the largest tensor that an operation makes."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **kwargs or {})
        if isinstance(found, torch.Tensor) and not function.is_view:
            self.numbers = max(self.numbers, found.numel())
        return found


def test_heads_as_one_do_not_repeat_their_weights() -> None:
    heads, own = several(2), inputs(5)
    each = [GraphedHead(head, None, enabled=False) for head in heads]
    with Largest() as together:
        gradients(heads, GraphedHeads(each)(own))
    with Largest() as alone:
        gradients(heads[:1], [each[0](own)])
    assert together.numbers <= 2 * alone.numbers


def test_heads_as_one_drop_out_by_the_seed() -> None:
    each = [GraphedHead(head, None, enabled=False) for head in several(2, dropout=0.5)]
    together, found = GraphedHeads(each), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append([layers[-1].logits for layers in together(inputs(5))])
    assert all(torch.equal(*pair) for pair in zip(found[0], found[1], strict=True))
    assert not any(torch.equal(*pair) for pair in zip(found[0], found[2], strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_replays_of_heads_as_one_give_what_each_says() -> None:
    heads = several(device="cuda")
    each = [GraphedHead(head, None, enabled=False) for head in heads]
    together = GraphedHeads([GraphedHead(head, None, enabled=True) for head in heads])
    for seed, words in enumerate([3, 11, 4, 12]):
        own = padded(inputs(words, seed).to("cuda"))
        theirs = gradients(heads, [head(own) for head in each])
        total(together(own)).backward()
        for head in heads:
            for p in head.parameters():
                other = theirs.pop(0)
                if other is not None:
                    torch.testing.assert_close(p.grad, other, rtol=1e-3, atol=1e-3)
            head.zero_grad()
    assert len(together.graphs) == 2 and all(together.graphs.values())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_replays_give_the_head_s_outputs_and_gradients() -> None:
    head = DMVS(CACHE, **SIZES).cuda()
    graphed = GraphedHead(head, None, enabled=True)
    plain = GraphedHead(head, None, enabled=False)
    for seed, words in enumerate([3, 11, 4, 12]):
        own = padded(inputs(words, seed).to("cuda"))
        found = []
        for run in (plain, graphed):
            outputs = run(own)
            sum(o.logits.square().sum() + o.mask_embeds.square().sum() for o in outputs).backward()
            found.append([p.grad.clone() for p in head.parameters()])
            found[-1] += [outputs[-1].logits.detach().clone()]
            head.zero_grad()
        # Libraries choose other kernels, which add up in another order.
        torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)
    assert len(graphed.graphs) == 2 and all(graphed.graphs.values())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_recorded_step_is_the_optimiser_s() -> None:
    torch.manual_seed(0)
    heads = [torch.nn.Linear(8, 8).cuda() for _ in range(2)]
    heads[1].load_state_dict(heads[0].state_dict())
    optimizers = [torch.optim.AdamW(head.parameters(), lr=1e-2, fused=True) for head in heads]

    def take(k: int) -> torch.Tensor:
        norm = torch.nn.utils.clip_grad_norm_(heads[k].parameters(), 0.1)
        optimizers[k].step()
        return norm

    graphed = GraphedStep(optimizers[0], lambda: take(0))
    kept = [[torch.zeros_like(p) for p in heads[0].parameters()] for _ in range(2)]
    for step in range(8):
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = 1e-2 / (1 + step)
        for place, *parameters in zip(
            kept[step % 2], *(h.parameters() for h in heads), strict=True
        ):
            place.normal_()
            parameters[0].grad, parameters[1].grad = place, place.clone()
        torch.testing.assert_close(graphed(), take(1))
        torch.testing.assert_close(*([*head.parameters()] for head in heads))
    assert optimizers[0].state_dict()["state"][0]["step"] == 8
    assert optimizers[0].param_groups[0]["lr"] == 1e-2 / 8
