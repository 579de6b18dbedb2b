"""Training: determinism, resume after a stop or a kill, the cache alone, and bad input."""

import gc
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from mmengine.optim import OptimWrapper

from cache_schema.codecs import get_codec
from cache_schema.host import cli, files
from cache_schema.host.cli import InputError
from cache_schema.host.lock import CacheLock
from cache_schema.reader import CacheReader
from tests.processes import Command, module
from tests.synthetic import write_cache
from train.__main__ import main
from train.checkpoint import load_head, read_checkpoint
from train.config import load_config
from train.data import Batch
from train.data.compatible import signature
from train.heads import CacheSizes, HeadInputs
from train.heads.dmvs import DMVS
from train.losses import HeadCriterion, Targets
from train.masks.logits import MaskFeatures, mask_logits
from train.places import BASE, checkpoints, how_to_go_on, latest_checkpoint
from train.provenance import CONTENTS, contents
from train.trainable import TrainableHead

ROOT = Path(__file__).parents[2]
CONFIG = """
model = dict(hidden_dim=16, text_dim=24, mask_dim=16, num_motion_queries=4, num_layers=2,
             num_heads=2, feedforward_dim=32, dropout=0.1)
loss = dict(num_points=16)
optimizer = dict(lr=1e-3)
schedule = dict(warmup_iters=3, milestones=[7])
train = dict(max_iters=10, batch_size=3, log_interval=2, checkpoint_interval=4)
"""
SIZES = CacheSizes(16, 24, 16, num_video_queries=4, num_classes=3)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cache") / "train"
    write_cache(path, num_frames=[6, 4])
    return path


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "small.py"
    path.write_text(CONFIG)
    return path


def train(config: Path, cache: Path, work_dir: Path, *more: str) -> dict:
    """Train in this process; the last checkpoint."""
    assert main(
        [str(config), "--cache", str(cache), "--work-dir", str(work_dir), "--device", "cpu", *more]
    ) in (0, None)
    return read_checkpoint(latest_checkpoint(work_dir))


def assert_equal(ours: dict, theirs: dict) -> None:
    assert ours["meta"]["iter"] == theirs["meta"]["iter"]
    assert ours["state_dict"].keys() == theirs["state_dict"].keys()
    for name, value in ours["state_dict"].items():
        assert torch.equal(value, theirs["state_dict"][name]), name


