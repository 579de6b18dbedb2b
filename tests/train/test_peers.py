"""LMPM and DsHmp over cached frame queries: their parts, their losses, and training them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader
from tests.synthetic import write_cache
from tests.train.test_kernels import by_scipy
from train import kernels
from train.__main__ import main
from train.checkpoint import read_checkpoint
from train.config import complete
from train.data import ClipDataset, collate
from train.heads import CacheSizes, Head, HeadInputs, HeadOutput, find_head
from train.heads.dshmp import HierarchicalMotion, aligned, halved
from train.losses.contrast import CONTRAST_DIM, ContrastiveCriterion, contrastive_losses
from train.losses.points import sample_points
from train.losses.vita import frame_matches
from train.masks.supervision import Match
from train.params import OVER_A_CACHE
from train.places import latest_checkpoint
from train.trainable import decay_groups

WIDTH, N_F = 16, 5
SIZES = CacheSizes(
    query_dim=12, text_dim=10, mask_dim=8, num_video_queries=4, num_classes=2, num_frame_queries=N_F
)
KEYS = {"hidden_dim": WIDTH, "num_motion_queries": 4, "num_layers": 2, "encoder_layers": 3,
        "num_heads": 4, "feedforward_dim": 24, "window_size": 4}  # fmt: skip
PEERS = ["vita_rvos", "dshmp"]


def make(kind: str) -> Head:
    torch.manual_seed(0)
    return find_head(kind)(SIZES, **KEYS).eval()


def make_inputs(batch: int = 2, frames: int = 6, words: int = 4) -> HeadInputs:
    random = torch.Generator().manual_seed(1)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random)

    return HeadInputs(
        frame_queries=randn(batch, frames, N_F, 12),
        frame_mask=torch.ones(batch, frames, dtype=torch.bool),
        video_queries=None,
        video_logits=None,
        words=randn(batch, words, 10),
        word_mask=torch.ones(batch, words, dtype=torch.bool),
        static=torch.arange(words).expand(batch, -1) % 2 == 0,
        motion=torch.arange(words).expand(batch, -1) % 2 == 1,
        sentence=randn(batch, 10),
    )


def longer(inputs: HeadInputs, frames: int, words: int) -> HeadInputs:
    """The same with padding of nines, whose words may carry any mark."""
    added = {name: functional.pad(getattr(inputs, name), (0, words)) for name in ("word_mask",)}
    added |= {
        name: functional.pad(getattr(inputs, name), (0, words), value=True)
        for name in ("static", "motion")
    }
    return replace(
        inputs,
        frame_queries=functional.pad(inputs.frame_queries, (0, 0, 0, 0, 0, frames), value=9.0),
        frame_mask=functional.pad(inputs.frame_mask, (0, frames)),
        words=functional.pad(inputs.words, (0, 0, 0, words), value=9.0),
        **added,
    )


def assert_alike(ours: Sequence[HeadOutput], theirs: Sequence[HeadOutput]) -> None:
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own.logits, other.logits, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(own.mask_embeds, other.mask_embeds, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("kind", "published"), [("vita_rvos", "LMPM"), ("dshmp", "DsHmp")])
def test_parameters_are_what_a_cache_leaves_of_the_published_ones(
    kind: str, published: str
) -> None:
    sizes = CacheSizes(256, 768, 256, num_video_queries=100, num_classes=25)
    with torch.device("meta"):
        count = sum(p.numel() for p in find_head(kind)(sizes).parameters())
    assert count / 1e6 == pytest.approx(OVER_A_CACHE[published], abs=0.05)


@pytest.mark.parametrize("kind", PEERS)
def test_one_output_a_layer_and_more_for_the_loss_in_training(kind: str) -> None:
    head, inputs = make(kind), make_inputs()
    outputs = head(inputs)
    assert [(o.logits.shape, o.mask_embeds.shape) for o in outputs] == [((2, 4), (2, 4, 8))] * 2
    assert not outputs[-1].more and outputs[-1].sources is None
    more = head.train()(inputs)[-1].more
    assert more["frame_embeds"].shape == (2, 6, N_F, WIDTH)
    assert more["query_embeds"].shape == (2, 4, WIDTH)
    assert ("contrast" in more) == (kind == "dshmp")


@pytest.mark.parametrize("kind", PEERS)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("more", [1, 7])
def test_padding_does_not_leak(kind: str, training: bool, more: int) -> None:
    head = make(kind)
    head.encoder.train(training)  # no dropout in it, but other windows
    assert_alike(head(longer(make_inputs(), more, 3)), head(make_inputs()))


@pytest.mark.parametrize("kind", PEERS)
def test_an_expression_without_any_words_has_its_sentence(kind: str) -> None:
    head, inputs = make(kind), make_inputs()
    inputs.word_mask[0] = False
    changed = replace(inputs, words=inputs.words + inputs.word_mask.logical_not()[..., None] * 3.0)
    assert_alike(head(inputs), head(changed))
    assert torch.isfinite(head(inputs)[-1].logits).all()


@pytest.mark.parametrize("kind", PEERS)
@torch.no_grad()
def test_one_long_video_for_many_expressions_is_that_video_for_each(kind: str) -> None:
    head, inputs = make(kind), make_inputs(batch=3, frames=37)
    one = inputs.frame_queries[:1]
    shared = head(replace(inputs, frame_queries=one.expand(3, -1, -1, -1)))
    assert_alike(shared, head(replace(inputs, frame_queries=one.repeat(3, 1, 1, 1))))
    alone = {name: own[1:2] for name, own in inputs.present().items()}
    assert_alike(head(HeadInputs.of({**alone, "frame_queries": one})),
                 [HeadOutput(o.logits[1:2], o.mask_embeds[1:2]) for o in shared])  # fmt: skip


def test_windows_shift_in_every_second_layer_but_not_in_training() -> None:
    encoder, inputs = make("vita_rvos").encoder, make_inputs(batch=1, frames=8)
    queries = torch.randn(1, 8, N_F, WIDTH, generator=torch.Generator().manual_seed(0))
    other = queries.clone()
    other[:, 7] = -1.0

    def reached(training: bool) -> list[bool]:
        encoder.train(training)
        ours, theirs = (encoder(own, inputs.frame_mask) for own in (queries, other))
        return [not torch.allclose(ours[:, t], theirs[:, t]) for t in range(8)]

    assert reached(training=True) == [False] * 4 + [True] * 4
    assert reached(training=False)[:4] != [False] * 4


def test_motion_does_not_depend_on_how_frame_queries_are_numbered() -> None:
    """Tracks that differ clearly are found again in any order, and the order is undone."""
    torch.manual_seed(0)
    motion = HierarchicalMotion(WIDTH, 4)
    looks = torch.linalg.qr(torch.randn(WIDTH, WIDTH))[0][:N_F] * 3
    tokens = looks.expand(2, 4, -1, -1) + 0.3 * torch.randn(2, 4, N_F, WIDTH)
    real = torch.tensor([[True] * 4, [False, True, True, False]])
    words = torch.randn(2, 3, WIDTH), torch.tensor([[True, True, True], [False, False, True]])
    order = torch.stack([torch.randperm(N_F) for _ in range(8)]).view(2, 4, N_F, 1)
    order[:, 0] = torch.arange(N_F)[:, None]
    order[1, :2], order[1, 3] = order[1, 0], order[1, 2]  # padding goes on by number
    mixed = motion(torch.take_along_dim(tokens, order, dim=2), real, words)
    torch.testing.assert_close(mixed, torch.take_along_dim(motion(tokens, real, words), order, 2))
    found = aligned(torch.take_along_dim(tokens, order, dim=2), real)
    assert torch.equal(
        torch.take_along_dim(order[..., 0], found, dim=2), order[:, :1, :, 0].expand(-1, 4, -1)
    )


def test_tracks_that_never_leave_a_gpu_are_those_of_the_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    tokens, real = torch.randn(5, 4, N_F, WIDTH), torch.rand(5, 4) < 0.7
    host = aligned(tokens, real)
    monkeypatch.setattr(kernels, "available", lambda device: True)
    monkeypatch.setattr(kernels, "assign_all", by_scipy)
    assert torch.equal(aligned(tokens, real), host)


def test_neighbouring_frames_are_averaged_without_padding() -> None:
    tokens = torch.arange(1.0, 6.0).view(1, 1, 5, 1)
    real = torch.tensor([[True, True, True, False, False]])
    average, left = halved(tokens, real)
    assert average.flatten().tolist() == [1.5, 3.0, 0.0] and left.tolist() == [[True, True, False]]


def test_the_frame_query_of_a_target_is_the_most_alike_where_it_is_visible() -> None:
    frames = torch.eye(4).expand(1, 3, -1, -1).clone()
    frames[0, 1] = frames[0, 1].flip(0)
    queries = torch.stack([torch.eye(4)[2], torch.eye(4)[1], torch.eye(4)[0]])[None]
    match = Match(torch.tensor([0, 2]), torch.tensor([1, 0]))
    seen = np.array([[True, False], [True, True]])  # of two frames; the third is padding
    found = frame_matches(frames, queries, [match], [seen])
    assert [list(zip(*(part.tolist() for part in own[:2]), strict=True)) for own in found] == [
        [(0, 0), (2, 1)], [(1, 1)], []
    ]  # fmt: skip


def plain_contrast(vector: np.ndarray, same: np.ndarray, other: np.ndarray) -> float:
    """As the reference writes it for one expression."""
    both = np.concatenate([same, other])
    logits, label = both @ vector, np.r_[np.ones(len(same)), np.zeros(len(other))]
    total = np.exp(logits[: len(same)]).mean() + np.exp(logits[len(same) :]).sum()
    entropy = -np.mean(logits[: len(same)] - np.log(total))
    cosine = logits / np.linalg.norm(both, axis=1) / np.linalg.norm(vector)
    return float(2 * entropy + np.mean((cosine - label) ** 2))


def test_the_contrastive_term_is_that_of_a_plain_computation() -> None:
    random = np.random.default_rng(0)
    memory, vectors = random.normal(size=(9, 6)), random.normal(size=(2, 6))
    positive, negative = np.zeros((2, 9), bool), np.zeros((2, 9), bool)
    positive[0, [1, 4]], negative[0, [0, 5, 8]] = True, True
    positive[1, 2], negative[1, 3:] = True, True
    found = contrastive_losses(*map(torch.from_numpy, (vectors, memory, positive, negative)))
    expected = [
        plain_contrast(own, memory[same], memory[other])
        for own, same, other in zip(vectors, positive, negative, strict=True)
    ]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def step(memory: ContrastiveCriterion, rows: list[tuple[int, int, int]], seed: int) -> torch.Tensor:
    """Take one sample of each (expression, objects, video) in, each with one matched query."""
    ids = [torch.tensor([*row, 8]) for row in rows]
    generator = torch.Generator().manual_seed(seed)
    embeds = torch.randn(len(rows), 3, CONTRAST_DIM, generator=generator) / 16
    matches = [Match(torch.tensor([0, 2]), torch.tensor([0, 1])) for _ in rows]
    points = sample_points([seed * 10 + b for b in range(len(rows))], "cpu")
    step.vectors = embeds[:, [0, 2]].mean(dim=1)
    return memory.contrast(embeds.requires_grad_(), matches, ids, random=points)


def test_the_memory_keeps_a_tenth_and_holds_no_gradient() -> None:
    memory = ContrastiveCriterion(memory_size=8)
    step(memory, [(3, 30, 1)], seed=0)
    first = step.vectors[0]
    assert torch.equal(memory.memory[3], first) and memory.meant[3].tolist() == [30, 1]
    loss = step(memory, [(3, 30, 1), (5, 50, 1)], seed=1)
    torch.testing.assert_close(memory.memory[3], 0.1 * first + 0.9 * step.vectors[0])
    assert not memory.memory.requires_grad and loss.requires_grad
    assert (memory.meant[:, 0] >= 0).nonzero().flatten().tolist() == [3, 5]
    expected = [
        plain_contrast(*(t.detach().double().numpy() for t in (own, same, other)))
        for own, same, other in [
            (step.vectors[0], memory.memory[3:4], memory.memory[5:6]),
            (step.vectors[1], memory.memory[5:6], memory.memory[3:4]),
        ]
    ]
    assert loss.item() == pytest.approx(np.mean(expected), rel=1e-5)


def test_other_sentences_of_the_video_are_compared_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.losses.contrast.COMPARED", 4)
    memory = ContrastiveCriterion(memory_size=8)
    rows = [(0, 1, 1), (1, 1, 1), (2, 2, 1), (3, 3, 2), (4, 4, 2), (5, 5, 3)]
    step(memory, rows, seed=0)
    draws = torch.tensor([[0.1, 0.2, 0.0, 0.5, 0.9, 0.7, 0.99, 0.99]])
    positive, negative = memory.choose(torch.tensor([[0, 1, 1, 8]]), draws)
    assert positive[0].nonzero().flatten().tolist() == [0, 1]
    assert negative[0].nonzero().flatten().tolist() == [2, 4]  # its video's, then the best draw


def test_a_memory_that_is_too_small_is_refused() -> None:
    with pytest.raises(InputError, match="loss.memory_size is 4, .* hold 8 expressions.* to 8"):
        step(ContrastiveCriterion(memory_size=4), [(1, 1, 1)], seed=0)


def test_samples_without_a_match_leave_the_memory_alone() -> None:
    memory, none = ContrastiveCriterion(memory_size=8), torch.zeros(0, dtype=torch.int64)
    embeds = torch.randn(1, 3, CONTRAST_DIM, requires_grad=True)
    loss = memory.contrast(
        embeds, [Match(none, none)], [torch.tensor([1, 1, 1, 8])], random=sample_points([0], "cpu")
    )
    loss.backward()
    assert loss == 0 and (memory.meant < 0).all() and not embeds.grad.any()


def test_sentences_of_the_same_objects_share_a_number(tmp_path: Path) -> None:
    write_cache(tmp_path / "cache", num_videos=2)
    dataset = ClipDataset([CacheReader(tmp_path / "cache")], seed=0, needs={"ids"})
    samples = [dataset[n] for n in range(len(dataset))]
    ids = torch.stack(collate(samples).ids)
    assert sorted(ids[:, 0].tolist()) == list(range(len(dataset))) and (ids[:, 3] == 8).all()
    assert len(set(ids[:, 2].tolist())) == 2
    for ours, own in zip(ids, samples, strict=True):
        for theirs, other in zip(ids, samples, strict=True):
            same = own.expression.annotation_ids == other.expression.annotation_ids
            assert (ours[1] == theirs[1]) == (same and ours[2] == theirs[2])


def test_norms_and_embeddings_may_go_without_decay() -> None:
    head = make("dshmp")
    decayed, free = decay_groups(head)
    names = {id(p): name for name, p in head.named_parameters()}
    assert {id(p) for p in (*decayed["params"], *free["params"])} == set(names)
    assert free["weight_decay"] == 0.0 and "weight_decay" not in decayed
    undecayed = {names[id(p)] for p in free["params"]}
    first = ("queries", "query_position", "frame_position", "text.1")  # text.1 is a LayerNorm
    assert undecayed == {n for n in names.values() if "norm" in n or n.startswith(first)}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"type": "vita_rvos", "num_heads": 3}, "model.num_heads = 3 does not divide"),
        ({"type": "dshmp", "feedforward_dim": 30}, "half of it, 15, has to be a multiple of 4"),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(model: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        complete([("here", {"model": model})], path="here")


CONFIG = """
model = dict(type="{kind}", hidden_dim=16, num_motion_queries=4, num_layers=2, encoder_layers=2,
             num_heads=2, feedforward_dim=32, window_size=4)
