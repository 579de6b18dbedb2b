"""The head: parameter count, masks, missing words, batch invariance, the top-K start."""

from collections import Counter

import pytest
import torch

from train.models import DMVS, HeadInputs
from train.models.initialisation import VideoInitialisation, class_scores

WIDTH = 32


def make_inputs(
    batch: int, *, frames: int = 3, words: int = 4, num_video: int = 9, seed: int = 0
) -> HeadInputs:
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return HeadInputs(
        frame_queries=randn(batch, frames, 5, WIDTH),
        frame_mask=torch.ones(batch, frames, dtype=torch.bool),
        video_queries=randn(batch, num_video, WIDTH),
        video_logits=randn(batch, num_video, 4),
        words=randn(batch, words, 24),
        word_mask=torch.ones(batch, words, dtype=torch.bool),
        static=torch.arange(words).expand(batch, -1) % 2 == 0,
        motion=torch.arange(words).expand(batch, -1) % 2 == 1,
        sentence=randn(batch, 24),
    )


@pytest.fixture(scope="module")
def head() -> DMVS:
    torch.manual_seed(0)
    model = DMVS(
        hidden_dim=WIDTH,
        text_dim=24,
        mask_dim=16,
        num_motion_queries=6,
        num_layers=2,
        num_heads=4,
        feedforward_dim=48,
    )
    return model.eval()


def test_the_paper_s_head_has_its_number_of_parameters() -> None:
    with torch.device("meta"):
        head = DMVS()
    parts = Counter()
    for name, parameter in head.named_parameters():
        parts[name.split(".")[0]] += parameter.numel()
    assert 12_450_000 <= parts.total() <= 12_950_000
    assert parts["decoder"] > 0.8 * parts.total()


def test_one_output_per_layer_with_the_documented_shapes(head: DMVS) -> None:
    outputs = head(make_inputs(2))
    assert [(o.logits.shape, o.mask_embeds.shape) for o in outputs] == [((2, 6), (2, 6, 16))] * 2
    assert not torch.allclose(outputs[0].logits, outputs[1].logits)


def test_fewer_video_queries_than_motion_queries_are_all_taken(head: DMVS) -> None:
    assert head(make_inputs(1, num_video=4))[-1].logits.shape == (1, 4)


def test_motion_queries_start_as_the_likeliest_objects() -> None:
    queries = torch.arange(8.0).view(1, 4, 2)
    logits = torch.tensor([[[0.0, 0, 9], [5, 0, 0], [0, 9, 0], [0, 0, 2]]])  # last: no object
    chosen, sources = VideoInitialisation(2, 2)(queries, logits, torch.zeros(1, 2))
    assert chosen.tolist() == [[[4, 5], [2, 3]]] and sources.tolist() == [[2, 1]]
    assert (class_scores(logits)[0].diff(dim=0) > 0).tolist() == [True, True, False]


@pytest.mark.parametrize("kinds", [(), ("static",), ("motion",), ("static", "motion")])
def test_an_expression_may_lack_words_of_a_kind(head: DMVS, kinds: tuple[str, ...]) -> None:
    inputs = make_inputs(2)
    inputs.static[0] &= "static" in kinds
    inputs.motion[0] &= "motion" in kinds
    output = head(inputs)[-1]
    assert torch.isfinite(output.logits).all() and torch.isfinite(output.mask_embeds).all()
    other = head(make_inputs(2))[-1]
    torch.testing.assert_close(output.logits[1], other.logits[1])
    if kinds != ("static", "motion"):
        assert not torch.allclose(output.logits[0], other.logits[0])


def test_no_words_at_all_leaves_the_sentence(head: DMVS) -> None:
    inputs = make_inputs(2)
    inputs.word_mask[0] = False
    changed = make_inputs(2)
    changed.word_mask[0] = False
    changed.words[0] += 1.0
    changed.sentence[1] = inputs.sentence[1]
    output, same = head(inputs)[-1], head(changed)[-1]
    assert torch.isfinite(output.logits).all()
    torch.testing.assert_close(output.logits[0], same.logits[0])


def test_an_element_does_not_depend_on_its_batch_mates(head: DMVS) -> None:
    alone = make_inputs(1)
    padded = make_inputs(3, frames=7, words=9, seed=5)
    for name, width in [("frame_queries", 3), ("words", 4)]:
        getattr(padded, name)[1, :width] = getattr(alone, name)[0]
    for name in ("video_queries", "video_logits", "sentence"):
        getattr(padded, name)[1] = getattr(alone, name)[0]
    for name, width in [("static", 4), ("motion", 4)]:
        getattr(padded, name)[1] = True  # padding words may carry any mark
        getattr(padded, name)[1, :width] = getattr(alone, name)[0]
    padded.frame_mask[1, 3:] = False
    padded.word_mask[1, 4:] = False
    for ours, theirs in zip(head(alone), head(padded), strict=True):
        torch.testing.assert_close(ours.logits[0], theirs.logits[1], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours.mask_embeds[0], theirs.mask_embeds[1], rtol=1e-5, atol=1e-5)


def test_every_parameter_takes_part(head: DMVS) -> None:
    outputs = head(make_inputs(2))
    sum(o.logits.square().sum() + o.mask_embeds.square().sum() for o in outputs).backward()
    missing = [n for n, p in head.named_parameters() if p.grad is None]
    head.zero_grad()
    assert not missing


def test_words_frames_and_video_queries_each_change_the_answer(head: DMVS) -> None:
    reference = head(make_inputs(1))[-1].logits
    for name in ("words", "sentence", "frame_queries", "video_queries"):
        inputs = make_inputs(1)
        getattr(inputs, name).mul_(-1.0)
        assert not torch.allclose(head(inputs)[-1].logits, reference, atol=1e-4), name
