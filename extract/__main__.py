"""Stage one from the command line: python -m extract CONFIG --data-root D --weights W --out C"""

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cache_schema.host import cli
from cache_schema.host.cores import model_threads
from cache_schema.host.launch import Rank, find_rank
from cache_schema.host.loading import loading
from extract.arguments import parse

if TYPE_CHECKING:
    from extract.pipeline.run import Summary


def main(argv: list[str]) -> int:
    """Command line; see `extract.arguments`."""
    arguments = parse(argv)
    with loading():  # takes seconds: not before all is there
        import torch

        from extract.config import load_config
        from extract.pipeline.run import extract
        from extract.stage import check_kept

    config = load_config(arguments.config, arguments.cfg_options)
    if arguments.lacks:
        check_kept(arguments.out, config, arguments.split, arguments.autocast)
        print(f"{arguments.out} is complete; {arguments.lacks} does not exist and is not needed")
        return 0
    rank = find_rank(arguments.launcher)
    device = find_device(arguments.device, rank)
    torch.set_num_threads(arguments.threads or model_threads())
    try:
        summary = extract(
            config,
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
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command continues where this one stopped") from None
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
    import torch

    device = wanted or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and rank.world_size > 1:
        device = f"cuda:{rank.local_rank}"
    try:
        torch.empty(0, device=device).cpu()  # which "meta" cannot
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise cli.InputError(f"--device {device}: {reason}; use cpu, cuda or cuda:N") from error
    return device


def print_summary(summary: "Summary", out: Path, rank: Rank) -> None:
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
