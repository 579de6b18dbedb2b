"""Clips, targets and batches from a cache: what is read, in which order, and what is refused."""

import dataclasses
from copy import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader, Video
from tests.synthetic import SyntheticVideo, make_video, open_writer, write_cache, write_video
from train.config import load_config
from train.data import Batch, ClipDataset, CounterBatches, collate, video_batch
from train.data.compatible import check_compatible, check_models, signature
from train.data.targets import clip_targets, shown_ids
from train.heads import CacheSizes
from train.heads.dmvs import DMVS


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> tuple[CacheReader, list[SyntheticVideo]]:
    path = tmp_path_factory.mktemp("cache") / "train"
    videos = write_cache(path, num_frames=[6, 9], codec="float32")
    return CacheReader(path), videos


def test_an_epoch_is_a_permutation_and_the_next_another(cache: tuple) -> None:
    dataset = ClipDataset([cache[0]], seed=3)
    count = len(dataset)
    assert count == 12
    names = [dataset[n].expression.sentence.tobytes() for n in range(2 * count)]
    assert len(set(names[:count])) == count and set(names[:count]) == set(names[count:])
    assert names[:count] != names[count:]


def test_a_sample_is_a_function_of_seed_and_counter(cache: tuple) -> None:
    forward, backward = ClipDataset([cache[0]], seed=3), ClipDataset([cache[0]], seed=3)
    ahead = [forward[n] for n in range(30)]
    for n in reversed(range(30)):
        again = backward[n]
        assert again.expression.expression_id == ahead[n].expression.expression_id
        assert np.array_equal(again.video_queries, ahead[n].video_queries)
        assert torch.equal(again.targets.masks, ahead[n].targets.masks)
    other = ClipDataset([cache[0]], seed=4)
    assert any(
        other[n].expression.sentence.tobytes() != ahead[n].expression.sentence.tobytes()
        for n in range(12)
    )


def test_bank_clips_bring_their_own_queries_and_frames(cache: tuple) -> None:
    reader, videos = cache
    by_logits = {c.video_logits.tobytes(): (v, c) for v in videos for c in v.clips}
    seen = set()
    dataset = ClipDataset([reader], seed=0)
    for n in range(40):
        sample = dataset[n]
        video, clip = by_logits[sample.video_logits.tobytes()]
        seen.add(clip.video_logits.tobytes())
        assert np.array_equal(sample.frame_queries, video.frame_queries[clip.frame_indices])
        assert np.array_equal(
            sample.mask_features["values"], video.mask_features[clip.frame_indices]
        )
    assert len(seen) == len(by_logits)  # every clip of every bank turns up


@pytest.mark.parametrize(("choice", "frames"), [("first", 4), ("random", 4), ("random", None)])
def test_whole_video_queries_with_all_or_some_frames(
    cache: tuple, choice: str, frames: int | None
) -> None:
    reader, videos = cache
    by_logits = {v.video_logits.tobytes(): v for v in videos}
    dataset = ClipDataset(
        [reader], seed=0, clip_source="video", num_frames=frames, frame_choice=choice
    )
    starts = set()
    for n in range(12):
        sample = dataset[n]
        video = by_logits[sample.video_logits.tobytes()]
        assert len(sample.frame_queries) == (frames or len(video.frame_names))
        where = [
            int(np.flatnonzero((video.frame_queries == q).all(axis=(1, 2)))[0])
            for q in sample.frame_queries
        ]
        assert where == sorted(where)
        starts.add(tuple(where[:4]))
    assert (starts == {(0, 1, 2, 3)}) == (choice == "first" or frames is None)


def test_targets_are_the_meant_objects_that_the_clip_shows(cache: tuple) -> None:
    reader, videos = cache
    video = reader.video("video000")  # object 2 is gone in the second half of the video
    three = next(e for e in videos[0].expressions if len(e.annotation_ids) == 3)
    early, shown = clip_targets(video, three, np.array([0, 1]))
    late, later = clip_targets(video, three, np.array([4, 5]))
    none, nothing = clip_targets(video, videos[0].expressions[3], np.array([0, 1]))
    assert shown_ids(video, three, np.array([0, 1])) == shown
    assert shown_ids(video, three, np.array([4, 5])) == later
    size = (video.geometry.height, video.geometry.width)
    assert early.masks.shape == (3, 2, *size) and late.masks.shape == (2, 2, *size)
    assert none.masks.shape == (0, 2, *size) and len(none.labels) == 0
    assert shown == three.annotation_ids and later == shown[:2] and nothing == []
    assert early.masks.dtype == torch.uint8 and early.masks.flatten(2).any(dim=2).all()
    g = video.geometry
    assert early.extent == (g.resized_width / g.padded_width, g.resized_height / g.padded_height)


