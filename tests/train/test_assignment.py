"""Queries and targets by overlap: who is positive, how much it counts, and what the log says."""

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from cache_schema.codecs import get_codec
from cache_schema.host import cli
from cache_schema.host.cli import InputError
from tests.synthetic import write_cache
from tests.train.plain_loss import at_points, true_at_points
from train.__main__ import main
from train.heads import HeadOutput
from train.losses import HeadCriterion, SelectionCriterion, Supervision, Targets, sample_points
from train.losses.assignment import by_overlap, own_matches, own_overlaps
from train.losses.criterion import point_bce, point_dice
from train.masks import supervision
from train.masks.logits import MaskFeatures, mask_logits
from train.masks.supervision import Match

EXACT = get_codec("float32")
#: IoU of four video queries with two targets: two have the first, one the second, one none.
OVERLAPS = torch.tensor([[0.9, 0.0], [0.6, 0.2], [0.1, 0.7], [0.3, 0.4]])
#: No object with probability 0, 3/4, 1/2, 0.
LOGITS = torch.tensor([[9.0, -99.0], [0.0, 1.0986123], [0.0, 0.0], [9.0, -99.0]])
WEIGHTS = [1.0, 0.25, 0.5, 1.0]


@dataclass
class World:
    """What a criterion reads of a batch: B equal samples, the last ones without a target."""

    targets: int = 1
    without: int = 1
    overlaps: list = field(default_factory=list)

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        count = self.targets + self.without
        masks = (torch.rand(2, 3, 12, 16) > 0.5).byte()  # (M, T, H, W)
        own, none = OVERLAPS, OVERLAPS[:, :0]
        self.overlaps = [own] * self.targets + [none] * self.without
        self.features = [MaskFeatures({"values": torch.randn(3, 4, 6, 8)}, EXACT)] * count
        rows = [masks] * self.targets + [masks[:0]] * self.without
        self.masks = [Targets(own, torch.zeros(len(own), dtype=torch.int64)) for own in rows]
        self.supervision = Supervision(self.features, self.masks)
        self.inputs = SimpleNamespace(video_logits=LOGITS.expand(count, -1, -1))

    def outputs(self, layers: int = 2, draws: bool = True) -> list[HeadOutput]:
        """Of a head whose motion queries are the video queries in another order."""
        count = len(self.masks)
        order = torch.tensor([2, 0, 3, 1]).expand(count, -1)
        return [
            HeadOutput(
                torch.randn(count, 4, requires_grad=True),
                torch.randn(count, 4, 4, requires_grad=True) if draws else None,
                order,
            )
            for _ in range(layers)
        ]


def points_of(world: World):
    return sample_points(range(len(world.masks)), "cpu")


def test_overlaps_follow_the_motion_queries_to_their_sources() -> None:
    own = own_overlaps([OVERLAPS, OVERLAPS[:, :1]], torch.tensor([[3, 0], [1, 1]]))
    assert torch.equal(own[0], OVERLAPS[[3, 0]])
    assert torch.equal(own[1], torch.tensor([[0.6, 0.0], [0.6, 0.0]]))  # it has no second target
    assert own_overlaps([], torch.zeros(1, 2).long()) is None
    assert own_overlaps([OVERLAPS], None) is None


def test_every_query_whose_own_mask_is_a_target_s_has_that_target() -> None:
    weights = torch.tensor([WEIGHTS])
    (match,) = by_overlap(OVERLAPS[None], weights, 0.5)
    assert match.queries.tolist() == [0, 1, 2] and match.targets.tolist() == [0, 0, 1]
    assert match.weights.tolist() == WEIGHTS[:3]
    (match,) = by_overlap(OVERLAPS[None], weights, 0.95)  # the best of each
    assert match.queries.tolist() == [0, 2] and match.targets.tolist() == [0, 1]
    (match,) = by_overlap(OVERLAPS[None] * 0.25, weights, 0.95)  # too little to be anything's
    assert match.queries.tolist() == [0] and match.targets.tolist() == [0]
    (match,) = by_overlap(OVERLAPS[None], weights, 0.35)  # the better of its two targets
    assert match.queries.tolist() == [0, 1, 2, 3] and match.targets.tolist() == [0, 0, 1, 1]
    (match,) = by_overlap(OVERLAPS[None, :, :0], weights, 0.5)
    assert len(match.queries) == len(match.targets) == len(match.weights) == 0


