"""Sweeps: equal to single runs, resumed after a kill, one head diverging, tables in the end."""

import json
import os
import shutil
import signal
from contextlib import suppress
from functools import partial
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
from mmengine.visualization.vis_backend import LocalVisBackend

from cache_schema.host import cli
from cache_schema.host.cli import InputError
from tests.cache_schema.helpers import die, in_child
from tests.synthetic import write_cache
from train import runner, sweep
from train.__main__ import main as train
from train.checkpoint import read_checkpoint
from train.config import load_config, load_row
from train.evaluate import main as evaluate
from train.members import plan
from train.places import BASE, ROWS, SWEEPS, checkpoints
from train.sweeping.run import is_mevis, open_caches
from train.sweeping.variants import load_sweep, make_members
from train.trainee import Member

ROOT = Path(__file__).parents[2]
CONFIG = """
model = dict(hidden_dim=16, text_dim=24, mask_dim=16, num_motion_queries=4, num_layers=2,
             num_heads=2, feedforward_dim=32, dropout=0.1)
loss = dict(num_points=16)
optimizer = dict(lr=1e-3, lr_batch_size=3)
schedule = dict(warmup_iters=3, milestones=[7])
train = dict(max_iters=10, batch_size=3, log_interval=2, checkpoint_interval=4)
evaluation = dict(sigma=0.4)
"""
SWEEP = """
reference = "dmvs"
rows = dict(dmvs="dmvs", random="init_random", whole=dict(data=dict(clip_source="video")))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config, a sweep and a cache."""
    path = tmp_path_factory.mktemp("sweep")
    (path / "small.py").write_text(CONFIG)
    (path / "rows.py").write_text(SWEEP)
    write_cache(path / "cache", num_frames=[6, 4])
    return path


def run_sweep(folder: Path, work_dir: Path, *more: str, rows: str = "rows.py") -> None:
    command = [str(folder / rows), "--config", str(folder / "small.py"), "--device", "cpu"]
    command += ["--cache", str(folder / "cache"), "--work-dir", str(work_dir), *more]
    assert sweep.main(command) == 0


@pytest.fixture(scope="module")
def swept(folder: Path) -> Path:
    work_dir = folder / "swept"
    run_sweep(folder, work_dir, "--seeds", "0", "3", "--eval-cache", str(folder / "cache"))
    return work_dir


def assert_equal(ours: Path, theirs: Path) -> None:
    first, second = (read_checkpoint(path)["state_dict"] for path in (ours, theirs))
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.parametrize(
    ("label", "seed", "alone"),
    [
        ("dmvs", 3, []),
        ("random", 0, ["--row", "init_random"]),
        ("whole", 3, ["--cfg-options", "data.clip_source='video'"]),
    ],
)
def test_a_head_of_a_sweep_equals_the_same_head_trained_alone(
    folder: Path, swept: Path, tmp_path: Path, label: str, seed: int, alone: list[str]
) -> None:
    if "--cfg-options" not in alone:
        alone = [*alone, "--cfg-options"]
    command = [str(folder / "small.py"), "--cache", str(folder / "cache"), "--device", "cpu"]
    command += ["--work-dir", str(tmp_path), *alone, f"train.seed={seed}", "data.seed=0"]
    assert train(command) == 0
    assert_equal(swept / label / f"seed-{seed}" / "iter_10.pth", tmp_path / "iter_10.pth")


def test_a_head_of_a_sweep_can_go_on_alone(folder: Path, swept: Path, tmp_path: Path) -> None:
    member = swept / "dmvs" / "seed-3"
    (tmp_path / "iter_4.pth").write_bytes((member / "iter_4.pth").read_bytes())
    command = [str(folder / "small.py"), "--cache", str(folder / "cache"), "--device", "cpu"]
    command += ["--work-dir", str(tmp_path), "--resume", "--cfg-options"]
    assert train([*command, "train.seed=3", "data.seed=0"]) == 0
    assert_equal(member / "iter_10.pth", tmp_path / "iter_10.pth")


