"""Whole ablation tables in one pass over the cache.

    python -m train.sweep SWEEP --cache CACHE [CACHE ...] [--eval-cache CACHE] [--seeds 0 1 2]
                          [--config CONFIG] [--work-dir DIR] [--resume] [--val-cache CACHE]
                          [--check] [--cfg-options key=value ...]
    torchrun --nproc-per-node N -m train.sweep SWEEP ...

SWEEP is one of train/configs/sweeps, or a file like them (`train.sweeping.variants`); CONFIG is
what its rows differ from. Every row is trained with every seed, all on the same batches; then all
are scored on the other cache, and DIR gets the table as sweep.md, .csv, .png and .json, beside a
folder for each row and seed, with what a run leaves. A cache may have a name, as in ``--cache
ovis=PATH``, for rows that say which caches they are trained on.
"""

import sys
from argparse import ArgumentParser

from cache_schema.host import cli
from cache_schema.host.loading import loading
from cache_schema.host.lookup import find_config
from train.options import add_training_options, check_caches, named_path
from train.places import CONFIGS, SWEEPS


def main(argv: list[str]) -> int:
    """Command line; see the module's docstring."""
    arguments = _parser().parse_args(argv)
    find_config(arguments.sweep, SWEEPS, "sweep")
    find_config(arguments.config, CONFIGS)
    if not arguments.check:
        given = [*arguments.cache, *arguments.eval_cache, *arguments.val_cache]
        check_caches(named_path(text)[1] for text in given)
    with loading("transformers"):  # takes seconds: not before all is there
        from train.sweeping.run import run

    run(arguments)
    return 0


def _parser() -> ArgumentParser:
    parser = cli.parser("train.sweep", __doc__)
    parser.add_argument("sweep", help="a name in train/configs/sweeps, or a file")
    parser.add_argument("--cache", nargs="+", required=True, help="PATH or NAME=PATH to train on")
    parser.add_argument("--eval-cache", nargs="+", default=[], help="to score on; none trains only")
    parser.add_argument(
        "--val-cache", nargs="+", default=[], help="to evaluate on during training, as in a run"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--config", default="mevis", help="a file or a name: what the rows change")
    parser.add_argument("--work-dir", help="default: work/sweeps/SWEEP")
    add_training_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(cli.run(main))
