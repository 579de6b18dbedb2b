"""Every row of the paper's tables trains on the demo world: data, stage one, a sweep, its table."""

import json
from pathlib import Path

import pytest

from cache_schema.host import cli
from extract.__main__ import main as extract
from scripts.make_demo_data import main as make_data
from train.checkpoint import read_checkpoint
from train.sweep import main as sweep
from train.sweeping.variants import load_sweep

ROOT = Path(__file__).parents[2]
ITERATIONS = 20


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Caches of some videos of the demo world, by the models that the project ships."""
    folder = tmp_path_factory.mktemp("demo")
    sizes = {"train": "8", "valid_u": "3", "valid": "1"}
    counts = [word for split, n in sizes.items() for word in (f"--{split.replace('_', '-')}", n)]
    assert make_data(["--root", str(folder / "data"), *counts]) == 0
    for split in ("train", "valid_u"):
        command = ["demo", "--data-root", str(folder / "data"), "--split", split, "--device", "cpu"]
        command += ["--weights", str(ROOT / "extract/assets/vita_tiny.safetensors")]
        assert extract([*command, "--out", str(folder / split)]) == 0
    return folder


def test_a_split_without_videos_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(make_data, ["--root", str(tmp_path / "data"), "--valid-u", "0"]) == 2
    assert "--valid-u is 0" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_all_rows_learn_in_one_sweep(caches: Path, tmp_path: Path) -> None:
    command = ["demo", "--config", str(ROOT / "train/configs/demo.py"), "--device", "cpu"]
    command += ["--cache", str(caches / "train"), "--eval-cache", str(caches / "valid_u")]
    command += ["--seeds", "0", "--work-dir", str(tmp_path), "--cfg-options"]
    options = {"train.max_iters": ITERATIONS, "train.log_interval": 1, "schedule.warmup_iters": 0,
               "data.num_workers": 0, "train.batch_size": 6}  # fmt: skip
    assert sweep([*command, *(f"{key}={value}" for key, value in options.items())]) == 0
    rows = load_sweep("demo").rows
    content = json.loads((tmp_path / "sweep.json").read_text())
    assert list(content["variants"]) == list(rows) and not content["dropped"]
    for label in rows:
        member = tmp_path / label / "seed-0"
        (scalars,) = member.glob("*/vis_data/scalars.json")
        log = [json.loads(line)["loss"] for line in scalars.read_text().splitlines()]
        assert len(log) == ITERATIONS
        assert sum(log[-5:]) < 0.9 * sum(log[:5]), label
        assert read_checkpoint(member / f"iter_{ITERATIONS}.pth")["meta"]["iter"] == ITERATIONS