def test_videos_of_other_sizes_and_codecs_share_a_batch(tmp_path: Path) -> None:
    write_cache(tmp_path / "a", num_videos=1, num_frames=7, clip_frames=3)
    write_cache(tmp_path / "b", num_videos=1, codec="float32", h=12, w=6, clip_frames=5)
    caches = [CacheReader(tmp_path / "a"), CacheReader(tmp_path / "b")]
    with pytest.raises(InputError, match=r'codec\.name: "float32" != "float16".*mixed_codecs'):
        ClipDataset(caches, seed=0)
    dataset = ClipDataset(caches, seed=0, mixed_codecs=True)
    assert dataset.sizes == CacheSizes(
        16, 24, 16, num_video_queries=4, num_classes=3, num_frame_queries=5
    )
    samples = [dataset[n] for n in range(len(dataset))]
    batch = collate(samples).to("cpu")
    assert {features.shape for features in batch.mask_features} == {(3, 8, 12), (5, 12, 6)}
    assert batch.inputs.frame_queries.shape == (8, 5, 5, 16)
    for row, sample in enumerate(samples):
        frames = len(sample.frame_queries)
        assert batch.inputs.frame_mask[row].tolist() == [True] * frames + [False] * (5 - frames)
        assert (batch.inputs.frame_queries[row, frames:] == 0).all()
        assert np.array_equal(
            batch.inputs.frame_queries[row, :frames].numpy(),
            sample.frame_queries.astype(np.float32),
        )


def test_words_are_padded_with_their_masks(cache: tuple) -> None:
    reader, videos = cache
    long = videos[0].expressions[0]
    short = dataclasses.replace(
        videos[0].expressions[1],
        words=long.words[:2],
        static=np.array([True, False]),
        motion=np.array([False, True]),
        offsets=long.offsets[:2],
    )
    inputs = video_batch(reader.video("video001"), [long, short], DMVS.reads)
    assert inputs.frame_queries.shape == (2, 9, 5, 16) and inputs.frame_mask.all()
    assert inputs.words.shape == (2, 5, 24) and inputs.words.dtype == torch.float32
    assert inputs.word_mask.tolist() == [[True] * 5, [True] * 2 + [False] * 3]
    assert inputs.static[1].tolist() == [True, False, False, False, False]
    assert inputs.motion[1].tolist() == [False, True, False, False, False]
    assert torch.equal(inputs.video_queries[0], inputs.video_queries[1])


def test_resuming_the_sampler_skips_without_reading() -> None:
    batches = CounterBatches(3, 4)
    everything = list(batches)
    assert everything == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    batches.start = 2
    assert list(batches) == everything[2:] and len(batches) == 4


def test_a_dataset_without_expressions_is_refused(tmp_path: Path) -> None:
    write_cache(tmp_path / "c", num_expressions=0)
    with pytest.raises(InputError, match="none of its 3 videos has several frames and"):
        ClipDataset([CacheReader(tmp_path / "c")], seed=0)


def test_a_dataset_without_objects_is_refused(tmp_path: Path) -> None:
    video = make_video(0)
    video.objects = {}
    for expression in video.expressions:
        expression.annotation_ids, expression.object_ids = [], []
    with open_writer(tmp_path / "c") as writer:
        write_video(writer, video)
    with pytest.raises(InputError, match="no video has object masks"):
        ClipDataset([CacheReader(tmp_path / "c")], seed=0)


def test_videos_of_one_frame_are_left_out(tmp_path: Path) -> None:
    write_cache(tmp_path / "c", num_videos=4, num_frames=(1, 2))
    dataset = ClipDataset([CacheReader(tmp_path / "c")], seed=0)
    assert {video_id for _, video_id, _ in dataset.pairs} == {"video001", "video003"}


def test_caches_with_weights_are_drawn_from_in_their_proportion(tmp_path: Path) -> None:
    write_cache(tmp_path / "a", num_videos=3, num_frames=7)
    write_cache(tmp_path / "b", num_videos=1, num_frames=9, clip_frames=5)
    caches = [CacheReader(tmp_path / "a"), CacheReader(tmp_path / "b")]
    dataset = ClipDataset(caches, seed=0, cache_weights=[1, 3])
    lengths = [len(dataset[n].frame_queries) for n in range(16)]
    assert lengths.count(5) == 12 and lengths.count(4) == 4
    with pytest.raises(InputError, match="cache_weights has 3 numbers for 2"):
        ClipDataset(caches, seed=0, cache_weights=[1, 2, 3])


