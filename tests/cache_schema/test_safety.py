"""A cache is data from outside: what points elsewhere or is not plain numbers is refused."""

import json
import shutil
import zlib

import h5py
import numpy as np
import pytest

from cache_schema import codec_file, manifest, shard
from cache_schema.codecs import LOWRANK
from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader
from cache_schema.verify import verify
from tests.synthetic import make_codec, open_writer, write_cache

SHARD = "shard-00000.h5"
TRACKS = "videos/video000/tracks"
VIDEO_LINE = '{"id": "a", "shard": "shard-00000.h5", "frames": 1, "bytes": 1, "checksum": "", %s}'


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    path = tmp_path_factory.mktemp("sound") / "cache"
    write_cache(path, num_videos=1)
    return path


@pytest.fixture
def cache(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "cache")


def replace(file, make):
    old = file[TRACKS][()]
    del file[TRACKS]
    make(file, old)


def external_link(file, old):
    file[TRACKS] = h5py.ExternalLink("/etc/other.h5", "/x")


def soft_link(file, old):
    file[TRACKS] = h5py.SoftLink("/videos/video000/video_queries")


def external_data(file, old):
    with open("/dev/null") as nothing:
        file.create_dataset(
            TRACKS, old.shape, old.dtype, external=[(nothing.name, 0, h5py.h5f.UNLIMITED)]
        )


def virtual(file, old):
    layout = h5py.VirtualLayout(old.shape, old.dtype)
    layout[:] = h5py.VirtualSource("other.h5", "x", old.shape)
    file.create_virtual_dataset(TRACKS, layout)


def objects(file, old):
    file.create_dataset(TRACKS, data=["a", "b"], dtype=h5py.string_dtype())


def filtered(file, old):
    file.create_dataset(TRACKS, data=old, compression="gzip")


def other_type(file, old):
    file.create_dataset(TRACKS, data=old.astype(np.float32))


def other_shape(file, old):
    file.create_dataset(TRACKS, data=old[:, :2])


def huge_and_empty(file, old):
    file.create_dataset(TRACKS, (4, 6, 1 << 40), np.float16, chunks=(1, 1, 6))


def group_instead(file, old):
    file.create_group(TRACKS)


CASES = {
    external_link: "an external link",
    soft_link: "a soft link",
    external_data: "other files",
    virtual: "other files",
    objects: "not numbers",
    filtered: "filters",
    other_type: "type float32",
    other_shape: "instead of",
    huge_and_empty: "holds 0 of its",
    group_instead: "not a dataset",
    lambda file, old: None: r"no readable member .*: run verify",
}


@pytest.mark.parametrize(("make", "message"), CASES.items())
def test_what_no_cache_has_is_refused(cache, make, message):
    with h5py.File(cache / SHARD, "r+") as file:
        replace(file, make)
    with pytest.raises(InputError, match=message):
        CacheReader(cache).video("video000").tracks()
    assert list(verify(cache).damaged) == ["video000"]


def test_links_in_place_of_groups_are_refused(cache):
    with h5py.File(cache / SHARD, "r+") as file:
        file.move("videos", "elsewhere")
        file["videos"] = h5py.SoftLink("/elsewhere")
    with pytest.raises(InputError, match="soft link"):
        CacheReader(cache).video("video000")


def test_a_circle_of_hard_links_ends(cache):
    with h5py.File(cache / SHARD, "r+") as file:
        file["videos/video000/objects/again"] = file["videos/video000"]
    assert list(verify(cache).damaged) == ["video000"]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("schema_version", 99, "format version 99"),
        ("schema_version", "1", "not int"),
        ("codec", "zip", "texts do not match their checksum"),
        ("fingerprint", "0" * 64, "does not match"),
        ("fingerprint_json", "[1]", "not a JSON object"),
        ("dataset", None, "no readable attribute 'dataset'"),
    ],
)
def test_headers_that_are_not_ours(cache, name, value, message):
    with h5py.File(cache / SHARD, "r+") as file:
        del file.attrs[name]
        if value is not None:
            file.attrs[name] = value
    with pytest.raises(InputError, match=message):
        CacheReader(cache)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("id", "other", "is not the video"),
        ("num_frames", 5, "its manifest line 6"),
        ("frame_names", "{}", "not a JSON list"),
        ("height", 0, "'height' is 0"),
        ("stride", 1.5, "not int"),
    ],
)
def test_attributes_of_a_video_that_do_not_fit(cache, name, value, message):
    with h5py.File(cache / SHARD, "r+") as file:
        del file["videos/video000"].attrs[name]
        file["videos/video000"].attrs[name] = value
    with pytest.raises(InputError, match=message):
        CacheReader(cache).video("video000")


