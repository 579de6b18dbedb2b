"""Heads as a config picks them: the project's and a user's own, through the real commands."""

import json
import re
import shutil
from pathlib import Path

import h5py
import pytest
import torch

from cache_schema.host import cli
from cache_schema.host.cli import InputError
from cache_schema.host.keys import keys_of
from cache_schema.reader import CacheReader
from tests.synthetic import write_cache
from tests.train.protocol_caches import SIZES
from train import evaluate, params, sweep
from train.__main__ import main
from train.config import differences, load_config
from train.data import ClipDataset
from train.heads import CacheSizes, Head, HeadOutput, build_head, find_head
from train.heads.dmvs import DMVS

ROOT = Path(__file__).parents[2]
ODD = """
import sys
from train.heads import Head

class Mistyped(Head):
    reads = ("video_query",)

if __name__ != "odd_heads":
    sys.exit(0)
"""
IDLE = """
import torch
from my_heads import Choice, Nearest, Overlap
from train.heads import Head

class Misread(Nearest):
    class loss(Overlap):
        reads = ("overlap",)

class Empty(Head):
    def __init__(self, sizes):
        super().__init__()

class Fixed(Choice):
    class loss(Overlap):
        def terms(self, outputs, batch, **how):
            return {"loss_cls": super().terms(outputs, batch, **how)["loss_cls"].detach()}

class Nameless(Choice):
    class loss(Overlap):
        def terms(self, outputs, batch, **how):
            return {"cls": super().terms(outputs, batch, **how)["loss_cls"]}

class Learned(Choice):
    class loss(Overlap, torch.nn.Module):
        def __init__(self, *, least: float = 0.5):
            torch.nn.Module.__init__(self)
            self.least, self.weight = least, torch.nn.Parameter(torch.ones(()))
"""
CONFIG = """
model = dict(hidden_dim=16, num_motion_queries=4, num_layers=2, num_heads=2, feedforward_dim=32)
loss = dict(num_points=16)
optimizer = dict(lr=1e-3)
train = dict(max_iters=4, batch_size=2, checkpoint_interval=4)
evaluation = dict(sigma=0.3)
"""
SWEEP = """
reference = "dmvs"
rows = dict(
    dmvs="dmvs",
    nearest=dict(model=dict(type="my_heads:Nearest")),
    choice=dict(model=dict(type="my_heads:Choice"), loss=dict(least=0.4)),
)
"""


def blocks() -> list[str]:
    """The heads that the README shows."""
    text = (ROOT / "train" / "README.md").read_text()
    return re.findall(r"```python\n(.*?)```", text.partition("## How to add a head")[2], re.S)


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("caches")
    write_cache(folder / "cache", num_frames=[6, 4])
    write_cache(folder / "light", num_frames=[6, 4], codec="none")
    return folder


