"""Losses: agreement with recorded values and gradients of VITA's criterion, and edge cases."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from train.losses import Binary, Diverged, SetCriterion, Softmax, Targets, VITACriterion
from train.losses.points import sample, sample_targets, uncertain_points, uniform_points
from train.losses.vita import Similarity, similarity_loss

FOLDERS = [Path(__file__).parents[1] / "data" / "goldens_loss"]
if os.environ.get("DMVS_GOLDENS"):
    FOLDERS.append(Path(os.environ["DMVS_GOLDENS"]))
GOLDENS = [path for folder in FOLDERS for path in sorted(folder.glob("loss__*.npz"))]
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


class Maps:
    """Mask maps given outright: the embedding of query n is the n-th unit vector."""

    def __init__(self, maps: torch.Tensor) -> None:
        self.maps = maps  # (N, T, h, w)

    @property
    def shape(self) -> tuple[int, int, int]:
        return tuple(self.maps.shape[1:])

    def logits(self, embeds: torch.Tensor) -> torch.Tensor:
        return (embeds @ self.maps.flatten(1)).unflatten(1, self.shape)

    def at(self, embeds: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        return sample(self.logits(embeds).flatten(0, 1), points).view(len(embeds), -1)


class Replay:
    """Gives out recorded random numbers in order and checks the sizes asked for."""

    def __init__(self, *recorded: np.ndarray) -> None:
        self.recorded = [torch.from_numpy(part) for part in recorded]

    def __call__(self, rows: int, points: int) -> torch.Tensor:
        part = self.recorded.pop(0)
        assert part.shape == (rows, points, 2)
        return part


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

    def layer(self, suffix: str) -> tuple[torch.Tensor, torch.Tensor, list[Maps]]:
        logits = self.tensor(f"pred_logits{suffix}").requires_grad_()
        masks = self.tensor(f"pred_masks{suffix}").requires_grad_()
        return logits, masks, [Maps(one) for one in masks.flatten(0, 1)]

    def matcher_random(self, suffix: str) -> np.ndarray:
        return np.concatenate([self.data[f"matcher_rand{suffix}_{b}"] for b in range(self.rows)])

    def loss_random(self, suffix: str) -> list[np.ndarray]:
        return [self.data[f"loss_rand_{kind}{suffix}"] for kind in ("over", "extra")]


@pytest.fixture(params=GOLDENS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden(request.param)


def test_goldens_are_there() -> None:
    assert len(GOLDENS) >= 4


def test_costs_and_matches_agree_with_the_recorded(golden: Golden) -> None:
    for suffix in ["", *golden.aux]:
        logits, _, maps = golden.layer(suffix)
        points = torch.from_numpy(golden.matcher_random(suffix))
        for b, own in enumerate(golden.targets):
            cost = golden.criterion.cost(
                logits.flatten(0, 1)[b],
                maps[b].at(torch.eye(len(maps[b].maps)), points[b : b + 1]),
                own,
                points=points[b : b + 1],
            )
            torch.testing.assert_close(cost, golden.tensor(f"cost_C{suffix}_{b}"), **CLOSE)
        matches = golden.criterion.match(
            logits.flatten(0, 1),
            golden.embeds,
            maps,
            golden.targets,
            random=Replay(points.numpy()),
        )
        for b, (queries, own) in enumerate(matches):
            assert torch.equal(queries, golden.tensor(f"match_src{suffix}_{b}"))
            assert torch.equal(own, golden.tensor(f"match_tgt{suffix}_{b}"))


def test_losses_and_gradients_agree_with_the_recorded(golden: Golden) -> None:
    for suffix in ["", *golden.aux]:
        logits, masks, maps = golden.layer(suffix)
        flat = logits.flatten(0, 1)
        random = Replay(golden.matcher_random(suffix), *golden.loss_random(suffix))
        matches = golden.criterion.match(flat, golden.embeds, maps, golden.targets, random=random)
        losses = golden.criterion.losses(
            flat, golden.embeds, maps, golden.targets, matches=matches, random=random
        )
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


def test_weighted_sum_over_layers_agrees_with_the_recorded(golden: Golden) -> None:
    """`VITACriterion` called as in training: all layers at once, similarity where recorded."""
    meta, data = golden.meta, golden.data
    # Each layer has maps of its own here; one map source per video serves them side by side.
    suffixes = [*golden.aux, ""]
    per_layer = [golden.layer(suffix) for suffix in suffixes]
    maps = [Maps(torch.cat([layer[2][b].maps for layer in per_layer])) for b in range(golden.rows)]
    count = meta["N"]
    eye = torch.eye(count * len(suffixes))
    layers = [
        (logits.flatten(0, 1), eye[i * count : (i + 1) * count].expand(golden.rows, -1, -1))
        for i, (logits, _, _) in enumerate(per_layer)
    ]
    random = Replay(
        *(part for s in suffixes for part in (golden.matcher_random(s), *golden.loss_random(s)))
    )
    similarity = None
    if meta["sim"]:
        matches = [
            (golden.tensor(f"frame_src_{level}_{f}"), golden.tensor(f"frame_tgt_{level}_{f}"))
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
    criterion = VITACriterion(meta["K"], meta["num_points"], meta["eos_coef"])
    losses = criterion(layers, maps, golden.targets, similarity=similarity, random=random)
    assert not random.recorded
    for ours, theirs in [("loss_cls", "ce"), ("loss_mask", "mask"), ("loss_dice", "dice")]:
        names = [f"out_loss_vita_{theirs}{s.replace('_aux', '_')}" for s in suffixes]
        weight = meta["weight_dict"][f"loss_vita_{theirs}"]
        expected = weight * sum(float(data[name]) for name in names)
        assert losses[ours].item() == pytest.approx(expected, rel=1e-5)
    if meta["sim"]:
        expected = meta["weight_dict"]["loss_vita_sim"] * float(data["out_loss_vita_sim"])
        assert losses["loss_sim"].item() == pytest.approx(expected, rel=1e-5)


def disc(size: int, x: float, y: float, radius: float) -> torch.Tensor:
    """(size, size) uint8, centre and radius in fractions."""
    grid = (torch.arange(size) + 0.5) / size
    return ((grid[None] - x) ** 2 + (grid[:, None] - y) ** 2 < radius**2).to(torch.uint8)


def small_batch(
    num_targets: list[int], *, size: int = 16
) -> tuple[list, list[Maps], list[Targets]]:
    torch.manual_seed(0)
    layers = [(torch.randn(len(num_targets), 5), torch.randn(len(num_targets), 5, 3))]
    maps, targets = [], []
    for b, count in enumerate(num_targets):
        frames = 2 + b
        maps.append(Maps(torch.randn(3, frames, 6 + b, 8)))
        masks = [
            disc(size + b, 0.2 + 0.2 * m, 0.5, 0.2).expand(frames, -1, -1) for m in range(count)
        ]
        targets.append(
            Targets(
                torch.stack(masks) if masks else torch.zeros(0, frames, size, size).byte(),
                torch.zeros(count, dtype=torch.int64),
            )
        )
    return layers, maps, targets


def test_videos_of_different_sizes_and_target_counts_share_a_batch() -> None:
    layers, maps, targets = small_batch([2, 0, 7])  # 7 targets for 5 queries
    for _, embeds in layers:
        embeds.requires_grad_()
    criterion = SetCriterion(Binary(), num_points=32)
    losses = criterion(layers, maps, targets)
    sum(losses.values()).backward()
    assert all(torch.isfinite(value) for value in losses.values())
    assert torch.isfinite(layers[0][1].grad).all() and layers[0][1].grad[2].abs().sum() > 0
    matches = criterion.match(*layers[0], maps, targets, random=uniform_points("cpu"))
    assert [len(queries) for queries, _ in matches] == [2, 0, 5]


def test_without_any_target_only_the_class_term_remains() -> None:
    layers, maps, targets = small_batch([0, 0])
    layers[0][0].requires_grad_()
    layers[0][1].requires_grad_()
    losses = SetCriterion(Binary(), num_points=8)(layers, maps, targets)
    sum(losses.values()).backward()
    assert losses["loss_mask"] == 0 and losses["loss_dice"] == 0 and losses["loss_cls"] > 0
    assert (layers[0][0].grad > 0).all()  # every score is pushed down
    assert torch.equal(layers[0][1].grad, torch.zeros_like(layers[0][1]))


def test_binary_loss_is_the_weighted_mean_over_all_queries() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5]])
    matches = [(torch.tensor([0]), torch.tensor([0]))]
    loss = Binary(no_object_weight=0.1).loss(logits, [torch.zeros(1).long()], matches)
    log1pexp = torch.nn.functional.softplus
    expected = (log1pexp(torch.tensor(-2.0)) + 0.1 * (log1pexp(logits[0, 1:])).sum()) / 1.2
    torch.testing.assert_close(loss, expected)


def test_predictions_that_are_not_numbers_end_in_one_sentence() -> None:
    layers, maps, targets = small_batch([1])
    maps[0].maps[0, 0, 0, 0] = float("nan")
    with pytest.raises(Diverged, match="no longer finite"):
        SetCriterion(Binary(), num_points=64)(layers, maps, targets)


def test_targets_at_original_size_equal_targets_drawn_on_the_padded_image() -> None:
    # original 40x40, resized to 20x20, padded to 32x24 (height, width)
    original = disc(40, 0.5, 0.5, 0.4)[None]
    resized = torch.nn.functional.interpolate(
        original[None].float(), (20, 20), mode="bilinear", align_corners=False
    )[0]
    padded = torch.nn.functional.pad(resized, (0, 4, 0, 12))
    points = torch.rand(1, 4000, 2)
    ours = sample_targets(original, points, torch.tensor([[[20 / 24, 20 / 32]]]))
    theirs = sample(padded, points)
    outside = (points[0, :, 0] > 21 / 24) | (points[0, :, 1] > 21 / 32)
    assert (ours[0, outside] == 0).all()
    assert (ours - theirs).abs().mean() < 0.02  # they differ on the disc's edge only
    assert ((ours > 0.5) != (theirs > 0.5)).float().mean() < 0.01


def test_most_loss_points_lie_where_the_prediction_is_uncertain() -> None:
    ramp = torch.linspace(-8, 8, 32).expand(1, 32, 32)  # zero at x = 0.5
    points = uncertain_points(ramp, 100, uniform_points("cpu"))
    assert points.shape == (1, 100, 2)
    near = (points[0, :75, 0] - 0.5).abs()
    assert near.max() < 0.25 < (points[0, 75:, 0] - 0.5).abs().max()


def test_similarity_of_nothing_is_zero() -> None:
    none = (torch.zeros(0).long(), torch.zeros(0).long())
    empty = Similarity(
        torch.zeros(1, 2, 3, 4), [none, none], [none[0]] * 2, torch.zeros(1, 3, 4), [none[0]]
    )
    assert similarity_loss(empty, [none]) == 0
