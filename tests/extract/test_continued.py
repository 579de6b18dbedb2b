"""A data set that grows goes on in the same cache; what a cache holds may not be annotated anew."""

import shutil
from pathlib import Path

import pytest
from stage_one import edit, small_config, small_data

from cache_schema import manifest
from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader
from extract.datasets.published import PUBLISHED, Published
from extract.pipeline.run import Summary, extract
from extract.stage import RANDOM

META, MASKS = "train/meta_expressions.json", "train/mask_dict.json"
NEW = "train_0002"


def run(data: Path, out: Path, **change: object) -> Summary:
    config = small_config(**{"codec": {"name": "lowrank-int8", "rank": 4}, **change})
    return extract(config, data_root=data, out=out, split="train", weights=RANDOM, device="cpu")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of three videos."""
    return small_data(tmp_path_factory.mktemp("full"), 3)


@pytest.fixture(scope="module")
def begun(full: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of its first two videos."""
    root = tmp_path_factory.mktemp("part")
    shutil.copytree(full, root / "data")
    edit(root / "data" / META, lambda meta: meta["videos"].pop(NEW))
    assert run(root / "data", root / "cache").videos == 2
    return root / "cache"


@pytest.fixture
def place(full: Path, begun: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The whole data set and the cache of a part, to be changed."""
    return shutil.copytree(full, tmp_path / "data"), shutil.copytree(begun, tmp_path / "cache")


def test_new_videos_go_on_in_the_same_cache(
    place: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    before = CacheReader(place[1])
    grown = run(*place)
    assert (grown.videos, grown.already_there) == (1, 2)
    assert "the annotations have changed" in capsys.readouterr().err
    after = CacheReader(place[1])
    assert after.fingerprint == before.fingerprint and after.video_ids == [*before.video_ids, NEW]
    assert {i: after.entries[i] for i in before.video_ids} == before.entries
    assert manifest.read(place[1]).complete
    again = run(*place)
    assert (again.videos, again.already_there) == (0, 3)
    options = {"codec": {"name": "float16"}}
    assert run(place[0], tmp_path / "anew", **options).videos == 3
    anew = CacheReader(tmp_path / "anew").video(NEW)
    assert after.video(NEW).objects() == anew.objects()
    assert (after.video(NEW).frame_queries() == anew.frame_queries()).all()


def _of_first(meta: dict) -> dict:
    return meta["videos"]["train_0000"]


def _shift(masks: dict) -> None:
    first = min(masks, key=int)
    masks[first] = masks[first][1:] + masks[first][:1]


@pytest.mark.parametrize(
    ("file", "change", "what"),
    [
        (META, lambda m: _of_first(m)["expressions"]["0"].update(exp="a shape"), "expression 0"),
        (META, lambda m: _of_first(m)["expressions"].pop("0"), "expression 0"),
        (META, lambda m: _of_first(m)["expressions"].update(x={"exp": "it", "obj_id": [],
                                                               "anno_id": []}), "expression x"),
        (META, lambda m: _of_first(m)["frames"].pop(), "has 12 masks for 11 frames"),
        (META, lambda m: m["videos"].pop("train_0000"), "is not in the data set any more"),
        (MASKS, _shift, "has another annotation now (object "),
    ],
)  # fmt: skip
def test_a_video_that_is_there_may_not_be_annotated_anew(
    place: tuple[Path, Path], file: str, change: object, what: str
) -> None:
    data, cache = place
    entries = CacheReader(cache).entries
    edit(data / file, change)
    with pytest.raises(InputError) as refused:
        run(data, cache)
    assert "video 'train_0000'" in str(refused.value) and what in str(refused.value)
    assert CacheReader(cache).entries == entries


def test_other_settings_are_told_before_annotations(place: tuple[Path, Path]) -> None:
    with pytest.raises(InputError, match="clips.num: 2 != 3"):
        run(*place, **{"clips.num": 3})


def test_the_annotation_of_a_video_that_failed_is_mended(full: Path, tmp_path: Path) -> None:
    data = shutil.copytree(full, tmp_path / "data")
    edit(data / META, lambda meta: _of_first(meta)["frames"].reverse())
    assert list(run(data, tmp_path / "cache").failures) == ["train_0000"]
    edit(data / META, lambda meta: _of_first(meta)["frames"].reverse())
    assert run(data, tmp_path / "cache").videos == 1
    assert len(CacheReader(tmp_path / "cache")) == 3


def test_releases_are_never_mixed(
    place: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, begun = place
    videos = [Published(name, 3, number) for name, number in _counts(data).items()]
    monkeypatch.setitem(PUBLISHED, "mevis", {"train": videos})
    run(data, begun)
    assert CacheReader(begun).facts.release == ""  # as it was begun
    run(data, tmp_path / "new")
    assert CacheReader(tmp_path / "new").facts.release == "v1"
    edit(data / META, lambda meta: meta["videos"][NEW]["expressions"].popitem())
    with pytest.raises(InputError, match="is of release v1 of mevis, and the data set is rel.* v2"):
        run(data, tmp_path / "new")


def _counts(data: Path) -> dict[str, int]:
    found: list[int] = []
    edit(
        data / META,
        lambda meta: found.append(sum(len(v["expressions"]) for v in meta["videos"].values())),
    )
    return {"v1": found[0], "v2": found[0] - 1}
