"""Coding on the device: the reference's codes, a basis that keeps the masks, and what it costs."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cache_schema.codecs import CODECS, LOWRANK, Codec, get_codec
from cache_schema.host.cli import InputError
from cache_schema.records import Geometry
from extract.codecs import fitting, mask_codec
from extract.codecs import video_tracks as video_tracks_module
from extract.codecs.fitting import Sample, fit
from extract.codecs.mask_codec import (
    codec_iou,
    confident,
    encode,
    encode_together,
    iou_by_rank,
    summarise,
)
from extract.codecs.video_tracks import video_tracks
from tests.synthetic import make_codec

C, H, W = 16, 9, 14
CODED = [make_codec(name) for name in CODECS]
every_codec = pytest.mark.parametrize("codec", CODED, ids=list(CODECS))


def noise(frames: int = 3, seed: int = 0) -> torch.Tensor:
    """Mask features (t, C, H, W) whose channels differ in size."""
    features = torch.randn(frames, C, H, W, generator=torch.Generator().manual_seed(seed))
    return features * torch.logspace(-2, 2, C)[:, None, None] + torch.arange(C)[:, None, None]


def samples(count: int, frames: int = 4) -> list[Sample]:
    """Blobs that a few embeddings tell apart, in 3 dimensions, beside much louder ones."""
    rng = np.random.default_rng(0)
    mixing = np.linalg.qr(rng.standard_normal((C, C)))[0].astype(np.float32)
    made = []
    for _ in range(count):
        maps = 0.02 * rng.standard_normal((frames, C, H, W), np.float32)
        maps[:, 3:6] += 20 * rng.standard_normal((frames, 3, H, W), np.float32)
        for t in range(frames):
            for k in range(3):
                y, x = rng.integers(0, H - 4), rng.integers(0, W - 5)
                maps[t, k] -= 1
                maps[t, k, y : y + 4, x : x + 5] += 2
        embeds = np.zeros((3, C), np.float32)
        embeds[:, :3] = np.eye(3) + 0.1 * rng.standard_normal((3, 3))
        embeds[:, 6:] = 0.05 * rng.standard_normal((3, C - 6))
        features = np.einsum("tkhw,kc->tchw", maps, mixing)
        made.append(Sample(torch.from_numpy(features), torch.from_numpy(embeds @ mixing)))
    return made


def cost(sample: Sample, codec: Codec) -> np.ndarray:
    """IoUs of a sample's masks."""
    return codec_iou(sample.features, encode(sample.features, codec), sample.embeds, codec)


def without_masks() -> Sample:
    """All logits are negative."""
    sample = samples(1)[0]
    return Sample(sample.features.abs() + 1, -sample.embeds.abs())


@every_codec
def test_codes_are_the_references(codec: Codec) -> None:
    features = noise()
    found, expected = encode(features, codec), codec.encode(features.numpy())
    assert {n: (a.shape, a.dtype) for n, a in found.items()} == {
        n: (a.shape, a.dtype) for n, a in expected.items()
    }
    if codec.basis is None:  # no product, so nothing that may be rounded differently
        for name, array in found.items():
            assert np.array_equal(array, expected[name])
    else:
        np.testing.assert_allclose(found["scales"], expected["scales"], rtol=1e-5)
        apart = np.abs(found["values"].astype(int) - expected["values"])
        assert apart.max() <= 1 and apart.mean() < 1e-3


@every_codec
@settings(max_examples=10)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=4))
def test_codes_do_not_depend_on_the_chunks(codec: Codec, chunks: list[int]) -> None:
    features = noise(sum(chunks))
    whole = encode(features, codec)
    parts = [encode(part, codec) for part in features.split(chunks)]
    for name, array in whole.items():
        assert np.concatenate([part[name] for part in parts]).tobytes() == array.tobytes()


@every_codec
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_frames_together_are_coded_as_each_alone(codec: Codec, dtype: torch.dtype) -> None:
    features = noise().to(dtype)
    features[1] = 0  # scales of 0
    expected = encode(features, codec)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found, sound = encode_together(features, codec)
    assert sound
    for name, array in expected.items():
        assert (found[name].shape, str(found[name].dtype)[6:]) == (array.shape, array.dtype.name)
        if codec.basis and name == "values":  # as above
            assert np.abs(found[name].numpy().astype(int) - array).max() <= 1
        else:
            np.testing.assert_allclose(found[name].numpy(), array, rtol=1e-5 * bool(codec.basis))
    for bad in (np.nan, np.inf, -np.inf):
        features[2, 1, 3, 4] = bad
        assert not encode_together(features, codec)[1]


