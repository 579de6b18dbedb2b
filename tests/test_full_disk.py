"""Every command that writes, where it cannot: a sentence, status 2, and nothing left half done.

Each runs forked from here with a file system of its own: full, full soon, or read-only; or as
another user with a folder that is not theirs.
"""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cache_schema.__main__ import main as cache
from cache_schema.host import cli
from cache_schema.verify import verify
from extract.__main__ import main as extract
from extract.demo.layout import write_split
from extract.segmenters.vita.convert import main as convert
from scripts import draw_overlays, make_demo_data, report, score, submit
from scripts.segment.__main__ import main as segment
from tests.extract.vita_cases import SHIPPED, unpacked
from tests.processes import Command
from tests.train.test_small_machine import own_mounts
from train import evaluate, sweep
from train.__main__ import main as train

ROOT = Path(__file__).parents[1]
WEIGHTS = ROOT / "extract/assets/vita_tiny.safetensors"
OPTIONS = "train.max_iters=2 train.checkpoint_interval=1 train.batch_size=2 model.num_layers=1"
CPU = "--device cpu"
MEVIS = "--split train --data-root {0}/data"
#: What a command is called with: {0} is the world, {1} where it writes.
COMMANDS: dict[str, tuple[Callable[[list[str]], int | None], str]] = {
    "extract": (
        extract,
        f"demo {MEVIS} --weights {WEIGHTS} --out {{1}} --queue 0 {CPU} --cfg-options codec=float16",
    ),
    "light": (
        extract,
        f"demo {MEVIS} --weights {WEIGHTS} --out {{1}} --queue 0 {CPU} --cfg-options codec=none",
    ),
    "train": (train, f"demo --cache {{0}}/cache --work-dir {{1}} {CPU} --cfg-options {OPTIONS}"),
    "sweep": (
        sweep.main,
        "{0}/rows.py --config demo --cache {0}/cache --eval-cache {0}/cache --seeds 0 "
        f"--work-dir {{1}} {CPU} --cfg-options {OPTIONS}",
    ),
    "evaluate": (
        evaluate.main,
        "demo --cache {0}/cache --checkpoint {0}/run --out {1} --save-masks "
        f"{CPU} --cfg-options {OPTIONS}",
    ),
    "score": (
        score.main,
        "--root {0}/data --split train --pred {0}/masks --out {1}/metrics.json --workers 1",
    ),
    "submit": (
        submit.main,
        "--cache {0}/cache --predictions {0}/predictions.h5 --out {1}/s.zip --workers 1",
    ),
    "segment": (
        segment,
        f"{{0}}/data/train/JPEGImages/train_0000 it --checkpoint {{0}}/run --out {{1}} {CPU}",
    ),
    "report": (report.main, "--cache {0}/cache --evaluation {0} --out {1}/r.html"),
    "overlays": (
        draw_overlays.main,
        f"{MEVIS} --masks {{0}}/masks --metrics {{0}}/metrics.json --out {{1}}/p.png --num 1",
    ),
    "copy": (cache, "copy {0}/cache {1}"),
    "stats": (cache, "stats {0}/cache --out {1}/p.png"),
    "convert": (convert, "{0}/tiny.pth {1}/w.safetensors"),
    "demo data": (make_demo_data.main, "--root {1} --train 1 --valid-u 1 --valid 1"),
}

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts, becomes another user")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, a cache, a run, an evaluation with its masks; another user can read them."""
    root = tmp_path_factory.mktemp("world")
    write_split(root / "data", "train", 1, seed=5)
    (root / "rows.py").write_text('reference = "a"\nrows = dict(a="dmvs")\n')
    shutil.copy(unpacked(SHIPPED / "tiny_r50.pth"), root / "tiny.pth")
    for name, out in (("extract", "cache"), ("train", "run"), ("evaluate", "")):
        main, line = COMMANDS[name]
        assert main(line.format(root, root / out).split()) in (0, None)
    open_to_all(root)
    return root


def open_to_all(folder: Path) -> None:
    """Let another user reach a folder of a test."""
    for place in (folder, *folder.parents[:3]):
        if place.name.startswith((folder.name, "pytest", "popen")):
            place.chmod(0o755)


def ended(name: str, world: Path, place: Path, prepare: Callable[[], None]) -> tuple[int, str]:
    """Exit status of a command, after something else, and what it said and left."""
    main, line = COMMANDS[name]
    (place / "o").mkdir(parents=True, exist_ok=True)

    def run() -> int:
        prepare()
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        status = cli.run(main, line.format(world, place / "o").split())
        for left in place.rglob("*.tmp"):
            print("LEFT", left, file=sys.stderr)
        check_whole(place / "o")
        return status

    command = Command(run, world / "said")
    said = command.said()
    return command.status, said


def check_whole(out: Path) -> None:
    """What was written before can be read."""
    for path in out.rglob("*.pth"):
        torch.load(path, weights_only=True)
    if list(out.glob("manifest.jsonl")) and list(out.glob("shard-*.h5")):
        assert verify(out).sound


def check(status: int, said: str, place: Path) -> None:
    """One sentence that names the place, and nothing else."""
    assert status == 2 and "Traceback" not in said and "LEFT" not in said, said
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, said
    assert str(place) in errors[0], said


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("free", [0, 12])
def test_a_full_disk(name: str, free: int, world: Path, tmp_path: Path) -> None:
    """With so many pages of 4 KiB left."""

    def fill() -> None:
        own_mounts(tmp_path, 400)
        (tmp_path / "o").mkdir()
        with open(tmp_path / "full", "wb", buffering=0) as file, open("/dev/zero", "rb") as zeros:
            try:
                while file.write(zeros.read(4096)):
                    pass
            except OSError:
                file.truncate(max(0, file.tell() - 4096 * free))

    status, said = ended(name, world, tmp_path, fill)
    if free and status == 0:
        assert "Traceback" not in said and "LEFT" not in said
    else:
        check(status, said, tmp_path)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_file_system_that_is_read_only(name: str, world: Path, tmp_path: Path) -> None:
    make = lambda: own_mounts(tmp_path, 400, read_only=True)  # noqa: E731
    check(*ended(name, world, tmp_path, make), tmp_path)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_folder_of_somebody_else(name: str, world: Path, tmp_path: Path) -> None:
    open_to_all(tmp_path)

    def become() -> None:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)

    check(*ended(name, world, tmp_path, become), tmp_path)