def test_caches_of_different_segmenters_are_refused(tmp_path: Path) -> None:
    write_cache(tmp_path / "a", num_videos=1)
    write_cache(tmp_path / "b", num_videos=1, seed=1)
    with pytest.raises(InputError, match=r"segmenter\.seed: 1 != 0; extract both"):
        ClipDataset([CacheReader(tmp_path / "a"), CacheReader(tmp_path / "b")], seed=0)


def test_an_empty_clip_bank_is_refused_when_asked_for(tmp_path: Path) -> None:
    write_cache(tmp_path / "c", num_clips=0)
    reader = CacheReader(tmp_path / "c")
    with pytest.raises(InputError, match="'video00.' has an empty clip bank"):
        ClipDataset([reader], seed=0)[0]
    assert len(ClipDataset([reader], seed=0, clip_source="video")[0].frame_queries) == 6


def test_a_missing_annotation_is_named(cache: tuple) -> None:
    reader, videos = cache
    expression = dataclasses.replace(videos[0].expressions[0], annotation_ids=["nowhere"])
    with pytest.raises(InputError, match="means annotation 'nowhere'"):
        clip_targets(reader.video("video000"), expression, np.array([0]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip_source": "bnak"}, "data.clip_source is 'bnak'"),
        ({"frame_choice": "last"}, "data.frame_choice is 'last'"),
        ({"num_frames": 3}, "data.num_frames goes with"),
    ],
)
def test_choices_that_do_not_exist_are_refused(cache: tuple, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ClipDataset([cache[0]], seed=0, **options)


def test_caches_of_other_models_are_refused(cache: tuple, tmp_path: Path) -> None:
    write_cache(tmp_path / "c", N_v=7, codec=cache[0].codec.name)
    with pytest.raises(InputError, match="video queries are .7, 16. and .4, 16."):
        ClipDataset([cache[0], CacheReader(tmp_path / "c")], seed=0)


def test_a_mask_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    video = make_video(0)
    video.objects["0"][2]["counts"] = "1234"
    with open_writer(tmp_path / "c") as writer:
        write_video(writer, video)
    read = CacheReader(tmp_path / "c").video(video.id)
    clip_targets(read, video.expressions[0], np.array([0, 1]))
    message = "'video000': a mask of annotation '0' cannot be decoded"
    with pytest.raises(InputError, match=message):
        clip_targets(read, video.expressions[0], np.array([1, 2]))
    with pytest.raises(InputError, match=message):
        shown_ids(read, video.expressions[0], np.array([0, 1]))


@pytest.mark.parametrize("codec", ["float16", "lowrank-int8"])
@pytest.mark.parametrize("ram_bytes", [0, 30000])
def test_workers_and_memory_change_nothing(tmp_path: Path, codec: str, ram_bytes: int) -> None:
    write_cache(tmp_path / "c", num_videos=2, codec=codec, shard_bytes=1)
    plain = ClipDataset([CacheReader(tmp_path / "c")], seed=5)
    expected = [collate([plain[3 * i + j] for j in range(3)]) for i in range(6)]
    dataset = ClipDataset([CacheReader(tmp_path / "c", ram_bytes=ram_bytes)], seed=5)
    for workers in (0, 2):
        loader = DataLoader(
            dataset, batch_sampler=CounterBatches(3, 6), collate_fn=collate, num_workers=workers
        )
        for batch, other in zip(loader, expected, strict=True):
            assert_equal(batch, other)
            shared = [t.is_shared() for f in batch.mask_features for t in f.stored.values()]
            assert set(shared) == {workers > 0}


def assert_equal(batch: Batch, other: Batch) -> None:
    assert batch.inputs.present().keys() == other.inputs.present().keys()
    for name, tensor in batch.inputs.present().items():
        assert torch.equal(tensor, getattr(other.inputs, name)), name
    for features, theirs in zip(batch.mask_features, other.mask_features, strict=True):
        assert features.stored.keys() == theirs.stored.keys()
        for name, tensor in features.stored.items():
            assert torch.equal(tensor, theirs.stored[name])
    for targets, theirs in zip(batch.targets, other.targets, strict=True):
        assert torch.equal(targets.masks, theirs.masks) and targets.extent == theirs.extent
        assert torch.equal(targets.labels, theirs.labels)
    for ours, theirs in zip(batch.overlaps, other.overlaps, strict=True):
        assert torch.equal(ours, theirs)


def test_features_are_read_where_the_batch_holds_them(
    cache: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled = []
    real = Video.mask_features

    def spy(self: Video, indices: np.ndarray, out: dict) -> dict:
        filled.extend(array.ctypes.data for array in out.values())
        return real(self, indices, out)

    monkeypatch.setattr(Video, "mask_features", spy)
    dataset = ClipDataset([cache[0]], seed=0)
    batch = collate([dataset[0], dataset[1]])
    assert [f.stored["values"].data_ptr() for f in batch.mask_features] == filled


def test_a_negative_amount_of_memory_is_refused() -> None:
    config = "train/configs/demo.py"
    assert load_config(config, {"data.ram_gb": 0}).data.ram_gb == 0.0
    with pytest.raises(InputError, match="data.ram_gb is -0.5; it has to be from 0"):
        load_config(config, {"data.ram_gb": -0.5})


def test_a_batch_has_tracks_times_embeddings_and_overlaps_of_its_clips(cache: tuple) -> None:
    reader, videos = cache
    dataset = ClipDataset([reader], seed=0)
    samples = [dataset[n] for n in range(len(dataset))]
    batch = collate(samples)
    by_logits = {c.video_logits.tobytes(): (v, c) for v in videos for c in v.clips}
    for row, sample in enumerate(samples):
        video, clip = by_logits[sample.video_logits.tobytes()]
        inputs = batch.inputs
        assert np.array_equal(inputs.tracks[row].numpy(), clip.tracks.astype(np.float32))
        assert inputs.times[row].tolist() == video.frame_times[clip.frame_indices].tolist()
        assert np.array_equal(inputs.mask_embeds[row].numpy(), clip.mask_embeds)
        means = sample.expression.annotation_ids
        ids = list(video.objects)
        shown = [a for a in means if any(video.objects[a][t] for t in clip.frame_indices)]
        expected = clip.overlaps[:, [ids.index(a) for a in shown]].astype(np.float32)
        assert np.array_equal(batch.overlaps[row].numpy(), expected)
        assert len(batch.targets[row].masks) == expected.shape[1]


def test_frames_that_pad_a_clip_are_zeros_at_the_end(tmp_path: Path) -> None:
    for name, frames in (("a", 3), ("b", 5)):
        video = make_video(0, num_frames=7, clip_frames=frames)
        for clip in video.clips:  # embeddings that change from frame to frame
            clip.mask_embeds = np.repeat(clip.mask_embeds[None], frames, axis=0)
        video.video_mask_embeds = np.repeat(video.video_mask_embeds[None], 7, axis=0)
        with open_writer(tmp_path / name) as writer:
            write_video(writer, video)
    dataset = ClipDataset([CacheReader(tmp_path / name) for name in "ab"], seed=0)
    inputs = collate([dataset[n] for n in range(len(dataset))]).inputs
    padding = ~inputs.frame_mask
    assert padding.any() and inputs.mask_embeds.shape[1:] == (5, 4, 16)
    assert not inputs.times[padding].any() and not inputs.mask_embeds[padding].any()
    assert not inputs.tracks.transpose(1, 2)[padding].any()
    assert inputs.tracks.transpose(1, 2)[inputs.frame_mask].any()


def test_what_an_older_cache_lacks_is_named() -> None:
    reader = CacheReader(Path(__file__).parents[1] / "data" / "cache_v2" / "float16")
    with pytest.raises(InputError, match=r"holds no mask embeds of its clips.*extract again"):
        ClipDataset([reader], seed=0, needs={"mask_embeds"})[0]
    batch = collate([ClipDataset([reader], seed=0)[0]])  # what there is
    assert batch.overlaps == [] and batch.inputs.mask_embeds is None


def test_objects_without_overlaps_are_named(tmp_path: Path) -> None:
    video = make_video(0)
    video.overlaps = video.overlaps[:, :1]  # then `write_video` leaves them out
    with open_writer(tmp_path / "c") as writer:
        write_video(writer, video)
    dataset = ClipDataset([CacheReader(tmp_path / "c")], seed=0)
    with pytest.raises(InputError, match="'video000': .*extract the video again"):
        [dataset[n] for n in range(len(dataset))]


def test_older_caches_do_not_name_the_segmenters_type(cache: tuple[CacheReader, list]) -> None:
    old = {"segmenter": {"num_frame_queries": 4}, "weights_sha256": "0"}
    new = {**old, "segmenter": {"type": "vita", **old["segmenter"]}}
    check_compatible({"old": old, "new": new})
    training = {"caches": [{"models": signature(old, codec=False)}]}
    reader = copy(cache[0])
    reader.fingerprint = new
    assert check_models(training, reader, checkpoint="c") is None
    with pytest.raises(InputError, match="num_frame_queries"):
        check_compatible({"old": old, "new": {**new, "segmenter": {"num_frame_queries": 5}}})
