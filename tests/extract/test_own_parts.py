"""A segmenter and a data set of one's own, one class each: all that their authors have to write.

The segmenter is all that VITA is not: frames see what came before, mask embeddings change from
frame to frame, other channels, another stride.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from stage_one import DEMO, prepare, small_config
from torch import Tensor, nn
from torch.nn import functional as F

from cache_schema import manifest
from cache_schema.host.cli import InputError
from cache_schema.host.launch import Rank
from cache_schema.reader import CacheReader
from cache_schema.records import Facts
from extract.config import load_config
from extract.datasets import DATASETS, open_dataset
from extract.datasets.meta_expressions import times_of
from extract.datasets.records import SourceExpression, SourceVideo, encode_mask
from extract.pipeline.inference import clip_of
from extract.pipeline.run import extract
from extract.segmenters.base import FrameOutput, Segmenter, VideoOutput, find_segmenter
from extract.segmenters.masks import mask_logits, object_cells, to_original
from extract.stage import RANDOM, load_stage
from tests.cache_schema.helpers import contents
from tests.processes import Command, module


@dataclass(frozen=True)
class TrackerConfig:
    """Its keys under ``segmenter``."""

    queries: int = 5
    memory: float = 0.5


class Tracker(Segmenter):
    """Queries look at the means of the frame and remember those of the frame before."""

    Config = TrackerConfig
    identity = True
    query_dim, mask_dim, num_classes, stride, divisor = 6, 10, 3, 8, 16

    def __init__(self, config: TrackerConfig) -> None:
        super().__init__()
        self.config = config
        self.encode = nn.Conv2d(3, self.mask_dim, kernel_size=8, stride=8)
        self.start = nn.Parameter(torch.randn(config.queries, self.query_dim))
        self.look = nn.Linear(self.mask_dim, self.query_dim)
        self.classify = nn.Linear(self.query_dim, self.num_classes + 1)
        self.draw = nn.Linear(self.query_dim, self.mask_dim)
        self.mask_head = [self.draw]

    def frames(self, images: Tensor, state: Tensor | None = None) -> tuple[FrameOutput, Tensor]:
        return self._follow(self.encode(images), state)

    def clip_frames(
        self, images: Tensor, seen: FrameOutput, state: Tensor | None
    ) -> tuple[FrameOutput, Tensor]:
        return self._follow(seen.shared["maps"], state)

    def _follow(self, maps: Tensor, state: Tensor | None) -> tuple[FrameOutput, Tensor]:
        seen = []
        for frame in maps:
            before = self.start if state is None else self.config.memory * state
            state = torch.tanh(before + self.look(frame.mean((1, 2))) + self.start)
            seen.append(state)
        queries = torch.stack(seen)  # (t, N, C)
        kept = {"logits": self.classify(queries), "mask_embeds": self.draw(queries)}
        return FrameOutput(queries, maps, kept, shared={"maps": maps}), state

    def video(self, frame_queries: Tensor, logits: Tensor, mask_embeds: Tensor) -> VideoOutput:
        return VideoOutput(frame_queries.mean(1), logits.mean(1), mask_embeds)


class Short(Tracker):
    """Forgets "no object"."""

    def video(self, frame_queries: Tensor, logits: Tensor, mask_embeds: Tensor) -> VideoOutput:
        return super().video(frame_queries, logits[..., :-1], mask_embeds)


class Noise:
    """Frames that OpenCV never saw."""

    def __init__(self, height: int, width: int) -> None:
        self._size = (height, width, 3)

    def read(self, index: int) -> np.ndarray:
        return np.random.default_rng(index).integers(0, 256, self._size, np.uint8)

    def where(self, index: int) -> str:
        return f"drawing {index}"


class Squares:
    """Two squares in noise; of each video every third frame is listed."""

    facts = Facts(one_object=True, protocol="expressions", has_text=True)

    def __init__(self, root: Path, split: str | None, *, frames: int = 7) -> None:
        self.ids, self._frames = ["left", "right"], frames

    def fingerprint(self) -> dict[str, int]:
        return {"frames": self._frames}

    def video(self, video_id: str, *, objects: bool = True) -> SourceVideo:
        masks = np.zeros((2, 40, 60), np.uint8)
        masks[0, 10:21, 5:27] = masks[1, 20:40, 33:60] = 1
        tracks = {str(k): [encode_mask(mask)] * self._frames for k, mask in enumerate(masks)}
        tracks["1"][2] = None
        return SourceVideo(
            id=video_id,
            frame_names=[f"f{t}" for t in range(self._frames)],
            frame_times=range(0, 3 * self._frames, 3),
            frames=Noise(40, 60),
            expressions=[
                SourceExpression(id="0", text="a square", object_ids=["0"], annotation_ids=["0"])
            ],
            objects=tracks if objects else {},
        )


TRACKER, SQUARES = f"{__name__}:Tracker", f"{__name__}:Squares"


def toy_config(**options):
    # A name replaces all that the demo's config says of VITA.
    return small_config(**{"codec": "float32", "segmenter": TRACKER, "dataset": SQUARES} | options)


def run(out: Path, **options) -> CacheReader:
    how = {name: options.pop(name) for name in ("chunk_frames", "queue") if name in options}
    extract(toy_config(**options), data_root=out.parent, split=None, weights=RANDOM, out=out,
            device="cpu", **how)  # fmt: skip
    return CacheReader(out)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """By the real command."""
    out = tmp_path_factory.mktemp("toys") / "cache"
    words = [DEMO, "--data-root", out.parent, "--weights", RANDOM, "--out", out,
             "--device", "cpu", "--chunk-frames", "2", "--cfg-options",
             f"segmenter={TRACKER}", f"dataset={SQUARES}", "codec=float32", "clips.num=2",
             "clips.frames=4", "segmenter.queries=4"]  # fmt: skip
    done = Command(module("extract", words), out.with_name("said"))
    said = done.said()
    assert done.status == 0, said
    return out


@pytest.fixture(scope="module")
def stage():
    return load_stage(toy_config(**{"segmenter.queries": 4}), RANDOM, "cpu", has_text=False)


def images_of(stage, indices) -> Iterator[Tensor]:
    source = Squares(Path(), None).video("left")
    return (prepare(stage.preprocess, source.read_frame(int(t)))[0][None] for t in indices)


def test_a_cache_says_what_its_data_set_and_segmenter_are(written, stage):
    cache = CacheReader(written)
    assert cache.facts == Squares.facts and cache.dataset == SQUARES
    assert (cache.segmenter.type, cache.segmenter.identity) == (TRACKER, True)
    ((weight, bias),) = cache.segmenter.mask_head
    assert np.array_equal(weight, stage.segmenter.draw.weight.numpy()) and bias.shape == (10,)
    geometry = cache.video("left").geometry
    assert (geometry.padded_height, geometry.padded_width, geometry.stride) == (48, 64, 8)


def test_what_the_segmenter_says_is_in_the_cache(written, stage):
    features, video = clip_of(stage.segmenter, images_of(stage, range(7)))
    stored = CacheReader(written).video("left")
    assert stored.frame_times().tolist() == [0, 3, 6, 9, 12, 15, 18]
    assert np.allclose(stored.video_queries(), video.video_queries[0], atol=1e-5)
    assert stored.video_mask_embeds().shape == (7, 4, 10)
    assert np.allclose(stored.video_mask_embeds(), video.mask_embeds[0], atol=1e-5)
    # masks in padded cells do not count: 5 rows and 8 columns (7.5 cells) are image
    logits = torch.cat(
        [mask_logits(f[None], e) for f, e in zip(features, video.mask_embeds[0], strict=True)]
    )
    masks = (logits[..., :5, :8] > 0).numpy()
    assert np.abs(stored.tracks()[..., 4].T - masks.mean((2, 3))).max() < 1e-3
    cells = object_cells(stored.objects(), stored.geometry)
    shared = np.einsum("tnhw,tkhw->nk", masks, cells.astype(float))
    union = masks.sum((0, 2, 3))[:, None] + cells.sum((0, 2, 3), dtype=float) - shared
    assert np.abs(stored.overlaps() - shared / union).max() < 1e-3


def test_a_clip_runs_from_its_own_first_frame(written, stage):
    stored = CacheReader(written).video("left")
    for number in range(2):
        clip = stored.clip(number)
        _, alone = clip_of(stage.segmenter, images_of(stage, clip.frame_indices))
        assert np.allclose(clip.video_queries, alone.video_queries[0], atol=1e-5)
        assert np.allclose(clip.mask_embeds, alone.mask_embeds[0], atol=1e-5)
        assert clip.mask_embeds.shape == (4, 4, 10) and clip.overlaps.shape == (4, 2)
    # and not as part of the video
    seen = stored.video_mask_embeds()[clip.frame_indices]
    assert np.abs(seen - clip.mask_embeds).max() > 1e-3


def test_chunks_and_threads_change_nothing_and_no_frame_is_encoded_twice(
    written, tmp_path, monkeypatch
):
    encoded, convolve = [], F.conv2d

    def counted(images, *rest):
        encoded.append(len(images))
        return convolve(images, *rest)

    monkeypatch.setattr(F, "conv2d", counted)
    run(tmp_path / "one", chunk_frames=1, queue=0, **{"segmenter.queries": 4})
    assert sum(encoded) == 2 * 7
    assert contents(tmp_path / "one") == contents(written)


@pytest.mark.parametrize("codec", [{"codec": "lowrank-int8", "codec.iou": 0.9}, {"codec": "int8"}])
def test_codecs_take_embeddings_of_each_frame(tmp_path, codec):
    stored = run(tmp_path / "cache", **codec).video("left")
    assert stored.video_mask_embeds().shape == (7, 5, 10)
    costs = [entry.codec_iou for entry in manifest.read(tmp_path / "cache").videos.values()]
    assert all(0.9 < cost.mean <= 1 for cost in costs)


def test_a_light_cache_holds_the_segmenters_own_masks(tmp_path, stage):
    cache = run(tmp_path / "cache", codec="none", **{"segmenter_masks.keep": 2,
                                                    "segmenter.queries": 4})  # fmt: skip
    assert cache.light
    features, video = clip_of(stage.segmenter, images_of(stage, range(7)))
    stored = cache.video("left")
    best = video.logits[0].softmax(-1)[:, :-1].amax(-1).topk(2).indices.tolist()
    masks = stored.segmenter_masks()
    assert sorted(masks) == sorted(best)
    for t in range(7):
        logits = mask_logits(features[t : t + 1], video.mask_embeds[0, t])[0]
        expected = to_original(logits, stored.geometry) > 0
        for n in best:
            mask = expected[n].numpy()
            assert masks[n][t] == (encode_mask(mask) if mask.any() else None)


def test_a_segmenter_that_says_another_size_than_it_declares_is_told():
    wrong, images = Tracker(TrackerConfig()), torch.zeros(1, 3, 48, 64)
    wrong.mask_dim = 12
    with pytest.raises(ValueError, match=r"Tracker.frames gave mask features \(1, 10, 6, 8\)"):
        wrong.check_frames(images, wrong.frames(images)[0])


def test_ranks_that_began_at_once_with_different_settings_are_told_in_the_end(
    tmp_path: Path,
) -> None:
    for rank, clips in enumerate((2, 3)):  # each before there is anything of the other
        extract(toy_config(clips={"num": clips, "frames": 4}), data_root=tmp_path, split=None,
                weights=RANDOM, out=tmp_path / str(rank), device="cpu", queue=0,
                rank=Rank(rank, 2, rank))  # fmt: skip
    (tmp_path / "1" / "shard-00001.h5").rename(tmp_path / "0" / "shard-00001.h5")
    with (tmp_path / "0" / manifest.MANIFEST).open("ab") as lines:
        lines.write((tmp_path / "1" / manifest.MANIFEST).read_bytes())
    with pytest.raises(InputError, match=r"shard-0000..h5 was made .* clips.num: "):
        extract(toy_config(clips={"num": 3, "frames": 4}), data_root=tmp_path, split=None,
                weights=RANDOM, out=tmp_path / "0", device="cpu", queue=0,
                rank=Rank(1, 2, 1))  # fmt: skip


class Dangling(Squares):
    """Its second video has a sentence about an object that is not there."""

    def video(self, video_id: str, *, objects: bool = True) -> SourceVideo:
        video = super().video(video_id, objects=objects)
        if video_id == "right":
            video.expressions[0].annotation_ids.append("9")
        return video


def test_a_sentence_about_an_object_that_is_not_there_fails_its_video(tmp_path: Path) -> None:
    cache = run(tmp_path / "cache", dataset=f"{__name__}:Dangling", queue=0)
    assert cache.video_ids == ["left"]
    (reason,) = manifest.read(tmp_path / "cache").failures.values()
    assert "expression '0' means the annotation '9', but there are 0, 1" in reason


def test_a_segmenter_whose_logits_lack_a_class_is_told(tmp_path: Path) -> None:
    """Without "no object" in the end every objectness would be one class short."""
    with pytest.raises(ValueError, match=r"logits \(1, 5, 3\) .* it declares .*\(1, N_v, 4\)"):
        run(tmp_path / "cache", segmenter=f"{__name__}:Short", queue=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"segmenter.querys": 3},
            r"key 'segmenter.querys' \(did you mean 'queries'\?\)",
        ),
        ({"segmenter.queries": 2.5}, "segmenter.queries is 2.5; it has to be a whole number"),
        ({"segmenter.queries": True}, "segmenter.queries is True; it has to be a whole number"),
        ({"segmenter.memory": "long"}, "segmenter.memory is 'long'; it has to be a number"),
        ({"segmenter.type": "vitta"}, r"unknown segmenter.type 'vitta' \(did you mean 'vita'\?\)"),
        ({"segmenter.type": "nowhere:Tracker"}, "nowhere does not import: ModuleNotFoundError"),
        ({"segmenter.type": f"{__name__}:Traker"}, r"no class 'Traker' \(did you mean 'Tracker'"),
        ({"segmenter.type": SQUARES}, "which is no segmenter: derive it from"),
    ],
)
def test_wrong_segmenters_are_refused_by_name(options, message):
    with pytest.raises(InputError, match=message):
        load_stage(toy_config(**options), RANDOM, "cpu", has_text=False)


def test_old_configs_mean_vita():
    config = load_config(DEMO)
    assert config.segmenter_type == "vita" and "type" not in config.segmenter
    assert find_segmenter("vita").__name__ == "VITA"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (f"{__name__}:Noise", "does not say what it is: give Noise the attribute facts"),
        (f"{__name__}:Sqares", r"no class 'Sqares' \(did you mean 'Squares'\?\)"),
        ("meviss", r"unknown dataset 'meviss' \(did you mean 'mevis'\?\)"),
    ],
)
def test_wrong_data_sets_are_refused_by_name(tmp_path, name, message):
    with pytest.raises(InputError, match=message):
        open_dataset(name, tmp_path, None)


@pytest.mark.parametrize("ids", [[], ["left", "left"], [1, 2], None])
def test_videos_of_a_data_set_have_ids(tmp_path, monkeypatch, ids):
    made = Squares.__init__

    def make(self, *words, **settings):
        made(self, *words, **settings)
        self.ids = ids

    monkeypatch.setattr(Squares, "__init__", make)
    with pytest.raises(InputError, match="they have to be words, at least one and each once"):
        open_dataset(SQUARES, tmp_path, None)


def test_settings_of_a_data_set_of_ones_own(tmp_path):
    assert len(open_dataset(SQUARES, tmp_path, None, {"frames": 3}).video("left").frame_names) == 3
    with pytest.raises(InputError, match="known are frames"):
        open_dataset(SQUARES, tmp_path, None, {"framess": 3})


def test_data_sets_say_what_they_are():
    facts = {name: kind.facts for name, kind in DATASETS.items()}
    one, many = Facts(True, "expressions", True), Facts(False, "expressions", True)
    assert facts == {
        "mevis": many,
        "ref_youtube_vos": one,
        "ref_davis": Facts(True, "davis", True),
        "refcoco": one,
        "refcoco+": one,
        "refcocog": one,
        "folder": Facts(False, "expressions", False),
        "video": Facts(False, "expressions", False),
    }


def test_names_of_frames_that_are_numbers_are_times():
    assert times_of(["00000", "00005", "00020"]) == [0, 5, 20]
    for names in (["a", "b"], ["2", "10", "9"], ["1", "01"], ["123456789012"]):
        assert times_of(names) is None
