"""Several training processes: the weights of one with the same batches, and what cannot be."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from cache_schema.host import cli
from cache_schema.host.cli import InputError
from cache_schema.host.launch import Rank
from tests.synthetic import write_cache
from train import distributed, runner
from train.__main__ import main
from train.checkpoint import read_checkpoint
from train.data import CounterBatches
from train.sweep import main as sweep

ROOT = Path(__file__).parents[2]
CONFIG = """
model = dict(hidden_dim=16, text_dim=24, mask_dim=16, num_motion_queries=4, num_layers=2,
             num_heads=2, feedforward_dim=32)
loss = dict(num_points=16)
optimizer = dict(lr=1e-3, lr_batch_size=2, ema_decay=0.9)
train = dict(max_iters=20, batch_size=4, checkpoint_interval=8, log_interval=10)
"""

SWEEP = """
reference = "a"
rows = dict(a="dmvs", wild=dict(optimizer=dict(lr=1e30, clip_norm=1e30)))
rows["b"] = dict(model=dict(num_motion_queries=3))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ranks")
    (path / "small.py").write_text(CONFIG)
    (path / "rows.py").write_text(SWEEP)
    write_cache(path / "cache", num_frames=[6, 4])
    return path


def command(folder: Path, work_dir: Path) -> list[str]:
    own = [str(folder / "small.py"), "--cache", str(folder / "cache"), "--device", "cpu"]
    return [*own, "--work-dir", str(work_dir)]


def sweep_command(folder: Path, work_dir: Path) -> list[str]:
    own = [str(folder / "rows.py"), "--config", str(folder / "small.py"), "--device", "cpu"]
    caches = ["--cache", str(folder / "cache"), "--eval-cache", str(folder / "cache")]
    return [*own, *caches, "--seeds", "0", "--work-dir", str(work_dir)]


def torchrun(*what: str, module: Sequence[str] = ("-m",)) -> subprocess.CompletedProcess:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return subprocess.run(
        [*launch, *module, *what],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )


def assert_close(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    """Equal but for rounding, where something depends on the weights.

    Adam makes steps of gradients that are nothing but rounding errors: those of the keys' bias,
    which moves all logits of a softmax alike, and of everything before the softmax where F_me is
    the only key.
    """
    assert ours.keys() == theirs.keys()
    for name in theirs:
        own, value = ours[name], theirs[name]
        if "in_proj" in name:
            single, bias = "reads.expression" in name, name.endswith("bias")
            used = [0, 1, 2][2 if single else 0 :: 2 if bias else 1]  # of query, key, value
            own, value = (torch.cat([t.chunk(3)[i] for i in used]) for t in (own, value))
        torch.testing.assert_close(own, value, rtol=1e-4, atol=1e-5, msg=name)


def test_two_ranks_give_the_weights_of_one_and_resume_as_one(folder: Path, tmp_path: Path) -> None:
    assert main(command(folder, tmp_path / "one")) == 0
    done = torchrun("train", *command(folder, tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    assert "effective batch 4 = 2 process(es) x 2; learning rate 0.002 = 0.001 x 4 / 2" in (
        done.stdout + done.stderr
    )
    for iteration in (8, 20):
        one, two = (
            read_checkpoint(tmp_path / name / f"iter_{iteration}.pth")["state_dict"]
            for name in ("one", "two")
        )
        assert_close(two, one)
    # The samples do not depend on how many processes share them, so one can go on for two.
    for later in (16, 20):
        (tmp_path / "two" / f"iter_{later}.pth").unlink()
    assert main([*command(folder, tmp_path / "two"), "--resume"]) == 0
    resumed = read_checkpoint(tmp_path / "two" / "iter_20.pth")["state_dict"]
    assert_close(resumed, two)


DIFFERING = """
import os, sys
from cache_schema.host import cli
from train.__main__ import main
own = sys.argv[1:] if os.environ["RANK"] == "0" else OWN
sys.exit(cli.run(main, own))
"""


@pytest.mark.parametrize("kind", ["options", "checkpoints in the work folder"])
def test_ranks_that_were_told_something_else_are_refused(
    folder: Path, tmp_path: Path, kind: str
) -> None:
    """Another length would let one wait for ever, another seed would train on a mixture."""
    given = [*command(folder, tmp_path / "one"), "--resume"]
    if kind == "options":
        other = [*given, "--cfg-options", "train.max_iters=16"]
    else:
        other = [*command(folder, tmp_path / "two"), "--resume"]  # a disk of its own
        assert main([*given[:-1], "--cfg-options", "train.max_iters=8"]) == 0
    (tmp_path / "differing.py").write_text(DIFFERING.replace("OWN", repr(other)))
    done = torchrun(str(tmp_path / "differing.py"), *given, module=())
    assert done.returncode != 0
    assert done.stderr.count(f"error: the {kind} of rank 1 are not those of rank 0") == 2


def test_parameters_that_nothing_uses_may_stay_with_several_ranks(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "spare_heads.py").write_text(
        "import torch\nfrom train.heads.dmvs import DMVS\n\n\nclass Idle(DMVS):\n"
        "    def __init__(self, sizes, **keys):\n        super().__init__(sizes, **keys)\n"
        "        self.idle = torch.nn.Linear(2, 2)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    own = ["--cfg-options", "model.type=spare_heads:Idle"]
    assert main([*command(folder, tmp_path / "one"), *own]) == 0
    done = torchrun("train", *command(folder, tmp_path / "two"), *own)
    assert done.returncode == 0, done.stderr
    assert_close(
        *(read_checkpoint(tmp_path / n / "iter_20.pth")["state_dict"] for n in ("two", "one"))
    )


def test_two_ranks_sweep_as_one_and_drop_the_same_head(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="1 of 3 heads were dropped"):
        sweep(sweep_command(folder, tmp_path / "one"))
    done = torchrun("train.sweep", *sweep_command(folder, tmp_path / "two"))
    assert done.returncode != 0
    assert done.stderr.count("error: 1 of 3 heads were dropped") == 1
    assert done.stdout.count("wild/seed-0 is dropped, the others go on") == 1
    one, two = (json.loads((tmp_path / n / "sweep.json").read_text()) for n in ("one", "two"))
    assert list(one["variants"]) == list(two["variants"]) == ["a", "b"]
    assert list(one["dropped"]) == list(two["dropped"]) == ["wild/seed-0"]
    for label in ("a", "b"):
        assert_close(
            *(
                read_checkpoint(tmp_path / name / label / "seed-0" / "iter_20.pth")["state_dict"]
                for name in ("two", "one")
            )
        )
        logs = [
            [json.loads(line)["loss"] for line in path.read_text().splitlines()]
            for name in ("one", "two")
            for path in (tmp_path / name / label / "seed-0").glob("*/vis_data/scalars.json")
        ]
        assert logs[1] == pytest.approx(logs[0], rel=1e-3) and len(logs[0]) == 2


def test_ranks_share_every_batch_evenly() -> None:
    whole = list(CounterBatches(6, 3))
    parts = [list(CounterBatches(6, 3, rank=rank, world_size=3)) for rank in range(3)]
    assert [sum(own, []) for own in zip(*parts, strict=True)] == whole


def test_a_batch_that_cannot_be_shared_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "get_world_size", lambda: 2)
    options = ("--cfg-options", "train.batch_size=3")
    with pytest.raises(InputError, match="batch_size is 3, which 2 processes cannot share"):
        main([*command(folder, tmp_path / "run"), *options])


def test_a_launcher_without_its_variables_gets_one_sentence(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert cli.run(main, [*command(folder, tmp_path), "--launcher", "slurm"]) == 2
    assert "start the command with srun" in capsys.readouterr().err


def test_more_processes_than_gpus_are_refused() -> None:
    with pytest.raises(InputError, match="start one process a GPU"):
        distributed.join(Rank(1, 2, 64), "pytorch", torch.device("cuda"))


def test_a_job_of_slurm_that_cannot_be_asked_for_its_hosts(monkeypatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(InputError, match="set MASTER_ADDR"):
        distributed.join(Rank(0, 2, 0), "slurm", torch.device("cpu"))