@pytest.fixture(scope="module")
def straight(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """An uninterrupted run, and its last checkpoint."""
    folder = tmp_path_factory.mktemp("straight")
    (folder / "small.py").write_text(CONFIG)
    return folder / "run", train(folder / "small.py", cache, folder / "run")


def test_two_runs_with_one_seed_are_equal_bit_for_bit(
    straight: tuple, config: Path, cache: Path, tmp_path: Path
) -> None:
    assert_equal(straight[1], train(config, cache, tmp_path / "again"))


def test_another_seed_gives_other_weights(
    straight: tuple, config: Path, cache: Path, tmp_path: Path
) -> None:
    other = train(config, cache, tmp_path / "other", "--cfg-options", "train.seed=1")
    name = "head.class_head.weight"
    assert not torch.equal(other["state_dict"][name], straight[1]["state_dict"][name])


def test_the_head_learns_which_object_a_word_means() -> None:
    """Four objects, each with its own video query, word and quadrant of the image."""
    generator = torch.Generator().manual_seed(0)
    looks, names = torch.randn(4, 16, generator=generator), torch.randn(4, 24, generator=generator)
    quadrants = torch.eye(4).view(4, 2, 2).repeat_interleave(4, 1).repeat_interleave(4, 2)
    maps = {"values": (2 * quadrants - 1)[None]}  # (1, 4, 8, 8)
    features = MaskFeatures(maps, get_codec("float32"))
    targets = [Targets(q[None, None].byte(), torch.zeros(1).long()) for q in quadrants]
    torch.manual_seed(0)
    head = DMVS(
        CacheSizes(16, 24, mask_dim=4, num_video_queries=4, num_classes=1),
        hidden_dim=16,
        num_motion_queries=4,
        num_layers=2,
        num_heads=2,
        feedforward_dim=32,
    )
    model = TrainableHead(head, HeadCriterion(num_points=16))
    optimizer = OptimWrapper(torch.optim.AdamW(model.parameters(), lr=5e-3))

    def batch() -> Batch:
        order = torch.stack([torch.randperm(4, generator=generator) for _ in range(4)])
        yes = torch.ones(4, 1, dtype=torch.bool)
        inputs = HeadInputs(
            frame_queries=looks[order][:, None],
            frame_mask=yes,
            video_queries=looks[order],
            video_logits=torch.zeros(4, 4, 2),
            words=names[:, None],
            word_mask=yes,
            static=yes,
            motion=~yes,
            sentence=names,
        )
        return Batch(inputs, [features] * 4, targets)

    for _ in range(120):
        model.step(batch(), optimizer, 0)
    output = head.eval()(batch().inputs)[-1]
    best = output.logits.argmax(dim=1)
    for b in range(4):
        mask = mask_logits(maps, output.mask_embeds[b], codec=features.codec)[0, best[b]] > 0
        assert torch.equal(mask, quadrants[b] > 0)


def test_resume_from_the_middle_ends_in_the_same_weights(
    straight: tuple, config: Path, cache: Path, tmp_path: Path
) -> None:
    work_dir = tmp_path / "resumed"
    work_dir.mkdir()
    shutil.copy(straight[0] / "iter_4.pth", work_dir)
    assert_equal(straight[1], train(config, cache, work_dir, "--resume"))


def test_a_checkpoint_with_a_log_of_mmengine_is_gone_on_with(
    straight: tuple, config: Path, cache: Path, tmp_path: Path
) -> None:
    """As runs left them when mmengine wrote them."""
    content = torch.load(straight[0] / "iter_4.pth", weights_only=True)
    content["meta"] |= {"epoch": 0, "cfg": "a = 1", "experiment_name": "x", "time": "now"}
    hub = {"log_scalars": {}, "runtime_info": {"keep_ckpt_ids": [4]}, "resumed_keys": {}}
    del content["meta"]["seconds"]
    (tmp_path / "run").mkdir()
    torch.save({**content, "message_hub": hub}, tmp_path / "run" / "iter_4.pth")
    assert_equal(straight[1], train(config, cache, tmp_path / "run", "--resume"))


def test_a_finished_run_can_be_resumed_for_longer(
    straight: tuple, config: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    work_dir = tmp_path / "longer"
    train(config, cache, work_dir, "--cfg-options", "train.max_iters=6")
    assert_equal(straight[1], train(config, cache, work_dir, "--resume"))
    capsys.readouterr()
    train(config, cache, work_dir, "--resume")
    assert "trained already, and left as it is: this run" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"iter_10.pth is beyond train.max_iters=6; give 10 or"):
        train(config, cache, work_dir, "--resume", "--cfg-options", "train.max_iters=6")
    (work_dir / "iter_10.pth").replace(work_dir / "iter_11.pth")
    with pytest.raises(InputError, match=r"iter_11.pth was written after iteration 10; give it"):
        train(config, cache, work_dir, "--resume", "--cfg-options", "train.max_iters=12")


def test_a_run_killed_while_it_sees_nothing_but_the_cache_resumes_to_the_same_weights(
    config: Path, cache: Path, tmp_path: Path
) -> None:
    """The killed one is a subprocess in a copy of the project with only the two rooms it needs."""
    project = tmp_path / "project"
    for package in ("train", "cache_schema"):
        shutil.copytree(
            ROOT / package, project / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    work_dir = tmp_path / "killed"
    long = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "train",
            str(config),
            "--cache",
            str(cache),
            "--work-dir",
            str(work_dir),
            "--device",
            "cpu",
            "--cfg-options",
            "train.checkpoint_interval=2",
            "train.max_iters=100000",
        ],
        cwd=project,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(project)},
    )
    while latest_checkpoint(work_dir) is None:  # far from its 100,000 iterations
        assert long.poll() is None, "training ended by itself"
        time.sleep(0.02)
    long.send_signal(signal.SIGKILL)
    long.wait()
    reached = read_checkpoint(latest_checkpoint(work_dir))["meta"]["iter"]
    (work_dir / ".iter_9999.pth.99999999.tmp").write_bytes(b"half a checkpoint")
    (work_dir / "last_checkpoint").write_text("")
    end = reached + 5
    options = ("--cfg-options", "train.checkpoint_interval=2", f"train.max_iters={end}")
    resumed = train(config, cache, work_dir, "--resume", *options)
    whole = train(config, cache, tmp_path / "whole", *options)
    assert_equal(whole, resumed)
    assert not (work_dir / ".iter_9999.pth.99999999.tmp").exists()


