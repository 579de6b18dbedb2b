"""The head: parameter count, masks, missing words, batch invariance, the top-K start."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch

from train.config import load_config
from train.heads import CacheSizes, Head, HeadInputs, build_head
from train.heads.dmvs import DMVS
from train.heads.parts.attention import CHUNK_FRAMES, Attention, read_frames
from train.heads.parts.initialisation import VideoInitialisation, class_scores
from train.places import ROWS

WIDTH = 32
CACHE = CacheSizes(WIDTH, 24, 16, num_video_queries=9, num_classes=3, num_frame_queries=5)
SIZES = {
    "hidden_dim": WIDTH,
    "num_motion_queries": 6,
    "num_layers": 2,
    "num_heads": 4,
    "feedforward_dim": 48,
}
BASE = Path(__file__).parents[2] / "train" / "configs" / "base.py"
ROW_NAMES = sorted(path.stem for path in ROWS.glob("*.py"))


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
        tracks=randn(batch, num_video, frames, 6).abs(),
        times=torch.arange(frames).expand(batch, -1).float(),
    )


@pytest.fixture(scope="module")
def head() -> DMVS:
    torch.manual_seed(0)
    return DMVS(CACHE, **SIZES).eval()


def head_of(row: str, keys: Mapping[str, Any] = MappingProxyType({})) -> Head:
    """The head of a row of the ablation tables, at the size of the tests."""
    options = {f"model.{name}": value for name, value in {**SIZES, **keys}.items()}
    torch.manual_seed(0)
    return build_head(load_config(BASE, options, row), CACHE).eval()


def test_the_paper_s_head_has_its_number_of_parameters() -> None:
    with torch.device("meta"):
        head = DMVS(CacheSizes(256, 768, 256, num_video_queries=100, num_classes=25))
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


def test_positions_of_queries_start_at_nothing_and_are_learned(head: DMVS) -> None:
    torch.manual_seed(0)
    placed = DMVS(CACHE, **SIZES, query_positions=True)
    assert sum(map(torch.numel, placed.parameters())) == 6 * WIDTH + sum(
        map(torch.numel, head.parameters())
    )
    placed.load_state_dict(head.state_dict(), strict=False)
    for few in (9, 4):
        ours, theirs = placed(make_inputs(2, num_video=few)), head(make_inputs(2, num_video=few))
        torch.testing.assert_close(ours[-1].logits, theirs[-1].logits)
    ours[-1].logits.square().sum().backward()
    learned = placed.decoder.position.weight.grad.abs().sum(dim=1)
    assert (learned[:4] > 0).all() and (learned[4:] == 0).all()


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


@pytest.mark.parametrize("row", ROW_NAMES)
def test_every_parameter_takes_part(row: str) -> None:
    outputs = (head := head_of(row).train())(make_inputs(2))
    said = [own for o in outputs for own in (o.logits, o.mask_embeds, *o.more.values())]
    sum(own.square().sum() for own in said if own is not None).backward()
    assert not [n for n, p in head.named_parameters() if p.grad is None]


ALL = {"words", "sentence", "frame_queries", "video_queries", "video_logits"}


@pytest.mark.parametrize(
    ("row", "ignored"),
    [
        ("dmvs", set()),
        ("encoder_none", {"frame_queries"}),
        ("encoder_plain", set()),
        ("encoder_static", set()),
        ("encoder_motion", set()),
        ("init_random", {"video_logits"}),
        ("init_text", {"video_logits"}),
        ("baseline", {"frame_queries", "video_logits"}),
        ("vita_rvos", {"words", "video_queries", "video_logits"}),
        ("dshmp", {"video_queries", "video_logits"}),
        ("sentence_max", {"sentence"}),
    ],
)
def test_what_a_head_reads_changes_its_answer_and_nothing_else_does(
    row: str, ignored: set[str]
) -> None:
    head = head_of(row)
    reference = head(make_inputs(1))[-1].logits
    for name in ALL:
        inputs = make_inputs(1)
        getattr(inputs, name).mul_(-1.0)
        logits = head(inputs)[-1].logits
        # Another order of S_v brings other queries, or the same ones in another order.
        changed = not torch.allclose(logits, reference, atol=1e-4)
        assert changed == (name not in ignored), name


@pytest.mark.parametrize(
    ("row", "cue"), [("encoder_static", "static"), ("encoder_motion", "motion")]
)
def test_half_an_encoder_looks_at_the_words_of_its_kind_only(row: str, cue: str) -> None:
    head = head_of(row)
    reference = head(make_inputs(1))[-1].logits
    for name in ("static", "motion"):
        inputs = make_inputs(1)
        getattr(inputs, name)[:, :2] ^= True
        changed = not torch.allclose(head(inputs)[-1].logits, reference, atol=1e-6)
        assert changed == (name == cue)


def test_motion_queries_that_start_as_the_sentence_do_not_stay_equal() -> None:
    logits = head_of("init_text")(make_inputs(1))[-1].logits[0].tolist()
    assert len({round(value, 5) for value in logits}) == len(logits)


def test_the_sentence_may_be_the_maximum_of_its_words() -> None:
    head, inputs = head_of("sentence_max"), make_inputs(2)
    inputs.word_mask[0, 2:] = False
    shorter = make_inputs(2)
    shorter.word_mask[0, 2:] = False
    shorter.words[0, 2:] = 9.0  # padding
    torch.testing.assert_close(head(inputs)[-1].logits, head(shorter)[-1].logits)
    inputs.word_mask[:] = False  # then the mean stands in
    assert torch.isfinite(head(inputs)[-1].logits).all()


LONG = {name: {} for name in ("dmvs", "encoder_plain", "vita_rvos", "dshmp")}
LONG["encoder_none"] = {"decoder_reads": ["frames"]}


@pytest.mark.parametrize("row", LONG)
def test_a_long_video_in_chunks_gives_what_it_gives_whole(row: str) -> None:
    head = head_of(row, LONG[row])
    inputs = make_inputs(2, frames=2 * CHUNK_FRAMES + 5)
    inputs.frame_mask[1, CHUNK_FRAMES - 3 :] = False  # its last chunks are padding altogether
    whole = head(inputs)
    with torch.no_grad():
        chunked = head(inputs)
    for ours, theirs in zip(chunked, whole, strict=True):
        torch.testing.assert_close(ours.logits, theirs.logits, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours.mask_embeds, theirs.mask_embeds, rtol=1e-5, atol=1e-5)


def test_memory_of_chunks_does_not_grow_with_the_frames() -> None:
    attention, queries = Attention(WIDTH, 4).eval(), torch.randn(1, 2, WIDTH)
    most = []

    def enhance(keys: torch.Tensor) -> torch.Tensor:
        most.append(keys.shape[1])
        return keys

    frames = torch.randn(1, 50, 5, WIDTH)
    mask = torch.ones(1, 50, dtype=torch.bool)
    with torch.no_grad():
        read_frames(attention, queries, frames, mask, enhance=enhance, chunk_frames=8)
    assert max(most) == 8 * 5 and sum(most) == 50 * 5