def test_what_float16_cannot_hold_is_noticed_together() -> None:
    features = torch.full((2, 2, 3, 3), 70000.0)
    assert not encode_together(features, get_codec("float16"))[1]
    assert encode_together(features, get_codec("float32"))[1]


BANK, GEOMETRY = np.array([[0, 2], [1, 2]], np.int32), Geometry(33, 50, 33, 50, 36, 56, 4)


def embeddings(*, each_frame: bool) -> list[np.ndarray]:
    """Of the whole video and two clips: 5 queries, whose embeddings may change with the frame."""
    rng = np.random.default_rng(0)
    frames = [(3,), (2,), (2,)] if each_frame else [()] * 3
    return [rng.standard_normal((*own, 5, C)).astype(np.float32) for own in frames]


def measured(codec: Codec, embeds: list[np.ndarray], objects: np.ndarray | None) -> list:
    coded = encode(noise(), codec)
    frames = [{name: array[t : t + 1] for name, array in coded.items()} for t in range(3)]
    return video_tracks(frames.__getitem__, codec, embeds, BANK, 3, GEOMETRY, objects)


@pytest.mark.parametrize("each_frame", [False, True])
def test_overlaps_are_iou_over_all_frames_of_the_clip(each_frame: bool) -> None:
    """Against the definition, in NumPy: masks of exact features, fractions of cells."""
    objects = np.random.default_rng(1).random((3, 2, 8, 12)).astype(np.float16)
    objects[1, 1] = 0
    features, embeds = noise().numpy()[:, :, :8, :12], embeddings(each_frame=each_frame)
    found = measured(get_codec("float32"), embeds, objects)
    assert len(found) == 3
    for frames, own, (tracks, overlaps) in zip([[0, 1, 2], *BANK], embeds, found, strict=True):
        assert tracks.shape == (5, len(frames), 6) and overlaps.dtype == np.float16
        own = np.broadcast_to(own, (len(frames), 5, C))
        masks = np.einsum("tnc,tchw->tnhw", own, features[frames]) > 0
        for n in range(5):
            for k in range(2):
                mask, truth = masks[:, n].astype(float), objects[frames, k].astype(float)
                inside = (mask * truth).sum()
                iou = inside / (mask.sum() + truth.sum() - inside)
                assert abs(overlaps[n, k] - iou) < 1e-3
        areas = masks.mean((2, 3)).T
        assert np.abs(tracks[..., 4] - areas).max() < 1e-3


def test_overlaps_with_nothing_are_none_or_zero() -> None:
    embeds = embeddings(each_frame=False)
    assert all(overlaps is None for _, overlaps in measured(get_codec("float32"), embeds, None))
    nothing = np.zeros((3, 1, 8, 12), np.float16)
    for _, overlaps in measured(get_codec("float32"), [0 * own for own in embeds], nothing):
        assert not overlaps.any()  # neither a mask nor an object


@every_codec
@pytest.mark.parametrize("chunks", [[3], [1, 2]])
@pytest.mark.parametrize("each_frame", [False, True])
def test_tracks_on_the_device_are_those_of_what_was_written(
    codec: Codec, chunks: list[int], each_frame: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, embeds = noise(), embeddings(each_frame=each_frame)
    objects = (np.random.default_rng(1).random((3, 2, 8, 12)) < 0.5).astype(np.float16)
    expected = measured(codec, embeds, objects)
    monkeypatch.setattr(video_tracks_module, "MEASURED_CELLS", 2 * 5 * H * W)  # two frames
    kept = video_tracks_module.KeptCodes()
    for part in features.split(chunks):
        kept.add(encode_together(part, codec)[0])
    on_device = [torch.from_numpy(own) for own in embeds]
    found = kept.tracks(codec, on_device, BANK, GEOMETRY, objects)
    assert len(found) == 3 and {part.dtype for own in found for part in own} == {torch.float16}
    for mine, own in zip(found, expected, strict=True):
        for part, whole in zip(mine, own, strict=True):
            difference = np.abs(part.numpy().astype(float) - whole)
            assert part.shape == whole.shape and np.median(difference) < 1e-3
            assert difference.max() < (0.2 if codec.basis else 2e-3)  # a cell may change sides
    monkeypatch.setattr(video_tracks_module, "KEPT_BYTES", 1)
    late = video_tracks_module.KeptCodes()
    late.add(encode_together(features, codec)[0])
    assert late.tracks(codec, on_device, BANK, GEOMETRY, objects) is None


@every_codec
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_features_are_refused(codec: Codec, bad: float) -> None:
    features = noise()
    features[1, 2, 3, 4] = bad
    with pytest.raises(InputError, match="NaN or infinite"):
        encode(features, codec)


def test_values_beyond_float16_are_refused_and_float32_is_offered() -> None:
    with pytest.raises(InputError, match=r"reaches 70000.*float32"):
        encode(torch.full((1, 2, 3, 3), -70000.0), get_codec("float16"))


@every_codec
def test_features_of_half_precision_and_autocast_are_coded_in_float32(codec: Codec) -> None:
    features = noise().bfloat16()
    expected = encode(features.float(), codec)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = encode(features, codec)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_features_stay_as_they_are() -> None:
    for name in CODECS:
        features = noise()
        encode(features, make_codec(name))
        assert torch.equal(features, noise())


def test_confident_queries_are_rather_something_than_nothing() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.5], [0.0, 0.0, 0.9], [-9.0, 3.0, 1.0], [0.0, 0.0, 9.0]])
    assert confident(logits).tolist() == [True, False, True, False]
    assert confident(logits[[3, 1]]).tolist() == [False, True]


