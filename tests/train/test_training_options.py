"""What a run may be asked for beside its weights: averages, precision, validation, records."""

import ast
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cache_schema.host import cli
from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader
from tests.synthetic import write_cache
from tests.train.protocol_caches import SIZES
from train import runner
from train.__main__ import main
from train.checkpoint import load_head, read_checkpoint, save_checkpoint
from train.config import load_config, stored_config
from train.evaluate import main as evaluate
from train.evaluation.from_cache.head_scores import validate
from train.hooks import best_so_far
from train.params import main as params
from train.places import CONFIGS, checkpoints
from train.sweep import main as sweep
from train.trainable import learning_rate, step_seeds

CONFIG = """
model = dict(hidden_dim=16, text_dim=24, mask_dim=16, num_motion_queries=4, num_layers=2,
             num_heads=2, feedforward_dim=32)
loss = dict(num_points=16)
optimizer = dict(lr=1e-2, lr_batch_size=3)
train = dict(max_iters=6, batch_size=3, log_interval=2, checkpoint_interval=1, keep_checkpoints=9)
evaluation = dict(sigma=0.3)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("options")
    (path / "small.py").write_text(CONFIG)
    write_cache(path / "cache", num_frames=[6, 4])
    return path


def run(folder: Path, work_dir: Path, *options: str, more: tuple[str, ...] = ()) -> Path:
    command = [str(folder / "small.py"), "--cache", str(folder / "cache"), "--device", "cpu"]
    command += ["--work-dir", str(work_dir), *more]
    assert main([*command, *(["--cfg-options", *options] if options else [])]) == 0
    return work_dir


def weights(path: Path, part: str = "head.") -> dict[str, torch.Tensor]:
    state = read_checkpoint(path)["state_dict"]
    return {n.removeprefix(part): value for n, value in state.items() if n.startswith(part)}


def assert_equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def test_a_checkpoint_knows_its_config(folder: Path, tmp_path: Path) -> None:
    options = ["--cfg-options", "model.num_layers=1", "evaluation.sigma=0.4"]
    work_dir = run(folder, tmp_path / "run", *options[1:])
    command = ["--checkpoint", str(work_dir), "--cache", str(folder / "cache"), "--device", "cpu"]
    found = []
    for name, more in (("alone", []), ("given", [*options, str(folder / "small.py")])):
        words = [*more[::-1][:1], *command, "--out", str(tmp_path / name), *more[:-1]]
        assert evaluate(words) == 0
        metrics = json.loads((tmp_path / name / "metrics.json").read_text())
        found.append((metrics["per_expression"], metrics["run"]["config"], metrics["run"]["sigma"]))
    assert found[0] == found[1] and found[0][2] == [0.4]


def test_what_a_checkpoint_is_changed_by_is_checked(folder: Path, tmp_path: Path) -> None:
    training = {"config": load_config(folder / "small.py").to_dict()}
    changed = stored_config("a.pth", training, {"evaluation.sigma": 0.1}, row="init_text")
    assert changed.evaluation.sigma == 0.1 and changed.model.hidden_dim == 16
    with pytest.raises(InputError, match="unknown config key 'evaluation.sgma'.*sigma"):
        stored_config("a.pth", training, {"evaluation.sgma": 0.1})
    for content in (None, {}, {"config": 3}):
        with pytest.raises(InputError, match="a.pth does not say the config"):
            stored_config("a.pth", content)
    training["config"]["model"]["layers"] = 3  # of another version
    with pytest.raises(InputError, match="checkpoint a.pth: unknown config key 'model.layers'"):
        stored_config("a.pth", training)


def test_the_average_of_the_weights_is_kept_and_evaluated(folder: Path, tmp_path: Path) -> None:
    plain = run(folder, tmp_path / "plain")
    averaged = run(folder, tmp_path / "averaged", "optimizer.ema_decay=0.5")
    steps = [weights(path) for path in checkpoints(plain).values()]
    assert_equal(weights(averaged / "iter_6.pth"), steps[-1])  # the head itself is trained as ever
    expected = steps[0]
    for step in steps[1:]:
        expected = {name: 0.5 * value + 0.5 * step[name] for name, value in expected.items()}
    head = load_head(load_config(folder / "small.py"), averaged / "iter_6.pth", SIZES)
    torch.testing.assert_close(dict(head.state_dict()), expected)
    average = weights(averaged / "iter_6.pth", "average.module.")
    assert_equal(head.state_dict(), {name: average[name] for name in head.state_dict()})


def test_an_average_survives_a_resume(folder: Path, tmp_path: Path) -> None:
    straight = run(folder, tmp_path / "straight", "optimizer.ema_decay=0.9")
    (tmp_path / "resumed").mkdir()
    (tmp_path / "resumed" / "iter_3.pth").write_bytes((straight / "iter_3.pth").read_bytes())
    resumed = run(folder, tmp_path / "resumed", "optimizer.ema_decay=0.9", more=("--resume",))
    assert_equal(weights(straight / "iter_6.pth", ""), weights(resumed / "iter_6.pth", ""))


def test_reduced_precision_comes_near_the_full_one(folder: Path, tmp_path: Path) -> None:
    full = weights(run(folder, tmp_path / "full") / "iter_6.pth")
    half = weights(run(folder, tmp_path / "half", "train.autocast='bfloat16'") / "iter_6.pth")
    assert all(value.dtype == torch.float32 for value in half.values())
    assert any(not torch.equal(value, full[name]) for name, value in half.items())
    apart = torch.cat([(half[name] - value).flatten() for name, value in full.items()])
    moved = torch.cat([value.flatten() for value in full.values()])
    assert apart.norm() < 0.2 * moved.norm()


def test_float16_without_a_gpu_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="float16 needs a GPU"):
        run(folder, tmp_path, "train.autocast='float16'")


def test_the_best_checkpoint_of_the_validations_is_kept(folder: Path, tmp_path: Path) -> None:
    more = ("--val-cache", str(folder / "cache"))
    options = ("train.val_interval=2", "train.val_videos=2")
    work_dir = run(folder, tmp_path / "run", *options, more=more)
    best = read_checkpoint(work_dir / "best.pth")["meta"]
    config = load_config(folder / "small.py")
    found = {
        iteration: validate(
            {"": load_head(config, work_dir / f"iter_{iteration}.pth", SIZES)},
            CacheReader(folder / "cache"),
            num_videos=2,
            sigma={"": 0.3},
            rule={"": "threshold"},
        )[""]["J&F"]
        for iteration in (2, 4, 6)
    }
    assert best["validation"]["J&F"] == max(found.values())
    assert found[best["iter"]] == max(found.values())
    # Looking does not change what is trained, and a best one of before is not lost to a worse one.
    blind = run(folder, tmp_path / "blind")
    assert_equal(weights(blind / "iter_6.pth"), weights(work_dir / "iter_6.pth"))
    assert best_so_far(work_dir) == max(found.values())
    # That of a run which left no checkpoint says nothing of another that starts there.
    for path in checkpoints(work_dir).values():
        path.unlink()
    save_checkpoint(
        {"meta": {"iter": 1, "validation": {"J&F": 1.0}}, "state_dict": {}}, work_dir / "best.pth"
    )
    again = read_checkpoint(run(folder, work_dir, *options, more=more) / "best.pth")["meta"]
    assert again["validation"] == best["validation"]


def test_validation_needs_both_a_cache_and_an_interval(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    command = [str(folder / "small.py"), "--cache", str(folder / "cache"), "--device", "cpu"]
    command += ["--work-dir", str(tmp_path)]
    for more in (["--val-cache", str(folder / "cache")], ["--cfg-options", "train.val_interval=2"]):
        assert cli.run(main, [*command, *more]) == 2
        assert "go together" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "words"), [(main, ["--work-dir", "out"]), (sweep, ["--config", "demo"])]
)
def test_options_are_checked_without_any_cache(
    command: Callable,
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["demo", "--cache", "nothing", *words, "--check", "--cfg-options"]
    assert cli.run(command, [*words, "data.seed=1"]) == 0
    assert cli.run(command, [*words, "train.max_iter=1"]) == 2
    assert "did you mean 'max_iters'?" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_a_run_leaves_a_record_of_itself(folder: Path, tmp_path: Path) -> None:
    content = json.loads((run(folder, tmp_path, "train.seed=5") / "run.json").read_text())
    assert content["seed"] == content["config"]["train"]["seed"] == 5
    assert content["iterations"] == 6 and content["processes"] == 1
    assert len(content["caches"]["training"][0]["fingerprint"]) == 64
    assert content["peak_memory_mb"] > 10 and content["seconds"] > 0


def test_tensorboard_that_is_not_installed_is_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install tensorboard"):
        run(folder, tmp_path, "train.tensorboard=True")


def test_the_learning_rate_grows_with_the_batch(folder: Path) -> None:
    rates = [
        learning_rate(load_config(folder / "small.py", {"train.batch_size": size}))
        for size in (3, 6)
    ]
    assert rates == [1e-2, 2e-2]


def test_seeds_of_a_step_do_not_depend_on_the_size_of_the_batch() -> None:
    assert step_seeds(3, 7, 8)[:5] == step_seeds(3, 7, 4)
    assert len(set(step_seeds(3, 7, 8) + step_seeds(3, 8, 8) + step_seeds(4, 7, 8))) == 27


def test_params_counts_part_by_part(capsys: pytest.CaptureFixture) -> None:
    assert params([]) == 0
    said = capsys.readouterr().out
    assert "12,701,697" in said and "11,054,592" in said and "102.3 M" in said


@pytest.mark.parametrize("config", sorted(path.stem for path in CONFIGS.glob("[!_]*.py")))
def test_params_of_every_config_of_the_project(config: str) -> None:
    assert params([config]) == 0


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("model.encoder='half'", "choose one of none, plain, static, motion, full"),
        ("model.decoder_reads=['words','sound']", "choose from words, expression, video, frames"),
        ("model.decoder_reads=['words','words']", "choose from"),
        ("model.decoder_reads=[3]", "a list of words"),
        ("optimizer.ema_decay=1.0", "has to be from 0 to 1"),
        ("optimizer.lr_batch_size=0", "has to be from 1"),
        ("train.val_interval=-1", "has to be from 0"),
    ],
)
def test_values_that_cannot_be_are_refused(folder: Path, option: str, message: str) -> None:
    key, _, value = option.partition("=")
    with pytest.raises(InputError, match=message):
        load_config(folder / "small.py", {key: ast.literal_eval(value)})


def test_a_row_that_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(InputError, match="row nothing does not exist.*encoder_plain"):
        load_config(folder / "small.py", row="nothing")