@pytest.fixture
def place(caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache, a light one, a config, a sweep, and the README's heads where Python finds them."""
    shutil.copytree(caches, tmp_path, dirs_exist_ok=True)
    (tmp_path / "small.py").write_text(CONFIG)
    (tmp_path / "heads.py").write_text(SWEEP)
    (tmp_path / "my_heads.py").write_text("\n\n".join(blocks()))
    for name in ("odd_heads", "ends_itself"):
        (tmp_path / f"{name}.py").write_text(ODD)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def run(place: Path, head: str, cache: str = "cache") -> dict:
    """Train and evaluate a head; the content of metrics.json."""
    work_dir, out = place / f"{cache}-run", place / f"{cache}-out"
    options = ["--device", "cpu", "--cfg-options", f"model.type={head}"]
    given = [str(place / "small.py"), "--cache", str(place / cache)]
    assert main([*given, "--work-dir", str(work_dir), *options]) == 0
    evaluated = [*given, "--checkpoint", str(work_dir), "--out", str(out), "--controls", *options]
    assert evaluate.main(evaluated) == 0
    return json.loads((out / "metrics.json").read_text())


def test_a_head_of_the_readme_is_short() -> None:
    assert len(blocks()[0].strip().splitlines()) <= 25


def test_a_users_head_is_trained_and_evaluated(place: Path) -> None:
    metrics = run(place, "my_heads:Nearest")
    assert metrics["num_expressions"] == 12 and 0 <= metrics["J&F"] <= 1
    assert metrics["run"]["config"]["model"] == {
        "type": "my_heads:Nearest", "hidden_dim": 16, "dropout": 0.0
    }  # fmt: skip


def test_a_selecting_head_replays_the_segmenters_own_masks(place: Path) -> None:
    full, light = (run(place, "my_heads:Choice", name) for name in ("cache", "light"))
    with h5py.File(place / "light-out" / "predictions.h5") as file:
        (stored, *_) = [file["videos/video000"][e] for e in file["videos/video000"]]
        assert set(stored) == {"scores", "sources"}
    assert full["num_expressions"] == light["num_expressions"] == 12


def test_a_head_that_draws_refuses_a_light_cache(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(place / "small.py"), "--cache", str(place / "light"), "--device", "cpu"]
    assert cli.run(main, [*given, "--work-dir", str(place / "run")]) == 2
    shown = capsys.readouterr().err
    assert "light" in shown and "mask features" in shown and shown.count("\n") == 1


def test_users_heads_are_swept_beside_dmvs(place: Path) -> None:
    command = [str(place / "heads.py"), "--config", str(place / "small.py"), "--device", "cpu"]
    caches = ["--cache", str(place / "cache"), "--eval-cache", str(place / "cache")]
    assert sweep.main([*command, *caches, "--seeds", "0", "--work-dir", str(place / "out")]) == 0
    table = (place / "out" / "sweep.md").read_text()
    assert all(f"| {row} |" in table for row in ("dmvs", "nearest", "choice"))
    # Each head's weights are those that it gets alone.
    run(place, "my_heads:Nearest")
    ours, alone = (
        torch.load(path / "iter_4.pth", weights_only=True)["state_dict"]
        for path in (place / "out" / "nearest" / "seed-0", place / "cache-run")
    )
    assert ours.keys() == alone.keys() and all(torch.equal(ours[n], alone[n]) for n in ours)


def test_what_no_head_reads_is_not_loaded(place: Path) -> None:
    reader = CacheReader(place / "cache")
    chooses, draws = (find_head(f"my_heads:{name}") for name in ("Choice", "Nearest"))
    sample = ClipDataset([reader], seed=0, needs=chooses.needs({}))[0]
    assert sample.mask_features is sample.targets is sample.frame_queries is None
    assert sample.overlaps is not None and sample.video_queries is not None
    sample = ClipDataset([reader], seed=0, needs=draws.needs({}))[0]
    assert sample.mask_features and sample.targets
    assert sample.frame_queries is sample.tracks is sample.mask_embeds is None


def test_parameters_of_any_head_are_shown(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert params.main([str(place / "small.py"), "--cache", str(place / "cache"),
                        "--cfg-options", "model.type=my_heads:Nearest"]) == 0  # fmt: skip
    shown = capsys.readouterr().out
    assert "sentence" in shown and str(16 * 25) in shown and str(2 * 16 * 17 + 16 * 25) in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model.type": "dmsv"}, r"unknown model.type 'dmsv' \(did you mean 'dmvs'"),
        ({"model.type": "no_such_package:Head"}, "does not import: ModuleNotFoundError"),
        ({"model.type": "my_heads:Nearset"}, r"no class 'Nearset' \(did you mean 'Nearest'"),
        ({"model.type": "my_heads:Overlap"}, "no head: derive it from train.heads.base.Head"),
        ({"model.type": "odd_heads:Mistyped"}, r"'video_query' \(did you mean 'video_queries'"),
        ({"model.type": "ends_itself:Mistyped"}, "ends_itself does not import: SystemExit: 0"),
        ({"model.type": 3}, "model.type is 3; it has to be a word"),
        (
            {"model.hidden_dmi": 3},
            r"key 'model.hidden_dmi' \(did you mean 'hidden_dim'",
        ),
        ({"model.type": "my_heads:Nearest", "model.num_layers": 3}, "unknown .*'model.num_layers'"),
        ({"model.type": "my_heads:Nearest", "model.dropout": "x"}, "it has to be a number"),
        ({"model.type": "my_heads:Choice", "loss.num_points": 3}, "known are least"),
        ({"loss.num_point": 3}, "did you mean 'num_points'"),
        ({"model.text_dim": 0}, "model.text_dim is 0; it has to be from 1"),
        ({"model.text_dim": "x"}, "it has to be a whole number or None"),
    ],
)
def test_what_a_config_must_not_say_of_its_head(place: Path, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_config(place / "small.py", options)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("Misread", r"loss.reads has 'overlap' \(did you mean 'overlaps'"),
        ("Empty", "Empty has no parameters that can be trained"),
        ("Fixed", "loss.terms gives nothing to learn from"),
        ("Nameless", "loss.terms gives nothing to learn from"),
        ("Learned", "loss has parameters, which nobody trains"),
    ],
)
def test_a_head_or_a_loss_that_cannot_be_trained_is_refused(
    place: Path, head: str, message: str
) -> None:
    (place / "idle_heads.py").write_text(IDLE)
    with pytest.raises(InputError, match=message):
        run(place, f"idle_heads:{head}")