def test_objects_that_do_not_fit(cache):
    for text in (b"{", b"[]", b'[{"size":[9999999,9999999],"counts":"x"}' + b",null" * 5 + b"]"):
        with h5py.File(cache / SHARD, "r+") as file:
            del file["videos/video000/objects"]
            file["videos/video000/objects/0"] = np.frombuffer(text, np.uint8)
        with pytest.raises(InputError, match="objects/0"):
            CacheReader(cache).video("video000").objects()


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        "{}",
        '{"id": "a", "shard": "../shard-00000.h5", "frames": 1, "bytes": 1, "checksum": ""}',
        '{"id": "a", "shard": "shard-00000.h5", "frames": true, "bytes": 1, "checksum": ""}',
        '{"id": "", "shard": "shard-00000.h5", "frames": 1, "bytes": 1, "checksum": ""}',
        "[" * 100000,
        VIDEO_LINE % '"codec_iou": 1',
        VIDEO_LINE % '"codec_iou": {"mean": NaN, "worst": 0.5, "masks": 3}',
        VIDEO_LINE % '"codec_iou": {"mean": 0.9, "worst": -0.5, "masks": 3}',
        VIDEO_LINE % '"codec_iou": {"mean": 0.9, "worst": 0.5, "masks": true}',
        VIDEO_LINE % '"codec_iou": {"mean": 0.9, "worst": 0.5, "masks": 0}',
        '{"shard": "../shard-00000.h5", "size": 1, "sha256": "%s"}' % ("0" * 64),
        '{"shard": "shard-00000.h5", "size": -1, "sha256": "%s"}' % ("0" * 64),
        '{"shard": "shard-00000.h5", "size": true, "sha256": "%s"}' % ("0" * 64),
        '{"shard": "shard-00000.h5", "size": 1, "sha256": "0"}',
        '{"shard": "/etc/passwd", "dropped": "so that it is deleted"}',
        '{"id": "a", "dropped": 1}',
    ],
)
def test_manifest_lines_that_are_none(cache, line):
    with open(cache / "manifest.jsonl", "a") as file:
        file.write(line + "\n")
    with pytest.raises(InputError, match="line 3 is not a manifest line"):
        CacheReader(cache)


def test_a_shard_of_another_cache_is_refused(cache, tmp_path):
    write_cache(cache, num_videos=2)
    write_cache(tmp_path / "other", num_videos=1, seed=3)
    (tmp_path / "other" / SHARD).replace(cache / "shard-00001.h5")
    reader = CacheReader(cache)
    with pytest.raises(InputError, match=r"segmenter\.seed: 3 != 0"):
        reader.video("video001")
    assert list(verify(cache).damaged) == ["video001"]


def test_a_folder_that_is_no_cache(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match="is not a cache"):
            CacheReader(path)


def wide(file, name):
    """Sizes that only a sparse file has."""
    for key, shape in (("mean", (1 << 36,)), ("encoder", (1 << 36, 6)), ("decoder", (6, 1 << 36))):
        del file[f"codec/{key}"]
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_alloc_time(h5py.h5d.ALLOC_TIME_LATE)
        space = h5py.h5s.create_simple(shape)
        h5py.h5d.create(file["codec"].id, key.encode(), h5py.h5t.IEEE_F32LE, space, plist)


def outside(file, name):
    del file[name]
    file[name] = h5py.ExternalLink("/etc/other.h5", "/x")


def compressed(file, name):
    data = file[name][()]
    del file[name]
    file.create_dataset(name, data=data, compression="gzip")


def texts(file, name):
    del file[name]
    file.create_dataset(name, data=["a"], dtype=h5py.string_dtype())


def long_basis(file, name):
    rank, channels = file["codec/decoder"].shape
    for key, shape in (("encoder", (channels, 99)), ("decoder", (99, channels))):
        del file[f"codec/{key}"]
        array = np.zeros(shape, np.float32)
        file.create_dataset(f"codec/{key}", data=array).attrs["crc32"] = zlib.crc32(array)


def not_finite(file, name):
    array = np.full(file[name].shape, np.nan, np.float32)
    file[name][...] = array
    file[name].attrs["crc32"] = zlib.crc32(array)


def one_part_less(file, name):
    del file[name]


def other_width(file, name):
    array = file[name][()][:, :-1]
    del file[name]
    file.create_dataset(name, data=array)


def changed_number(file, name):
    file[name][0, 0] += 1


BASES = {
    wide: "holds 0 of its",
    outside: "an external link",
    compressed: "filters",
    texts: "not numbers",
    long_basis: "a basis of rank 99 for 16",
    not_finite: "NaN or infinite",
    one_part_less: "no readable member 'decoder'",
    other_width: "instead of",
    changed_number: "do not match",
}


