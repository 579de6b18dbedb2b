"""MeViS as it is downloaded: names of release 2, frames in archives, other endings."""

import json
import shutil
import tarfile
import zipfile
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import pytest

from extract.datasets import open_dataset
from extract.datasets.mevis import MeViS
from extract.datasets.published import PUBLISHED, Published
from tests.datasets_standins import make_mevis
from tests.extract.refusals import refused
from tests.processes import LONG


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """A split as it has always been read."""
    make_mevis(tmp_path)
    return next(p.parent for p in tmp_path.rglob("meta_expressions.json"))


def read(split: Path, **settings: int) -> dict[str, list[np.ndarray]]:
    """All frames of all videos."""
    data = MeViS(split.parent, split.name, **settings)
    return {v.id: [v.read_frame(t) for t in range(v.num_frames)] for v in data}


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(
        np.array_equal(a, b) for i in one for a, b in zip(one[i], other[i], strict=True)
    )


def pack(split: Path, kind: str, prefix: str = "") -> None:
    """Put the frames into an archive and take the folder away."""
    frames = sorted((split / "JPEGImages").rglob("*.*"))
    names = [prefix + str(p.relative_to(split)) for p in frames]
    if kind == "tar":
        with tarfile.open(split / "JPEGImages.tar", "w") as tar:
            for path, name in zip(frames, names, strict=True):
                tar.add(path, name)
    else:
        how = zipfile.ZIP_STORED if kind == "stored" else zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(split / "JPEGImages.zip", "w", how) as file:
            for path, name in zip(frames, names, strict=True):
                file.write(path, name)
    shutil.rmtree(split / "JPEGImages")


@pytest.mark.parametrize("kind", ["tar", "stored", "deflated"])
@pytest.mark.parametrize("prefix", ["", "MeViS_release/train/"])
def test_frames_are_read_from_an_archive(split: Path, kind: str, prefix: str) -> None:
    before = read(split)
    pack(split, kind, prefix)
    assert same(read(split), before)


@pytest.mark.parametrize("kind", ["tar", "stored"])
def test_forked_processes_share_an_archive(split: Path, kind: str) -> None:
    pack(split, kind)
    data = MeViS(split.parent, split.name)
    videos = list(data)
    here = [v.read_frame(t).sum() for v in videos for t in range(v.num_frames)]

    def child(results, number: int) -> None:
        results.put((number, [v.read_frame(t).sum() for v in videos for t in range(v.num_frames)]))

    context = get_context("fork")
    results = context.Queue()
    children = [context.Process(target=child, args=(results, n)) for n in range(3)]
    for process in children:
        process.start()
    assert all(results.get(timeout=LONG)[1] == here for _ in children)
    for process in children:
        process.join()


@pytest.mark.parametrize("ending", [".JPG", ".jpeg", ".png"])
def test_other_endings(split: Path, ending: str) -> None:
    before = read(split)
    for path in sorted((split / "JPEGImages").rglob("*.jpg")):
        if ending == ".png":
            cv2.imwrite(str(path.with_suffix(ending)), cv2.imread(str(path)))
            path.unlink()
        else:
            path.rename(path.with_suffix(ending))
    assert same(read(split), before)


@pytest.mark.parametrize("name", ["meta_expressions_v2.json", "meta_expressions_v2_release.json"])
def test_release_2_by_its_names(split: Path, name: str) -> None:
    before = read(split)
    (split / "meta_expressions.json").rename(split / name)
    assert same(read(split), before)
    assert same(read(split, release=2), before)
    refused(lambda: read(split, release=1), "meta_expressions.json does not exist")


def test_the_release_is_told_by_counts_or_names(
    split: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def release(asked: int = 0) -> str:
        return MeViS(split.parent, split.name, release=asked).facts.release

    meta = MeViS(split.parent, split.name).meta
    assert release() == "" and release(1) == "v1"
    counts = len(meta.ids), meta.num_expressions
    known = [Published("v1", counts[0], counts[1] + 1), Published("v2", *counts)]
    monkeypatch.setitem(PUBLISHED, "mevis", {split.name: known})
    assert release() == "v2"
    refused(lambda: release(1), "as many sentences as release v2", "was taken for v1")
    monkeypatch.undo()
    (split / "meta_expressions.json").rename(split / "meta_expressions_v2.json")
    assert release() == release(2) == "v2"


def test_two_releases_are_never_mixed(split: Path) -> None:
    shutil.copy(split / "meta_expressions.json", split / "meta_expressions_v2.json")
    content = json.loads((split / "meta_expressions.json").read_text())
    gone = content["videos"].popitem()[0]
    (split / "meta_expressions.json").write_text(json.dumps(content))
    refused(lambda: MeViS(split.parent, split.name), "two releases", "dataset.release=1")
    assert gone not in open_dataset("mevis", split.parent, split.name, {"release": 1}).ids
    assert gone in open_dataset("mevis", split.parent, split.name, {"release": 2}).ids
    refused(lambda: MeViS(split.parent, split.name, release=3), "MeViS has 1, 2")


@pytest.mark.parametrize("name", ["JPEGImages.tar", "JPEGImages.zip"])
def test_a_broken_archive_is_said(split: Path, name: str) -> None:
    shutil.rmtree(split / "JPEGImages")
    (split / name).write_bytes(b"not an archive" * 100)
    refused(lambda: read(split), f"{name} cannot be read as an archive")


def test_a_frame_that_an_archive_lacks_is_said(split: Path) -> None:
    victim = sorted((split / "JPEGImages").rglob("*.jpg"))[-1]
    victim.unlink()
    pack(split, "tar")
    refused(lambda: read(split), f"JPEGImages.tar:{victim.parent.name}/{victim.name}")


def test_numbers_of_different_lengths_are_to_be_padded(split: Path) -> None:
    content = json.loads((split / "meta_expressions.json").read_text())
    first = next(iter(content["videos"].values()))
    first["frames"] = [str(8 + t) for t in range(len(first["frames"]))]
    (split / "meta_expressions.json").write_text(json.dumps(content))
    refused(lambda: read(split), "pad them with zeros")
