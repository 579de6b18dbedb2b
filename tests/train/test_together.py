"""Heads that take their steps together, as on a GPU: where each of them would have got alone."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cache_schema.reader import CacheReader
from tests.synthetic import write_cache
from tests.train.test_kernels import device_path  # noqa: F401
from train.config import load_config
from train.data import Batch
from train.losses import Diverged
from train.masks import supervision
from train.runner import Heads, build_dataset, build_loader
from train.together import Together, grouped, kind_of
from train.trainee import Member, Trainee

CONFIG = """
model = dict(hidden_dim=16, text_dim=24, mask_dim=16, num_motion_queries=4, num_layers=2,
             num_heads=2, feedforward_dim=32)
loss = dict(num_points=32)
optimizer = dict(lr=1e-3, lr_batch_size=3, clip_norm=1.0, ema_decay=0.9)
train = dict(max_iters=5, batch_size=4)
"""


@pytest.fixture(params=["float16", "lowrank-int8"])
def reader(request: pytest.FixtureRequest, tmp_path: Path) -> CacheReader:
    write_cache(tmp_path / "cache", num_frames=[6, 4], codec=request.param)
    (tmp_path / "small.py").write_text(CONFIG)
    return CacheReader(tmp_path / "cache")


def trainees(folder: Path, reader: CacheReader, **more: object) -> list[Trainee]:
    """Two heads that differ in their seed, and a third."""
    found = []
    for seed, encoder in ((0, "full"), (1, "full"), (2, "plain")):
        options = {"train.seed": seed, "data.seed": 0, "model.encoder": encoder, **more}
        member = Member("dmvs", seed, load_config(folder / "small.py", options))
        found.append(Trainee(member, [reader], folder, torch.device("cpu")))
    return found


def loaded(heads: list[Trainee], reader: CacheReader) -> Iterator[Batch]:
    configs = [head.member.config for head in heads]
    return iter(build_loader(configs[0], build_dataset(configs, [reader], "cpu")))


def far(one: Trainee, other: Trainee) -> float:
    """Between the weights of two heads and of their averages.

    A part of a step: Adam makes steps of full length of gradients that are rounding alone.
    """
    pairs = zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    return sum(float((a - b).square().sum()) for a, b in pairs) ** 0.5


@pytest.mark.parametrize("more", [{}, {"model.type": "trajectory"}])
def test_steps_together_end_where_steps_alone_end(
    reader: CacheReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict
) -> None:
    monkeypatch.setattr(supervision, "on_cpu", lambda tensor: False)
    alone, beside = trainees(tmp_path, reader, **more), trainees(tmp_path, reader, **more)
    assert len({kind_of(trainee.member.config) for trainee in alone}) == 1
    (together,) = grouped(beside[::-1])
    for iteration, batch in enumerate(loaded(alone, reader)):
        found = dict(together.step(batch, iteration))
        for ours, theirs in zip(beside, alone, strict=True):
            losses = theirs.step(batch, iteration)
            assert found[ours].keys() == losses.keys()
            for name, value in losses.items():
                torch.testing.assert_close(found[ours][name], value, rtol=1e-4, atol=1e-5)
    for ours, theirs, start in zip(beside, alone, trainees(tmp_path, reader, **more), strict=True):
        assert far(ours, theirs) < 0.05 * far(theirs, start)
        assert ours.optimizer.get_lr() == theirs.optimizer.get_lr()


def test_no_head_takes_a_step_when_one_has_diverged(
    reader: CacheReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "on_cpu", lambda tensor: False)
    heads = trainees(tmp_path, reader)
    with torch.no_grad():
        heads[1].model.head.class_head.weight.fill_(torch.nan)
    before = heads[0].model.head.class_head.weight.clone()
    with pytest.raises(Diverged):
        list(Together(heads).step(next(loaded(heads, reader)), 0))
    assert torch.equal(heads[0].model.head.class_head.weight, before)


def test_where_nothing_waits_the_others_go_on_without_one_that_has_diverged(
    reader: CacheReader,
    tmp_path: Path,
    device_path: pytest.MonkeyPatch,  # noqa: F811
) -> None:
    device_path.setattr(supervision, "on_cpu", lambda tensor: False)
    heads, sound = trainees(tmp_path, reader), trainees(tmp_path, reader)
    with torch.no_grad():
        for parameter in heads[1].model.head.parameters():
            parameter.fill_(torch.nan)
    ours, theirs = Heads(heads, together=True), Heads([sound[0], sound[2]], together=True)
    for iteration, batch in enumerate(loaded(heads, reader)):
        ours.train_step(batch, iteration)
        theirs.train_step(batch, iteration)
    assert [head.member.seed for head in ours.dropped] == [1]
    assert (tmp_path / heads[1].name / "dropped.json").is_file()
    for left, same in zip(ours.alive, theirs.alive, strict=True):
        start = trainees(tmp_path, reader)[left.member.seed]
        assert far(left, same) < 0.05 * far(same, start)


def test_heads_of_other_shapes_or_losses_are_of_other_kinds(
    reader: CacheReader, tmp_path: Path
) -> None:
    kinds = {
        kind_of(load_config(tmp_path / "small.py", options))
        for options in (
            {},
            {"model.num_motion_queries": 3},
            {"model.num_layers": 1},
            {"loss.num_points": 8},
            {"model.mask_start": "frames"},
            {"train.seed": 4, "model.encoder": "none"},
        )
    }
    assert len(kinds) == 5
    other = {"model.type": "trajectory", "loss.assignment": "hungarian"}
    assert kind_of(load_config(tmp_path / "small.py", other)) in kinds
    assert kind_of(load_config(tmp_path / "small.py", {"model.type": "dshmp"})) is None
    half = load_config(tmp_path / "small.py", {"train.autocast": "float16"})
    assert kind_of(half) is None
