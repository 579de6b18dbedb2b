"""Train the head from a cache, and from nothing else.

    python -m train CONFIG --cache CACHE [CACHE ...] --work-dir DIR [--resume] [--device auto]
                    [--cfg-options key=value ...]

CONFIG is a Python file such as train/configs/demo.py. DIR gets iter_N.pth and a folder of logs.
"""

import argparse
import sys

import torch

from cache_schema import cli
from cache_schema.cli import InputError
from cache_schema.reader import CacheReader
from train.config import Options, load_config
from train.runner import build_runner


def main(argv: list[str]) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m train", description="Train the DMVS head from a cache."
    )
    parser.add_argument("config", help="a config, such as train/configs/demo.py")
    parser.add_argument("--cache", nargs="+", required=True, metavar="CACHE", help="cache folders")
    parser.add_argument("--work-dir", required=True, metavar="DIR", help="checkpoints and logs")
    parser.add_argument(
        "--resume", action="store_true", help="go on from the latest checkpoint in DIR"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--cfg-options", nargs="+", action=Options, metavar="KEY=VALUE", help="replace config keys"
    )
    arguments = parser.parse_args(argv)
    config = load_config(arguments.config, arguments.cfg_options)
    readers = len(arguments.cache) * max(config.data.num_workers, 1)
    ram_bytes = int(config.data.ram_gb * 1e9) // readers
    caches = [CacheReader(path, ram_bytes=ram_bytes) for path in arguments.cache]
    runner = build_runner(
        config,
        caches,
        arguments.work_dir,
        device=pick_device(arguments.device),
        resume=arguments.resume,
    )
    runner.train()
    return 0


def pick_device(name: str) -> torch.device:
    """The device of ``--device``; "auto" is a GPU where there is one.

    Raises:
        InputError: there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {name}: {reason}; use auto, cpu or cuda:N") from error


if __name__ == "__main__":
    sys.exit(cli.run(main))
