"""Stage one from the command line: python -m extract CONFIG --data-root D --weights W --out C"""

import argparse
import sys
from pathlib import Path

import torch
from mmengine.config import DictAction

from cache_schema import cli
from extract.config import load_config
from extract.pipeline import RANDOM, extract


class Options(DictAction):
    """argparse action for ``--cfg-options key=value ...``."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: list[str],
        option_string: str | None = None,
    ) -> None:
        for value in values:
            if "=" not in value:
                raise cli.InputError(f"{option_string} {value}: write key=value, as in clips.num=2")
        super().__call__(parser, namespace, values, option_string)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m extract",
        description="Run a frozen VITA once over every video and write the cache. The same "
        "command continues what was interrupted. Exit status: 0, or 2 for bad input, also if "
        "that concerns only some of the videos.",
    )
    parser.add_argument("config", type=Path, help="for example extract/configs/demo.py")
    parser.add_argument("--data-root", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--split", help="for example train or valid_u")
    parser.add_argument(
        "--weights", required=True, help=f".pth or .safetensors file, or '{RANDOM}' for a trial"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the cache")
    parser.add_argument("--device", help="cuda or cpu; cuda if there is one")
    parser.add_argument("--chunk-frames", type=int, default=8, help="frames a forward pass")
    parser.add_argument("--shard-bytes", type=int, default=1 << 28, help="size of a shard")
    parser.add_argument("--cfg-options", nargs="+", action=Options, default={}, metavar="K=V")
    arguments = parser.parse_args(argv)
    if arguments.chunk_frames < 1:
        raise cli.InputError(f"--chunk-frames is {arguments.chunk_frames}: give at least 1")
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise cli.InputError(f"--device {device}: {reason}; use cpu, cuda or cuda:N") from error
    summary = extract(
        load_config(arguments.config, arguments.cfg_options),
        data_root=arguments.data_root,
        split=arguments.split,
        weights=arguments.weights,
        out=arguments.out,
        device=device,
        chunk_frames=arguments.chunk_frames,
        shard_bytes=arguments.shard_bytes,
    )
    rate = summary.frames / max(summary.seconds, 1e-9)
    print(
        f"{summary.videos} videos ({summary.frames} frames) written in {summary.seconds:.1f} s, "
        f"{rate:.1f} frames/s; {summary.already_there} were there already; "
        f"{len(summary.failures)} failed; {arguments.out} holds "
        f"{summary.bytes_on_disk / 1e6:.1f} MB"
    )
    if summary.failures:
        first = next(iter(summary.failures.values()))
        raise cli.InputError(
            f"{len(summary.failures)} of {summary.total} videos could not be extracted, the others "
            f"are in the cache; mend the data and run the same command again ({first})"
        )
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
