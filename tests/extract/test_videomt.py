"""VidEoMT: what the library's own forward says of a clip, in chunks and with bounded memory.

The library is the oracle. Weights are random, those of norms as well, which would hide a norm that
is left out; after that come the cache, and everything that reads it.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from stage_one import DEMO, prepare, small_config, small_data
from torch import Tensor
from torch.nn import functional as F

from cache_schema.fingerprint import file_sha256
from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader
from extract.config import load_config
from extract.datasets import open_dataset
from extract.datasets.records import encode_mask
from extract.pipeline.inference import VideoRun, clip_of
from extract.pipeline.run import extract
from extract.segmenters import videomt
from extract.segmenters.base import best_queries, configure
from extract.segmenters.masks import mask_logits, to_original
from extract.segmenters.videomt import VidEoMT, VidEoMTConfig
from extract.stage import RANDOM, load_stage
from tests.extract.refusals import refused
from tests.extract.test_text_hub import no_network
from tests.processes import Command, module
from train.replay import vita_masks

__all__ = ["no_network"]  # a fixture

TINY = {
    "type": "videomt", "num_classes": 5, "hidden_size": 32, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_blocks": 2, "num_queries": 9, "image_size": 64,
    "num_register_tokens": 2, "keep": 4,
}  # fmt: skip
SETTINGS = {"segmenter": "videomt", "codec": "float32", "resize": None} | {
    f"segmenter.{name}": value for name, value in TINY.items() if name != "type"
}


def tiny(**sizes) -> VidEoMTConfig:
    values = {name: value for name, value in TINY.items() if name != "type"}
    return configure(VidEoMTConfig, values | sizes)


def built(config: VidEoMTConfig) -> VidEoMT:
    torch.manual_seed(1)
    segmenter = VidEoMT(config)
    for parameter in segmenter.parameters():
        if parameter.dim() == 1:
            parameter.add_(torch.randn_like(parameter) / 5)
    return segmenter


def clip(config: VidEoMTConfig, frames: int, seed: int = 0) -> Tensor:
    noise = torch.Generator().manual_seed(seed)
    return torch.randn(frames, 3, config.image_size, config.image_size, generator=noise)


def chunked(images: Tensor, sizes: list[int]) -> list[Tensor]:
    """Chunks of these sizes again and again."""
    chunks, start = [], 0
    while start < len(images):
        size = sizes[len(chunks) % len(sizes)]
        chunks.append(images[start : start + size])
        start += size
    return chunks


SIZES = {
    "plain": {},
    "gated": {"use_swiglu_ffn": True},
    "stride 8, all layers": {"num_upscale_blocks": 1, "num_blocks": 4},
}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize(
    ("frames", "chunks"),
    [(1, [1]), (2, [2]), (5, [1, 3]), (7, [3]), (12, [5, 1, 4]), (12, [12]), (40, [8])],
)
@torch.no_grad()
def test_says_what_the_library_says(sizes, frames, chunks):
    segmenter = built(tiny(**sizes))
    images = clip(segmenter.config, frames)
    expected = segmenter.model(pixel_values_videos=images[None])
    state, said = None, []
    for chunk in chunked(images, chunks):
        output, state = segmenter.frames(chunk, state)
        segmenter.check_frames(chunk, output)
        said.append(output)
    queries = torch.cat([output.frame_queries for output in said])
    assert (queries - expected.last_hidden_state[:, :9]).abs().max() < 1e-5
    logits = torch.cat([output.kept["logits"] for output in said])
    assert (logits - expected.class_queries_logits).abs().max() < 1e-5
    features, video = clip_of(segmenter, chunked(images, chunks))
    assert (video.video_queries[0] - queries.mean(0)).abs().max() < 1e-5
    assert (video.logits[0] - expected.class_queries_logits.mean(0)).abs().max() < 1e-5
    masks = [mask_logits(f[None], e) for f, e in zip(features, video.mask_embeds[0], strict=True)]
    assert (torch.cat(masks) - expected.masks_queries_logits).abs().max() < 1e-5
    assert expected.masks_queries_logits.std() > 0.1


def test_what_stays_until_a_video_ends_holds_nothing_else():
    segmenter = built(tiny())
    for frames in (1, 3):
        output, state = segmenter.frames(clip(segmenter.config, frames))
        for tensor in (state, *output.for_video.values()):
            assert tensor.untyped_storage().nbytes() == tensor.nbytes


@torch.no_grad()
def test_a_published_size_on_small_images():
    config = load_config("videomt_small_ytvis").segmenter | {"image_size": 64}
    segmenter = built(configure(VidEoMTConfig, config))
    images = clip(segmenter.config, 3)
    expected = segmenter.model(pixel_values_videos=images[None]).masks_queries_logits
    features, video = clip_of(segmenter, [images[:2], images[2:]])
    masks = [mask_logits(f[None], e) for f, e in zip(features, video.mask_embeds[0], strict=True)]
    assert (torch.cat(masks) - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return small_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def stage():
    return load_stage(small_config(**SETTINGS), RANDOM, "cpu", has_text=False)


def test_a_clip_does_not_depend_on_the_video_around_it(stage, monkeypatch):
    monkeypatch.setattr(stage.segmenter, "keep", None)
    bank, segmenter = np.array([[1, 4, 6, 7]], np.int32), stage.segmenter
    found = []
    for seed, chunks in ((1, [2, 3]), (2, [9])):
        images = clip(segmenter.config, 9, seed)
        images[bank[0]] = clip(segmenter.config, 4)
        run = VideoRun(stage, len(images), bank)
        for chunk in chunked(images, chunks):
            run.frames(chunk)
        found.append(run.clips())
    alone = clip_of(segmenter, [clip(segmenter.config, 4)])[1]
    for each in found:
        assert (each.video_queries[1] - alone.video_queries[0]).abs().max() < 1e-5
        assert (each.mask_embeds[1] - alone.mask_embeds[0]).abs().max() < 1e-5
    assert (found[0].video_queries[0] - found[1].video_queries[0]).abs().max() > 1e-3


def own(stage, data) -> tuple:
    """Features, video level and frame queries of the first video, by itself."""
    dataset = open_dataset("mevis", data, "train")
    video = dataset.video(dataset.ids[0])
    images = [
        prepare(stage.preprocess, video.read_frame(t))[0][None] for t in range(video.num_frames)
    ]
    features, said = clip_of(stage.segmenter, images)
    queries = stage.segmenter.frames(torch.cat(images))[0].frame_queries
    return video.id, features, said, queries


def masks_of(features: Tensor, embeds: Tensor, geometry) -> np.ndarray:
    """The segmenter's masks (T, N, H, W) at the original size."""
    frames = zip(features, embeds, strict=True)
    return np.stack(
        [(to_original(mask_logits(f[None], e)[0], geometry) > 0).numpy() for f, e in frames]
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory, data):
    """By the real command."""
    out = tmp_path_factory.mktemp("videomt") / "cache"
    words = [DEMO, "--data-root", data, "--split", "train", "--weights", RANDOM,
             "--out", out, "--device", "cpu", "--chunk-frames", "3",
             "--cfg-options", *(f"{name}={value}" for name, value in SETTINGS.items()),
             "clips.num=2", "clips.frames=4"]  # fmt: skip
    done = Command(module("extract", words), out.with_name("said"))
    said = done.said()
    assert done.status == 0, said
    return out


