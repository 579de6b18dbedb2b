"""What a codec costs a head, from stored predictions."""

import json
from pathlib import Path

import numpy as np
import pytest

from cache_schema.host import cli
from cache_schema.reader import CacheReader
from scripts import codec_scores
from tests.synthetic import write_cache
from train.predictions import PredictionsWriter


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float16 cache with predictions that have both kept and dropped queries."""
    place = tmp_path_factory.mktemp("codec_scores")
    write_cache(place / "cache", num_videos=3)
    write_cache(place / "coded", num_videos=1, codec="lowrank-int8")
    rng, reader = np.random.default_rng(0), CacheReader(place / "cache")
    with PredictionsWriter(
        place / "predictions.h5",
        fingerprint=reader.fingerprint_hex,
        checkpoint="0",
        rule="threshold",
        sigma=0.5,
    ) as writer:
        for video_id in reader.video_ids:
            for expression_id in reader.video(video_id).expression_ids:
                embeds = rng.standard_normal((4, 16), np.float32)
                writer.add(video_id, expression_id, np.array([0.9, 0.1, 0.8, 0.3]), embeds)
    return place


def run(place: Path, *more: object, cache: str = "cache") -> int:
    arguments = ["--fit", place / "cache", "--cache", place / cache]
    arguments += ["--predictions", place / "predictions.h5", *more]
    return cli.run(codec_scores.main, [str(a) for a in arguments])


def test_a_full_rank_costs_little_and_a_low_one_more(place: Path) -> None:
    assert run(place, "--ranks", 1, 16, "--json", place / "out.json") == 0
    figures = json.loads((place / "out.json").read_text())
    assert set(figures) == {
        "float16", "int8", *(f"rank {r}, {b}" for r in (1, 16) for b in ("weighted", "plain"))
    }  # fmt: skip
    for name in ("int8", "rank 16, weighted", "rank 16, plain"):
        assert figures[name] == pytest.approx(figures["float16"], abs=0.01)
    assert abs(figures["rank 1, plain"] - figures["float16"]) > 0.01


@pytest.mark.parametrize(
    ("more", "cache", "message"),
    [
        (("--ranks", 17), "cache", "not from 1 to 16"),
        ((), "coded", "has the codec lowrank-int8; give one of float16"),
    ],
)
def test_what_cannot_be_coded_is_refused(
    place: Path, capsys: pytest.CaptureFixture, more: tuple, cache: str, message: str
) -> None:
    assert run(place, *more, cache=cache) == 2
    assert message in capsys.readouterr().err
