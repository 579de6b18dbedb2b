"""Commands that hand work to a child which then waits for ever; started by `test_children`.

    python -m tests.parents KIND FOLDER

The child notes its process id in FOLDER/child.
"""

import os
import sys
import time
from pathlib import Path

from cache_schema.host import cli


def wait(folder: str) -> None:
    """What the child does."""
    path = Path(folder) / "child"
    path.with_suffix(".new").write_text(str(os.getpid()))
    path.with_suffix(".new").rename(path)
    while True:
        time.sleep(1)


def pool(folder: str) -> None:
    """As score and submit work."""
    from train.evaluation import parallel

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
    from torch.utils.data import DataLoader

    from train.data import workers

    with workers.one_sentence():
        list(DataLoader(Samples(folder), num_workers=2, worker_init_fn=workers.start))


def pipeline(folder: str) -> None:
    """As extract works: threads that wait for a process."""
    from extract.pipeline.child import Child, cut_off
    from extract.pipeline.prefetch import ahead

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


def main(argv: list[str]) -> None:
    """Run one of them."""
    globals()[argv[0]](argv[1])


if __name__ == "__main__":
    sys.exit(cli.run(main))
