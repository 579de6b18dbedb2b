"""What commands are told, checked before anything heavy is loaded."""

import re
from argparse import ArgumentParser
from collections.abc import Iterable
from pathlib import Path

from cache_schema.host.launch import LAUNCHERS
from cache_schema.host.options import Options
from cache_schema.reader import CacheReader

NAMED = re.compile(r"([^/=]+)=(.+)")
DEVICE = "auto, cpu, cuda or cuda:N"


def add_training_options(parser: ArgumentParser) -> None:
    """The options that a run and a sweep have in common."""
    add = parser.add_argument
    add("--resume", action="store_true", help="go on with what DIR holds")
    add("--check", action="store_true", help="check config and options only; caches may be missing")
    add("--device", default="auto", help=DEVICE)
    add("--cfg-options", nargs="+", action=Options, metavar="KEY=VALUE", help="replace config keys")
    started = "what started this process as one of several; torchrun is recognised"
    add("--launcher", choices=LAUNCHERS, help=started)


def check_caches(paths: Iterable[str | None]) -> None:
    """Refuse what is no cache, with an `InputError`; None is none to check."""
    for path in filter(None, paths):
        CacheReader(path).close()


def named_path(text: str) -> tuple[str, str]:
    """Name and path of NAME=PATH; a path alone has the empty name."""
    named = None if Path(text).is_dir() else NAMED.fullmatch(text)
    return (named[1], named[2]) if named else ("", text)
