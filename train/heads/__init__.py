"""The heads: everything that learns. One module a head; `base.py` says what one is.

``model.type`` of a config picks one: the name of a module here, or ``package.module:Class``.
"""

import importlib
import pkgutil
from difflib import get_close_matches

from cache_schema.host.cli import InputError
from train.heads.base import CacheSizes, Head, HeadInputs, HeadOutput

__all__ = ["CacheSizes", "Head", "HeadInputs", "HeadOutput", "find_head"]

NO_HEADS = ("base", "parts")  # what else lies here


def find_head(name: str) -> type[Head]:
    """The class of a head.

    Args:
        name: ``model.type``.

    Raises:
        InputError: there is no such module or class, it cannot be imported, or it is no head.
    """
    where = f"config key model.type is {name!r}"
    place, _, wanted = name.partition(":")
    if not wanted:
        known = [m.name for m in pkgutil.iter_modules(__path__) if m.name not in NO_HEADS]
        if place not in known:
            raise InputError(
                f"{where}, and train/heads has no such head{guess(place, known)}; known are "
                f"{', '.join(known)}, or write package.module:Class for a head of your own"
            )
        place = f"{__name__}.{place}"
    try:
        module = importlib.import_module(place)
    except Exception as error:  # it is a program: anything may go wrong in it
        raise InputError(
            f"{where}, and {place} cannot be imported ({type(error).__name__}: {error})"
        ) from error
    heads = {
        n: own for n, own in vars(module).items() if isinstance(own, type) and issubclass(own, Head)
    }
    if not wanted:  # one module, one head
        return next(own for own in heads.values() if own.__module__ == place)
    if wanted not in heads:
        raise InputError(
            f"{where}, and {place} has no class {wanted} that is a train.heads.base.Head"
            f"{guess(wanted, heads)}"
        )
    return heads[wanted]


def guess(word: str, known: "list[str] | dict[str, type]") -> str:
    """``; did you mean ...?`` where a known word is close, else nothing."""
    close = get_close_matches(word, list(known), 1)
    return f"; did you mean {close[0]}?" if close else ""
