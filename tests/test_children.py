"""Children of every kind: a dead one is a sentence, a stopped one holds nobody up, none is left."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from cache_schema.host import cli
from extract.pipeline.beside import Child, ahead, cut_off
from tests.processes import LONG, Command
from train.data import workers
from train.evaluation import parallel

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")


# --- commands that hand work to a child, which notes its process id and then waits for ever


def wait(folder: str) -> None:
    path = Path(folder) / "child"
    path.with_suffix(".new").write_text(str(os.getpid()))
    path.with_suffix(".new").rename(path)
    while True:
        signal.pause()


def pool(folder: str) -> None:
    """As score and submit work."""
    list(parallel.run(wait, [folder], workers=2))


class Samples:
    """A data set whose first sample never comes."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        if index == 0:
            wait(self.folder)
        return index


def loader(folder: str) -> None:
    """As train and sweep work."""
    with workers.one_sentence():
        list(DataLoader(Samples(folder), num_workers=2, worker_init_fn=workers.start))


def pipeline(folder: str) -> None:
    """As extract works: threads that wait for a process."""

    def read(_):
        yield 1
        wait(folder)

    with (
        Child(read, "reading") as reader,
        ahead(reader, 1, "receiver") as items,
        ahead((item for item in items), 1, "model") as results,
        cut_off(reader),
    ):
        list(results)


class Parent(Command):
    """A command, once its child is at work."""

    def __init__(self, kind, folder: Path) -> None:
        super().__init__(lambda: cli.run(lambda _: kind(str(folder)), []), folder / "said")
        until(lambda: (folder / "child").exists() or self.status is not None)
        assert self.status is None, self.said()
        self.child = int((folder / "child").read_text())

    def family(self) -> list[int]:
        """The processes of its session that are alive."""
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
            except OSError:
                continue
            if int(session) == self.pid and state not in "ZX":
                found.append(int(path.parent.name))
        return found


def until(true) -> None:
    end = time.monotonic() + LONG
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture(params=[pool, loader, pipeline], ids=lambda kind: kind.__name__)
def parent(request, tmp_path):
    parent = Parent(request.param, tmp_path)
    yield parent
    for pid in parent.family():
        os.kill(pid, signal.SIGKILL)


def test_a_dead_child_is_one_sentence_and_status_2(parent):
    os.kill(parent.child, signal.SIGKILL)
    said = parent.said().splitlines()
    assert parent.status == 2
    assert len(said) == 1 and said[0].startswith("error: ") and "ended" in said[0]
    until(lambda: not parent.family())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_child_does_not_keep_a_signal_from_ending_the_command(parent, number):
    os.kill(parent.child, signal.SIGSTOP)
    os.kill(parent.pid, number)
    said = parent.said().splitlines()
    if number == signal.SIGINT:
        assert parent.status == 130 and len(said) == 1
    else:
        assert parent.status == -number
    until(lambda: not parent.family())


@pytest.mark.parametrize("stopped", [False, True])
def test_no_child_outlives_a_killed_command(parent, stopped):
    if stopped:
        os.kill(parent.child, signal.SIGSTOP)
    parent.kill()
    until(lambda: not parent.family())


@pytest.mark.parametrize("package", ["train", "extract", "scripts.score", "cache_schema"])
def test_an_interrupt_while_libraries_load_is_one_line(package, tmp_path):
    """The first library that is asked for interrupts; here a stand-in for it."""
    (tmp_path / "numpy.py").write_text("import signal; signal.raise_signal(signal.SIGINT)")
    for name in ("torch", "h5py"):
        (tmp_path / f"{name}.py").write_text("import numpy")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    command = [sys.executable, "-m", package, "--help"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == -signal.SIGINT and done.stderr == "interrupted\n"
