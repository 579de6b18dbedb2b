"""Commands in processes of their own, forked from this one, so that nothing is imported anew."""

import multiprocessing
import os
import runpy
import sys
import warnings
from collections.abc import Callable, Sequence
from multiprocessing import forkserver
from pathlib import Path

LONG = 600  # seconds; only a test that fails takes so long


class Command:
    """A command in a process and a session of its own.

    Args:
        run: does it and gives its exit status.
        log: a file for what it says.
    """

    def __init__(self, run: Callable[[], int | None], log: Path) -> None:
        self._log = log

        def apart() -> None:
            os.setsid()
            forkserver._forkserver.__init__()  # that of the tests is no child of this process
            sys.stderr = log.open("w", buffering=1)
            os.dup2(sys.stderr.fileno(), 2)
            sys.exit(run())

        self._process = multiprocessing.get_context("fork").Process(target=apart)
        self._process.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Its exit status, negative for the signal that it died of; None while it runs."""
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()
        self._process.join()

    def said(self) -> str:
        """Its last words, when it has ended."""
        self._process.join(LONG)
        assert self.status is not None, "it does not end"
        return self._log.read_text()


def module(name: str, arguments: Sequence[object]) -> Callable[[], None]:
    """What ``python -m NAME ARGUMENTS`` does, for a `Command`."""

    def run() -> None:
        sys.argv = [name, *map(str, arguments)]
        warnings.simplefilter("ignore")  # it has been imported by the tests
        runpy.run_module(name, run_name="__main__")

    return run
