"""Files that ask for much, and archives with odd entries: one sentence before anything is made."""

import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from cache_schema.host import cli
from cache_schema.host.cli import InputError
from cache_schema.host.limits import LIMITS, beyond, most
from cache_schema.host.system import NO_MEMORY
from cache_schema.reader import CacheReader
from cache_schema.run_lengths import run_ends
from extract.config import load_config
from extract.datasets.archives import Archive
from extract.datasets.frames import VideoDecoder, image_header, read_image
from extract.datasets.palette import read_objects
from extract.datasets.pickles import read_plain_pickle
from extract.segmenters.base import configure, find_segmenter
from extract.segmenters.vita.weights import read_checkpoint
from tests.synthetic import write_cache
from train.checkpoint import read_checkpoint as read_own_checkpoint
from train.evaluation.pngs.files import MaskFiles
from train.evaluation.pngs.png import PNG

FRAME = "v/00000.png"


@pytest.mark.parametrize("text", ["", "-1", "1e9", "many", "9" * 30])
def test_a_limit_that_is_no_number(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("DMVS_MAX_PIXELS", text)
    with pytest.raises(InputError, match=r"DMVS_MAX_PIXELS is .*such as 67108864"):
        most("DMVS_MAX_PIXELS")


def test_a_limit_can_be_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LIMITS:
        assert f"set {name}" in beyond(1 << 40, name)
        monkeypatch.setenv(name, str(1 << 40))
        assert not beyond(1 << 40, name)


def picture(path: Path) -> None:
    Image.new("L", (40, 30)).save(path)


def clip(path: Path) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 5, (40, 30))
    writer.write(np.zeros((30, 40, 3), np.uint8))
    writer.release()


@pytest.mark.parametrize(
    ("name", "make", "read"),
    [
        ("a.png", picture, lambda path: read_image(path, video_id="v")),
        ("a.png", picture, image_header),
        ("a.png", picture, lambda path: read_objects([path], video_id="v")),
        ("a.png", picture, lambda path: PNG.parse(path.read_bytes())),
        ("a.avi", clip, lambda path: VideoDecoder(path, video_id="v").read(0)),
        ("a", Path.touch, lambda _: run_ends(["0`1"], (30, 40))),
        ("a", write_cache, lambda path: CacheReader(path).video("video000")),
    ],
)
def test_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, make: Callable, read: Callable
) -> None:
    make(tmp_path / name)
    monkeypatch.setenv("DMVS_MAX_PIXELS", "1199")
    with pytest.raises((InputError, ValueError), match=r"pixels of an image, more than 1,199"):
        read(tmp_path / name)


def test_arrays_of_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cache(tmp_path, num_videos=1)
    monkeypatch.setenv("DMVS_MAX_ARRAY", "100")
    with pytest.raises(InputError, match=r"bytes of an array .*more than 100 .*DMVS_MAX_ARRAY"):
        CacheReader(tmp_path).video("video000").video_queries()


