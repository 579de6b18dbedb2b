"""Draw the demo world: python -m scripts.make_demo_data --root work/demo/data"""

import sys
from functools import partial
from pathlib import Path

from cache_schema.host import cli
from cache_schema.host.cli import InputError
from cache_schema.host.cores import CORES
from extract.demo.layout import write_split
from train.evaluation.parallel import run

#: Processes that draw, at most, and videos that are not worth another one.
MOST, FEW = 8, 50


def main(argv: list[str]) -> int:
    parser = cli.parser("scripts.make_demo_data", __doc__)
    parser.add_argument("--root", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=int, default=550, help="videos of the split train")
    parser.add_argument("--valid-u", type=int, default=60, help="videos of the split valid_u")
    parser.add_argument("--valid", type=int, default=6, help="videos of the split valid (no masks)")
    arguments = parser.parse_args(argv)
    counts = {"train": arguments.train, "valid_u": arguments.valid_u, "valid": arguments.valid}
    for split, videos in counts.items():
        if videos < 1:
            option = split.replace("_", "-")
            raise InputError(f"--{option} is {videos}: a split has at least one video")
    for split, videos in counts.items():
        per_tag = 3 if split == "train" else 2
        each = partial(run, workers=min(CORES, MOST, 1 + videos // FEW))
        written = write_split(arguments.root, split, videos, arguments.seed, per_tag, each=each)
        print(f"{split}: {videos} videos {'written' if written else 'already there'}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
