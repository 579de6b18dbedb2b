"""Train the head from a cache, and from nothing else.

    python -m train CONFIG --cache CACHE [CACHE ...] --work-dir DIR [--resume] [--device auto]
                    [--row ROW] [--val-cache CACHE] [--check] [--cfg-options key=value ...]
    torchrun --nproc-per-node N -m train CONFIG ...

CONFIG is a Python file, or the name of one in train/configs. DIR gets iter_N.pth and a folder of
logs. A run is a sweep (`train.sweep`) of one head.
"""

import sys
from pathlib import Path

from cache_schema.host import cli
from cache_schema.host.loading import loading
from cache_schema.host.lookup import find_config
from cache_schema.reader import CacheReader
from train.options import add_training_options, check_caches
from train.places import CONFIGS, ROWS


def main(argv: list[str]) -> int:
    """Command line; see the module's docstring."""
    parser = cli.parser("train", "Train the DMVS head from a cache.")
    add = parser.add_argument
    add("config", metavar="CONFIG", help="a file, or a name in train/configs")
    add("--cache", nargs="+", required=True, metavar="CACHE", help="cache folders")
    add("--work-dir", required=True, metavar="DIR", help="checkpoints and logs")
    add("--row", help="of an ablation table: a name in train/configs/rows, a file")
    add("--val-cache", metavar="CACHE", help="to evaluate on every train.val_interval iterations")
    add_training_options(parser)
    arguments = parser.parse_args(argv)
    find_config(arguments.config, CONFIGS)
    if arguments.row is not None:
        find_config(arguments.row, ROWS, "row")
    if not arguments.check:
        check_caches([*arguments.cache, arguments.val_cache])
    with loading("transformers"):  # takes seconds: not before all is there
        from train.config import load_config

    config = load_config(arguments.config, arguments.cfg_options, arguments.row)
    if arguments.check:
        return 0
    with loading("transformers"):
        from train.commands import alone_in, one_of_several
        from train.members import train_members
        from train.runner import ram_bytes
        from train.trainee import Member

    with one_of_several(arguments) as device:
        ram = ram_bytes(config, len(arguments.cache), device)
        caches = [CacheReader(path, ram_bytes=ram) for path in arguments.cache]
        validation = arguments.val_cache and {(): [CacheReader(arguments.val_cache)]}
        work_dir = Path(arguments.work_dir)
        with alone_in(work_dir):
            train_members(
                [Member("", config.train.seed, config)], {(): caches}, work_dir,
                device=device, resume=arguments.resume, validation=validation,
            )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