def test_the_best_queries_are_stored_under_one_number(cache, stage, data):
    reader = CacheReader(cache)
    assert (reader.segmenter.type, reader.segmenter.identity) == ("videomt", True)
    video_id, _, said, queries = own(stage, data)
    best = best_queries(said.logits[0], 4)
    stored = reader.video(video_id)
    frames = stored.frame_queries(range(stored.num_frames))
    assert frames.shape == (stored.num_frames, 4, 32)
    assert np.allclose(frames, queries[:, best], atol=1e-5)
    assert np.allclose(stored.video_queries(), frames.mean(0), atol=1e-5)
    assert np.allclose(stored.video_logits(), said.logits[0, best], atol=1e-5)
    assert np.allclose(stored.video_mask_embeds(), said.mask_embeds[0][:, best], atol=1e-5)
    assert reader.segmenter.activation == "gelu"
    embeds = torch.from_numpy(frames)
    for number, layer in enumerate(reader.segmenter.mask_head):
        embeds = F.linear(F.gelu(embeds) if number else embeds, *map(torch.from_numpy, layer))
    assert np.allclose(stored.video_mask_embeds(), embeds, atol=1e-5)
    assert stored.clip(0).mask_embeds.shape == (4, 4, 32)
    assert stored.clip(0).overlaps.shape == (4, len(stored.annotation_ids))