@pytest.mark.parametrize(("spoil", "message"), BASES.items())
def test_bases_that_are_none(tmp_path, spoil, message):
    """The same of a shard and of the codec beside the shards."""
    write_cache(tmp_path, num_videos=1, codec=LOWRANK)
    settings = {"codec": {"name": LOWRANK}}
    codec_file.save(tmp_path, make_codec(LOWRANK), settings)
    for name in (SHARD, codec_file.CODEC_FILE):
        with h5py.File(tmp_path / name, "r+") as file:
            spoil(file, "codec/decoder")
    with pytest.raises(InputError, match=message):
        CacheReader(tmp_path)
    with pytest.raises(InputError, match=message):
        codec_file.load(tmp_path, settings)
    assert list(verify(tmp_path).shards) == [SHARD]


def test_a_basis_for_other_channels_than_the_videos(tmp_path):
    write_cache(tmp_path, num_videos=1, codec=LOWRANK)
    with h5py.File(tmp_path / SHARD, "r+") as file:
        for key, shape in (("mean", (20,)), ("encoder", (20, 6)), ("decoder", (6, 20))):
            del file[f"codec/{key}"]
            array = np.zeros(shape, np.float32)
            file.create_dataset(f"codec/{key}", data=array).attrs["crc32"] = zlib.crc32(array)
    video = CacheReader(tmp_path).video("video000")
    for read in (video.mask_features, video.video_mask_embeds):
        with pytest.raises(InputError, match="C_mask=20"):
            read()


def test_a_basis_of_absurd_size_is_refused_before_it_is_read(tmp_path, monkeypatch):
    """A sparse file really has the sizes that it claims."""
    write_cache(tmp_path, num_videos=1, codec=LOWRANK)
    with h5py.File(tmp_path / SHARD, "r+") as file:
        shapes = {"mean": (1 << 18,), "encoder": (1 << 18, 1 << 16), "decoder": (1 << 16, 1 << 18)}
        for key, shape in shapes.items():
            del file[f"codec/{key}"]
            plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
            space = h5py.h5s.create_simple(shape)
            h5py.h5d.create(file["codec"].id, key.encode(), h5py.h5t.IEEE_F32LE, space, plist)
    assert (tmp_path / SHARD).stat().st_size > 1 << 36
    real = shard.crc32

    def small(data):
        return real(data) if data.size < 1 << 20 else pytest.fail("it is read")

    monkeypatch.setattr(shard, "crc32", small)
    with pytest.raises(InputError, match="holds 68,719,476,736 bytes .* set DMVS_MAX_ARRAY"):
        CacheReader(tmp_path)
    monkeypatch.setenv("DMVS_MAX_ARRAY", str(1 << 40))
    with pytest.raises(InputError, match="sizes C_mask=262144, R=65536: not from 1 to 4096"):
        CacheReader(tmp_path)


def test_an_attribute_that_is_an_array_is_not_read(cache):
    with h5py.File(cache / SHARD, "r+") as file:
        file["videos/video000"].attrs["num_frames"] = np.zeros(1000, np.int64)
    with pytest.raises(InputError, match="'num_frames' is array"):
        CacheReader(cache).video("video000")
    assert list(verify(cache).damaged) == ["video000"]


def test_text_that_is_not_utf_8(cache):
    with h5py.File(cache / SHARD, "r+") as file:
        kind = h5py.string_dtype("ascii")
        file.attrs.create("dataset", b"\xff\xfe", dtype=kind)
    with pytest.raises(InputError, match="no readable attribute 'dataset'"):
        CacheReader(cache)
    assert list(verify(cache).damaged) == ["video000"]


@pytest.mark.parametrize("text", ["{", '{"mean": 2, "worst": 0, "masks": 1}', "[" * 100000])
def test_a_cost_that_is_none_keeps_a_video_out_of_the_manifest(cache, text):
    """Of a shard that has no line yet: nothing in it is believed."""
    (cache / "manifest.jsonl").unlink()
    with h5py.File(cache / SHARD, "r+") as file:
        file["videos/video000"].attrs["codec_iou"] = text
    open_writer(cache).close()
    assert not manifest.read(cache).videos and not (cache / SHARD).exists()


def test_a_shard_line_that_lies_about_the_size(cache):
    with open(cache / "manifest.jsonl", "a") as file:
        line = {"shard": SHARD, "size": 1 << 60, "sha256": "0" * 64}
        file.write(json.dumps(line) + "\n")
    for quick in (False, True):
        assert list(verify(cache, quick=quick).shards) == [SHARD]