def test_terms_by_overlap_are_weighted_means_over_all_positives() -> None:
    world = World()
    outputs = world.outputs(layers=1)
    criterion = HeadCriterion(
        assignment="overlap", num_points=500, importance_ratio=0.0, no_object_weight=0.5
    )
    terms = criterion.terms(outputs, world, random=points_of(world))
    logits = outputs[0].logits
    # Motion queries 0, 1 and 3 are video queries 2, 0 and 1.
    meant = torch.tensor([[1.0, 1.0, 0.0, 1.0], [0.0] * 4])
    weight = torch.tensor([[0.5, 1.0, 0.5, 0.25], [0.5] * 4])
    wrong = F.binary_cross_entropy_with_logits(logits, meant, weight, reduction="sum")
    torch.testing.assert_close(terms["loss_cls"], 2.0 * wrong / weight.sum())
    assert "own_matches" not in terms  # nothing was matched
    # The same masks at the same points, one after the other.
    random = points_of(world)
    random([0] * 9, 1500)
    points = random([0] * 9, 500).unflatten(0, (3, 3))
    maps = mask_logits(world.features[0].stored, outputs[0].mask_embeds[0], codec=EXACT)
    predicted = at_points(maps.transpose(0, 1)[[0, 1, 3]], points)
    true = true_at_points(world.masks[0], points, torch.tensor([1, 0, 0]))
    share = torch.tensor([0.5, 1.0, 0.25])
    for name, values in (("mask", point_bce), ("dice", point_dice)):
        expected = 5.0 * (share * values(predicted, true)).sum() / share.sum()
        torch.testing.assert_close(terms[f"loss_{name}"], expected)
    sum(terms.values()).backward()
    assert outputs[0].mask_embeds.grad[0, 2].abs().sum() == 0  # no positive
    assert (outputs[0].mask_embeds.grad[0, [0, 1, 3]].abs().sum(dim=1) > 0).all()


@pytest.mark.parametrize("assignment", ["hungarian", "overlap"])
def test_several_heads_at_once_give_what_each_gives_alone(
    assignment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "on_cpu", lambda tensor: False)
    world = World(targets=2, without=1)
    heads = [world.outputs() for _ in range(2)]
    criterion = HeadCriterion(assignment=assignment, num_points=16)
    together = criterion.terms_of(heads, world, random=sample_points([0, 1, 2] * 2, "cpu"))
    for k, outputs in enumerate(heads):
        alone = criterion.terms(outputs, world, random=points_of(world))
        assert alone.keys() == together.keys()
        for name, value in alone.items():
            torch.testing.assert_close(together[name][k], value)


@pytest.mark.parametrize("assignment", ["hungarian", "overlap"])
def test_without_a_positive_only_the_class_term_remains(assignment: str) -> None:
    world = World(targets=1, without=1)
    world.overlaps[0] = torch.zeros(4, 2)
    if assignment == "hungarian":
        world = World(targets=0, without=2)
    outputs = world.outputs()
    criterion = HeadCriterion(assignment=assignment, num_points=8, no_object_weight=1.0)
    terms = criterion.terms(outputs, world, random=points_of(world))
    assert terms["loss_mask"] == 0 and terms["loss_dice"] == 0
    if assignment == "hungarian":
        assert terms.pop("own_matches").isnan()
    sum(terms.values()).backward()
    assert (outputs[0].logits.grad > 0).all()


def test_what_cannot_go_by_overlap_says_so() -> None:
    world = World()
    outputs = world.outputs()
    world.overlaps = []
    for criterion in (HeadCriterion(assignment="overlap", num_points=8), SelectionCriterion()):
        with pytest.raises(InputError, match="extract it again"):
            criterion.terms(outputs, world, random=points_of(world))
    for output in outputs:
        output.sources = None
    with pytest.raises(InputError, match="model.initialisation='video'"):
        HeadCriterion(assignment="overlap").terms(outputs, world, random=points_of(world))


def test_own_matches_are_those_with_the_query_that_overlaps_most() -> None:
    own = torch.stack([OVERLAPS, OVERLAPS])
    own[1, :, 1] = 0.0  # nothing has it: it cannot be matched rightly and does not count
    index = torch.tensor
    right = Match(index([0, 2]), index([0, 1]))
    wrong = Match(index([1, 2]), index([0, 1]))
    assert own_matches(own[:1], [right]) == 1.0
    assert own_matches(own[:1], [wrong]) == 0.5
    assert own_matches(own, [wrong, right]).item() == pytest.approx(2 / 3)


def test_own_matches_are_logged_and_change_nothing() -> None:
    world = World(targets=2)
    outputs = world.outputs()
    terms = HeadCriterion(num_points=16).terms(outputs, world, random=points_of(world))
    assert 0 <= terms["own_matches"] <= 1 and not terms["own_matches"].requires_grad
    world.overlaps = []
    plain = HeadCriterion(num_points=16).terms(outputs, world, random=points_of(world))
    assert "own_matches" not in plain
    assert all(torch.equal(terms[name], value) for name, value in plain.items())


