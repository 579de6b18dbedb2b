"""Losses: agreement with recorded values and gradients of VITA's criterion, and edge cases."""

import json
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cache_schema.codecs import get_codec
from tests.train.plain_loss import plain_losses
from train.losses import (
    Binary,
    Diverged,
    SetCriterion,
    Softmax,
    Supervision,
    Targets,
    sample_points,
)
from train.losses.criterion import class_sums
from train.losses.points import uncertain_points, uniform_points
from train.losses.vita import Similarity, similarity_loss
from train.masks import stack, supervision, tables
from train.masks.bilinear import sample
from train.masks.logits import MaskFeatures
from train.masks.supervision import Match
from train.masks.targets import TargetStack

FOLDERS = [Path(__file__).parents[1] / "data" / "goldens_loss"]
if os.environ.get("DMVS_GOLDENS"):
    FOLDERS.append(Path(os.environ["DMVS_GOLDENS"]))
GOLDENS = [path for folder in FOLDERS for path in sorted(folder.glob("loss__*.npz"))]
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


EXACT = get_codec("float32")


def given_maps(maps: torch.Tensor) -> MaskFeatures:
    """Mask maps (N, T, h, w) given outright: the embedding of query n is the n-th unit vector."""
    return MaskFeatures({"values": maps.transpose(0, 1)}, EXACT)


class Replay:
    """Gives out recorded random numbers in order and checks what is asked for.

    Args:
        recorded: of each call, the numbers (rows, points, 2) of each sample.
    """

    def __init__(self, *recorded: list[np.ndarray]) -> None:
        self.recorded = list(recorded)

    def __call__(self, samples: Sequence[int], points: int) -> torch.Tensor:
        parts = self.recorded.pop(0)
        asked, counts = np.unique(samples, return_counts=True)
        assert list(samples) == sorted(samples)
        assert all(parts[b].shape == (n, points, 2) for b, n in zip(asked, counts, strict=True))
        return torch.from_numpy(np.concatenate([parts[b] for b in asked]))


class Golden:
    """One recorded case."""

    def __init__(self, path: Path) -> None:
        self.data = np.load(path)
        self.meta = json.loads(str(self.data["meta_json"]))
        # The copy shipped with the project leaves out some gradients and auxiliary layers.
        self.aux = [
            f"_aux{i}" for i in range(self.meta["aux"]) if f"pred_logits_aux{i}" in self.data
        ]
        self.rows = self.meta["L"] * self.meta["B"]
        assert self.meta["cost_weights_class_mask_dice"] == [2.0, 5.0, 5.0]
        self.criterion = SetCriterion(
            Softmax(self.meta["K"], self.meta["eos_coef"]),
            num_points=self.meta["num_points"],
            oversample_ratio=self.meta["oversample_ratio"],
            importance_ratio=self.meta["importance_sample_ratio"],
        )
        videos = [
            Targets(self.tensor(f"tgt{b}_masks"), self.tensor(f"tgt{b}_labels"))
            for b in range(self.meta["B"])
        ]
        self.targets = videos * self.meta["L"]
        self.embeds = torch.eye(self.meta["N"]).expand(self.rows, -1, -1).clone()

    def tensor(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self.data[name])

    def layer(self, suffix: str) -> tuple[torch.Tensor, torch.Tensor, list[MaskFeatures]]:
        logits = self.tensor(f"pred_logits{suffix}").requires_grad_()
        masks = self.tensor(f"pred_masks{suffix}").requires_grad_()
        return logits, masks, [given_maps(one) for one in masks.flatten(0, 1)]

    def random(self, suffix: str) -> Replay:
        """What matching and loss of a layer draw."""
        matcher = [self.data[f"matcher_rand{suffix}_{b}"] for b in range(self.rows)]
        return Replay(matcher, *self.loss_random([suffix]).recorded)

    def loss_random(self, suffixes: Sequence[str]) -> Replay:
        """What the loss of these layers, handled together, draws."""
        drawn = []
        for kind in ("over", "extra"):
            layers = []
            for s in suffixes:
                sources = [self.data[f"match_src{s}_{b}"] for b in range(self.rows)]
                ends = np.cumsum([len(own) * self.meta["T"] for own in sources])
                layers.append(np.split(self.data[f"loss_rand_{kind}{s}"], ends[:-1]))
            drawn.append([np.concatenate(own) for own in zip(*layers, strict=True)])
        return Replay(*drawn)


