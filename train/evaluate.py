"""Predict from whole videos, rebuild the masks, score them: J, F and J&F.

    python -m train.evaluate [CONFIG] --cache CACHE --checkpoint CKPT --out DIR [--controls]
    python -m train.evaluate --cache CACHE --from-predictions FILE --out DIR --sigma 0.3 0.5

A checkpoint knows the config that it was trained with; a given one replaces it. The command writes
DIR/predictions.h5, DIR/metrics.json and, with --save-masks, DIR/masks in the layout of the
benchmark (`train.evaluation.pngs.files`); with --report, DIR/report.html. Predictions that are
there already are used again if nothing that they depend on has changed. The protocol is that of the
cache's data set (`train.evaluation.protocols`): expression by expression, or annotator by annotator
as DAVIS scores.
Several sigmas are scored in one pass; metrics.json then holds the first one's figures and, under
"sigmas", those of each.
"""

import sys
from argparse import ArgumentParser, Namespace

from cache_schema.host import cli
from cache_schema.host.cli import InputError
from cache_schema.host.loading import loading
from cache_schema.host.lookup import find_config
from cache_schema.host.options import Options
from train.options import DEVICE, check_caches
from train.places import CONFIGS, ROWS, find_checkpoint


def main(argv: list[str]) -> int:
    """Command line; see the module's docstring."""
    arguments = _parser().parse_args(argv)
    _check(arguments)
    with loading("transformers"):  # takes seconds: not before all is there
        from train.scoring import run

    run(arguments)
    return 0


def _check(arguments: Namespace) -> None:
    for sigma in arguments.sigma or []:
        if not 0 <= sigma <= 1:
            raise InputError(f"--sigma {sigma}: a score is from 0 to 1, and so is sigma")
    if arguments.keep is not None and arguments.keep < 1:
        raise InputError(f"--keep {arguments.keep}: give the number of queries, 1 or more")
    if arguments.config is not None:
        find_config(arguments.config, CONFIGS)
    elif arguments.from_predictions and (arguments.cfg_options or arguments.row):
        raise InputError("--row and --cfg-options change a config: give CONFIG, or leave them out")
    if arguments.row is not None:
        find_config(arguments.row, ROWS, "row")
    if arguments.checkpoint:
        find_checkpoint(arguments.checkpoint)
    check_caches([arguments.cache])


def _parser() -> ArgumentParser:
    parser = cli.parser("train.evaluate", __doc__)
    add = parser.add_argument
    add("config", nargs="?", metavar="CONFIG", help="a file or a name (default: the checkpoint's)")
    add("--row", help="of an ablation table, as which the head was trained")
    add("--cache", required=True, help="cache to predict from")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", help="trained head: a file, or a work folder's latest")
    source.add_argument("--from-predictions", metavar="FILE", help="score a predictions.h5 again")
    add("--out", required=True, help="folder for the results")
    add("--controls", action="store_true", help="score the controls, too")
    add(
        "--shuffle-frames", action="store_true",
        help="exchange the frames of each video among their times: what the order is worth",
    )  # fmt: skip
    add("--save-masks", action="store_true", help="write PNG masks (of the first sigma)")
    add("--report", action="store_true", help="write a page of all expressions with their masks")
    add(
        "--sigma", type=float, nargs="+", metavar="S",
        help="keep queries above; several are scored in one pass (default: the config's)",
    )  # fmt: skip
    add("--keep", type=int, metavar="N", help="keep the N best of those at most (default: all)")
    add(
        "--allow-other-models", action="store_true",
        help="go on where the cache is of other frozen models, or of another release, than those "
        "trained on",
    )  # fmt: skip
    add("--device", default="auto", help=DEVICE)
    add("--cfg-options", nargs="+", action=Options, metavar="KEY=VALUE")
    return parser


if __name__ == "__main__":
    sys.exit(cli.run(main))
