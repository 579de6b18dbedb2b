"""Stage one as a whole: what it writes is what the frozen models say."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from stage_one import DEMO, image_folder, prepare, small_config, small_data

from cache_schema import manifest
from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader
from extract import stage as stage_module
from extract.datasets import MeViS, VideoFolder
from extract.datasets.records import encode_mask
from extract.pipeline.reading import chunks
from extract.pipeline.run import extract
from extract.segmenters.masks import mask_logits, measure, to_original
from extract.stage import RANDOM, clip_bank, load_stage
from train.replay import vita_masks

ASSETS = DEMO.parents[1] / "assets"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return small_data(tmp_path_factory.mktemp("data"))


def run(config, data, out, **options):
    settings = dict(split="train", weights=RANDOM, device="cpu") | options
    return extract(config, data_root=data, out=out, **settings)


@pytest.fixture(scope="module")
def exact(data, tmp_path_factory):
    """A cache with codec float32, and its summary."""
    out = tmp_path_factory.mktemp("exact") / "cache"
    return run(small_config(codec="float32"), data, out), CacheReader(out)


@pytest.fixture(scope="module")
def stage():
    return load_stage(small_config(), RANDOM, "cpu", has_text=True)


def direct(stage, source):
    """What VITA says without any cache: queries, features, video output, masks (N_v, T, H, W)."""
    images = torch.stack([prepare(stage.preprocess, source.read_frame(t))[0] for t in range(12)])
    geometry = prepare(stage.preprocess, source.read_frame(0))[1]
    frames = [stage.segmenter.frames(chunk)[0] for chunk in images.split(8)]
    queries = torch.cat([f.frame_queries for f in frames])
    features = torch.cat([f.mask_features for f in frames])
    video = stage.segmenter.video(queries[None])
    logits = mask_logits(features, video.mask_embeds[0])  # (T, N_v, h, w)
    masks = torch.stack([to_original(frame, geometry) > 0 for frame in logits], dim=1)
    return queries, video, masks.numpy(), measure(logits, geometry)[0]


def test_the_cache_holds_what_the_models_say(exact, stage, data):
    summary, cache = exact
    assert (summary.videos, summary.frames, summary.failures) == (2, 24, {})
    source = MeViS(data, "train").video("train_0000")
    queries, output, _, paths = direct(stage, source)
    video = cache.video("train_0000")
    assert np.array_equal(video.frame_queries(), queries.numpy())
    assert np.array_equal(video.video_queries(), output.video_queries[0].numpy())
    assert np.array_equal(video.video_logits(), output.logits[0].numpy())
    assert np.abs(video.tracks().astype(float) - paths.numpy()).max() < 2e-3
    assert video.frame_names == source.frame_names
    assert video.frame_times().tolist() == list(range(12))
    assert video.overlaps().shape == (12, len(source.objects)) and video.overlaps().max() > 0
    assert cache.facts == MeViS.facts and cache.segmenter.type == "vita"
    own = stage.segmenter.head.mask_embed.layers
    for (weight, bias), layer in zip(cache.segmenter.mask_head, own, strict=True):
        assert np.array_equal(weight, layer.weight.numpy())
        assert np.array_equal(bias, layer.bias.numpy())
    assert video.objects() == source.objects
    clip = video.clip(1)
    again = stage.segmenter.video(queries[torch.from_numpy(clip.frame_indices).long()][None])
    assert np.abs(clip.video_queries - again.video_queries[0].numpy()).max() < 1e-5
    assert clip.tracks.shape == (12, 4, 6) and clip.overlaps.shape == video.overlaps().shape
    assert np.abs(clip.mask_embeds - again.mask_embeds[0].numpy()).max() < 1e-5


def test_expressions_are_those_of_the_data_set_with_their_encoding(exact, stage, data):
    _, cache = exact
    source = MeViS(data, "train").video("train_0001")
    video = cache.video("train_0001")
    assert video.expression_ids == [e.id for e in source.expressions]
    for given in source.expressions:
        stored = video.expression(given.id)
        (encoded,) = stage.text.encode([given.text])
        assert (stored.text, stored.tag) == (given.text, given.tag)
        assert stored.annotation_ids == given.annotation_ids
        assert np.abs(stored.words - encoded.words).max() < 1e-5
        assert np.array_equal(stored.motion, encoded.motion)
        assert np.array_equal(stored.static, ~stored.motion)


def test_masks_from_an_exact_cache_are_vitas_own_to_the_pixel(exact, stage, data):
    _, cache = exact
    for source in MeViS(data, "train"):
        _, _, masks, _ = direct(stage, source)
        replayed = np.stack(list(vita_masks(cache.video(source.id))), axis=1)
        assert np.array_equal(replayed, masks)
        assert 0.01 < masks.mean() < 0.99  # random weights, but not trivial masks


def test_masks_from_a_float16_cache_differ_in_at_most_a_thousandth(stage, data, tmp_path):
    run(small_config(codec="float16"), data, tmp_path / "cache")
    cache = CacheReader(tmp_path / "cache")
    for source in MeViS(data, "train"):
        _, _, masks, _ = direct(stage, source)
        replayed = np.stack(list(vita_masks(cache.video(source.id))), axis=1)
        assert (replayed != masks).mean() <= 1e-3


@pytest.mark.parametrize("keep", [None, 3])
def test_a_light_cache_holds_masks_to_the_pixel_and_no_features(stage, data, tmp_path, keep):
    run(small_config(codec="none", **{"segmenter_masks.keep": keep}), data, tmp_path / "cache")
    cache = CacheReader(tmp_path / "cache")
    assert cache.light and all(
        e.codec_iou is None for e in manifest.read(cache.path).videos.values()
    )
    for source in MeViS(data, "train"):
        _, output, masks, paths = direct(stage, source)
        stored = cache.video(source.id)
        assert np.abs(stored.tracks().astype(float) - paths.numpy()).max() < 2e-3
        scores = output.logits[0].softmax(-1)[:, :-1].amax(-1)
        best = scores.topk(keep or len(scores)).indices.tolist()
        found = stored.segmenter_masks()
        assert sorted(found) == sorted(best)
        for n in best:
            for rle, mask in zip(found[n], masks[n], strict=True):
                assert rle == (encode_mask(mask) if mask.any() else None)


def test_a_light_cache_of_other_masks_is_another(data, tmp_path):
    run(small_config(codec="none"), data, tmp_path / "cache")
    with pytest.raises(InputError, match="segmenter_masks.keep"):
        run(small_config(codec="none", **{"segmenter_masks.keep": 3}), data, tmp_path / "cache")
    with pytest.raises(InputError, match="segmenter_masks.keep is 0; it has to be from 1"):
        small_config(**{"segmenter_masks.keep": 0})
    assert not [p for p in (tmp_path / "cache").iterdir() if p.name.startswith("tmp")]


def test_running_again_extracts_only_what_is_missing(data, tmp_path):
    config = small_config()
    first = run(config, data, tmp_path / "cache", shard_bytes=1)
    shards = sorted((tmp_path / "cache").glob("shard-*.h5"))
    assert len(shards) == 2
    shards[1].unlink()
    kept = shards[0].stat().st_mtime_ns
    second = run(config, data, tmp_path / "cache", shard_bytes=1)
    assert (first.videos, second.videos, second.already_there) == (2, 1, 1)
    assert shards[0].stat().st_mtime_ns == kept
    assert len(CacheReader(tmp_path / "cache")) == 2


def test_another_configuration_is_refused_by_name(data, tmp_path):
    run(small_config(), data, tmp_path / "cache")
    with pytest.raises(InputError, match="clips.num"):
        run(small_config(**{"clips.num": 3}), data, tmp_path / "cache")


@pytest.mark.parametrize(
    ("change", "options", "field"),
    [
        ({}, {"autocast": "bfloat16"}, 'autocast: "none" != "bfloat16"'),
        ({}, {"autocast": "tf32"}, 'autocast: "none" != "tf32"'),
        ({"resize.short": 32}, {}, "resize.short: null != 32"),
        ({"codec": "float32"}, {}, 'codec.name: "float16" != "float32"'),
        ({"clips.frames": 3}, {}, "clips.frames: 4 != 3"),
        ({"segmenter.pixel_mean": [0, 0, 0]}, {}, "segmenter.pixel_mean"),
        ({}, {"weights": str(ASSETS / "vita_tiny.safetensors")}, 'weights_sha256: "random" != '),
    ],
)
def test_whatever_decides_the_numbers_is_compared(tmp_path, small_cache, change, options, field):
    with pytest.raises(InputError) as refused:
        run(small_config(dataset="folder", **change), *small_cache, **{"split": None} | options)
    assert field in str(refused.value)


@pytest.fixture(scope="module")
def small_cache(tmp_path_factory):
    """A folder of one video, and the cache of it."""
    root = tmp_path_factory.mktemp("small")
    places = image_folder(root / "videos", "a", 2), root / "cache"
    run(small_config(dataset="folder"), *places, split=None)
    return places


def test_a_bad_video_stops_only_itself(data, tmp_path):
    root = small_data(tmp_path / "data")
    frame = root / "train/JPEGImages/train_0000/00007.jpg"
    frame.write_bytes(b"not an image")
    summary = run(small_config(), root, tmp_path / "cache")
    assert summary.videos == 1 and list(summary.failures) == ["train_0000"]
    assert str(frame) in summary.failures["train_0000"]
    cache = CacheReader(tmp_path / "cache")
    assert cache.video_ids == ["train_0001"]
    assert "00007.jpg" in cache.failures["train_0000"]
    healthy = data / "train/JPEGImages/train_0000/00007.jpg"
    frame.write_bytes(healthy.read_bytes())
    assert run(small_config(), root, tmp_path / "cache").videos == 1
    assert len(CacheReader(tmp_path / "cache")) == 2


def test_a_plain_folder_needs_no_expressions(tmp_path):
    root = image_folder(image_folder(tmp_path / "videos", "b", 5), "a", 3)
    config = small_config(dataset="folder", **{"resize.short": 32, "resize.max": 60})
    summary = run(config, root, tmp_path / "cache", split=None)
    cache = CacheReader(tmp_path / "cache")
    assert summary.frames == 8 and cache.video_ids == ["a", "b"]
    video = cache.video("a")
    assert video.expression_ids == [] and video.objects() == {}
    assert (video.geometry.resized_height, video.geometry.resized_width) == (32, 43)
    assert len(video.clip(0).frame_indices) == 3  # a short video is taken whole


@pytest.mark.parametrize(
    ("size", "asked", "expected"),
    [
        ((96, 160), None, [8, 1]),
        ((180, 320), None, [4, 4, 1]),
        ((360, 640), None, [1] * 9),
        ((360, 640), 5, [5, 4]),
    ],
)
def test_chunks_on_a_cpu_hold_a_number_of_pixels(tmp_path, stage, size, asked, expected):
    image_folder(tmp_path, "a", frames=9, size=size)
    video = VideoFolder(tmp_path, None).video("a")
    parts = list(chunks(replace(stage, chunk_frames=asked), video, range(9)))
    assert [len(images.pixels) for images in parts] == expected
    assert {images.pixels.shape[1:] for images in parts} == {(*size, 3)}


@pytest.mark.parametrize(("autocast", "narrow"), [("tf32", None), ("float16+tf32", torch.float16)])
def test_tf32_is_a_matter_of_the_device(monkeypatch, autocast, narrow):
    """On a processor it changes no number, and no setting of the process."""
    set_to = []
    monkeypatch.setattr(stage_module, "allow_tf32", set_to.append)
    stage = load_stage(small_config(), RANDOM, "cpu", has_text=False, autocast=autocast)
    assert stage.segmenter.autocast == narrow and not set_to
    assert stage.identity()["autocast"] == autocast


def test_the_clip_bank_is_seeded_sorted_and_within_the_video():
    hidden = np.zeros(30, bool)
    bank = clip_bank("v", hidden, num=5, frames=8)
    assert np.array_equal(bank, clip_bank("v", hidden, num=5, frames=8))
    assert not np.array_equal(bank, clip_bank("w", hidden, num=5, frames=8))
    assert bank.shape == (5, 8) and (np.diff(bank, axis=1) > 0).all()
    assert bank.min() >= 0 and bank.max() < 30
    assert len({tuple(clip) for clip in bank}) > 1
    assert clip_bank("v", hidden, num=0, frames=8).shape == (0, 8)


@pytest.mark.parametrize(
    ("length", "within"), [(100, 10), (100, 3), (12, 10), (8, 2), (5, 2), (1, 9)]
)
def test_clips_of_a_range_stay_near_a_frame_and_show_an_object(length, within):
    shown = np.arange(length) == length // 3
    bank = clip_bank("v", shown, num=20, frames=8, range=within)
    size = min(8, length)
    assert bank.shape == (20, size) and (np.diff(bank, axis=1) > 0).all()
    # A range that holds too few frames grows until it holds enough.
    assert (bank[:, -1] - bank[:, 0] <= 2 * max(within, size - 1)).all()
    assert bank.min() >= 0 and bank.max() < length
    assert shown[bank].any(1).all()
    nothing = clip_bank("v", np.zeros(length, bool), num=3, frames=8, range=within)
    assert nothing.shape == (3, size)
