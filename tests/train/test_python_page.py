"""The README's pages of Python, run as they stand."""

import json
import re
from pathlib import Path

import pytest

from tests.synthetic import write_cache
from train import evaluate, sweep

ROOT = Path(__file__).parents[2]
CONFIG = """
model = dict(hidden_dim=16, num_motion_queries=4, num_layers=1, num_heads=2, feedforward_dim=32)
loss = dict(num_points=16)
train = dict(max_iters=2, batch_size=2, checkpoint_interval=2)
"""


def blocks(title: str) -> list[str]:
    """The Python of a section of the README."""
    text = (ROOT / "train/README.md").read_text("utf-8")
    section = text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.S)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a cache and a config, to stand in."""
    write_cache(tmp_path / "CACHE", num_frames=[6, 4])
    (tmp_path / "small.py").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_examples_run_and_their_predictions_are_scored(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    examples = blocks("Use it from Python")
    assert len(examples) == 3 and all(len(e.splitlines()) <= 20 for e in examples)
    names: dict = {}
    for example in examples:
        exec(compile(example, "README.md", "exec"), names)
    assert names["frame_queries"].shape[0] == len(names["clip"].frame_indices)
    assert (
        len(capsys.readouterr().out.splitlines())
        == names["cache"].video(names["cache"].video_ids[0]).num_frames
    )
    command = ["small.py", "--cache", "CACHE", "--from-predictions", "mine.h5", "--out", "scored"]
    assert evaluate.main([*command, "--device", "cpu"]) == 0
    metrics = json.loads((place / "scored/metrics.json").read_text())
    assert metrics["num_expressions"] == sum(
        len(names["cache"].video(i).expression_ids) for i in names["cache"].video_ids
    )


def test_the_sweep_runs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = blocks("How to add a row of a sweep")
    (place / "my_sweep.py").write_text(example)
    command = ["my_sweep.py", "--config", "small.py", "--cache", "CACHE", "--eval-cache", "CACHE"]
    command += ["--seeds", "0", "--work-dir", "sweep", "--device", "cpu"]
    assert sweep.main(command) == 0
    table = capsys.readouterr().out
    assert all(f"\n{row} " in table for row in ("dmvs", "three_queries", "random"))