def test_scores_are_those_of_evaluating_each_head_alone(
    folder: Path, swept: Path, tmp_path: Path
) -> None:
    member = swept / "random" / "seed-3"
    command = [str(folder / "small.py"), "--cache", str(folder / "cache"), "--device", "cpu"]
    command += ["--row", "init_random", "--checkpoint", str(member), "--out", str(tmp_path)]
    assert evaluate(command) == 0
    alone, ours = (json.loads((p / "metrics.json").read_text()) for p in (tmp_path, member))
    assert ours["per_expression"] == alone["per_expression"]


def test_the_tables_say_every_row(swept: Path) -> None:
    content = json.loads((swept / "sweep.json").read_text())
    assert list(content["variants"]) == ["dmvs", "random", "whole"]
    assert all(variant["seeds"] == 2 for variant in content["variants"].values())
    assert all(variant["paper"] is None for variant in content["variants"].values())
    for name in ("sweep.md", "sweep.csv", "sweep.png"):
        assert (swept / name).stat().st_size > 100


def test_a_killed_sweep_ends_where_an_uninterrupted_one_ends(
    folder: Path, swept: Path, tmp_path: Path
) -> None:
    work_dir = tmp_path / "killed"
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        real(source, target)
        if Path(target) == work_dir / "dmvs" / "seed-3" / "iter_4.pth":
            die()  # between two heads of one iteration

    def killed() -> None:
        os.replace = replace
        run_sweep(folder, work_dir, "--seeds", "0", "3", "--resume")

    assert in_child(killed) == -signal.SIGKILL
    assert not (work_dir / "whole" / "seed-3" / "iter_4.pth").is_file()
    run_sweep(folder, work_dir, "--seeds", "0", "3", "--resume")
    for member in ("dmvs/seed-0", "random/seed-3", "whole/seed-3"):
        assert_equal(swept / member / "iter_10.pth", work_dir / member / "iter_10.pth")