def test_after_an_interrupt_it_says_from_where_it_goes_on(
    config: Path, cache: Path, tmp_path: Path
) -> None:
    def interrupted(work_dir: Path, name: str, *options: str) -> str:
        """What is said of an interrupt that comes when a file is there."""
        words = [config, "--cache", cache, "--work-dir", work_dir, "--device", "cpu"]
        words += ["--cfg-options", "train.max_iters=100000", *options]
        process = Command(module("train", words), tmp_path / "said")
        while not list(work_dir.glob(name)):
            assert process.status is None, process.said()
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGINT)
        said = process.said().splitlines()[-1]
        assert process.status == 130
        return said

    often = interrupted(tmp_path / "often", "iter_4.pth", "train.checkpoint_interval=2")
    reached = max(checkpoints(tmp_path / "often"))
    assert often == (
        f"interrupted; the same command with --resume goes on from iteration {reached}"
    )
    never = interrupted(
        tmp_path / "never", "*/vis_data/scalars.json", "train.checkpoint_interval=100000"
    )
    assert never.startswith("interrupted; ") and "the same command starts from the begin" in never


def test_a_sweep_says_so_of_all_its_heads(tmp_path: Path) -> None:
    for name in ("a-seed0/iter_20.pth", "a-seed0/iter_30.pth", "b-seed0/iter_20.pth"):
        files.make_folder((tmp_path / name).parent)
        (tmp_path / name).touch()
    assert how_to_go_on(tmp_path).endswith("with --resume goes on from iterations 20 to 30")


def test_old_checkpoints_go_also_after_a_resume(config: Path, cache: Path, tmp_path: Path) -> None:
    options = ("--cfg-options", "train.checkpoint_interval=1", "train.keep_checkpoints=2")
    train(config, cache, tmp_path / "run", *options, "train.max_iters=4")
    train(config, cache, tmp_path / "run", "--resume", *options, "train.max_iters=6")
    names = sorted(path.name for path in (tmp_path / "run").glob("*.pth"))
    assert names == ["iter_5.pth", "iter_6.pth"]


def test_a_checkpoint_tells_what_it_was_trained_on(
    straight: tuple, cache: Path, config: Path
) -> None:
    training = straight[1]["meta"]["training"]
    reader = CacheReader(cache)
    assert training["caches"] == [
        {
            "fingerprint": reader.fingerprint_hex,
            "split": "train",
            "dataset": "synthetic",
            "models": signature(reader.fingerprint, codec=False),
            "segmenter_type": reader.segmenter.type,
            "resize": reader.fingerprint.get("resize"),
            **contents(reader),
        }
    ]
    assert training["seed"] == 0 and training["config"] == load_config(config).to_dict()


def test_the_log_shows_losses_rate_time_and_memory(straight: tuple) -> None:
    (log,) = straight[0].glob("*/*.log")
    line = next(line for line in log.read_text().splitlines() if "[10/10]" in line)
    for part in (
        "lr:",
        "eta:",
        "time:",
        "loss:",
        "loss_cls:",
        "loss_mask:",
        "loss_dice:",
        "memory:",
    ):
        assert part in line


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_shows_a_bar_and_a_file_gets_lines(
    config: Path,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    terminal: bool,
) -> None:
    screen = io.StringIO()
    screen.isatty = lambda: terminal
    monkeypatch.setattr(sys, "stderr", screen)
    train(config, cache, tmp_path / "run")
    (log,) = (tmp_path / "run").glob("*/*.log")
    assert ("loss=" in screen.getvalue() and "10/10" in screen.getvalue()) == terminal
    assert ("Iter(train) [10/10]" in capsys.readouterr().out) != terminal
    assert "Iter(train) [10/10]" in log.read_text()


