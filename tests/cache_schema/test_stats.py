"""The statistics count what was written, and the picture is one."""

import json

import pytest
from matplotlib.figure import Figure

from cache_schema.__main__ import main
from cache_schema.host import cli
from cache_schema.reader import CacheReader
from cache_schema.stats import collect, draw, summary
from tests.synthetic import make_video, open_writer, write_cache, write_video


@pytest.fixture
def cache(tmp_path):
    videos = write_cache(tmp_path / "cache", num_videos=3, num_frames=[6, 9], num_expressions=5)
    return tmp_path / "cache", videos


def test_everything_is_counted(cache):
    path, videos = cache
    counts = collect(CacheReader(path))
    expressions = [e for video in videos for e in video.expressions]
    assert counts == {
        "frames per video": [6, 9, 6],
        "objects per video": [3, 3, 3],
        "expressions per video": [5, 5, 5],
        "objects per expression": [len(e.annotation_ids) for e in expressions],
        "words per expression": [5] * 15,
        "motion cues per expression": [int(e.motion.sum()) for e in expressions],
    }
    assert {0, 1, 3} <= set(counts["objects per expression"])
    found = summary(counts)["frames per video"]
    assert found.pop("histogram") == {"6": 2, "9": 1}
    assert found == {"count": 3, "total": 21, "min": 6, "median": 6.0, "mean": 7.0, "max": 9}


def test_the_command_prints_a_table_or_json_and_draws(cache, capsys):
    path, _ = cache
    picture = path.parent / "stats.png"
    assert cli.run(main, ["stats", str(path), "--out", str(picture)]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].split()[:4] == ["synthetic", "train", "count", "total"]
    assert table[1].split() == ["frames", "per", "video", "3", "21", "6", "6", "7", "9"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert cli.run(main, ["stats", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == summary(collect(CacheReader(path)))


@pytest.mark.parametrize("numbers", [[12] * 60, [0, 1, 1, 2], list(range(300)), [0], [7, 90_000]])
def test_pictures_count_in_whole_numbers(tmp_path, monkeypatch, numbers):
    drawn, save = [], Figure.savefig

    def keep(figure, *words, **how):
        drawn.append(figure)
        save(figure, *words, **how)

    monkeypatch.setattr(Figure, "savefig", keep)
    draw({f"{name} per video": numbers for name in "abcdef"}, "title", tmp_path / "stats.png")
    for axis in drawn[0].axes:
        along = (axis.get_xticks(), axis.get_xlim()), (axis.get_yticks(), axis.get_ylim())
        for ticks, (low, high) in along:
            shown = [tick for tick in ticks if low <= tick <= high]
            assert shown and all(tick == round(tick) >= 0 for tick in shown)
        legend = axis.get_legend().get_window_extent()
        assert not any(legend.overlaps(bar.get_window_extent()) for bar in axis.patches)


def test_a_cache_without_expressions(tmp_path, capsys):
    made = make_video(0, num_expressions=0)
    with open_writer(tmp_path / "cache") as writer:
        write_video(writer, made)
    picture = tmp_path / "stats.png"
    assert cli.run(main, ["stats", str(tmp_path / "cache"), "--out", str(picture)]) == 0
    words = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("words"))
    assert words.split()[3:] == ["0", "0", "-", "-", "-", "-"]
    assert picture.stat().st_size > 1000


@pytest.mark.parametrize("name", ["stats.nonsense"])
def test_a_picture_that_cannot_be_written(cache, capsys, name):
    path, _ = cache
    assert cli.run(main, ["stats", str(path), "--out", str(path.parent / name)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: the picture {path.parent / name} cannot be written (")