def test_the_class_term_per_sample_is_the_mean_of_what_samples_give_alone() -> None:
    world = World(targets=1, without=1)
    outputs = world.outputs()
    alone = []
    for b in range(2):
        own = World(targets=1 - b, without=b)
        one = [
            HeadOutput(o.logits[b : b + 1], o.mask_embeds[b : b + 1], o.sources[b : b + 1])
            for o in outputs
        ]
        criterion = HeadCriterion(num_points=16)
        random = sample_points([b], "cpu")
        alone.append(criterion.terms(one, own, random=random)["loss_cls"])
    whole = {
        kind: HeadCriterion(num_points=16, class_term=kind).terms(
            outputs, world, random=points_of(world)
        )
        for kind in ("mean", "per_sample")
    }
    torch.testing.assert_close(whole["per_sample"]["loss_cls"], sum(alone) / 2)
    assert abs(whole["mean"]["loss_cls"] - sum(alone) / 2) > 1e-3
    for name in ("loss_mask", "loss_dice"):
        assert torch.equal(whole["mean"][name], whole["per_sample"][name])


def test_selection_is_cross_entropy_weighted_by_objectness_and_a_margin() -> None:
    world = World()
    outputs = world.outputs(draws=False)
    terms = SelectionCriterion(margin_weight=3.0).terms(outputs, world)
    meant = torch.tensor([[1.0, 1.0, 0.0, 1.0], [0.0] * 4])
    scores = torch.tensor([WEIGHTS] * 2)[:, [2, 0, 3, 1]]
    weight = torch.where(meant > 0, scores, 1.0)
    wrong = margin = 0.0
    for output in outputs:
        wrong = wrong + F.binary_cross_entropy_with_logits(
            output.logits, meant, weight, reduction="sum"
        )
        for ours, share in ((0, 0.5), (1, 1.0), (3, 0.25)):  # against the one look-alike
            ahead = output.logits[0, ours] - output.logits[0, 2]
            margin = margin + share * F.softplus(1.0 - ahead)
    torch.testing.assert_close(terms["loss_cls"], wrong / weight.sum())
    torch.testing.assert_close(terms["loss_margin"], 3.0 * margin / 1.75)
    assert SelectionCriterion().terms(outputs, world).keys() == {"loss_cls"}


@pytest.mark.parametrize("kind", ["mean", "per_sample"])
def test_selection_in_halves_averages_to_the_whole(kind: str) -> None:
    world, parts = World(targets=1, without=1), [World(1, 0), World(0, 1)]
    outputs = world.outputs(draws=False)
    criterion = SelectionCriterion(margin_weight=1.0, class_term=kind)
    halves = [
        [HeadOutput(o.logits[b : b + 1], None, o.sources[b : b + 1]) for o in outputs]
        for b in range(2)
    ]
    counts: list[torch.Tensor] = []
    for half, own in zip(halves, parts, strict=True):
        criterion.terms(half, own, average=lambda own: counts.append(own) or own)
    mean = (counts[0] + counts[1]) / 2
    found = [
        criterion.terms(half, own, average=lambda _: mean)
        for half, own in zip(halves, parts, strict=True)
    ]
    for name, value in criterion.terms(outputs, world).items():
        torch.testing.assert_close((found[0][name] + found[1][name]) / 2, value)


CONFIG = """
model = dict(hidden_dim=16, num_motion_queries=4, num_layers=2, num_heads=2, feedforward_dim=32)
loss = dict(num_points=32)
optimizer = dict(lr=1e-3, lr_batch_size=4, clip_norm=1.0)
train = dict(max_iters=2, batch_size=4, log_interval=1)
data = dict(num_workers=0)
"""


@pytest.mark.parametrize("assignment", ["hungarian", "overlap"])
def test_training_logs_own_matches_where_something_is_matched(
    assignment: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cache(tmp_path / "cache", num_frames=[6, 4])
    (tmp_path / "small.py").write_text(CONFIG)
    command = [str(tmp_path / "small.py"), "--cache", str(tmp_path / "cache"), "--device", "cpu"]
    options = ["--cfg-options", f"loss.assignment={assignment}", "loss.class_term=per_sample"]
    assert main([*command, "--work-dir", str(tmp_path / "run"), *options]) == 0
    assert ("own_matches:" in capsys.readouterr().out) == (assignment == "hungarian")
    assert cli.run(main, [*command, "--work-dir", str(tmp_path / "other"),
                          "--cfg-options", "loss.assignment=overlaps"]) == 2  # fmt: skip
    assert "loss.assignment is 'overlaps'; choose one of" in capsys.readouterr().err


def test_a_cache_without_overlaps_ends_training_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = Path(__file__).parents[1] / "data" / "cache_v2" / "float16"
    (tmp_path / "small.py").write_text(CONFIG)
    command = [str(tmp_path / "small.py"), "--cache", str(old), "--work-dir", str(tmp_path / "run")]
    command += ["--device", "cpu", "--cfg-options", "data.clip_source=video"]
    assert cli.run(main, [*command, "loss.assignment=overlap"]) == 2
    said = capsys.readouterr().err
    assert "loss.assignment is 'overlap'" in said and "extract it again" in said
    assert said.count("\n") == 1
