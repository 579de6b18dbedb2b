"""The codec that is fitted before the first video, and what every codec costs."""

import numpy as np
import pytest
import torch
from stage_one import image_folder, small_config

from cache_schema import manifest
from cache_schema.codecs import get_codec
from cache_schema.host.cli import InputError
from cache_schema.host.launch import Rank
from cache_schema.reader import CacheReader
from extract.codecs.fitting import fit_codec, sample_clips
from extract.codecs.mask_codec import CodedLogits, encode
from extract.datasets import VideoFolder
from extract.pipeline import run as pipeline
from extract.pipeline.run import extract
from extract.segmenters.base import FrameOutput
from extract.segmenters.masks import mask_logits
from extract.segmenters.vita import VITA
from extract.stage import RANDOM, load_stage

LENGTHS = [10, 3, 6]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    for k, frames in enumerate(LENGTHS):
        image_folder(root, f"v{k}", frames)
    return root


def config(name="lowrank-int8", **settings):
    options = {f"codec.{key}": value for key, value in settings.items()}
    return small_config(dataset="folder", codec=name, **options)


def run(videos, out, settings, **options):
    return extract(settings, data_root=videos, split=None, weights=RANDOM, out=out, device="cpu",
                   chunk_frames=3, **options)  # fmt: skip


@pytest.fixture(scope="module")
def stage():
    return load_stage(config(rank=4), RANDOM, "cpu", has_text=False, chunk_frames=3)


def sampled(stage, dataset, frames):
    """Video ids, and how many frames of each came."""
    return [
        (video_id, sum(len(part.pixels) for part in parts))
        for video_id, parts in sample_clips(stage, dataset, frames)
    ]


def test_the_sample_is_seeded_spread_and_as_large_as_asked(stage, videos):
    dataset = VideoFolder(videos)
    few = sampled(stage, dataset, 9)  # clips of four frames
    assert few == sampled(stage, dataset, 9)
    assert sum(n for _, n in few) == 9 and len({i for i, _ in few}) == 3
    # Clips of one video have no frame in common, and when all were seen there are no more.
    assert sum(n for _, n in sampled(stage, dataset, 19)) == sum(LENGTHS) == 19
    everything = list(sample_clips(stage, dataset, 1000))
    pixels = np.concatenate([p.pixels for _, parts in everything for p in parts])
    assert len(pixels) == 19 == len({frame.tobytes() for frame in pixels})


def test_broken_videos_are_left_out_of_the_sample(stage, tmp_path):
    root = image_folder(image_folder(tmp_path, "a", 4), "b", 4)
    (root / "a/00001.png").write_bytes(b"")
    (root / "a/00002.png").write_bytes(b"")
    assert {video_id for video_id, _ in sample_clips(stage, VideoFolder(root), 8)} == {"b"}
    for path in root.glob("b/*.png"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match="cannot be fitted, no video can be read: .*png"):
        list(sample_clips(stage, VideoFolder(root), 8))


def test_videos_with_nan_are_left_out_of_the_sample_unless_all_have_them(
    stage, videos, monkeypatch
):
    frames, calls = VITA.frames, [0]

    def broken(every):
        def call(self, images, state):
            output, _ = frames(self, images)
            calls[0] += 1
            if every or calls[0] == 1:
                features = torch.full_like(output.mask_features, torch.nan)
                output = FrameOutput(output.frame_queries, features)
            return output, None

        return call

    monkeypatch.setattr(VITA, "frames", broken(every=False))
    assert fit_codec(stage, VideoFolder(videos), 1).basis.rank == 4
    monkeypatch.setattr(VITA, "frames", broken(every=True))
    with pytest.raises(InputError, match="mask_features holds NaN"):
        fit_codec(stage, VideoFolder(videos), 1)


@pytest.fixture(scope="module")
def fitted(videos, tmp_path_factory):
    out = tmp_path_factory.mktemp("fitted") / "cache"
    return out, run(videos, out, config(rank=4, frames=12), shard_bytes=1)


