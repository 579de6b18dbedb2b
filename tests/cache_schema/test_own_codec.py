"""A codec of one's own is one file: this one, as far as the cache is concerned."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from cache_schema import codecs
from cache_schema.codecs import Basis, Codec, get_codec
from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader
from cache_schema.shard import texts_crc32
from cache_schema.verify import verify
from cache_schema.writer import CacheWriter
from extract.codecs import mask_codec
from tests.cache_schema.helpers import seal_again
from tests.synthetic import FACTS, make_segmenter, make_video, write_cache, write_video
from train.masks.logits import mask_logits


class EveryOther(Codec):
    """Every other channel, in 16 bits, clipped to three standard deviations."""

    def for_channels(self, channels):
        kept = np.eye(channels, dtype=np.float32)[:, ::2]
        zeros = np.zeros(channels, np.float32)
        return replace(self, basis=Basis(zeros, kept, np.ascontiguousarray(kept.T)))

    def encode(self, features):
        limit = 3 * features.std()
        return super().encode(features.clip(-limit, limit))


PLAIN = Codec("plain", np.dtype("int16"), np.dtype("float16"))
HALF = EveryOther("half", np.dtype("int16"), np.dtype("float32"))
NOTHING = "no codec"


@pytest.mark.parametrize("name", ["PLAIN", "HALF"])
def test_a_codec_of_ones_own_is_written_and_read_without_it(tmp_path, name, monkeypatch):
    codec = get_codec(f"{__name__}:{name}").for_channels(16)
    assert codec.name == f"{__name__}:{name}"
    video = make_video(0, codec="float32" if name == "HALF" else "float16")
    with CacheWriter(
        tmp_path,
        fingerprint={"codec": codec.describe()},
        dataset="synthetic",
        split="train",
        codec=codec,
        facts=FACTS,
        segmenter=make_segmenter(),
    ) as writer:
        write_video(writer, video)
    assert verify(tmp_path).sound
    monkeypatch.setattr("cache_schema.codecs.import_module", None)  # a reader imports nothing
    reader = CacheReader(tmp_path)
    stored = reader.video(video.id).mask_features([2, 4])
    assert stored["values"].dtype == np.int16 and reader.codec.name == codec.name
    assert reader.video(video.id).video_queries().dtype == codec.query_dtype
    embeds = video.video_mask_embeds
    logits = reader.codec.mask_logits(stored, embeds)
    assert np.array_equal(logits, codec.mask_logits(codec_of(codec, video, [2, 4]), embeds))
    features, step = video.mask_features[[2, 4]], 2 if name == "HALF" else 1
    exact = np.einsum("tchw,nc->tnhw", features[:, ::step], embeds[:, ::step])
    inside = (
        np.abs(features).max(1) < 3 * features.std() if step == 2 else np.ones((2, 8, 12), bool)
    )
    np.testing.assert_allclose(
        logits.swapaxes(0, 1)[:, inside], exact.swapaxes(0, 1)[:, inside], atol=4e-3
    )


@pytest.mark.parametrize("name", ["PLAIN", "HALF"])
def test_the_torch_sides_follow_from_what_is_declared(name):
    codec = get_codec(f"{__name__}:{name}").for_channels(16)
    video = make_video(0)
    features, embeds = video.mask_features, video.video_mask_embeds
    expected = codec.encode(features)
    coded = mask_codec.encode(torch.from_numpy(features), codec)
    if not mask_codec.in_numpy(codec):
        together, sound = mask_codec.encode_together(torch.from_numpy(features), codec)
        assert sound and {n: a.numpy().tobytes() for n, a in together.items()} == {
            n: a.tobytes() for n, a in coded.items()
        }
    for key, array in expected.items():
        np.testing.assert_array_equal(coded[key], array)
    logits = mask_logits(expected, torch.from_numpy(embeds), codec=codec)
    np.testing.assert_allclose(logits, codec.mask_logits(expected, embeds), atol=1e-5)


def codec_of(codec, video, frames):
    """What was written of some frames, three at a time."""
    chunks = [codec.encode(video.mask_features[t : t + 3]) for t in (0, 3)]
    return {n: np.concatenate([c[n] for c in chunks])[frames] for n in chunks[0]}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("zip", "known codecs are float32, .*'my_package.my_module:NAME'"),
        ("no_such_module:X", "cannot be imported: .*No module named"),
        ("broken_codec:X", "cannot be imported: SyntaxError"),
        ("ends_itself:X", r"cannot be imported: SystemExit\(0\)"),
        (f"{__name__}:MISSING", "cannot be imported: .*MISSING"),
        (":X", "cannot be imported"),
        (f"{__name__}:NOTHING", "is no cache_schema.codecs.Codec, but str"),
    ],
)
def test_what_is_no_codec_is_refused(name, message, tmp_path, monkeypatch):
    (tmp_path / "broken_codec.py").write_text("MINE = Codec(")
    (tmp_path / "ends_itself.py").write_text("raise SystemExit(0)")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InputError, match=message):
        get_codec(name)


@pytest.mark.parametrize(
    "declared", ['{"dtype": "complex64", "query_dtype": "float16"}', "{}", "[1]", '{"dtype": 1}']
)
def test_a_shard_that_declares_what_cannot_be_read_is_refused(tmp_path, declared):
    write_cache(tmp_path, num_videos=1)
    shard = tmp_path / "shard-00000.h5"
    with h5py.File(shard, "r+") as file:
        file.attrs["codec_json"] = declared
        file.attrs["crc32"] = texts_crc32(file)
    seal_again(shard)
    with pytest.raises(InputError, match="which this program cannot read|is not a JSON object"):
        CacheReader(tmp_path)


def test_the_example_of_the_format_page_is_a_codec(tmp_path, monkeypatch):
    page = (Path(codecs.__file__).parent / "README.md").read_text()
    example = page.split("\n## Codecs\n")[1].split("```python\n")[1].split("```")[0]
    (tmp_path / "the_example.py").write_text(example)
    monkeypatch.syspath_prepend(str(tmp_path))
    codec = get_codec("the_example:MINE")
    assert codec.encode(np.ones((1, 2, 3, 3), np.float32))["values"].max() == 32767
