"""What heads say of a whole video: the same together and alone, from one reading."""

from copy import deepcopy

import numpy as np
import pytest
import torch

from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader
from tests import synthetic
from tests.train.protocol_caches import SIZES, write_head
from train import inference
from train.config import load_config
from train.data import video_batch
from train.heads import Head, build_head, find_head
from train.heads.dmvs import DMVS
from train.inference import BATCH, predict_video


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> CacheReader:
    path = tmp_path_factory.mktemp("inference") / "cache"
    synthetic.write_cache(path, num_videos=1, num_expressions=BATCH + 3)
    return CacheReader(path)


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Head]:
    config, _ = write_head(tmp_path_factory.mktemp("head"))
    made = {}
    for seed, name in enumerate(("one", "other")):
        torch.manual_seed(seed)
        made[name] = build_head(load_config(config), SIZES).eval()
    return made


def _collect(reader: CacheReader, heads: dict[str, Head]) -> dict[str, list]:
    video = reader.video("video000")
    texts = [video.expression(e) for e in video.expression_ids]
    found: dict[str, list] = {name: [] for name in heads}
    for name, number, scores, embeds in predict_video(
        reader, heads, "video000", texts, device="cpu"
    ):
        assert number == len(found[name])  # in order
        found[name].append((scores, embeds))
    return found


def test_a_head_says_the_same_beside_another(reader: CacheReader, heads: dict[str, Head]) -> None:
    together = _collect(reader, heads)
    for name, head in heads.items():
        alone = _collect(reader, {name: head})[name]
        assert len(alone) == BATCH + 3
        for ours, theirs in zip(together[name], alone, strict=True):
            np.testing.assert_array_equal(ours[0], theirs[0])
            np.testing.assert_array_equal(ours[1], theirs[1])
    assert not np.array_equal(together["one"][0][1], together["other"][0][1])


@pytest.mark.parametrize("part", ["class_head", "mask_head"])
def test_what_is_no_number_is_refused_before_it_is_scored(
    reader: CacheReader, heads: dict[str, Head], part: str
) -> None:
    spoilt = deepcopy(heads["other"])
    for parameter in getattr(spoilt, part).parameters():
        parameter.data.fill_(torch.nan)
    with pytest.raises(InputError, match="other says NaN or infinite values of video video000"):
        _collect(reader, {"one": heads["one"], "other": spoilt})


def test_an_expression_says_the_same_in_any_batch(
    reader: CacheReader, heads: dict[str, Head], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _collect(reader, heads)["one"]
    monkeypatch.setattr(inference, "BATCH", 1)
    for ours, theirs in zip(whole, _collect(reader, heads)["one"], strict=True):
        np.testing.assert_allclose(ours[0], theirs[0], atol=1e-5)
        np.testing.assert_allclose(ours[1], theirs[1], atol=1e-4)


def test_frames_are_exchanged_for_heads_that_look_at_their_order(
    reader: CacheReader, heads: dict[str, Head]
) -> None:
    keys = {"hidden_dim": 16, "num_motion_queries": 3, "num_heads": 2, "feedforward_dim": 32}
    torch.manual_seed(0)
    ordered = find_head("trajectory")(SIZES, num_layers=1, **keys).eval()
    texts = [
        reader.video("video000").expression(e) for e in reader.video("video000").expression_ids
    ]

    def scores(head: Head, *, shuffle_frames: bool) -> np.ndarray:
        how = {"device": "cpu", "shuffle_frames": shuffle_frames}
        return np.stack(
            [own[2] for own in predict_video(reader, {"": head}, "video000", texts, **how)]
        )

    for head, moves in ((ordered, True), (heads["one"], False)):
        plain, shuffled = scores(head, shuffle_frames=False), scores(head, shuffle_frames=True)
        assert np.allclose(plain, shuffled, atol=1e-5) is not moves
        np.testing.assert_array_equal(shuffled, scores(head, shuffle_frames=True))


def test_the_video_is_moved_to_the_device_once_for_all_expressions(reader: CacheReader) -> None:
    video = reader.video("video000")
    texts = [video.expression(e) for e in video.expression_ids]
    inputs = video_batch(video, texts, DMVS.reads)
    moved = inference._to(inputs, "meta")
    assert moved.frame_queries.device.type == moved.words.device.type == "meta"
    assert moved.frame_queries.shape == inputs.frame_queries.shape
    assert moved.frame_queries.stride(0) == moved.video_queries.stride(0) == 0
    assert moved.words.stride(0) > 0
