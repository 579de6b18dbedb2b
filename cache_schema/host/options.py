"""``--cfg-options key=value ...``, read as mmengine's own action does, without loading it."""

from argparse import Action, ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from cache_schema.host.cli import InputError

CONSTANTS = {"true": True, "false": False}


class Options(Action):
    """Collects a dict of dotted keys and values: numbers, True, False, None, words, lists, tuples.

    A list reads ``a,b`` or ``[a,b]``, a tuple ``(a,b)``; they may hold each other.
    """

    def __call__(
        self,
        parser: ArgumentParser,
        namespace: Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        found = dict(getattr(namespace, self.dest) or {})
        for text in values or []:
            key, equals, value = text.partition("=")
            if not equals:
                raise InputError(f"{option_string} {text}: write key=value, as in train.seed=1")
            try:
                found[key] = parse(value)
            except (RecursionError, ValueError) as error:
                raise InputError(f"{option_string} {text:.60}: cannot be read ({error})") from None
        setattr(namespace, self.dest, found)


def parse(text: str) -> Any:
    """The value that a word of the command line means. Raises ValueError: brackets do not match."""
    text = text.strip("'\"").replace(" ", "")
    if text.startswith("(") and text.endswith(")"):
        return tuple(map(parse, _items(text[1:-1])))
    if text.startswith("[") and text.endswith("]"):
        return list(map(parse, _items(text[1:-1])))
    if "," in text:
        return list(map(parse, _items(text)))
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return None if text == "None" else CONSTANTS.get(text.lower(), text)


def _items(text: str) -> Iterator[str]:
    """What stands between the commas that are in no brackets."""
    if any(text.count(a) != text.count(b) for a, b in ("()", "[]")):
        raise ValueError("brackets do not match")
    start = depth = 0
    for place, letter in enumerate(text):
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and not depth:
            yield text[start:place]
            start = place + 1
    if text[start:]:
        yield text[start:]
