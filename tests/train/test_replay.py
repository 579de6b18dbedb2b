"""Replay: the same pixels as stage one computes, one frame at a time."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco

from cache_schema.copying import copy
from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader, Video
from extract.segmenters import masks as stage_one
from tests.synthetic import SyntheticVideo, make_video, open_writer, write_cache, write_video
from train import replay


@pytest.fixture(scope="module", params=["float32", "float16"])
def written(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[SyntheticVideo], CacheReader]:
    path = tmp_path_factory.mktemp("replay") / "cache"
    videos = write_cache(path, num_videos=2, num_frames=(5, 3), codec=request.param, N_v=9)
    return videos, CacheReader(path)


def test_own_masks_are_stage_ones(written: tuple[list[SyntheticVideo], CacheReader]) -> None:
    videos, reader = written
    for video in videos:
        features, embeds = map(torch.from_numpy, (video.mask_features, video.video_mask_embeds))
        logits = stage_one.mask_logits(features, embeds)  # (T, N_v, h, w)
        expected = (stage_one.to_original(logits, video.geometry) > 0).numpy()
        found = np.stack(list(replay.vita_masks(reader.video(video.id))))
        assert found.shape == (len(video.frame_names), 9, 45, 67) and found.dtype == bool
        if reader.codec.name == "float32":
            np.testing.assert_array_equal(found, expected)
        else:
            assert (found != expected).mean() < 2e-3  # float16 of noise, not of a real video


def test_the_mask_of_an_expression_is_the_union_of_its_queries(
    written: tuple[list[SyntheticVideo], CacheReader],
) -> None:
    videos, reader = written
    video = reader.video(videos[0].id)
    embeds = video.video_mask_embeds().astype(np.float32)
    own = np.stack(list(replay.vita_masks(video)))  # (T, N_v, H, W)
    kept = [[0, 3], [], [5], [1, 2, 4, 8]]
    found = np.stack(list(replay.replay(video, [embeds[k] for k in kept])))
    for number, queries in enumerate(kept):
        union = own[:, queries].any(1)
        # Another number of rows in the product may round differently.
        assert (found[:, number] != union).mean() < 1e-3
    assert not found[:, 1].any()


def test_frames_are_read_one_by_one_as_they_are_asked_for(
    written: tuple[list[SyntheticVideo], CacheReader], monkeypatch: pytest.MonkeyPatch
) -> None:
    videos, reader = written
    asked = []
    read = Video.mask_features
    monkeypatch.setattr(
        Video, "mask_features", lambda self, t: asked.append(list(t)) or read(self, t)
    )
    video = reader.video(videos[0].id)
    embeds = video.video_mask_embeds().astype(np.float32)
    stream = replay.replay(video, [embeds])
    next(stream)
    next(stream)
    assert asked == [[0], [1]]
    nothing = list(replay.replay(video, [embeds[:0]] * 2))
    assert asked == [[0], [1]] and np.shape(nothing) == (5, 2, 45, 67) and not np.any(nothing)


def test_parts_of_any_size_give_the_same_masks(
    written: tuple[list[SyntheticVideo], CacheReader], monkeypatch: pytest.MonkeyPatch
) -> None:
    videos, reader = written
    video = reader.video(videos[1].id)
    expected = list(replay.vita_masks(video))
    monkeypatch.setattr(replay, "CHUNK", 2)
    np.testing.assert_array_equal(list(replay.vita_masks(video)), expected)


def test_what_is_kept() -> None:
    scores = np.float32([0.2, 0.9, 0.7, 0.71])
    assert replay.keep(scores, rule="threshold", sigma=0.7).tolist() == [1, 3]
    assert replay.keep(scores, rule="threshold", sigma=0.95).tolist() == []
    assert replay.keep(scores, rule="top1", sigma=0.95).tolist() == [1]
    with pytest.raises(ValueError, match="rule is 'auto', neither threshold nor top1"):
        replay.keep(scores, rule="auto", sigma=0.7)


def test_the_best_of_what_is_kept() -> None:
    def kept(scores: list[float], at_most: int, sigma: float = 0.3) -> list[int]:
        how = {"rule": "threshold", "sigma": sigma, "at_most": at_most}
        return replay.keep(np.float32(scores), **how).tolist()

    scores = [0.5, 0.2, 0.9, 0.7]
    assert [kept(scores, n) for n in (1, 2, 3, 4)] == [[2], [2, 3], [0, 2, 3], [0, 2, 3]]
    assert kept(scores, 1, sigma=0.95) == []
    assert kept([0.5, 0.5, 0.5], 2) == [0, 1]  # the first of equals
    assert replay.keep(np.float32(scores), rule="top1", sigma=0.95, at_most=3).tolist() == [2]


def test_rounds_give_the_masks_that_each_gives_alone(
    written: tuple[list[SyntheticVideo], CacheReader],
) -> None:
    videos, reader = written
    video = reader.video(videos[0].id)
    embeds = video.video_mask_embeds().astype(np.float32)
    rounds = [[embeds[k] for k in kept] for kept in ([[0, 3], [5]], [[], []], [[1], [], [2, 8]])]
    together = [
        list(frame) for frame in replay.replay_rounds(video, rounds)
    ]  # T, rounds of (G, H, W)
    assert len(together) == 5
    for number, groups in enumerate(rounds):
        alone = list(replay.replay(video, groups))
        np.testing.assert_array_equal([frame[number] for frame in together], alone)
    assert not together[0][1].any() and together[0][2].any()


def test_video_queries_bring_their_own_masks(
    written: tuple[list[SyntheticVideo], CacheReader],
) -> None:
    videos, reader = written
    video = reader.video(videos[0].id)
    own = np.stack(list(replay.vita_masks(video)))  # (T, N_v, H, W)
    kept = [np.array([3, 7]), np.array([], int), np.array([5])]
    found = np.stack(list(replay.replay(video, kept)))
    embeds = video.video_mask_embeds().astype(np.float32)
    drawn = np.stack(list(replay.replay(video, [embeds[k] for k in kept])))
    np.testing.assert_array_equal(found, drawn)
    assert not found[:, 1].any() and (found[:, 0] != own[:, [3, 7]].any(1)).mean() < 1e-3


def test_mask_embeddings_that_change_from_frame_to_frame(tmp_path: Path) -> None:
    video = make_video(0, codec="float32")
    changes = np.random.default_rng(0).standard_normal((6, 4, 16), np.float32)
    for path, embeds in (("changing", changes), *((f"{t}", changes[t]) for t in (0, 5))):
        video.video_mask_embeds = embeds
        with open_writer(tmp_path / path, codec="float32") as writer:
            write_video(writer, video)

    def masks(path: str, *, chosen: bool) -> np.ndarray:
        reader = CacheReader(tmp_path / path)
        own = reader.video(video.id)
        if chosen:
            return np.stack(list(replay.replay(own, [np.array([1, 2])])))
        return np.stack(list(replay.vita_masks(own)))

    for chosen in (False, True):
        changing = masks("changing", chosen=chosen)
        for t in (0, 5):
            np.testing.assert_array_equal(changing[t], masks(str(t), chosen=chosen)[t])
        assert (changing[0] != masks("5", chosen=chosen)[0]).any()


def test_a_light_cache_gives_the_masks_that_it_stores(tmp_path: Path) -> None:
    (video,) = write_cache(tmp_path / "light", num_videos=1, codec="none")
    reader = CacheReader(tmp_path / "light")
    read = reader.video(video.id)
    size = (video.geometry.height, video.geometry.width)
    stored = np.zeros((6, 4, *size), bool)  # (T, N_v, H, W)
    for n, codes in video.segmenter_masks.items():
        for t, code in enumerate(codes):
            stored[t, n] = False if code is None else coco.decode(code)
    assert stored[:, :2].any((2, 3)).any(0).all() and not stored[:, 2:].any()
    np.testing.assert_array_equal(list(replay.vita_masks(read)), stored)
    kept = [np.array([0, 1, 3]), np.array([], int), np.array([1])]
    found = np.stack(list(replay.replay(read, kept)))
    np.testing.assert_array_equal(found[:, 0], stored.any(1))
    np.testing.assert_array_equal(found[:, 2], stored[:, 1])
    assert not found[:, 1].any()
    sure = next(replay.probabilities(read, kept))
    np.testing.assert_array_equal(sure, found[0].astype(np.float32))
    embeds = np.zeros((1, 16), np.float32)
    with pytest.raises(InputError, match="light"):
        next(replay.replay(read, [embeds]))


@pytest.mark.parametrize("codec", ["float32", "int8", "lowrank-int8"])
@pytest.mark.parametrize("moving", [False, True])
def test_a_light_copy_gives_the_masks_of_the_full_cache(
    tmp_path: Path, codec: str, moving: bool
) -> None:
    video = make_video(0, codec=codec)
    video.segmenter_masks = {}
    if moving:  # embeddings that change from frame to frame
        steps = np.linspace(1, -1, 6, dtype=np.float32)
        video.video_mask_embeds = steps[:, None, None] * video.video_mask_embeds
    video.video_mask_embeds[..., 3, :] = 0  # no pixel is inside
    with open_writer(tmp_path / "full", codec=codec) as writer:
        write_video(writer, video)
    copy(tmp_path / "full", tmp_path / "light", light=True)
    full, light = (
        np.stack(list(replay.vita_masks(reader.video(video.id))))
        for reader in map(CacheReader, (tmp_path / "full", tmp_path / "light"))
    )
    assert full[:, :3].any((2, 3)).all() and not light[:, 3].any()
    assert (full != light).sum() <= 2  # pixels whose logit is 0 but for rounding


def test_stored_masks_that_are_not_there_or_broken_are_named(tmp_path: Path) -> None:
    video = make_video(0, codec="none")
    broken = {0: [{**video.segmenter_masks[0][0], "counts": "1234"}] + [None] * 5}
    for path, masks, message in (("none", {}, "neither"), ("broken", broken, "cannot be decoded")):
        video.segmenter_masks = masks
        with open_writer(tmp_path / path, codec="none") as writer:
            write_video(writer, video)
        reader = CacheReader(tmp_path / path)
        with pytest.raises(InputError, match=message):
            list(replay.replay(reader.video(video.id), [np.array([0])]))