loss = dict(num_points=16, class_term="per_sample"{loss})
optimizer = dict(lr=1e-3, decay_norms=False)
train = dict(max_iters=5, batch_size=3, checkpoint_interval=2)
"""


@pytest.mark.parametrize(
    ("kind", "loss"), [("vita_rvos", ""), ("dshmp", ", memory_size=12, contrast_warmup=3")]
)
def test_a_resumed_training_is_equal_bit_for_bit(kind: str, loss: str, tmp_path: Path) -> None:
    write_cache(tmp_path / "cache", num_frames=[6, 5])
    (tmp_path / "small.py").write_text(CONFIG.format(kind=kind, loss=loss))

    def train(name: str, *more: str) -> dict:
        assert main([str(tmp_path / "small.py"), "--cache", str(tmp_path / "cache"), "--work-dir",
                     str(tmp_path / name), "--device", "cpu", *more]) == 0  # fmt: skip
        return read_checkpoint(latest_checkpoint(tmp_path / name))

    whole = train("whole")
    train("stopped", "--cfg-options", "train.max_iters=2")
    resumed = train("stopped", "--resume")
    assert whole["meta"]["iter"] == resumed["meta"]["iter"] == 5
    weights = whole["state_dict"]
    assert all(torch.equal(own, resumed["state_dict"][name]) for name, own in weights.items())
    assert weights.keys() == resumed["state_dict"].keys()
    if kind == "dshmp":
        assert weights["criterion.steps"] == 5 and weights["criterion.memory"].any()