def test_masks_of_a_cache_are_the_segmenters_to_the_pixel(cache, stage, data):
    video_id, features, said, _ = own(stage, data)
    stored = CacheReader(cache).video(video_id)
    sides = stored.geometry
    assert (sides.resized_height, sides.resized_width, sides.stride) == (64, 64, 4)
    assert sides.height != sides.width
    best = best_queries(said.logits[0], 4)
    expected = masks_of(features, said.mask_embeds[0][:, best], sides)
    assert 0.05 < expected.mean() < 0.95
    found = np.stack(list(vita_masks(stored)))
    assert np.array_equal(found, expected)


def test_masks_of_a_light_cache_are_the_same(cache, tmp_path, stage, data):
    out = tmp_path / "light"
    config = small_config(**SETTINGS | {"codec": "none"})
    extract(config, data_root=data, split="train", weights=RANDOM, out=out, device="cpu")
    full, light = CacheReader(cache), CacheReader(out)
    for video_id in light.video_ids:
        stored = light.video(video_id)
        expected = np.stack(list(vita_masks(full.video(video_id))))
        assert sorted(stored.segmenter_masks()) == [0, 1, 2, 3]
        for n, masks in stored.segmenter_masks().items():
            assert masks == [encode_mask(m) if m.any() else None for m in expected[:, n]]
        # float16 here
        near = full.video(video_id).frame_queries([1]) - stored.frame_queries([1])
        assert np.abs(near).max() < 1e-2


def test_frames_become_squares_as_the_librarys_processor_makes_them():
    frame = np.random.default_rng(0).integers(0, 256, (90, 160, 3), np.uint8)
    preprocess = VidEoMT(tiny()).preprocessor(None, None)
    image, geometry = prepare(preprocess, frame)
    assert image.shape == (3, 64, 64) and geometry.padded_width == 64
    pixels = torch.from_numpy(frame).permute(2, 0, 1)[None]
    resized = F.interpolate(pixels, size=(64, 64), mode="bilinear", antialias=True)[0]
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 3, 1, 1)
    expected = (resized / 255 - mean) / std
    assert ((image - expected) * std * 255).abs().max() < 1.01  # a level of 256: rounding


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights") / "model"
    segmenter = built(tiny())
    segmenter.model.save_pretrained(folder)
    return segmenter, folder


def test_a_folder_of_save_pretrained_is_loaded(saved):
    segmenter, folder = saved
    loaded = VidEoMT.load(tiny(), str(folder))
    own, theirs = segmenter.state_dict(), loaded.state_dict()
    assert own.keys() == theirs.keys()
    assert all(torch.equal(own[name], theirs[name]) for name in own)
    assert VidEoMT.digest(str(folder)) == file_sha256(folder / "model.safetensors")
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_weights_in_several_files_have_one_digest(saved, tmp_path):
    segmenter, folder = saved
    segmenter.model.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    loaded = VidEoMT.load(tiny(), str(tmp_path))
    assert torch.equal(loaded.model.query.weight, segmenter.model.query.weight)
    assert VidEoMT.digest(str(tmp_path)) != VidEoMT.digest(str(folder))


