"""Children of every kind: a dead one is a sentence, a stopped one holds nobody up, none is left."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
KINDS = ("pool", "loader", "pipeline")
LONG = 60  # seconds; only a test that fails takes so long

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")


class Parent:
    """A command of `tests.parents` in a session of its own, once its child is at work."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.parents", kind, str(folder)],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        until(lambda: (folder / "child").exists() or self.process.poll() is not None)
        assert self.process.poll() is None, self.process.communicate()
        self.child = int((folder / "child").read_text())

    def said(self) -> list[str]:
        """Its last words."""
        return self.process.communicate(timeout=LONG)[1].splitlines()

    def family(self) -> list[int]:
        """The processes of its session that are alive."""
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
            except OSError:
                continue
            if int(session) == self.process.pid and state not in "ZX":
                found.append(int(path.parent.name))
        return found


def until(true) -> None:
    end = time.monotonic() + LONG
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture(params=KINDS)
def parent(request, tmp_path):
    parent = Parent(request.param, tmp_path)
    yield parent
    for pid in parent.family():
        os.kill(pid, signal.SIGKILL)


def test_a_dead_child_is_one_sentence_and_status_2(parent):
    os.kill(parent.child, signal.SIGKILL)
    said = parent.said()
    assert parent.process.returncode == 2
    assert len(said) == 1 and said[0].startswith("error: ") and "ended" in said[0]
    until(lambda: not parent.family())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_child_does_not_keep_a_signal_from_ending_the_command(parent, number):
    os.kill(parent.child, signal.SIGSTOP)
    parent.process.send_signal(number)
    said = parent.said()
    if number == signal.SIGINT:
        assert parent.process.returncode == 130 and len(said) == 1
    else:
        assert parent.process.returncode == -number
    until(lambda: not parent.family())


@pytest.mark.parametrize("stopped", [False, True])
def test_no_child_outlives_a_killed_command(parent, stopped):
    if stopped:
        os.kill(parent.child, signal.SIGSTOP)
    parent.process.kill()
    parent.process.communicate(timeout=LONG)
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
