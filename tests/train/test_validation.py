"""Validation during training: the same videos every time, and nothing of the head changes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader
from tests import synthetic
from tests.train.protocol_caches import SIZES, write_cache, write_head
from tests.train.scores import score_heads
from train.config import load_config
from train.evaluation.from_cache.head_scores import choose_videos, validate
from train.heads import Head, build_head
from train.hooks import best_so_far

HOW = {"sigma": {"a": 0.5}, "rule": {"a": "threshold"}}


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Head:
    config, checkpoint = write_head(tmp_path_factory.mktemp("head"))
    head = build_head(load_config(config), SIZES)
    weights = torch.load(checkpoint, weights_only=True)["state_dict"]
    head.load_state_dict({name.removeprefix("head."): value for name, value in weights.items()})
    return head


def test_videos_are_evenly_spaced_and_can_be_scored(tmp_path: Path) -> None:
    videos = [synthetic.make_video(i, num_frames=2) for i in range(9)]
    videos[0].expressions = []
    with synthetic.open_writer(tmp_path / "cache") as writer:
        for video in videos:
            synthetic.write_video(writer, video)
    reader = CacheReader(tmp_path / "cache")
    assert list(choose_videos(reader, 3)) == ["video001", "video005", "video008"]
    assert list(choose_videos(reader, 1)) == ["video001"]
    assert list(choose_videos(reader, 99)) == [f"video{i:03d}" for i in range(1, 9)]
    assert [expression.id for expression in choose_videos(reader, 1)["video001"]] == list("0123")


def test_figures_are_those_of_an_evaluation_of_these_videos(tmp_path: Path, head: Head) -> None:
    synthetic.write_cache(tmp_path / "cache", num_videos=4, num_frames=3)
    reader = CacheReader(tmp_path / "cache")
    head.train()
    state = torch.get_rng_state()
    found = validate({"a": head}, reader, num_videos=4, **HOW)["a"]
    assert head.training and torch.equal(torch.get_rng_state(), state)
    metrics = score_heads(reader, {"a": head}, **HOW)["a"]
    assert found == {key: metrics[key] for key in ("J", "F", "J&F", "num_expressions")}

    some = validate({"a": head}, reader, num_videos=2, **HOW)["a"]
    entries = metrics["per_expression"]
    chosen = [entries[k]["J"] for k in entries if k.startswith(("video000", "video003"))]
    assert some["num_expressions"] == len(chosen) == 8
    assert some["J"] == pytest.approx(np.mean(chosen)) != found["J"]


def test_a_cache_without_truth_is_refused(tmp_path: Path, head: Head) -> None:
    write_cache(tmp_path / "secret", "mevis", truth=False)
    with pytest.raises(InputError, match="no expressions with ground truth to validate with"):
        validate({"a": head}, CacheReader(tmp_path / "secret"), num_videos=1, **HOW)


@pytest.mark.parametrize("said", [None, {}, {"J&F": "0.5"}, {"J&F": float("nan")}, {"J&F": 7.0}, 5])
def test_a_best_checkpoint_that_does_not_say_how_good_it_is(tmp_path: Path, said: object) -> None:
    torch.save({"meta": {"validation": said}, "state_dict": {}}, tmp_path / "best.pth")
    with pytest.raises(InputError, match="best.pth does not say how good it is"):
        best_so_far(tmp_path)