def test_a_fitted_codec_is_in_the_cache_and_its_fingerprint(fitted):
    out, summary = fitted
    cache = CacheReader(out)
    assert cache.codec.basis.rank == 4 and (out / "codec.h5").is_file()
    described = cache.fingerprint["codec"]
    assert described["basis_sha256"] == cache.codec.basis.sha256
    assert summary.videos == 3


def test_a_resumed_run_codes_with_the_basis_that_is_there(fitted, videos, tmp_path, monkeypatch):
    out, _ = fitted
    monkeypatch.setattr(pipeline, "fit_codec", lambda *_: pytest.fail("fitted again"))
    (shard := sorted(out.glob("shard-*.h5"))[-1]).unlink()
    assert run(videos, out, config(rank=4, frames=12), shard_bytes=1).videos == 1
    assert not shard.exists() or shard.stat().st_size
    # Also when only a shard remembers it.
    (out / "codec.h5").unlink()
    assert run(videos, out, config(rank=4, frames=12)).already_there == 3


def test_another_request_is_refused_before_anything_is_fitted(fitted, videos, monkeypatch):
    monkeypatch.setattr(pipeline, "fit_codec", lambda *_: pytest.fail("fitted again"))
    with pytest.raises(InputError, match="clips.num"):
        run(videos, fitted[0], small_config(dataset="folder", codec=config(rank=4).codec,
                                            **{"clips.num": 1}))  # fmt: skip


def test_other_ranks_wait_for_the_codec_of_rank_0(videos, tmp_path, monkeypatch):
    looks, fit = [], pipeline.fit_codec
    out = tmp_path / "cache"

    def wait(look, what):
        looks.append(look())
        monkeypatch.setattr(pipeline, "wait_for", lambda look, what: pytest.fail("waits again"))
        run(videos, out, config(rank=4, frames=12), rank=Rank(0, 2, 0))
        return look()

    monkeypatch.setattr(pipeline, "wait_for", wait)
    monkeypatch.setattr(pipeline, "fit_codec", lambda *a: (looks.append("fit"), fit(*a))[1])
    run(videos, out, config(rank=4, frames=12), rank=Rank(1, 2, 1))
    assert looks == [None, "fit"]
    assert len(CacheReader(out)) == 3


@pytest.mark.parametrize("name", ["float32", "float16", "int8", "lowrank-int8"])
def test_what_a_codec_costs_is_measured_for_every_video(videos, tmp_path, name):
    settings = config(name, rank=2, frames=12) if name == "lowrank-int8" else config(name)
    summary = run(videos, tmp_path / "cache", settings)
    entries = manifest.read(tmp_path / "cache").videos.values()
    costs = [entry.codec_iou for entry in entries]
    assert summary.codec_iou.worst == min(cost.worst for cost in costs)
    masks = sum(cost.masks for cost in costs)
    mean = sum(cost.mean * cost.masks for cost in costs) / masks
    assert summary.codec_iou.mean == pytest.approx(mean)
    assert summary.codec_iou.masks == masks > 0
    if name == "float32":
        assert summary.codec_iou.mean == summary.codec_iou.worst == 1
    if name == "lowrank-int8":
        assert 0.2 < summary.codec_iou.worst < 1


@pytest.mark.parametrize("name", ["float32", "float16", "int8", "lowrank-int8"])
def test_logits_of_codes_are_those_of_the_reference(name, fitted):
    rng = np.random.default_rng(3)
    codec = CacheReader(fitted[0]).codec if name == "lowrank-int8" else config(name).codec
    codec = codec if name == "lowrank-int8" else get_codec(name)
    features = torch.from_numpy(rng.normal(size=(2, 64, 5, 7)).astype(np.float32))
    embeds = torch.from_numpy(rng.normal(size=(9, 64)).astype(np.float32))
    coded = encode(features, codec)
    reference = codec.mask_logits(coded, embeds.numpy())
    logits = CodedLogits(codec, embeds)
    for k in range(2):
        frame = {key: array[k] for key, array in coded.items()}
        assert np.abs(logits(frame).numpy() - reference[k]).max() < 1e-4
        rows = torch.tensor([7, 2])
        assert torch.allclose(logits(frame, rows), logits(frame)[rows], atol=1e-4)
        if name == "float32":
            assert torch.equal(logits(frame), mask_logits(features[k : k + 1], embeds)[0])
