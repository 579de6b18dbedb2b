"""A segmenter, a data set, a codec and a head of one's own, together, through the real commands.

Each is one class in one file of its author's; nothing of the project knows them.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from cache_schema.reader import CacheReader
from extract.__main__ import main as extract
from train import evaluate, sweep
from train.__main__ import main as train
from train.config import load_config
from train.data.sizes import common_sizes
from train.heads import build_head
from train.heads.parts.initialisation import class_scores
from train.inference import predict_video
from train.replay import replay, vita_masks

ROOT = Path(__file__).parents[1]
TRACKER = "test_own_parts:Tracker"
SQUARES = "test_own_parts:Squares"
CODEC = "test_own_codec:HALF"
CONFIG = """
model = dict(hidden_dim=16, num_motion_queries=3, num_layers=1, num_heads=2, feedforward_dim=32)
loss = dict(num_points=16)
train = dict(max_iters=3, batch_size=2, checkpoint_interval=3)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Caches of the toys, full and light, and the heads that the README shows."""
    folder = tmp_path_factory.mktemp("house")
    (folder / "small.py").write_text(CONFIG)
    text = (ROOT / "train/README.md").read_text("utf-8").partition("## How to add a head")[2]
    heads = re.findall(r"```python\n(.*?)```", text, re.S)[:2]
    (folder / "my_heads.py").write_text("\n\n".join(heads))
    with pytest.MonkeyPatch.context() as patch:
        for part in (folder, ROOT / "tests/extract", ROOT / "tests/cache_schema"):
            patch.syspath_prepend(part)
        patch.chdir(folder)
        for name, codec in (("cache", CODEC), ("light", "none")):
            options = [f"segmenter={TRACKER}", "segmenter.queries=4", f"dataset={SQUARES}"]
            options += [f"codec={codec}", "clips.num=2", "clips.frames=4"]
            command = [str(ROOT / "extract/configs/demo.py"), "--data-root", ".", "--device", "cpu"]
            command += ["--weights", "random", "--out", name, "--cfg-options", *options]
            assert extract(command) == 0
        yield folder


@pytest.mark.parametrize(
    ("head", "cache"), [("dmvs", "cache"), ("my_heads:Nearest", "cache"),
                        ("my_heads:Choice", "cache"), ("my_heads:Choice", "light")]
)  # fmt: skip
def test_toys_are_trained_and_evaluated(place: Path, head: str, cache: str) -> None:
    reader = CacheReader(place / cache)
    assert reader.codec.name == ("none" if cache == "light" else CODEC)
    assert reader.segmenter.identity and reader.video("left").video_mask_embeds().ndim == 3
    name = f"{cache}-{head.rpartition(':')[2]}"
    options = ["--device", "cpu", "--cfg-options", f"model.type={head}"]
    given = ["small.py", "--cache", cache]
    assert train([*given, "--work-dir", f"{name}-run", *options]) == 0
    command = [*given, "--checkpoint", f"{name}-run", "--out", name, *options]
    assert evaluate.main(command) == 0
    metrics = json.loads((place / name / "metrics.json").read_text())
    assert metrics["num_expressions"] == 2 and 0 <= metrics["J&F"] <= 1
    assert metrics["run"]["rule"] == "top1"  # by what the data set says of itself


def test_masks_that_change_by_the_frame_are_where_a_head_starts(place: Path) -> None:
    start = {"model.mask_start": "frames", "model.decoder_start": "identity"}
    reader = CacheReader(place / "cache")
    head = build_head(load_config(place / "small.py", start), common_sizes([reader])).eval()
    video = reader.video("left")
    texts = [video.expression(video.expression_ids[0])]
    ((*_, queries),) = predict_video(reader, {"": head}, video.id, texts, device="cpu")
    drawn = np.stack(list(replay(video, list(queries[:, None]))))  # (T, N_m, H, W)
    best = class_scores(torch.from_numpy(video.video_logits())).topk(len(queries)).indices
    own = np.stack(list(vita_masks(video)))[:, best]
    assert own.any() and (drawn != own).mean() < 1e-3
    assert not np.array_equal(own[0], own[-1])
    options = ["--device", "cpu", "--cfg-options", *(f"{k}={v}" for k, v in start.items())]
    given = ["small.py", "--cache", "cache"]
    assert train([*given, "--work-dir", "start", *options]) == 0
    command = [*given, "--checkpoint", "start", "--out", "started", "--save-masks", *options]
    assert evaluate.main(command) == 0
    assert json.loads((place / "started/metrics.json").read_text())["num_expressions"] == 2


def test_toys_are_swept_side_by_side(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "toys.py").write_text(
        'reference = "dmvs"\n'
        'rows = dict(dmvs="dmvs", nearest=dict(model=dict(type="my_heads:Nearest")))\n'
    )
    command = ["toys.py", "--config", "small.py", "--cache", "cache", "--eval-cache", "cache"]
    assert sweep.main([*command, "--seeds", "0", "--work-dir", "sweep", "--device", "cpu"]) == 0
    table = capsys.readouterr().out
    assert "\ndmvs " in table and "\nnearest " in table