@pytest.fixture(params=GOLDENS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden(request.param)


def test_goldens_are_there() -> None:
    assert len(GOLDENS) >= 4


def test_costs_and_matches_agree_with_the_recorded(golden: Golden) -> None:
    for suffix in ["", *golden.aux]:
        logits, _, maps = golden.layer(suffix)
        inputs = (logits.flatten(0, 1)[None], golden.embeds[:, None])
        truth = Supervision(maps, golden.targets)
        (group,) = truth.groups
        costs = golden.criterion.costs(*inputs, group, golden.random(suffix))  # (G, 1, N, M)
        for cost, b, count in zip(costs, group.samples, group.targets.counts, strict=True):
            recorded = golden.tensor(f"cost_C{suffix}_{b}")
            torch.testing.assert_close(cost[0, :, :count], recorded, **CLOSE)
        (matches,) = golden.criterion.match(*inputs, truth, random=golden.random(suffix))
        for b, (queries, own, _) in enumerate(matches):
            assert torch.equal(queries, golden.tensor(f"match_src{suffix}_{b}"))
            assert torch.equal(own, golden.tensor(f"match_tgt{suffix}_{b}"))


def test_losses_and_gradients_agree_with_the_recorded(golden: Golden) -> None:
    for suffix in ["", *golden.aux]:
        logits, masks, maps = golden.layer(suffix)
        inputs = (logits.flatten(0, 1)[None], golden.embeds[:, None])
        truth = Supervision(maps, golden.targets)
        random = golden.random(suffix)
        matches = golden.criterion.match(*inputs, truth, random=random)
        losses = golden.criterion.losses(*inputs, truth, matches=matches, random=random)
        for ours, theirs, source in [
            ("cls", "ce", logits),
            ("mask", "mask", masks),
            ("dice", "dice", masks),
        ]:
            recorded = golden.tensor(f"out_loss_vita_{theirs}{suffix.replace('_aux', '_')}")
            torch.testing.assert_close(losses[ours], recorded, **CLOSE)
            name = f"grad_loss_vita_{theirs}__pred_{'logits' if ours == 'cls' else 'masks'}"
            if suffix == "" and name in golden.data:
                (gradient,) = torch.autograd.grad(losses[ours], source, retain_graph=True)
                torch.testing.assert_close(gradient, golden.tensor(name), **CLOSE)


def test_layers_together_agree_with_the_recorded(golden: Golden) -> None:
    suffixes = [*golden.aux, ""]
    per_layer = [golden.layer(suffix) for suffix in suffixes]
    # Each layer has maps of its own here; one map source per video serves them side by side.
    maps = [
        given_maps(torch.cat([masks.flatten(0, 1)[b] for _, masks, _ in per_layer]))
        for b in range(golden.rows)
    ]
    embeds = torch.eye(len(suffixes) * golden.meta["N"]).unflatten(0, (len(suffixes), -1))
    matches = [
        [
            Match(golden.tensor(f"match_src{s}_{b}"), golden.tensor(f"match_tgt{s}_{b}"))
            for b in range(golden.rows)
        ]
        for s in suffixes
    ]
    random = golden.loss_random(suffixes)
    losses = golden.criterion.losses(
        torch.stack([logits.flatten(0, 1) for logits, _, _ in per_layer]),
        embeds.expand(golden.rows, -1, -1, -1),
        Supervision(maps, golden.targets),
        matches=matches,
        random=random,
    )
    assert not random.recorded
    for ours, theirs in [("cls", "ce"), ("mask", "mask"), ("dice", "dice")]:
        names = [f"out_loss_vita_{theirs}{s.replace('_aux', '_')}" for s in suffixes]
        expected = sum(float(golden.data[name]) for name in names)
        assert losses[ours].item() == pytest.approx(expected, rel=1e-5)


def test_weighted_sum_over_layers_agrees_with_the_recorded(golden: Golden) -> None:
    """With each layer's own points, and the similarity where it was recorded."""
    meta, data = golden.meta, golden.data
    similarity = None
    if meta["sim"]:
        matches = [
            Match(golden.tensor(f"frame_src_{level}_{f}"), golden.tensor(f"frame_tgt_{level}_{f}"))
            for level in range(meta["L"])
            for f in range(meta["B"] * meta["T"])
        ]
        ids = [golden.tensor(f"frame_ids_{f}") for f in range(meta["B"] * meta["T"])]
        similarity = Similarity(
            golden.tensor("pred_fq_embed").flatten(0, 1),
            matches,
            ids * meta["L"],
            golden.tensor("pred_cq_embed").flatten(0, 1),
            [golden.tensor(f"tgt{b}_ids").amax(1) for b in range(meta["B"])] * meta["L"],
        )
    criterion = SetCriterion(Softmax(meta["K"], meta["eos_coef"]), num_points=meta["num_points"])
    found: dict[str, float] = defaultdict(float)
    for suffix in [*golden.aux, ""]:
        logits, _, maps = golden.layer(suffix)
        random = golden.random(suffix)
        truth = Supervision(maps, golden.targets)
        layers = [(logits.flatten(0, 1), golden.embeds)]
        losses, matched = criterion.compare(layers, truth, random=random)
        if similarity is not None and suffix == "":
            losses["loss_sim"] = 0.5 * similarity_loss(similarity, matched)
        assert not random.recorded
        for name, loss in losses.items():
            found[name] += loss.item()
    for ours, theirs in [("cls", "ce"), ("mask", "mask"), ("dice", "dice")]:
        names = [f"out_loss_vita_{theirs}{s.replace('_aux', '_')}" for s in [*golden.aux, ""]]
        expected = meta["weight_dict"][f"loss_vita_{theirs}"] * sum(float(data[n]) for n in names)
        assert found[f"loss_{ours}"] == pytest.approx(expected, rel=1e-5)
    if meta["sim"]:
        expected = meta["weight_dict"]["loss_vita_sim"] * float(data["out_loss_vita_sim"])
        assert found["loss_sim"] == pytest.approx(expected, rel=1e-5)


def disc(size: int, x: float, y: float, radius: float) -> torch.Tensor:
    """(size, size) uint8, centre and radius in fractions."""
    grid = (torch.arange(size) + 0.5) / size
    return ((grid[None] - x) ** 2 + (grid[:, None] - y) ** 2 < radius**2).to(torch.uint8)


def losses_of(
    loss: SetCriterion,
    layers: Sequence[tuple],
    maps: Sequence[MaskFeatures],
    targets: Sequence[Targets],
    **known,
) -> dict[str, torch.Tensor]:
    return loss.compare(layers, Supervision(maps, targets), **known)[0]


def small_batch(
    num_targets: list[int], *, size: int = 16
) -> tuple[list, list[MaskFeatures], list[Targets]]:
    torch.manual_seed(0)
    layers = [(torch.randn(len(num_targets), 5), torch.randn(len(num_targets), 5, 3))]
    maps, targets = [], []
    for b, count in enumerate(num_targets):
        frames = 2 + b
        maps.append(given_maps(torch.randn(3, frames, 6 + b, 8)))
        masks = [
            disc(size + b, 0.2 + 0.2 * m, 0.5, 0.2).expand(frames, -1, -1) for m in range(count)
        ]
        targets.append(
            Targets(
                torch.stack(masks) if masks else torch.zeros(0, frames, size, size).byte(),
                torch.zeros(count, dtype=torch.int64),
                extent=(1.0, 1.0 - 0.1 * b),
            )
        )
    return layers, maps, targets


def test_videos_of_different_sizes_and_target_counts_share_a_batch() -> None:
    layers, maps, targets = small_batch([2, 0, 7])  # 7 targets for 5 queries
    for _, embeds in layers:
        embeds.requires_grad_()
    losses, matches = SetCriterion(Binary(), num_points=32).compare(
        layers, Supervision(maps, targets)
    )
    sum(losses.values()).backward()
    assert all(torch.isfinite(value) for value in losses.values())
    assert torch.isfinite(layers[0][1].grad).all() and layers[0][1].grad[2].abs().sum() > 0
    assert [len(match.queries) for match in matches] == [2, 0, 5]


def test_without_any_target_only_the_class_term_remains() -> None:
    layers, maps, targets = small_batch([0, 0])
    layers[0][0].requires_grad_()
    layers[0][1].requires_grad_()
    losses = losses_of(SetCriterion(Binary(), num_points=8), layers, maps, targets)
    sum(losses.values()).backward()
    assert losses["loss_mask"] == 0 and losses["loss_dice"] == 0 and losses["loss_cls"] > 0
    assert (layers[0][0].grad > 0).all()  # every score is pushed down
    assert torch.equal(layers[0][1].grad, torch.zeros_like(layers[0][1]))


def test_binary_loss_is_the_weighted_mean_over_all_queries() -> None:
    logits = torch.tensor([[[2.0, -1.0, 0.5]]])
    matches = [[Match(torch.tensor([0]), torch.tensor([0]))]]
    own = Binary(no_object_weight=0.1).losses(logits, [torch.zeros(1).long()], matches)
    total, weight = class_sums(*own, "mean")
    log1pexp = torch.nn.functional.softplus
    expected = (log1pexp(torch.tensor(-2.0)) + 0.1 * (log1pexp(logits[0, 0, 1:])).sum()) / 1.2
    torch.testing.assert_close(total / weight, expected[None])


def test_predictions_that_are_not_numbers_end_in_one_sentence() -> None:
    layers, maps, targets = small_batch([1])
    maps[0].stored["values"][0, 0, 0, 0] = float("nan")
    with pytest.raises(Diverged, match="no longer finite"):
        losses_of(SetCriterion(Binary(), num_points=64), layers, maps, targets)


def test_targets_at_original_size_equal_targets_drawn_on_the_padded_image() -> None:
    # original 40x40, resized to 20x20, padded to 32x24 (height, width)
    original = disc(40, 0.5, 0.5, 0.4)[None]
    resized = torch.nn.functional.interpolate(
        original[None].float(), (20, 20), mode="bilinear", align_corners=False
    )[0]
    padded = torch.nn.functional.pad(resized, (0, 4, 0, 12))
    points = torch.rand(1, 4000, 2)
    stack = TargetStack([Targets(original[None], torch.zeros(1).long(), (20 / 24, 20 / 32))])
    ours = stack.own(torch.tensor([0]), points[None])[0]
    theirs = sample(padded[:, None], points)[:, 0]
    outside = (points[0, :, 0] > 21 / 24) | (points[0, :, 1] > 21 / 32)
    assert (ours[0, outside] == 0).all()
    assert (ours - theirs).abs().mean() < 0.02  # they differ on the disc's edge only
    assert ((ours > 0.5) != (theirs > 0.5)).float().mean() < 0.01


def test_most_loss_points_lie_where_the_prediction_is_uncertain() -> None:
    ramp = torch.linspace(-8, 8, 32).expand(1, 32, 32)  # zero at x = 0.5
    points = uncertain_points(ramp, 100, uniform_points("cpu"), samples=[0])
    assert points.shape == (1, 100, 2)
    near = (points[0, :75, 0] - 0.5).abs()
    assert near.max() < 0.25 < (points[0, 75:, 0] - 0.5).abs().max()


def decoded(num_layers: int, batch: int, *, seed: int = 0) -> list[tuple]:
    """Logits (B, 5) and embeddings (B, 5, 3) of each layer, to take gradients of."""
    random = torch.Generator().manual_seed(seed)
    return [
        tuple(
            torch.randn(*shape, generator=random).requires_grad_()
            for shape in [(batch, 5), (batch, 5, 3)]
        )
        for _ in range(num_layers)
    ]


def gradients(losses: dict[str, torch.Tensor], layers: list[tuple]) -> list[torch.Tensor]:
    return torch.autograd.grad(sum(losses.values()), [own for layer in layers for own in layer])


def constant_points(samples: Sequence[int], points: int) -> torch.Tensor:
    """The same for each row of a sample and each call, so that the order of calls is free."""
    random = [torch.Generator().manual_seed(1000 * b + points) for b in samples]
    return torch.stack([torch.rand(points, 2, generator=own) for own in random])


@pytest.mark.parametrize("points", [12, 60])  # few and many for these maps
@pytest.mark.parametrize("classification", [Binary(), Softmax(4)], ids=["binary", "softmax"])
def test_a_batch_gives_what_its_samples_and_layers_give_one_by_one(
    points: int, classification: Binary | Softmax, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, maps, targets = small_batch([2, 0, 7, 1])
    # The same maps again, so that some samples share a group and others do not, and some share one
    # on a GPU alone.
    taller = [replace(own, masks=own.masks.repeat_interleave(2, dim=2)) for own in targets[1:]]
    maps, targets = maps + maps[::-1], targets + taller[::-1] + targets[:1]
    layers = decoded(3, len(maps))
    if isinstance(classification, Softmax):
        layers = [
            (logits[..., None] * torch.linspace(-1, 1, 5), embeds) for logits, embeds in layers
        ]
        for own in targets:
            own.labels = torch.arange(len(own.labels)) % 4
    loss = SetCriterion(classification, num_points=points)
    together = losses_of(loss, layers, maps, targets, random=constant_points)
    found = gradients(together, layers)
    if isinstance(classification, Binary):
        plain = plain_losses(loss, layers, maps, targets, random=constant_points)
        torch.testing.assert_close(together, plain)
        torch.testing.assert_close(found, gradients(plain, layers), rtol=1e-4, atol=1e-6)
    with monkeypatch.context() as on_a_gpu:
        on_a_gpu.setattr(supervision, "on_cpu", lambda tensor: False)
        on_a_gpu.setattr(tables, "LOGITS", 200)  # several blocks
        there = losses_of(loss, layers, maps, targets, random=constant_points)
        torch.testing.assert_close(there, together)
        torch.testing.assert_close(gradients(there, layers), found, rtol=1e-4, atol=1e-6)
    for module, name, value in [  # everything is large: layer by layer, sample by sample
        (supervision, "AT_ONCE", {True: 1}),
        (supervision, "SMALL", 0),
        (stack, "SMALL", 0),
        (stack, "AT_ONCE", 1),
    ]:
        monkeypatch.setattr(module, name, value)
    totals: list[torch.Tensor] = []
    one_by_one = losses_of(
        loss,
        layers,
        maps,
        targets,
        random=constant_points,
        average=lambda own: totals.append(own) or own,
    )
    torch.testing.assert_close(one_by_one, together)
    alone = [
        losses_of(
            loss,
            [(logits[b : b + 1], embeds[b : b + 1]) for logits, embeds in layers],
            [maps[b]],
            [targets[b]],
            random=lambda samples, points, b=b: constant_points([b] * len(samples), points),
            average=lambda own: totals[0],
        )
        for b in range(len(maps))
    ]
    added = {name: sum(losses[name] for losses in alone) for name in together}
    torch.testing.assert_close(added, together)
    expected = gradients(added, layers)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert min(gradient.abs().max() for gradient in found) > 0


def test_halves_that_share_their_counts_average_to_the_whole_batch() -> None:
    _, maps, targets = small_batch([3, 0, 1, 0, 0])
    layers, seeds, loss = decoded(2, 5), [7, 8, 9, 10, 11], SetCriterion(Binary(), num_points=16)
    whole = losses_of(loss, layers, maps, targets, random=sample_points(seeds, "cpu"))
    halves = [slice(0, 2), slice(2, 5)]
    counts: list[torch.Tensor] = []

    def half(rows: slice, average: Callable[[torch.Tensor], torch.Tensor]) -> dict:
        return losses_of(
            loss,
            [(logits[rows], embeds[rows]) for logits, embeds in layers],
            maps[rows],
            targets[rows],
            random=sample_points(seeds[rows], "cpu"),
            average=average,
        )

    for rows in halves:
        half(rows, lambda own: counts.append(own) or own)
    assert [len(own) for own in counts] == [3, 3]  # once for all layers
    parts = [half(rows, lambda _: (counts[0] + counts[1]) / 2) for rows in halves]
    mean = {name: (parts[0][name] + parts[1][name]) / 2 for name in whole}
    torch.testing.assert_close(mean, whole)
    torch.testing.assert_close(gradients(mean, layers), gradients(whole, layers))


def test_a_sample_draws_the_same_points_whatever_else_is_in_the_batch() -> None:
    several, alone = sample_points([3, 4, 5], "cpu"), sample_points([4], "cpu")
    for _ in range(2):  # calls go on in each sample's numbers
        drawn = several([0, 0, 1, 1, 1, 2], 6)
        assert torch.equal(drawn[2:5], alone([0, 0, 0], 6))
        assert not torch.equal(drawn[0], drawn[2])
    assert drawn.min() >= 0 and drawn.max() < 1


def test_mask_features_in_training_get_gradients() -> None:
    layers, _, targets = small_batch([1])
    values = torch.randn(2, 3, 16, 16, requires_grad=True)  # (T, C, h, w)
    losses = losses_of(
        SetCriterion(Binary(), num_points=8),
        layers,
        [MaskFeatures({"values": values}, EXACT)],
        targets,
    )
    losses["loss_mask"].backward()
    assert values.grad.abs().sum() > 0


def test_similarity_of_nothing_is_zero() -> None:
    none = Match(torch.zeros(0).long(), torch.zeros(0).long())
    ids = none.targets
    empty = Similarity(
        torch.zeros(1, 2, 3, 4), [none, none], [ids, ids], torch.zeros(1, 3, 4), [ids]
    )
    assert similarity_loss(empty, [none]) == 0
