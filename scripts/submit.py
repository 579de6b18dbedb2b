"""Pack masks for a benchmark's server, or say what it would reject.

    python -m scripts.submit --cache CACHE --predictions FILE --out FILE.zip [--sigma 0.5]
    python -m scripts.submit --pred DIR (--cache CACHE | --dataset NAME --root D --split S)
                             --out FILE.zip
    python -m scripts.submit --check FILE.zip (--cache CACHE | --dataset NAME --root D --split S)

Predictions are those of train.evaluate; a folder may hold the masks of any method, in the layout of
scripts.score. Exit status: 0 all is well, 1 the server would reject it, 2 something cannot be read.
"""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from cache_schema.host import cli, files
from cache_schema.host.cli import InputError
from cache_schema.host.cores import CORES
from cache_schema.host.lookup import existing
from cache_schema.reader import CacheReader
from scripts.annotations import NAMES, open_dataset, without_truth
from train.options import DEVICE, check_caches
from train.records import AnnotatedVideo

if TYPE_CHECKING:
    from cache_schema.records import Facts


def main(argv: list[str]) -> int:
    """Command line; see the module's docstring."""
    arguments = _parser().parse_args(argv)
    _check(arguments)
    # What takes seconds to load, now that all is there.
    from train.evaluation.submissions.layout import Rejected, pick_layout
    from train.evaluation.submissions.writer import check, from_files, report_lines

    try:
        if arguments.predictions:
            facts, count = _from_predictions(arguments)
        else:
            facts, videos, num_videos = _described(arguments)
            layout = pick_layout(facts, arguments.cache or arguments.root)
            how = {"num_videos": num_videos, "workers": arguments.workers}
            if arguments.check:
                problems = check(Path(arguments.check), layout, videos, **how)
                if problems:
                    raise Rejected(problems)
                print(
                    f"{arguments.check} holds all that the server of {layout.server} wants"
                    f"{_release(facts)}"
                )
                return 0
            source, out = Path(arguments.pred), Path(arguments.out)
            count = from_files(source, layout, videos, out, **how)
    except Rejected as rejected:
        print(f"would be rejected:\n{report_lines(rejected.problems)}")
        return 1
    print(f"submission: {arguments.out} ({count} masks{_release(facts)})")
    return 0


def _release(facts: "Facts") -> str:
    """Of which release the sentences are, as each has a server of its own."""
    return f", release {facts.release}" if facts.release else ""


def _from_predictions(arguments: argparse.Namespace) -> tuple["Facts", int]:
    from train.commands import pick_device
    from train.evaluation.submissions.writer import from_cache
    from train.predictions import Predictions

    predictions, reader = Predictions(arguments.predictions), CacheReader(arguments.cache)
    sigma = predictions.sigma if arguments.sigma is None else arguments.sigma
    how = {"sigma": sigma, "device": pick_device(arguments.device)}
    return reader.facts, from_cache(reader, predictions, Path(arguments.out), **how)


def _described(arguments: argparse.Namespace) -> tuple["Facts", Iterable[AnnotatedVideo], int]:
    """What is to be handed in, as the cache or the data set itself has it."""
    from train.evaluation.submissions.writer import cache_videos

    if arguments.cache:
        reader = CacheReader(arguments.cache)
        videos = cache_videos(reader)
        return reader.facts, videos, len(videos)
    data = open_dataset(arguments.dataset, arguments.root, arguments.split or "valid")
    return data.facts, without_truth(data), len(data)


def _check(arguments: argparse.Namespace) -> None:
    """Refuse options that do not go together."""
    if arguments.predictions and not arguments.cache:
        raise InputError("--predictions needs the --cache that they were predicted from")
    if not arguments.cache and not (arguments.dataset and arguments.root):
        raise InputError("what has to be handed in is not said: give --cache, or --dataset, --root")
    if not arguments.check and not arguments.out:
        raise InputError("give --out, the zip to write")
    if not arguments.check:
        files.output(arguments.out, ".zip", arguments.pred)
    if arguments.sigma is not None and not 0 <= arguments.sigma <= 1:
        raise InputError(f"--sigma {arguments.sigma}: a score is from 0 to 1, and so is sigma")
    if arguments.workers < 1:
        raise InputError(f"--workers {arguments.workers}: at least one process has to work")
    for option in ("predictions", "pred", "check"):
        if path := getattr(arguments, option):
            existing(path, f"--{option}")
    check_caches([arguments.cache])


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser("scripts.submit", __doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--predictions", metavar="FILE", help="predictions.h5 of an evaluation")
    what.add_argument("--pred", metavar="DIR", help="folder (or zip) of anybody's masks")
    what.add_argument("--check", metavar="ZIP", help="say what is wrong with a submission")
    parser.add_argument("--cache", help="cache of the split")
    parser.add_argument("--dataset", choices=NAMES, help="instead of --cache")
    parser.add_argument("--root", help="folder of the data set")
    parser.add_argument("--split", help="default: valid")
    parser.add_argument("--out", metavar="ZIP", help="submission to write")
    parser.add_argument("--sigma", type=float, help="keep queries above (default: the stored one)")
    parser.add_argument("--device", default="auto", help=DEVICE)
    parser.add_argument("--workers", type=int, default=CORES, help="processes (default: the cores)")
    return parser


if __name__ == "__main__":
    sys.exit(cli.run(main))
