"""How far a command is: a bar in a terminal, elsewhere a line now and then."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

#: Seconds between two lines in a log file; what takes less says nothing.
INTERVAL = 30.0
LINE = "{desc}: {n_fmt} of {total_fmt} videos, {rate_fmt}, {remaining} left"


class Lines:
    """Standard error for a bar that is no terminal's: each state is a line of its own."""

    def write(self, text: str) -> None:
        """What a bar would draw over what it drew before."""
        if text := text.strip():
            print(text, file=sys.stderr, flush=True)

    def flush(self) -> None:
        """Nothing waits."""


def progress(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    """The items, of which each stands for a video; ``what`` is done with them."""
    style = {"dynamic_ncols": True}
    if not sys.stderr.isatty():
        rare = dict.fromkeys(("mininterval", "delay"), INTERVAL)
        style = {"file": Lines(), "miniters": 1, "bar_format": LINE, **rare}
    return iter(tqdm(items, what, total, unit="video", leave=False, disable=total == 0, **style))
