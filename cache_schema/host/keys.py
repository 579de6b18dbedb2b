"""Keys of configurations: what each may be, and what is said of one that is unknown or wrong."""

import inspect
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from cache_schema.host.cli import InputError
from cache_schema.host.lookup import nearest

REQUIRED = inspect.Parameter.empty
#: The least and the most that a number may be, both allowed, where a key says nothing else.
ANY = {int: (0, 1e9), float: (0, 1e30)}
WORDS = {int: "whole number", float: "number", str: "word", bool: "True or False"}


@dataclass(frozen=True)
class Key:
    """What a key may be.

    Attributes:
        default: `REQUIRED` if the key has to be given. A word or None may be given in any case.
        hint: a type of `WORDS`, or several (``Sequence[str]``, ``tuple[int, int]``), or with None
            (``int | None``). Without one the default's type. Values of others are not looked at.
        limits: the least and the most of a number, or of each.
        choices: what it may be, or hold.
    """

    default: Any = REQUIRED
    hint: Any = None
    limits: tuple[float, float] | None = None
    choices: Sequence[Any] = ()

    def checked(self, key: str, value: Any) -> Any:
        """The value in the key's type, where a number may be written for a list of one.

        Args:
            key: what it is called in messages.

        Raises:
            InputError: it is of another type, out of range, or none of the choices.
        """
        kind, count, others = self._type()
        if kind is None or value in others:
            return value
        many = count is not None
        # The command line cannot tell 5 from [5].
        values = list(value) if many and isinstance(value, (list, tuple)) else [value]
        if kind is float:
            values = [float(v) if type(v) is int and abs(v) < 1e300 else v for v in values]
        if any(type(v) is not kind for v in values) or (count and len(values) != count):
            word = WORDS[kind]
            expected = f"a {word}" if kind is not bool else word
            if many:
                expected = f"a list of {f'{count} ' if count else ''}{word}s"
            expected += "".join(f" or {own!r}" for own in others)
            raise InputError(f"{key} is {value!r:.80}; it has to be {expected}")
        least, most = self.limits or ANY.get(kind, (0, 0))
        for number in values if kind in ANY else []:
            if not least <= number <= most:  # nor is NaN
                raise InputError(
                    f"{key} is {number!r:.40}; it has to be from {least:g} to {most:g}"
                )
        known = set(self.choices)
        if known and not (values and set(values) <= known and len(set(values)) == len(values)):
            some = "choose from" if many else "choose one of"
            raise InputError(f"{key} is {value!r:.80}; {some} {', '.join(map(str, self.choices))}")
        return values if many else values[0]

    def _type(self) -> tuple[type | None, int | None, list[Any]]:
        """The type of `WORDS`; how many of it, None for one and 0 for any; what else will do."""
        origin, parts = get_origin(self.hint), get_args(self.hint)
        listed = isinstance(origin, type) and issubclass(origin, Sequence)
        many = listed or isinstance(self.default, (list, tuple))
        if listed or NoneType in parts:
            among = parts
        elif many:
            among = (type(next(iter(self.default), 0)),)
        else:
            among = (type(self.default) if self.hint is None else self.hint,)
        fixed = origin is tuple and ... not in parts
        count = (len(parts) if fixed else 0) if many else None
        kind = next((t for t in among if t in WORDS), None)
        others = [None] if self.default is None or NoneType in parts else []
        if isinstance(self.default, str) and kind is not str:
            others.append(self.default)
        return kind, count, others


def keys_of(own: type, *, positional: bool = False) -> dict[str, Key]:
    """The keys that a class declares: keyword-only arguments of its constructor.

    Those of its base classes are among them where it takes ``**keywords``. ``RANGES`` and
    ``CHOICES`` of the class have limits and choices by name.

    Args:
        positional: every other argument is a key as well, as the fields of a dataclass are.
    """
    found: dict[str, Key] = {}
    ranges, choices = (
        {k: v for base in reversed(own.__mro__) for k, v in vars(base).get(name, {}).items()}
        for name in ("RANGES", "CHOICES")
    )
    kinds = {inspect.Parameter.KEYWORD_ONLY}
    if positional:
        kinds.add(inspect.Parameter.POSITIONAL_OR_KEYWORD)
    for base in own.__mro__:
        parameters = list(inspect.signature(base.__init__).parameters.values())[1:]
        hints = {}
        with suppress(NameError):  # of types that are imported for type checkers only
            hints = get_type_hints(base.__init__)
        for p in parameters:
            if p.kind in kinds and p.name not in found:
                known = ranges.get(p.name), choices.get(p.name, ())
                found[p.name] = Key(p.default, hints.get(p.name), *known)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return found


def checked(
    values: Any, known: Mapping[str, Key], section: str = "", where: str = ""
) -> dict[str, Any]:
    """The values of a section, each in its key's type.

    Args:
        values: from outside, whatever it is.
        known: the section's keys.
        section: its name, for messages; empty for the top level.
        where: what messages start with.

    Raises:
        InputError: it is no dict, has an unknown key, or one whose value is refused.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"{where}config key {section} is {values!r:.80}; it has to be a dict")
    found = {}
    for name, value in values.items():
        key = f"{section}.{name}" if section else name
        if name not in known:
            raise InputError(
                f"{where}unknown config key {key!r}{nearest(name, known)}: known are "
                f"{', '.join(known) or 'none'}"
            )
        found[name] = known[name].checked(f"{where}config key {key}", value)
    return found


def fill(
    values: dict[str, Any], known: Mapping[str, Key], section: str = "", where: str = ""
) -> None:
    """Put defaults, tuples as lists, for what is not given; `InputError` where there is none."""
    for name, key in known.items():
        default = list(key.default) if isinstance(key.default, tuple) else key.default
        if values.setdefault(name, default) is REQUIRED:
            key = f"{section}.{name}" if section else name
            raise InputError(f"{where}config key {key} has no default; give it")