def test_an_output_has_as_many_masks_as_scores() -> None:
    logits = torch.zeros(2, 3)
    for masks, sources in [(torch.zeros(2, 1, 4), None), (None, torch.zeros(2, 4, dtype=int))]:
        with pytest.raises(ValueError, match=r"logits of \(2, 3\) beside"):
            HeadOutput(logits, masks, sources)


def test_keys_come_from_the_constructors() -> None:
    class Base(Head):
        RANGES = {"rate": (0, 1)}

        def __init__(self, sizes: CacheSizes, *, rate: float = 0.5, size: int | None = None):
            super().__init__()

    class More(Base):
        CHOICES = {"kinds": ("a", "b")}

        def __init__(self, sizes: CacheSizes, *, must: int, kinds: tuple = ("a",), **keys: float):
            super().__init__(sizes, **keys)

    keys = keys_of(More)
    assert set(keys) == {"must", "kinds", "rate", "size"}
    assert keys["kinds"].checked("kinds", "b") == ["b"] and keys["size"].checked("size", 3) == 3
    for name, value in [("kinds", ["c"]), ("rate", 1.5), ("must", None), ("size", 0.5)]:
        with pytest.raises(InputError, match=f"{name} is"):
            keys[name].checked(name, value)


def test_queries_of_other_channels_are_projected() -> None:
    def names(query_dim: int) -> set[str]:
        sizes = CacheSizes(query_dim, 24, 16, num_video_queries=4, num_classes=3)
        return set(dict(DMVS(sizes, hidden_dim=16, num_heads=2).named_parameters()))

    more = {f"{of}_projection.{name}" for of in ("frame", "video") for name in ("weight", "bias")}
    assert names(20) - names(16) == more and names(16) < names(20)


def test_a_stated_size_that_is_not_the_caches_is_refused(place: Path) -> None:
    config = load_config(place / "small.py", {"model.mask_dim": 16})
    assert build_head(config, SIZES).mask_head[-1].out_features == 16
    config.model.mask_dim = 17
    with pytest.raises(InputError, match="model.mask_dim is 17, but the cache was extracted with"):
        build_head(config, SIZES)


def test_a_config_of_before_heads_had_types_is_the_same(place: Path) -> None:
    now = load_config(place / "small.py").to_dict()
    then = {**now, "model": {**now["model"], "text_dim": 24, "mask_dim": 16}}
    del then["model"]["type"]
    assert differences(now, then) == []
    other = {**now, "model": {**now["model"], "type": "other", "hidden_dim": 8}}
    assert differences(other, then) == [
        "model.hidden_dim: 8 != 16",
        "model.type: 'other' != 'dmvs'",
    ]
