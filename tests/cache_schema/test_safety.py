"""A cache is data from outside: what points elsewhere or is not plain numbers is refused."""

import h5py
import numpy as np
import pytest

from cache_schema.cli import InputError
from cache_schema.reader import CacheReader
from cache_schema.verify import verify
from tests.synthetic import write_cache

SHARD = "shard-00000.h5"
TRACKS = "videos/video000/tracks"


@pytest.fixture
def cache(tmp_path):
    write_cache(tmp_path / "cache", num_videos=1)
    return tmp_path / "cache"


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
    lambda file, old: None: "no readable member",
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
        ("codec", "zip", "unknown codec 'zip'"),
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
