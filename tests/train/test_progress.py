"""What is shown of progress where nobody sees a bar: lines, and few of them."""

from pathlib import Path

import pytest

from tests.synthetic import write_cache
from train import progress, runner
from train.__main__ import main

CONFIG = """
model = dict(hidden_dim=16, num_motion_queries=4, num_layers=1, num_heads=2, feedforward_dim=32)
loss = dict(num_points=16)
train = dict(max_iters=8, batch_size=2, log_interval=2, checkpoint_interval=8)
"""


def test_a_log_file_gets_whole_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    assert list(progress.progress("abc", "score", 3)) == ["a", "b", "c"]
    said = capsys.readouterr().err
    assert "\r" not in said and "score: 2 of 3 videos, " in said
    assert all(line.startswith("score: ") for line in said.splitlines())


def test_what_is_done_at_once_says_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(progress, "INTERVAL", 1e6)
    assert list(progress.progress("abc", "score", 3)) == ["a", "b", "c"]
    assert list(progress.progress("", "score", 0)) == []
    assert capsys.readouterr().err == ""


def test_training_shows_a_line_every_half_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(runner, "INTERVAL", float("inf"))
    write_cache(tmp_path / "cache", num_frames=[4, 4])
    (tmp_path / "small.py").write_text(CONFIG)
    command = [str(tmp_path / "small.py"), "--cache", str(tmp_path / "cache"), "--device", "cpu"]
    assert main([*command, "--work-dir", str(tmp_path / "run")]) == 0
    (log,) = (tmp_path / "run").glob("*/*.log")
    assert log.read_text().count("Iter(train)") == 4
    said = capsys.readouterr()
    assert (said.out + said.err).count("Iter(train)") == 2 and "\r" not in said.err  # and the last
