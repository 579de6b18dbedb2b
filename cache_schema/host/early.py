"""Ctrl-C while libraries load, before `cli.run` has begun: one line, no traceback.

The packages that are run call this first of all. In a program that only imports them it does
nothing: Python names a module that it runs "-m" until it has found it.
"""

import sys
from types import TracebackType


def quiet_interrupts() -> None:
    """Say an interrupt in one line from now on; Python ends with status 130 as before."""
    if sys.argv[:1] == ["-m"]:
        sys.excepthook = _hook


def _hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)