def test_a_head_that_diverges_is_dropped_and_the_others_go_on(
    folder: Path, swept: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (folder / "wild.py").write_text(
        'reference = "dmvs"\n'
        'rows = dict(dmvs="dmvs", wild=dict(optimizer=dict(lr=1e30, clip_norm=1e30)))\n'
    )
    for more in ([], ["--resume"]):  # it stays out when the sweep is resumed
        with pytest.raises(
            InputError, match=r"1 of 2 heads were dropped \(wild/seed-3\); all that"
        ):
            run_sweep(
                folder, tmp_path, "--seeds", "3", "--eval-cache", str(folder / "cache"),
                "--cfg-options", "data.seed=0", *more, rows="wild.py",
            )  # fmt: skip
        assert_equal(swept / "dmvs/seed-3/iter_10.pth", tmp_path / "dmvs/seed-3/iter_10.pth")
        content = json.loads((tmp_path / "sweep.json").read_text())
        assert list(content["variants"]) == ["dmvs"]
        assert "lower optimizer.lr" in content["dropped"]["wild/seed-3"]
    said = capsys.readouterr().out
    assert "wild/seed-3 is dropped, the others go on" in said
    assert f"dropped before, and left out; delete {tmp_path / 'wild/seed-3'} to train it" in said
    # Who does what the sentence says is not left with a head that is out for good.
    (folder / "wild.py").write_text('reference = "dmvs"\nrows = dict(dmvs="dmvs", wild="dmvs")\n')
    options = ("--seeds", "3", "--cfg-options", "data.seed=0", "--resume")
    with pytest.raises(InputError, match=r"optimizer.lr: .*delete .*wild/seed-3 to train"):
        run_sweep(folder, tmp_path, *options, rows="wild.py")
    shutil.rmtree(tmp_path / "wild/seed-3")
    run_sweep(folder, tmp_path, *options, rows="wild.py")
    assert_equal(tmp_path / "dmvs/seed-3/iter_10.pth", tmp_path / "wild/seed-3/iter_10.pth")


def test_an_old_folder_is_not_written_over(folder: Path, swept: Path) -> None:
    with pytest.raises(InputError, match="add --resume"):
        run_sweep(folder, swept, "--seeds", "0")


DAMAGED = [b"[", b"{}", b"5", b"\xff", b'{"iteration": "x"}']


@pytest.mark.parametrize("name", ["dropped.json", "scores"])
def test_damaged_notes_of_a_sweep_are_a_sentence(
    folder: Path, swept: Path, tmp_path: Path, name: str
) -> None:
    options = ["--seeds", "0", "3", "--eval-cache", str(folder / "cache")]
    for number, data in enumerate(DAMAGED):
        work_dir = shutil.copytree(swept, tmp_path / str(number))
        if name == "scores":
            path = next(work_dir.glob("scores-*.jsonl"))
        else:
            path = work_dir / "dmvs" / "seed-0" / name
        path.write_bytes(data + b"\n")
        with suppress(InputError):  # any other error is a mistake of ours
            run_sweep(folder, work_dir, "--resume", *options)


def test_a_row_that_was_added_is_trained_alone(
    folder: Path, swept: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    work_dir = shutil.copytree(swept, tmp_path / "more")
    (work_dir / "whole" / "seed-3" / "iter_10.pth").unlink()  # one that was not done
    before = {path: path.stat().st_mtime_ns for path in work_dir.glob("*/*/iter_*.pth")}
    (folder / "more.py").write_text(SWEEP + 'rows["plain"] = "encoder_plain"\n')
    options = ("--seeds", "0", "3", "--resume")
    with pytest.raises(InputError, match=r"belongs to another run \(loss.dice_weight: 1.0 != 5"):
        run_sweep(folder, work_dir, *options, "--cfg-options", "loss.dice_weight=1", rows="more.py")
    run_sweep(folder, work_dir, *options, rows="more.py")
    said = capsys.readouterr().out
    done = "dmvs/seed-0, dmvs/seed-3, random/seed-0, random/seed-3, whole/seed-0"
    assert f"trained already, and left as it is: {done}\n" in said
    assert "pass 1 of 2 from iteration 8: whole/seed-3\n" in said
    assert "pass 2 of 2 from iteration 0: plain/seed-0, plain/seed-3\n" in said
    assert all(path.stat().st_mtime_ns == time for path, time in before.items() if path.exists())
    assert_equal(swept / "whole/seed-3/iter_10.pth", work_dir / "whole/seed-3/iter_10.pth")
    (folder / "new.py").write_text('reference = "a"\nrows = dict(a="encoder_plain")\n')
    run_sweep(folder, tmp_path / "new", "--seeds", "0", "3", rows="new.py")
    assert_equal(tmp_path / "new/a/seed-3/iter_10.pth", work_dir / "plain/seed-3/iter_10.pth")


def test_heads_go_on_together_from_where_all_of_them_have_been(tmp_path: Path) -> None:
    config = load_config(BASE, {"data.seed": 0})
    written = {"a": (2, 4, 6), "b": (2, 4), "c": (2,), "d": (), "e": (8, 10), "f": (4, 6)}
    members = [Member(label, 0, config) for label in written]
    for member, iterations in zip(members, written.values(), strict=True):
        (tmp_path / member.name).mkdir(parents=True)
        for iteration in iterations:
            (tmp_path / member.name / f"iter_{iteration}.pth").touch()
    passes = plan(members, tmp_path)
    found = [(start, [member.label for member in some]) for start, some in passes]
    assert found == [(4, ["a", "b", "f"]), (0, ["c", "d"]), (10, ["e"])]


def test_a_sweep_leaves_what_a_run_leaves(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation with the best checkpoint, averages, TensorBoard, records: those of a run."""
    events = partial(LocalVisBackend, scalar_save_file="events.json")
    monkeypatch.setattr(runner, "TensorboardVisBackend", events)
    monkeypatch.setattr(runner.importlib.util, "find_spec", lambda name: name)
    (folder / "two.py").write_text('reference = "a"\nrows = dict(a="dmvs", b="init_random")\n')
    val = ["--val-cache", str(folder / "cache")]
    options = ["train.val_interval=5", "train.val_videos=2", "optimizer.ema_decay=0.5"]
    options += ["train.tensorboard=True", "data.seed=0"]
    more = ("--seeds", "3", *val, "--cfg-options", *options)
    run_sweep(folder, tmp_path / "sweep", *more, rows="two.py")
    command = [str(folder / "small.py"), "--cache", str(folder / "cache"), "--device", "cpu", *val]
    command += ["--work-dir", str(tmp_path / "run"), "--row", "init_random", "--cfg-options"]
    assert train([*command, *options, "train.seed=3"]) == 0
    ours, alone = tmp_path / "sweep" / "b" / "seed-3", tmp_path / "run"
    for name in ("iter_10.pth", "best.pth"):
        assert_equal(ours / name, alone / name)
        assert any(key.startswith("average.") for key in read_checkpoint(ours / name)["state_dict"])
    first, second = (read_checkpoint(path / "best.pth")["meta"] for path in (ours, alone))
    assert first["validation"] == second["validation"] and first["iter"] == second["iter"]
    first, second = (json.loads((path / "run.json").read_text()) for path in (ours, alone))
    assert first.keys() == second.keys() and first["config"] == second["config"]
    for path in (tmp_path / "sweep" / "a" / "seed-3", ours, alone):
        for name in ("scalars.json", "events.json"):
            (written,) = path.glob(f"*/vis_data/{name}")
            lines = [json.loads(line) for line in written.read_text().splitlines()]
            assert [line["step"] for line in lines if "loss" in line] == [2, 4, 6, 8, 10]
            assert [line["step"] for line in lines if "val/J&F" in line] == [5, 10]


def test_only_the_last_checkpoints_are_kept(folder: Path, swept: Path, tmp_path: Path) -> None:
    options = ["train.checkpoint_interval=1", "train.keep_checkpoints=2"]
    run_sweep(folder, tmp_path, "--seeds", "0", "--cfg-options", *options)
    assert list(checkpoints(tmp_path / "dmvs" / "seed-0")) == [9, 10]


def test_rows_train_on_the_caches_that_they_name(folder: Path, swept: Path, tmp_path: Path) -> None:
    (folder / "named.py").write_text(
        'reference = "two"\nrows = dict(one=dict(caches=["a"]), two=dict(caches=["a", "b"]))\n'
    )
    write_cache(tmp_path / "b", num_frames=[5])
    command = [str(folder / "named.py"), "--config", str(folder / "small.py"), "--device", "cpu"]
    command += ["--work-dir", str(tmp_path / "out"), "--seeds", "0", "--cache"]
    assert sweep.main([*command, f"a={folder / 'cache'}", f"b={tmp_path / 'b'}"]) == 0
    counts = {
        label: len(read_checkpoint(tmp_path / "out" / label / "seed-0" / "iter_10.pth")["meta"]
                   ["training"]["caches"])
        for label in ("one", "two")
    }  # fmt: skip
    assert counts == {"one": 1, "two": 2}
    with pytest.raises(InputError, match=r"wants the cache\(s\) b"):
        sweep.main([*command, f"a={folder / 'cache'}"])
    with pytest.raises(InputError, match="two caches are called a"):
        sweep.main([*command, f"a={folder / 'cache'}", f"a={tmp_path / 'b'}"])
    given = [*command, f"a={folder / 'cache'}", f"b={tmp_path / 'b'}"]
    with pytest.raises(InputError, match="--cache: no row would take .*c"):
        sweep.main([*given, f"c={tmp_path / 'b'}"])
    with pytest.raises(InputError, match="--eval-cache: no row would take .*b"):
        unnamed = [MagicMock(caches=())]
        open_caches([str(folder / "cache"), str(tmp_path / "b")], "--eval-cache", unnamed)


@pytest.mark.parametrize(
    ("dataset", "split", "videos", "shown"),
    [
        ("mevis", "valid_u", 50, True),
        ("mevis", "valid", 140, True),
        ("mevis", "valid_u", 60, False),  # the demo
        ("mevis", "train", 50, False),
        ("ref_youtube_vos", "valid", 140, False),
    ],
)
def test_the_paper_s_figures_stand_beside_mevis_only(
    dataset: str, split: str, videos: int, shown: bool
) -> None:
    reader = MagicMock(dataset=dataset, split=split)
    reader.__len__.return_value = videos
    assert is_mevis([reader]) == shown


@pytest.mark.parametrize("name", sorted(path.stem for path in SWEEPS.glob("*.py")))
def test_every_sweep_of_the_project_fits_the_configs(name: str) -> None:
    own = load_sweep(name)
    config = "train/configs/demo.py" if name == "demo" else "train/configs/mevis.py"
    members = make_members(own, ROOT / config, [0, 1])
    assert len(members) == 2 * len(own.rows)
    assert not own.paper or set(own.paper) == set(own.rows)


@pytest.mark.parametrize("head", ["", "trajectory", "select", "vita_rvos", "dshmp"])
def test_each_head_has_its_config_for_mevis(head: str) -> None:
    config = load_config(f"mevis_{head}" if head else "mevis")
    assert config.model.type == (head or "dmvs") and config.train.max_iters == 40000


def test_every_row_says_only_what_differs() -> None:
    rows = sorted(path.stem for path in ROWS.glob("*.py"))
    assert len(rows) > 10
    for name in rows:
        assert sum(map(len, load_row(name).values())) <= 4, name


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("rows = 5", "has to say rows"),
        ('reference = "a"\nrows = dict(b="dmvs")', "has to say rows"),
        ('reference = "a"\nrows = dict(a="dmvs")\ntable = 4', "table may not"),
        ('reference = "../a"\nrows = {"../a": "dmvs"}', "names a folder"),
        ('reference = "a"\nrows = dict(a="nowhere")', "row nowhere does not exist"),
        ('reference = "a"\nrows = dict(a=5)', "give a name, a dict or a list"),
        ('reference = "a"\nrows = dict(a=dict(model=5))', "every section has to be a dict"),
        ('reference = "a"\nrows = dict(a=dict(model=dict(size=5)))', "row a: .*model.size"),
        ('reference = "a"\nrows = dict(a="dmvs")\npaper = dict(a=(1, 2))', "three figures"),
        ('reference = "a"\nrows = dict(a="dmvs")\npaper = 5', "three figures"),
        ('reference = "a"\nrows = dict(a="dmvs")\npaper = dict(a=5)', "three figures"),
        ('reference = "a"\nrows = dict(a="dmvs")\npaper = dict(a="abc")', "three figures"),
        ('reference = 5\nrows = {5: "dmvs"}', "names a folder"),
        ('reference = ["a"]\nrows = dict(a="dmvs")', "has to say rows"),
        ('reference = "a"\nrows = dict(a=dict(caches="ovis"))', "give a list of names"),
        ('reference = "a"\nrows = dict(a=dict(caches=None))', "give a list of names"),
        ("rows = 1 / 0", "cannot be read"),
    ],
)
def test_a_wrong_sweep_gets_one_sentence(
    folder: Path, tmp_path: Path, content: str, message: str, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "wrong.py"
    path.write_text(content)
    command = [str(path), "--config", str(folder / "small.py"), "--cache", str(folder / "cache")]
    assert cli.run(sweep.main, [*command, "--work-dir", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    with pytest.raises(InputError, match=message):
        make_members(load_sweep(path), folder / "small.py", [0])


def test_seeds_may_not_repeat(folder: Path) -> None:
    with pytest.raises(InputError, match="each may stand there once"):
        make_members(load_sweep("encoder"), folder / "small.py", [1, 1])
