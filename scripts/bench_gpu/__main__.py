"""What the project does on a GPU, measured in one command of a few minutes.

    python -m scripts.bench_gpu --json FILE [--part NAME ...] [--device X] [--tiny]

    stage_two  loading, a step, a run at the paper's size; with the segmenter in the loop; memory
    stage_one  the bare model and the whole pipeline at 360x640, in several precisions
    sweeps     several heads in one pass against runs of one
    sound      does everything run, and how far is it from what a CPU says
    profile    the most costly kernels of a step and of a chunk of frames, and the gaps between

Each part has a process of its own and a time after which it is stopped; what one does, or how it
ends, does not touch the others. Weights and caches are random numbers, text models the tiny ones.
--tiny takes sizes that a CPU goes through in a minute, to see that all of it runs.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import torch

from cache_schema.host import children, cli, files
from cache_schema.host.cli import InputError
from scripts import measuring
from scripts.measuring import Figures, errors, lines, listed, machine, options

#: Parts in the order of their worth, and after how many seconds each is stopped.
PARTS = {"stage_two": 140, "stage_one": 100, "profile": 40, "sweeps": 40, "sound": 60}


def main(argv: list[str]) -> int:
    """Command line; see the module's docstring."""
    parser = options("bench_gpu", __doc__)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS), help="only these")
    parser.add_argument("--device", help="cuda or cpu; cuda if there is one")
    parser.add_argument("--turn", type=float, default=1.0, help="seconds of a measurement")
    parser.add_argument("--tiny", action="store_true", help="sizes that measure nothing")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    settings = parser.parse_args(argv)
    if settings.json is None:
        parser.error("give --json, for the figures of parts that end well")
    settings.device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if settings.tiny:
        settings.turn = 0.0
    if settings.here:
        measure(settings.part[0], settings)
        return 0
    figures: Figures = {"machine": machine(settings.device)}
    print(listed(figures["machine"]), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        processes = {part: start(part, settings, Path(folder)) for part in settings.part}
        for part, process in processes.items():
            began = time.perf_counter()
            figures[part] = let(process, part, Path(folder))
            figures[part]["seconds of the part"] = round(time.perf_counter() - began, 1)
            write(settings.json, figures)
    failed = [part for part in settings.part if any(errors(figures[part]))]
    if failed:
        raise InputError(
            f"something could not be measured in {', '.join(failed)}: see above and {settings.json}"
        )
    return 0


def start(part: str, settings: argparse.Namespace, folder: Path) -> subprocess.Popen:
    """A process that imports what a part needs, and waits with the rest until it is told to go."""
    command = [sys.executable, "-m", "scripts.bench_gpu", "--here", "--part", part]
    command += ["--json", str(folder / part), "--device", settings.device]
    command += ["--turn", str(settings.turn), *["--tiny"] * settings.tiny]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)


def let(process: subprocess.Popen, part: str, folder: Path) -> Figures:
    """The figures of a part, and what became of it where it did not end well."""
    error = None
    try:
        process.communicate(b"go\n", timeout=PARTS[part])
        if process.returncode:
            error = f"ended with status {process.returncode}"
    except subprocess.TimeoutExpired:
        error = f"stopped after {PARTS[part]} s"
    except BrokenPipeError:
        error = f"ended with status {process.wait()}"
    with suppress(ProcessLookupError):  # with its workers, which would keep the GPU's memory
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    out = folder / part
    figures = json.loads(out.read_text("utf-8")) if out.is_file() else {}
    return figures if error is None else figures | {"error": error}


def measure(part: str, settings: argparse.Namespace) -> None:
    """Measure a part in this process, writing down what is there meanwhile, and print it."""
    from scripts.bench_gpu import sound, stage_one, stage_two  # seconds, which others need not wait

    children.end_with_parent()
    if not sys.stdin.readline():
        return  # nobody waits for it any more
    device, figures = torch.device(settings.device), {}
    measuring.AFTER.append(lambda: write(settings.json, figures))
    for run in {
        "sound": [sound.measure],
        "stage_two": [stage_two.measure],
        "sweeps": [stage_two.sweeps],
        "stage_one": [stage_one.measure],
        "profile": [stage_two.profile, stage_one.profile],
    }[part]:
        run(settings, device, figures)
    write(settings.json, figures)
    print("\n".join(["", f"== {part}", *lines(figures)]), flush=True)


def write(path: Path, figures: Figures) -> None:
    """As JSON, whole at any time."""
    files.write(path, json.dumps(figures, indent=1) + "\n", durable=False)


if __name__ == "__main__":
    sys.exit(cli.run(main))