def test_a_rank_is_chosen_that_keeps_the_masks_of_others() -> None:
    codec = fit(iter(samples(12)), name=LOWRANK, rank="auto", iou=0.98)
    # Three directions hold the masks; plain PCA would take the three that are loud.
    assert codec.basis.rank == 3
    fresh = samples(20)[12:]
    kept = summarise([cost(sample, codec) for sample in fresh])
    assert kept.mean > 0.97 and kept.masks == 8 * 4 * 3
    lower = fit(samples(12), name=LOWRANK, rank=2, iou=0.98)
    lost = summarise([cost(sample, lower) for sample in fresh])
    assert lost.mean < 0.8 and lost.worst < lost.mean


def test_the_curve_is_what_codecs_of_each_rank_give() -> None:
    sample = samples(1)[0]
    whole = fit([sample], name=LOWRANK, rank=C, iou=0.99)
    curve = iou_by_rank(sample.features, sample.embeds, whole.basis)
    assert curve.shape == (C, 12)
    for rank in (1, 2, 3, 7, C):
        codec = fit([sample], name=LOWRANK, rank=rank, iou=0.99)
        # A logit at zero may fall on the other side by rounding.
        np.testing.assert_allclose(curve[rank - 1], cost(sample, codec), atol=0.02)


def test_a_fit_is_the_same_every_time_and_reads_samples_once() -> None:
    first, again = (fit(iter(samples(5)), name=LOWRANK, rank="auto", iou=0.9) for _ in range(2))
    assert first.describe() == again.describe()


def test_frames_are_kept_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "KEPT_BYTES", 6 * C * H * W * 4)  # one sample of two a half
    half = fitting._Half()
    for sample in samples(5):
        half.add(sample, keep=True)
    assert half.ious(half.moments.basis(C)).shape == (C, 2 * 3)
    assert half.moments.pixels == 5 * 4 * H * W


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_one_sample_is_enough(frames: int) -> None:
    assert fit(samples(1, frames), name=LOWRANK, rank="auto", iou=0.9).basis.rank <= C


def test_codecs_without_a_basis_need_no_samples() -> None:
    def never() -> Iterator[Sample]:
        raise AssertionError
        yield

    assert fit(never(), name="int8", rank="auto", iou=0.99) is get_codec("int8")


def fail(message: str, found: list[Sample], rank: int | str = "auto", iou: float = 0.99) -> None:
    with pytest.raises(InputError, match=message):
        fit(found, name=LOWRANK, rank=rank, iou=iou)


def test_what_cannot_be_fitted_is_refused() -> None:
    sample = samples(1)[0]
    fail("has no frame to be fitted to", [])
    fail("rank 17 is not from 1 to 16", [sample], rank=17)
    fail("no rank keeps a mask IoU of 1.5, the best is .* codec.iou", [sample], iou=1.5)
    fail("no sampled frame shows a mask", [without_masks()])
    fail("NaN or infinite", [Sample(sample.features / 0, sample.embeds)])
    fail("NaN or infinite", [Sample(sample.features, sample.embeds * torch.nan)])


def test_a_video_without_masks_has_no_iou() -> None:
    ious = cost(without_masks(), get_codec("int8"))
    assert ious.shape == (0,)
    assert summarise([ious]) is None and summarise([]) is None
    assert summarise([ious, np.array([0.5, 1.0])]) == mask_codec.CodecIoU(0.75, 0.5, 2)