def test_the_trained_head_is_loaded_as_it_was(straight: tuple, config: Path) -> None:
    head = load_head(load_config(config), straight[0] / "iter_10.pth", SIZES)
    assert not head.training
    weights = head.state_dict()
    assert all(
        torch.equal(value, straight[1]["state_dict"][f"head.{name}"])
        for name, value in weights.items()
    )


def test_a_checkpoint_of_another_head_is_refused(straight: tuple, config: Path) -> None:
    other = load_config(config, {"model.hidden_dim": 8, "model.num_layers": 3})
    with pytest.raises(InputError, match="frame_projection.weight is missing.*and .* more"):
        load_head(other, straight[0] / "iter_10.pth", SIZES)


def test_nothing_holds_a_head_when_its_training_is_over(
    config: Path, cache: Path, tmp_path: Path
) -> None:
    """Several processes must not part before."""
    train(config, cache, tmp_path / "run", "--cfg-options", "train.max_iters=2")
    gc.collect()
    assert not [found for found in gc.get_objects() if type(found) is TrainableHead]


class Nasty:
    """Runs code when unpickled, if anything lets it."""

    def __reduce__(self) -> tuple:
        return print, ("code from a checkpoint was run",)


@pytest.mark.parametrize("content", ["nothing", "text", "code", "tensor"])
def test_a_broken_or_foreign_checkpoint_is_refused(
    config: Path, tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "iter_1.pth"
    if content == "text":
        path.write_text("not a checkpoint")
    elif content == "code":
        torch.save({"meta": {}, "state_dict": Nasty()}, path)
    elif content == "tensor":
        torch.save(torch.zeros(3), path)
    with pytest.raises(InputError, match=r"iter_1\.pth"):
        load_head(load_config(config), path, SIZES)
    assert "was run" not in capsys.readouterr().out


def test_a_used_folder_needs_resume_and_the_same_run(
    straight: tuple, config: Path, cache: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="add --resume"):
        train(config, cache, straight[0])
    with pytest.raises(InputError, match=r"optimizer\.lr: 0\.5 != 0\.001"):
        train(config, cache, straight[0], "--resume", "--cfg-options", "optimizer.lr=0.5")
    write_cache(tmp_path / "other", seed=1)
    with pytest.raises(InputError, match="caches are not those"):
        train(config, tmp_path / "other", straight[0], "--resume")


def test_divergence_ends_in_one_sentence(config: Path, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="lower optimizer.lr"):
        train(config, cache, tmp_path / "run", "--cfg-options", "optimizer.lr=1e30")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "modle = dict()",
            r"unknown .*'modle' \(did you mean 'model.*known are model, data",
        ),
        (
            "model = dict(layers=3)",
            r"key 'model.layers' \(did you mean 'num_layers'",
        ),
        ("model = 3", "key model is 3; it has to be a dict"),
        ("train = dict(max_iters='many')", "train.max_iters is 'many'; it has to be a whole"),
        ("train = dict(batch_size=0)", "train.batch_size is 0; it has to be from 1"),
        ("train = dict(seed=True)", "train.seed is True"),
        ("schedule = dict(type='cosine')", "schedule.type is 'cosine'; choose one of step, poly"),
        ("schedule = dict(milestones='x')", "schedule.milestones is 'x'; it has to be a list"),
        ("optimizer = dict(lr=None)", "optimizer.lr is None; it has to be a number"),
        ("optimizer = dict(lr=-1.0)", "optimizer.lr is -1.0; it has to be from 0"),
        ("data = dict(mixed_codecs=1)", "data.mixed_codecs is 1; it has to be True or False"),
        ("data = dict(cache_weights=[2, 0])", "data.cache_weights is 0; it has to be from 1"),
        ("model = dict(hidden_dim=10)", "num_heads = 8 does not divide"),
        ("model = dict(", "cannot be read"),
        ("raise RuntimeError('boom')", "cannot be read"),
        ("raise SystemExit(0)", "cannot be read .SystemExit"),
    ],
)
def test_a_wrong_config_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "wrong.py"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        load_config(path)


