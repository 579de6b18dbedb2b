"""Pickles of strangers: containers of text and numbers are read, anything else is refused."""

import pickle
from pathlib import Path
from typing import Any, NoReturn

from cache_schema.host.cli import InputError


class _Plain(pickle._Unpickler):
    """Builds lists, tuples, sets, dicts, strings and numbers: all that needs no import.

    In Python, three seconds for RefCOCO: the one in C takes memory for any number that is said.
    """

    def find_class(self, module: str, name: str) -> NoReturn:
        # Every call, every object and so every way to run code begins with a look-up here.
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def read_plain_pickle(path: Path) -> Any:
    """What a pickle of plain containers holds; nothing in it is ever run.

    Raises:
        InputError: missing, no pickle, cut short, or it wants more than plain containers.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; check the data root and the split")
    try:
        with path.open("rb") as file:
            # Files written by Python 2 hold byte strings.
            return _Plain(file, encoding="utf-8", errors="replace").load()
    except Exception as error:  # a malformed pickle may raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(
            f"{path} is not a pickle of plain lists and dicts ({reason}); download it again, from"
            " its publisher"
        ) from None
