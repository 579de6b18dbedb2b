"""Stage one from the command line: python -m extract CONFIG --data-root D --weights W --out C"""

import argparse
import signal
import sys
from pathlib import Path

import torch
from mmengine.config import DictAction

from cache_schema.host import cli
from cache_schema.host.cores import model_threads
from cache_schema.host.launch import LAUNCHERS, Rank, find_rank
from extract.config import load_config, presets
from extract.pipeline.run import SHARD_BYTES, Summary, extract
from extract.stage import AUTOCAST, RANDOM

#: The lowest values of options.
LEAST = {"chunk_frames": 1, "threads": 1, "queue": 0, "readers": 1, "shard_bytes": 1}


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
        try:
            super().__call__(parser, namespace, values, option_string)
        except (RecursionError, ValueError) as error:  # brackets without end, too many digits
            raise cli.InputError(f"{option_string}: a value cannot be read ({error})") from None


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m extract",
        description="Run a frozen segmenter once over every video and write the cache. The same "
        "command continues what was interrupted. Exit status: 0, or 2 for bad input, also if "
        "that concerns only some of the videos.",
    )
    parser.add_argument(
        "config", metavar="CONFIG", help=f"a Python file, or a preset: {', '.join(presets())}"
    )
    parser.add_argument("--data-root", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--split", help="for example train or valid_u")
    parser.add_argument(
        "--weights",
        required=True,
        help="a .pth, .pkl or .safetensors file; for VidEoMT a folder or a name on the hub; "
        f"or '{RANDOM}' for a trial",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the cache")
    parser.add_argument("--device", help="cuda or cpu; cuda if there is one")
    parser.add_argument(
        "--chunk-frames", type=int, help="frames a forward pass; chosen by their size"
    )
    parser.add_argument(
        "--autocast", choices=AUTOCAST, default="none", help="reduced precision of the segmenter"
    )
    parser.add_argument(
        "--threads",
        type=int,
        help="of the model on a CPU; OMP_NUM_THREADS, or half of the cores: "
        "the others read and write",
    )
    parser.add_argument(
        "--queue", type=int, default=1, help="chunks between two threads; 0 for one thread"
    )
    parser.add_argument(
        "--readers",
        type=int,
        help="processes that read; 1 for a model on a CPU, else what the cores allow",
    )
    parser.add_argument("--shard-bytes", type=int, default=SHARD_BYTES, help="size of a shard")
    parser.add_argument(
        "--launcher",
        choices=LAUNCHERS,
        help="what started this as one of several ranks; torchrun is recognised",
    )
    parser.add_argument("--cfg-options", nargs="+", action=Options, default={}, metavar="K=V")
    arguments = parser.parse_args(argv)
    for name, least in LEAST.items():
        value = getattr(arguments, name)
        if value is not None and value < least:
            option = name.replace("_", "-")
            raise cli.InputError(f"--{option} is {value}: give at least {least}")
    rank = find_rank(arguments.launcher)
    device = find_device(arguments.device, rank)
    torch.set_num_threads(arguments.threads or model_threads())
    summary = extract(
        load_config(arguments.config, arguments.cfg_options),
        data_root=arguments.data_root,
        split=arguments.split,
        weights=arguments.weights,
        out=arguments.out,
        device=device,
        chunk_frames=arguments.chunk_frames,
        shard_bytes=arguments.shard_bytes,
        autocast=arguments.autocast,
        queue=arguments.queue,
        readers=arguments.readers,
        rank=rank,
    )
    print_summary(summary, arguments.out, rank)
    # Launchers stop every rank when one ends with an error: only the last one to end reports.
    if summary.unfinished:
        first = next(iter(summary.unfinished.values()))
        raise cli.InputError(
            f"{len(summary.unfinished)} videos could not be extracted, the others are in the "
            f"cache; mend the data and run the same command again ({first})"
        )
    return 0


def find_device(wanted: str | None, rank: Rank) -> str:
    """The device of a rank: of several CUDA devices its own.

    Raises:
        InputError: there is no such device.
    """
    device = wanted or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and rank.world_size > 1:
        device = f"cuda:{rank.local_rank}"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise cli.InputError(f"--device {device}: {reason}; use cpu, cuda or cuda:N") from error
    return device


def print_summary(summary: Summary, out: Path, rank: Rank) -> None:
    """The closing line, and what the codec costs."""
    rate = summary.frames / max(summary.seconds, 1e-9)
    print(
        f"{rank.prefix}{summary.videos} videos ({summary.frames} frames) written in "
        f"{summary.seconds:.1f} s, {rate:.1f} frames/s; {summary.already_there} were there "
        f"already; {len(summary.failures)} failed; {out} holds {summary.bytes_on_disk / 1e6:.1f} MB"
    )
    if cost := summary.codec_iou:
        print(
            f"{rank.prefix}codec: IoU of the segmenter's own masks, coded against exact, "
            f"{cost.mean:.4f} on average and {cost.worst:.4f} at worst ({cost.masks} masks of "
            "sampled frames)"
        )


if __name__ == "__main__":
    # As Ctrl-C does: what is finished is closed. Launchers and schedulers end their ranks so.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(cli.run(main))
