"""The command line of stage one, and what can be checked before a model is loaded."""

import argparse
from pathlib import Path

from cache_schema import manifest
from cache_schema.host import cli
from cache_schema.host.cli import InputError
from cache_schema.host.launch import LAUNCHERS
from cache_schema.host.lookup import find_config
from cache_schema.host.options import Options

DESCRIPTION = """\
Run a frozen segmenter once over every video and write the cache. The same command continues what
was interrupted. Exit status: 0, or 2 for bad input, also if that concerns only some of the videos.
"""
#: Configurations that can be given by name; those that start with _ are parts of others.
PRESETS = Path(__file__).parent / "configs"
#: ``--weights random``: a segmenter of seeded random weights, for timing and for tests.
RANDOM = "random"
#: ``--autocast``: what the model's reduced precision is called. The type of torch that
#: `Segmenter.autocast` narrows to, and whether on a CUDA device what is float32 multiplies in TF32.
AUTOCAST = {
    "none": (None, False),
    "tf32": (None, True),
    "bfloat16": ("bfloat16", False),
    "bfloat16+tf32": ("bfloat16", True),
    "float16": ("float16", False),
    "float16+tf32": ("float16", True),
}
#: The key ``mirror``: each video a second time, mirrored, with words that become wrong exchanged as
#: well, or with its sentences as they are, as LMPM and DsHmp have it.
MIRRORS = ("words", "pixels")
#: Size of a shard: small ones are closed quickly, and a killed run loses at most one.
SHARD_BYTES = 1 << 26
#: The lowest values of options.
LEAST = {"chunk_frames": 1, "threads": 1, "queue": 0, "readers": 1, "shard_bytes": 1}
#: Weights with these endings are files.
ENDINGS = {".pth", ".pkl", ".pt", ".safetensors"}


def parse(argv: list[str]) -> argparse.Namespace:
    """The arguments of ``python -m extract``.

    Raises:
        InputError: a number is too low, or there is no such configuration, data or file of weights.
            Data and weights may be missing where the cache is complete; ``lacks`` says what is.
    """
    parser = cli.parser("extract", DESCRIPTION)
    add = parser.add_argument
    add("config", metavar="CONFIG", help=f"a Python file, or a preset: {', '.join(presets())}")
    add("--data-root", type=Path, required=True, help="folder of the data set")
    add("--split", help="for example train or valid_u")
    add(
        "--weights", required=True,
        help="a .pth, .pkl or .safetensors file; for VidEoMT a folder or a name on the hub; or "
        f"'{RANDOM}' for a trial",
    )  # fmt: skip
    add("--out", type=Path, required=True, help="folder of the cache")
    add("--device", help="cuda or cpu; cuda if there is one")
    add("--chunk-frames", type=int, help="frames a forward pass; chosen by their size")
    add("--autocast", choices=AUTOCAST, default="none", help="reduced precision of the segmenter")
    add(
        "--threads", type=int,
        help="of the model on a CPU; OMP_NUM_THREADS, or half of the cores: the others read and "
        "write",
    )  # fmt: skip
    add("--queue", type=int, default=1, help="chunks between two threads; 0 for one thread")
    add(
        "--readers", type=int,
        help="processes that read; 1 for a model on a CPU, else what the cores allow",
    )  # fmt: skip
    add("--shard-bytes", type=int, default=SHARD_BYTES, help="size of a shard")
    add(
        "--launcher", choices=LAUNCHERS,
        help="what started this as one of several ranks; torchrun is recognised",
    )  # fmt: skip
    add("--cfg-options", nargs="+", action=Options, default={}, metavar="K=V")
    arguments = parser.parse_args(argv)
    for name, least in LEAST.items():
        value = getattr(arguments, name)
        if value is not None and value < least:
            option = name.replace("_", "-")
            raise InputError(f"--{option} is {value}: give at least {least}")
    find_config(arguments.config, PRESETS, "configuration")
    arguments.lacks = _lacking(arguments)
    if arguments.lacks and not is_complete(arguments.out):
        raise InputError(
            f"{arguments.lacks} does not exist; check the path (it may be missing where the cache "
            f"is complete, and {arguments.out} is not)"
        )
    return arguments


def is_complete(cache: Path) -> bool:
    """Whether a cache holds every video of its data set."""
    try:
        return manifest.read(cache).complete
    except InputError:
        return False


def _lacking(arguments: argparse.Namespace) -> str:
    """What stage one reads and what is not there."""
    if not arguments.data_root.exists():
        return f"--data-root {arguments.data_root}"
    weights = Path(arguments.weights)
    return f"--weights {weights}" if weights.suffix in ENDINGS and not weights.exists() else ""


def presets() -> dict[str, Path]:
    """The configurations that come with the project: name and file."""
    return {path.stem: path for path in sorted(PRESETS.glob("[!_]*.py"))}
