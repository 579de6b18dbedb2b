"""How far a run is: a bar in a terminal, a line now and then in a log file or of several ranks."""

import sys
import time
from typing import Self

from tqdm import tqdm

from cache_schema.host.launch import Rank
from extract.pipeline.parts import Failed, Written

#: Seconds between two lines.
INTERVAL = 30.0


class Progress:
    """Shows on standard error how many of ``total`` videos are done, and names those that failed.

    Bars of several processes would overwrite each other, so that ranks print lines.
    """

    def __init__(self, total: int, rank: Rank) -> None:
        self._rank, self._total = rank, total
        self._videos = self._frames = 0
        self._start = self._shown = time.monotonic()
        single = rank.world_size == 1
        disable = None if single and total else True  # None: unless somebody sees it
        self._bar = tqdm(
            total=total, desc="extract", unit="video", dynamic_ncols=True, disable=disable
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def update(self, video_id: str, outcome: Written | Failed) -> None:
        """A video is in the cache, or has failed."""
        if isinstance(outcome, Failed):
            line = f"{self._rank.prefix}video {video_id} failed: {outcome.reason}"
            tqdm.write(line, file=sys.stderr)
        else:
            self._frames += outcome.frames
        self._videos += 1
        now = time.monotonic()
        rate = f"{self._frames / max(now - self._start, 1e-9):.1f} frames/s"
        self._bar.set_postfix_str(rate, refresh=False)
        self._bar.update()
        if self._bar.disable and now - self._shown >= INTERVAL:
            self._shown = now
            print(
                f"{self._rank.prefix}{self._videos} of {self._total} videos, {rate}",
                file=sys.stderr,
                flush=True,
            )
