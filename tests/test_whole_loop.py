"""The whole loop on VidEoMT: extract, train every head, evaluate, replay, segment, submit.

On a full and on a light cache, and on the light one read from a server. Weights are random.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cache_schema import copying
from cache_schema.reader import CacheReader
from extract.__main__ import main as extract
from extract.demo.layout import write_split
from scripts.segment.__main__ import main as segment
from scripts.submit import main as submit
from tests.server import serve
from train import evaluate, sweep

HEADS = ["dmvs", "trajectory", "vita_rvos", "dshmp", "select"]
STAGE_ONE = [
    "segmenter=videomt", "segmenter.num_classes=5", "segmenter.hidden_size=32",
    "segmenter.num_hidden_layers=3", "segmenter.num_attention_heads=4", "segmenter.num_blocks=2",
    "segmenter.num_queries=9", "segmenter.image_size=64", "segmenter.num_register_tokens=2",
    "segmenter.keep=4", "resize=None", "clips.num=2", "clips.frames=4",
]  # fmt: skip
CONFIG = """
model = dict(
    hidden_dim=32, num_motion_queries=3, num_layers=1, num_heads=2, feedforward_dim=32,
    mask_start="frames", decoder_start="identity",
)
loss = dict(num_points=16)
data = dict(num_workers=0)
train = dict(max_iters=5, batch_size=2, checkpoint_interval=5)
evaluation = dict(sigma=0.4)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Data of the demo world, a full cache and a light one of them, and a config."""
    folder = tmp_path_factory.mktemp("loop")
    write_split(folder / "data", "train", 2, seed=11)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("DMVS_BLOCKS", str(folder / "blocks"))
        (folder / "small.py").write_text(CONFIG)
        rows = {name: name for name in HEADS}
        (folder / "heads.py").write_text(f"reference = 'dmvs'\nrows = {rows}\n")
        (folder / "choice.py").write_text("reference = 'select'\nrows = dict(select='select')\n")
        for name, codec in (("full", "float16"), ("light", "none")):
            command = ["demo", "--data-root", "data", "--split", "train", "--weights", "random"]
            command += ["--out", name, "--device", "cpu", "--cfg-options", f"codec={codec}"]
            assert extract([*command, *STAGE_ONE]) == 0
        yield folder


def train_rows(rows: str, cache: str, out: str) -> None:
    command = [rows, "--config", "small.py", "--cache", cache, "--eval-cache", cache]
    command += ["--seeds", "0", "--work-dir", out, "--device", "cpu"]
    assert sweep.main(command) == 0


def score(out: str, *more: str) -> dict:
    assert evaluate.main([*more, "--out", out, "--device", "cpu"]) == 0
    metrics = json.loads(Path(out, "metrics.json").read_text())
    return {name: value for name, value in metrics.items() if name != "run"}


def test_every_head_on_a_full_cache(place: Path) -> None:
    reader = CacheReader("full")
    assert (reader.segmenter.type, reader.segmenter.activation) == ("videomt", "gelu")
    train_rows("heads.py", "full", "heads")
    assert all(Path("heads", name, "seed-0/iter_5.pth").exists() for name in HEADS)
    use("dmvs", "heads/dmvs/seed-0", "full", "float16")


def test_the_head_that_selects_on_a_light_cache(place: Path) -> None:
    train_rows("choice.py", "light", "choice")
    use("select", "choice/select/seed-0", "light", "none")


def use(row: str, run: str, cache: str, codec: str) -> None:
    """Scores, the same replayed; a zip for the server; and a person's own video."""
    given = ["small.py", "--row", row, "--cache", cache]
    scores = score(row, *given, "--checkpoint", run, "--save-masks")
    assert 0 <= scores["J&F"] <= 1 and any(Path(row, "masks").rglob("*.png"))
    stored = ["--cache", cache, "--from-predictions", f"{row}/predictions.h5"]
    assert score(f"{row}-replayed", *stored) == scores
    packed = ["--cache", cache, "--predictions", f"{row}/predictions.h5", "--device", "cpu"]
    assert submit([*packed, "--out", f"{row}.zip"]) == 0
    assert submit(["--check", f"{row}.zip", "--cache", cache]) == 0
    video = next(Path("data/train/JPEGImages").iterdir())
    command = [str(video), "the red circle", "--weights", "random", "--checkpoint", run]
    command += ["--codec", codec, "--out", f"{row}-own", "--device", "cpu", "--top", "1"]
    assert segment(command) == 0
    assert any(Path(f"{row}-own").rglob("overlay.mp4"))


def test_a_light_copy_or_one_on_a_server_is_the_light_cache(place: Path) -> None:
    copying.copy("full", "copy", light=True)
    with serve(place / "light") as server:
        scores = []
        for name, cache in (("there", server.address), ("here", "light")):
            train_rows("choice.py", cache, f"{name}-run")
            given = ["small.py", "--row", "select", "--checkpoint", f"{name}-run/select/seed-0"]
            scores.append(score(name, *given, "--cache", cache))
        assert server.sent
        for name, count in server.sent.items():  # by two commands that both read every sample
            assert count <= (place / "light" / name).stat().st_size
    assert scores[0] == scores[1]
    copied = score("on-copy", *given, "--cache", "copy")
    assert np.isclose(copied["J&F"], scores[0]["J&F"], atol=0.05)