def copy_of(folder, target, change=lambda tensors: tensors):
    target.mkdir()
    (target / "config.json").write_bytes((folder / "config.json").read_bytes())
    tensors = change(load_file(folder / "model.safetensors"))
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return str(target)


def without(name):
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


def test_weights_that_do_not_fit_are_refused(saved, tmp_path):
    folder = saved[1]
    for sizes, words in (
        ({"num_attention_heads": 8}, "segmenter.num_attention_heads is 8, but"),
        ({"num_classes": 7}, "segmenter.num_classes is 7, but"),
        ({"layer_norm_eps": 1e-5}, "has 1e-06: set it to that"),
    ):
        refused(lambda sizes=sizes: VidEoMT.load(tiny(**sizes), str(folder)), words)
    lacking = copy_of(folder, tmp_path / "lacking", without("query_updater.weight"))
    refused(lambda: VidEoMT.load(tiny(), lacking), lacking, "lacks", "query_updater.weight")
    more = copy_of(folder, tmp_path / "more", lambda t: t | {"head.bias": torch.zeros(3)})
    refused(lambda: VidEoMT.load(tiny(), more), "unknown", "head.bias")
    allowed = copy_of(folder, tmp_path / "allowed", without("criterion.empty_weight"))
    assert VidEoMT.load(tiny(), allowed)
    other = copy_of(folder, tmp_path / "other")
    (tmp_path / "other/config.json").write_text('{"model_type": "eomt"}')
    refused(lambda: VidEoMT.load(tiny(), other), "cannot be loaded as VidEoMT", "eomt")
    (tmp_path / "other/config.json").write_text("{")
    refused(lambda: VidEoMT.load(tiny(), other), "cannot be loaded as VidEoMT")


def test_weights_that_are_not_there_are_refused(tmp_path, no_network):
    (tmp_path / "file").touch()
    for place in (tmp_path, tmp_path / "file", tmp_path / "nowhere"):
        refused(lambda place=place: VidEoMT.load(tiny(), str(place)), "no folder with config.json")
    name = "nobody/has-this-model"
    refused(lambda: VidEoMT.load(tiny(), name), name, "cannot be reached", "as --weights")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resize": {"short": 360, "max": 640}}, "resize is short=360, max=640, but VidEoMT takes"),
        ({"segmenter.num_blocks": 5}, "segmenter.num_blocks is 5, of 4"),
        ({"segmenter.num_blocks": 0}, "segmenter.num_blocks is 0; it has to be from 1 to 256"),
        ({"segmenter.hidden_size": 33}, "no multiple of num_attention_heads = 4"),
        ({"segmenter.image_size": 65}, "no multiple of patch_size = 16"),
        ({"segmenter.num_upscale_blocks": 5}, r"no multiple of 2 \*\* num_upscale_blocks = 32"),
        ({"segmenter.keep": 0}, "segmenter.keep is 0; it has to be from 1 to 65536"),
        ({"segmenter.keep": "all"}, "segmenter.keep is 'all'; it has to be a whole number or None"),
        ({"segmenter.hidden_act": "gello"}, "segmenter.hidden_act is 'gello'"),
        ({"segmenter.num_layers": 3}, "unknown config key 'segmenter.num_layers'"),
    ],
)
def test_configurations_that_do_not_fit_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        load_stage(small_config(**SETTINGS | options), RANDOM, "cpu", has_text=False)


def test_an_older_library_is_named(monkeypatch):
    monkeypatch.setattr(videomt, "transformers", SimpleNamespace(__version__="5.2.0"))
    with pytest.raises(InputError, match="needs transformers 5.8 or newer, and 5.2.0 is installed"):
        VidEoMT(tiny())
