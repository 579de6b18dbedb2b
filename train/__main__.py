"""Train the head from a cache, and from nothing else.

    python -m train CONFIG --cache CACHE [CACHE ...] --work-dir DIR [--resume] [--device auto]
                    [--row ROW] [--val-cache CACHE] [--cfg-options key=value ...]
    torchrun --nproc-per-node N -m train CONFIG ...

CONFIG is a Python file such as train/configs/demo.py. DIR gets iter_N.pth and a folder of logs.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dist import barrier

from cache_schema.host import cli
from cache_schema.host.cli import InputError
from cache_schema.host.cores import model_threads
from cache_schema.host.launch import LAUNCHERS, find_rank
from cache_schema.reader import CacheReader
from train.config import Options, load_config
from train.distributed import join, leave
from train.evaluation.cache_scores import pick_rule
from train.evaluation.validation import validate
from train.heads import Head
from train.memory import keep_freed_memory
from train.runner import alone_in, build_runner, num_workers


def main(argv: list[str]) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m train", description="Train the DMVS head from a cache."
    )
    parser.add_argument("config", help="a config, such as train/configs/demo.py")
    parser.add_argument("--cache", nargs="+", required=True, metavar="CACHE", help="cache folders")
    parser.add_argument("--work-dir", required=True, metavar="DIR", help="checkpoints and logs")
    parser.add_argument("--row", help="of an ablation table: a name in train/configs/rows, a file")
    parser.add_argument(
        "--val-cache", metavar="CACHE", help="to evaluate on every train.val_interval iterations"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on from the latest checkpoint in DIR"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--cfg-options", nargs="+", action=Options, metavar="KEY=VALUE", help="replace config keys"
    )
    parser.add_argument(
        "--launcher",
        choices=LAUNCHERS,
        help="what started this process as one of several; torchrun is recognised",
    )
    arguments = parser.parse_args(argv)
    config = load_config(arguments.config, arguments.cfg_options, arguments.row)
    rank = find_rank(arguments.launcher)
    torch.set_num_threads(model_threads())
    keep_freed_memory()
    device = join(rank, arguments.launcher, pick_device(arguments.device))
    readers = len(arguments.cache) * max(num_workers(config, device), 1)
    ram_bytes = int(config.data.ram_gb * 1e9) // readers
    caches = [CacheReader(path, ram_bytes=ram_bytes) for path in arguments.cache]
    try:
        _train(arguments, config, caches, device)
    finally:
        leave()
    return 0


def _train(
    arguments: argparse.Namespace,
    config: Config,
    caches: Sequence[CacheReader],
    device: torch.device,
) -> None:
    with alone_in(Path(arguments.work_dir)):
        build_runner(
            config,
            caches,
            arguments.work_dir,
            device=device,
            resume=arguments.resume,
            validate=_validation(config, arguments.val_cache, device),
        ).train()
        barrier()  # nobody parts while another one still writes


def _validation(
    config: Config, path: str | None, device: torch.device
) -> Callable[[Head], dict[str, float]] | None:
    """What evaluates a head during training; None if nothing does."""
    if (path is None) != (config.train.val_interval == 0):
        raise InputError(
            "--val-cache and the config key train.val_interval go together: the one says what to "
            "evaluate on, the other how often"
        )
    if path is None:
        return None
    reader = CacheReader(path)
    return partial(
        validate,
        reader=reader,
        num_videos=config.train.val_videos,
        sigma=config.evaluation.sigma,
        rule=pick_rule(config, reader.dataset),
        device=device,
    )


def pick_device(name: str) -> torch.device:
    """The device of ``--device``; "auto" is a GPU where there is one. It becomes CUDA's current.

    Raises:
        InputError: there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.empty(0, device=name).device
        if device.type == "cuda":  # streams and graphs belong to the current one
            torch.cuda.set_device(device)
        return device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {name}: {reason}; use auto, cpu or cuda:N") from error


if __name__ == "__main__":
    sys.exit(cli.run(main))