def test_an_array_counts_by_its_rows_where_it_is_read_by_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cache(tmp_path, num_videos=1, num_frames=40)
    with h5py.File(tmp_path / "shard-00000.h5") as file:
        whole = file["videos/video000/frame_queries"].nbytes
    monkeypatch.setenv("DMVS_MAX_ARRAY", str(whole // 4))
    assert CacheReader(tmp_path).video("video000").frame_queries([0]).size


def test_pickles_that_number_their_parts_far(tmp_path: Path) -> None:
    """Python's reader in C takes 16 bytes for every number up to the one that is said."""
    path = tmp_path / "refs.p"
    path.write_bytes(b"\x80\x02]r" + struct.pack("<I", 1 << 31) + b".")
    assert read_plain_pickle(path) == []
    path = path.rename(tmp_path / "model.pkl")
    with pytest.raises(InputError):
        read_checkpoint(path)


@pytest.mark.parametrize("read", [read_checkpoint, read_own_checkpoint])
def test_weights_that_are_one_number_many_times(tmp_path: Path, read: Callable) -> None:
    path = tmp_path / "iter_1.pth"
    weights = {"a": torch.zeros(1).expand(1 << 40)}
    torch.save({"meta": {}, "state_dict": weights, "model": weights}, path)
    with pytest.raises(InputError, match="not names and tensors|no plain tensors"):
        read(path)


def test_more_memory_than_there_is_is_a_sentence() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert NO_MEMORY in cli.sentence_of(raised.value)
    assert cli.sentence_of(RuntimeError("of ours")) is None


@pytest.mark.parametrize(
    ("preset", "key", "value"),
    [
        ("demo", "pixel_decoder_layers", 1 << 16),
        ("demo", "backbone.depths", [1, 1, 1 << 16, 1]),
        ("demo", "backbone.type", [0]),
        ("videomt_small_ytvis", "num_upscale_blocks", 1 << 30),
        ("videomt_small_ytvis", "num_hidden_layers", 1 << 16),
    ],
)
def test_segmenters_that_would_take_for_ever_to_build(preset: str, key: str, value: object) -> None:
    config = load_config(preset, {f"segmenter.{key}": value})
    with pytest.raises(InputError, match=f"segmenter.{key.partition('.')[0]}"):
        configure(find_segmenter(config.segmenter_type).Config, config.segmenter)


def make_zip(path: Path, entries: dict[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


def patched(path: Path, value: bytes, *places: int) -> None:
    """Write over places of the only file in a zip: in front of it, and in the list at the end."""
    data = bytearray(path.read_bytes())
    for mark, offset in zip((b"PK\3\4", b"PK\1\2"), places, strict=False):
        at = data.index(mark) + offset
        data[at : at + len(value)] = value
    path.write_bytes(data)


ODD = {
    "encrypted": (b"\1\0", 6, 8),
    "compressed in an unknown way": (b"\x63\0", 8, 10),
    "with another checksum": (b"\0\0\0\0", 14, 16),
    "with another name in front": (b"w", 30),
    "broken": (b"\xff" * 9, 30 + len(FRAME)),
}


@pytest.mark.parametrize("odd", ODD)
def test_broken_entries_of_a_zip(tmp_path: Path, odd: str) -> None:
    path = make_zip(tmp_path / "a.zip", {FRAME: bytes(1000)})
    patched(path, *ODD[odd])
    with pytest.raises(OSError):
        Archive(path).read(FRAME)
    with pytest.raises(InputError, match="cannot be read"):
        MaskFiles(path).read(FRAME)


def test_a_file_in_a_zip_that_becomes_many_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_zip(tmp_path / "a.zip", {FRAME: bytes(1 << 20)})
    monkeypatch.setenv("DMVS_MAX_UNPACKED", "1000000")
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("unpacked"))
    with pytest.raises(OSError, match="1,048,576 bytes of a file in an archive, more than"):
        Archive(path).read(FRAME)
    with pytest.raises(InputError, match="DMVS_MAX_UNPACKED"):
        MaskFiles(path).read(FRAME)


def test_names_that_leave_the_folder_are_names(tmp_path: Path) -> None:
    """Nothing is ever unpacked; a link is the text of its target."""
    link = zipfile.ZipInfo("v/00002.png")
    link.external_attr = 0o120777 << 16
    path = make_zip(tmp_path / "a.zip", {"/etc/v/00000.png": b"a", "../../v/00001.png": b"b"})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    found = [Archive(path).read(f"v/0000{n}.png") for n in range(3)]
    assert found == [b"a", b"b", b"/etc/passwd"]
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_two_files_that_one_name_could_mean(tmp_path: Path, kind: str) -> None:
    (tmp_path / "x").write_bytes(b"x")
    path = make_zip(tmp_path / "a.zip", {"train/v/0.png": b"1", "valid/v/0.png": b"2", "v/1": b"3"})
    if kind == "tar":
        path = tmp_path / "a.tar"
        with tarfile.open(path, "w") as archive:
            for name in ("train/v/0.png", "valid/v/0.png", "v/1"):
                archive.add(tmp_path / "x", name)
    archive = Archive(path)
    assert archive.read("v/1")
    with pytest.raises(OSError, match=r"both train/v/0\.png and valid/v/0\.png"):
        archive.read("v/0.png")


def test_links_and_claims_of_a_tar(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, kind in (("v/0", tarfile.SYMTYPE), ("v/1", tarfile.LNKTYPE)):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, "/etc/passwd"
            archive.addfile(link)
    for name in ("v/0", "v/1"):
        with pytest.raises(FileNotFoundError):
            Archive(tmp_path / "a.tar").read(name)
    claim = tarfile.TarInfo("v/2")
    claim.size = 1 << 40
    (tmp_path / "b.tar").write_bytes(claim.tobuf() + bytes(1024))
    with pytest.raises(InputError, match="cannot be read as an archive"):
        Archive(tmp_path / "b.tar")


def test_a_pickle_of_plain_things_is_read(tmp_path: Path) -> None:
    content = [{"a": (1, 2.5, None), "long": 1 << 70, "text": "ä"}]
    for protocol in (2, 4):
        (tmp_path / "p").write_bytes(pickle.dumps(content, protocol=protocol))
        assert read_plain_pickle(tmp_path / "p") == content