@pytest.mark.parametrize("option", ["train.sede", "seed", "train", "train.seed.x"])
def test_a_wrong_option_is_named(config: Path, option: str) -> None:
    with pytest.raises(InputError, match=f"--cfg-options: unknown config key '{option}"):
        load_config(config, {option: 1})


def test_a_config_states_what_differs_from_the_base(config: Path) -> None:
    loaded, base = load_config(config), load_config(BASE)
    assert loaded.model.hidden_dim == 16 and loaded.evaluation == base.evaluation
    assert loaded.schedule.milestones == [7] and base.train.max_iters == 40000
    one = load_config(config, {"schedule.milestones": 5, "optimizer.lr": 1})
    assert one.schedule.milestones == [5] and one.optimizer.lr == 1.0


@pytest.mark.parametrize("name", sorted(path.name for path in BASE.parent.glob("[!_]*.py")))
def test_the_projects_configs_are_complete(name: str) -> None:
    assert load_config(BASE.parent / name).train.max_iters >= 1


def test_poly_schedule_falls_to_zero_and_pins_the_length(
    config: Path, cache: Path, tmp_path: Path
) -> None:
    options = ("--cfg-options", "schedule.type=poly", "schedule.warmup_iters=0")
    last = train(config, cache, tmp_path / "run", *options)
    assert last["optimizer"]["param_groups"][0]["lr"] < 2e-4
    with pytest.raises(InputError, match="train.max_iters: 12 != 10"):
        train(config, cache, tmp_path / "run", "--resume", *options, "train.max_iters=12")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.py", "--cache", "CACHE"], "config nowhere.py does not exist"),
        (["CONFIG", "--cache", "nowhere"], "nowhere"),
        (["CONFIG", "--cache", "CACHE", "--device", "toaster"], "--device toaster"),
        (["CONFIG", "--cache", "CACHE", "--device", "meta"], "--device meta"),
        (["CONFIG", "--cache", "CACHE", "--cfg-options", "train.seed"], "write key=value"),
        (
            ["CONFIG", "--cache", "CACHE", "--cfg-options", "model.text_dim=768"],
            "model.text_dim is 768, but .* was extracted with 24",
        ),
        (["CONFIG", "--cache", "CACHE", "--work-dir", "/proc/here"], "cannot be written"),
    ],
)
def test_bad_input_ends_in_one_sentence(
    config: Path, cache: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    known = {"CONFIG": str(config), "CACHE": str(cache)}
    line = [known.get(argument, argument) for argument in arguments]
    if "--work-dir" not in line:
        line += ["--work-dir", str(tmp_path / "run")]
    with pytest.raises(InputError, match=message):
        main(line)


def test_the_command_line_says_it_with_status_2(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = cli.run(
        main, [str(config), "--cache", str(tmp_path / "no"), "--work-dir", str(tmp_path / "run")]
    )
    shown = capsys.readouterr().err
    assert status == 2 and shown.startswith("error: ") and "Traceback" not in shown


def test_two_trainings_in_one_folder_are_refused(config: Path, cache: Path, tmp_path: Path) -> None:
    with (
        CacheLock(files_made(tmp_path / "run")),
        pytest.raises(InputError, match="another process is writing the work folder"),
    ):
        train(config, cache, tmp_path / "run", "--resume")
    assert not list((tmp_path / "run").glob("*.pth"))
    train(config, cache, tmp_path / "run")  # the first one is done


def files_made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_a_cache_with_other_videos_is_not_gone_on_with(config: Path, tmp_path: Path) -> None:
    write_cache(tmp_path / "cache", num_videos=2)
    train(config, tmp_path / "cache", tmp_path / "run", "--cfg-options", "train.max_iters=4")
    write_cache(tmp_path / "cache", num_videos=3)
    with pytest.raises(InputError, match="holds other videos, 3 now and 2 then"):
        train(config, tmp_path / "cache", tmp_path / "run", "--resume")
    # A checkpoint of before says nothing of videos, and is gone on with.
    path = latest_checkpoint(tmp_path / "run")
    content = torch.load(path, weights_only=True)
    for name in CONTENTS:
        del content["meta"]["training"]["caches"][0][name]
    torch.save(content, path)
    train(config, tmp_path / "cache", tmp_path / "run", "--resume")
