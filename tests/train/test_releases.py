"""Releases of a data set: told wherever its figures are, and never mixed silently."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cache_schema.host import cli
from scripts.submit import main as submit
from tests import synthetic
from tests.train.protocol_caches import CONFIG
from train.__main__ import main as train
from train.evaluate import main as evaluate
from train.sweep import main as sweep

ROWS = 'reference = "one"\nrows = dict(one={})\n'


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Caches of two releases and of one that nobody knows, and a head trained on the first."""
    place = tmp_path_factory.mktemp("releases")
    for name in ("v1", "v2", ""):
        facts = replace(synthetic.FACTS, release=name)
        with synthetic.open_writer(place / (name or "unknown"), facts=facts) as writer:
            for i in range(2):
                synthetic.write_video(writer, synthetic.make_video(i, num_frames=4))
    (place / "config.py").write_text(CONFIG + "train = dict(max_iters=1, batch_size=1)\n")
    (place / "rows.py").write_text(ROWS)
    assert _train(place, place / "run", "v1") == 0
    return place


def _train(place: Path, work_dir: Path, *caches: str, more: tuple[str, ...] = ()) -> int:
    words = ["--cache", *(str(place / name) for name in caches), "--device", "cpu", *more]
    return cli.run(train, [str(place / "config.py"), *words, "--work-dir", str(work_dir)])


def _evaluate(place: Path, out: Path, cache: str, *more: str) -> int:
    words = ["--cache", str(place / cache), "--checkpoint", str(place / "run")]
    return cli.run(evaluate, [*words, "--out", str(out), "--device", "cpu", *more])


def test_a_head_is_not_evaluated_on_another_release(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert _evaluate(place, tmp_path, "v2") == 2
    said = capsys.readouterr().err
    assert "is of release v1 of synthetic" in said and "v2 of release v2" in said
    assert "--allow-other-models" in said and not any(tmp_path.iterdir())
    assert _evaluate(place, tmp_path, "v2", "--allow-other-models") == 0
    assert "warning: the training of" in capsys.readouterr().err
    caches = json.loads((tmp_path / "metrics.json").read_text())["run"]["caches"]
    assert [caches[use][0]["release"] for use in ("training", "evaluation")] == ["v1", "v2"]


def test_a_release_that_nobody_knows_is_taken(place: Path, tmp_path: Path) -> None:
    assert _evaluate(place, tmp_path, "unknown") == 0
    caches = json.loads((tmp_path / "metrics.json").read_text())["run"]["caches"]
    assert caches["training"][0]["release"] == "v1" and "release" not in caches["evaluation"][0]


def test_reports_and_submissions_say_it(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert _evaluate(place, tmp_path, "v1", "--report") == 0
    assert '"title":"synthetic v1 train"' in (tmp_path / "report.html").read_text("utf-8")
    words = ["--cache", str(place / "v1"), "--predictions", str(tmp_path / "predictions.h5")]
    assert cli.run(submit, [*words, "--out", str(tmp_path / "out.zip"), "--device", "cpu"]) == 0
    assert "masks, release v1)" in capsys.readouterr().out


def test_one_training_is_of_one_release(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    validated = ("--val-cache", str(place / "v2"), "--cfg-options", "train.val_interval=1")
    rows = ["--cache", str(place / "v1"), "--eval-cache", str(place / "v2"), "--device", "cpu"]
    rows += ["--config", str(place / "config.py"), "--work-dir", str(tmp_path / "rows")]
    for mixed in (
        lambda: _train(place, tmp_path / "two", "v1", "v2"),
        lambda: _train(place, tmp_path / "validated", "v1", more=validated),
        lambda: cli.run(sweep, [str(place / "rows.py"), *rows, "--seeds", "0"]),
    ):
        assert mixed() == 2
        assert "is of release v1 of synthetic" in capsys.readouterr().err
    assert not list(tmp_path.rglob("iter_*.pth"))
