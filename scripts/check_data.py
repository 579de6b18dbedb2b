"""Check a data set before any hour is spent on it: what is missing, broken or does not fit.

    python -m scripts.check_data --dataset NAME --root D [--split S ...] [--full]

Exit status: 0 all is fine, 1 something is wrong, 2 it cannot be read.
"""

import sys
from pathlib import Path

from cache_schema.host import cli
from cache_schema.host.cli import InputError
from extract.datasets import DATASETS
from extract.datasets.check import check_split


def main(argv: list[str]) -> int:
    """Command line; see the module's docstring."""
    parser = cli.parser("scripts.check_data", __doc__)
    parser.add_argument("--dataset", required=True, choices=sorted(DATASETS))
    parser.add_argument("--root", required=True, type=Path, help="folder of the data set")
    parser.add_argument("--split", nargs="+", help="default: all that are there")
    parser.add_argument("--full", action="store_true", help="decode every frame and mask")
    arguments = parser.parse_args(argv)

    splits = arguments.split or DATASETS[arguments.dataset].splits(arguments.root)
    if not splits:
        raise InputError(
            f"{arguments.root} holds no split of {arguments.dataset}; check --root, or name one"
            " with --split"
        )
    wrong = 0
    for split in splits:
        report = check_split(arguments.dataset, arguments.root, split, full=arguments.full)
        print(
            f"{arguments.dataset} {split or arguments.root}: {report.videos:,} videos,"
            f" {report.expressions:,} sentences, {report.frames:,} frames"
        )
        for line in report.wrong:
            print(f"  wrong: {line}")
        for line in report.notes:
            print(f"  note: {line}")
        wrong += len(report.wrong)
    print(f"{wrong} things are wrong" if wrong else "nothing is wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
