"""Heads that take their steps together, as on a GPU: where each of them would have got alone."""

from pathlib import Path

import pytest
import torch

from cache_schema.reader import CacheReader
from tests.synthetic import write_cache
from train.config import load_config
from train.losses import Diverged
from train.masks import supervision
from train.runner import build_dataset, build_loader
from train.together import Together, kind_of
from train.trainee import Member, Trainee

CONFIG = """
model = dict(hidden_dim=16, text_dim=24, mask_dim=16, num_motion_queries=4, num_layers=2,
             num_heads=2, feedforward_dim=32, dropout=0.1)
loss = dict(num_points=32)
optimizer = dict(lr=1e-3, lr_batch_size=3, clip_norm=1.0, ema_decay=0.9)
train = dict(max_iters=5, batch_size=4)
"""


@pytest.fixture(params=["float16", "lowrank-int8"])
def reader(request: pytest.FixtureRequest, tmp_path: Path) -> CacheReader:
    write_cache(tmp_path / "cache", num_frames=[6, 4], codec=request.param)
    (tmp_path / "small.py").write_text(CONFIG)
    return CacheReader(tmp_path / "cache")


def trainees(folder: Path, reader: CacheReader) -> list[Trainee]:
    found = []
    for seed, encoder in ((0, "full"), (1, "full"), (2, "plain")):
        options = {"train.seed": seed, "data.seed": 0, "model.encoder": encoder}
        member = Member("dmvs", seed, load_config(folder / "small.py", options))
        found.append(Trainee(member, [reader], folder, torch.device("cpu")))
    return found


def weights(trainee: Trainee) -> torch.Tensor:
    """Those of the head and of their average, as one."""
    return torch.cat([value.flatten() for value in trainee.model.state_dict().values()])


def test_steps_together_end_where_steps_alone_end(
    reader: CacheReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "on_cpu", lambda tensor: False)
    alone, beside = trainees(tmp_path, reader), trainees(tmp_path, reader)
    assert len({kind_of(trainee.member.config) for trainee in alone}) == 1
    config = alone[0].member.config
    together = Together(beside)
    batches = build_loader(config, build_dataset([config], [reader], "cpu"))
    for iteration, batch in enumerate(batches):
        found = dict(together.step(batch, iteration))
        for ours, theirs in zip(beside, alone, strict=True):
            losses = theirs.step(batch, iteration)
            assert found[ours].keys() == losses.keys()
            for name, value in losses.items():
                torch.testing.assert_close(found[ours][name], value, rtol=1e-4, atol=1e-5)
    for ours, theirs, start in zip(beside, alone, trainees(tmp_path, reader), strict=True):
        moved = weights(theirs) - weights(start)
        # Adam makes steps of full length of gradients that are rounding alone.
        assert (weights(ours) - weights(theirs)).norm() < 0.05 * moved.norm()
        assert ours.optimizer.get_lr() == theirs.optimizer.get_lr()


def test_no_head_takes_a_step_when_one_has_diverged(
    reader: CacheReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "on_cpu", lambda tensor: False)
    heads = trainees(tmp_path, reader)
    with torch.no_grad():
        heads[1].model.head.class_head.weight.fill_(torch.nan)
    before = heads[0].model.head.class_head.weight.clone()
    config = heads[0].member.config
    batch = next(iter(build_loader(config, build_dataset([config], [reader], "cpu"))))
    with pytest.raises(Diverged):
        list(Together(heads).step(batch, 0))
    assert torch.equal(heads[0].model.head.class_head.weight, before)


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
    half = load_config(tmp_path / "small.py", {"train.autocast": "float16"})
    assert kind_of(half) is None
