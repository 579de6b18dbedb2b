"""Reading annotation files of strangers: JSON with the place of an error, names that stay put."""

import json
import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cache_schema.host.cli import InputError
from cache_schema.host.lookup import nearest

_KEY = re.compile(rb'\s*"([^"\\]*(?:\\.[^"\\]*)*)"\s*:\s*')
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]', re.DOTALL)
_WINDOW = 1 << 26  # bytes of a mapped file that are kept in memory while it is gone through
_AFTER = re.compile(rb"\s*([,}])")


def existing_folder(path: Path, *, what: str) -> Path:
    """The path itself; InputError if there is no such folder."""
    if not path.is_dir():
        found = "is not a folder" if path.exists() else "does not exist"
        beside = path.parent.iterdir() if path.parent.is_dir() else ()
        instead = nearest(path.name, [p.name for p in beside if p.is_dir()])
        raise InputError(f"{what} {path} {found}{instead}; check the data root and the split")
    return path


def existing_file(path: Path) -> Path:
    """The path itself; InputError if there is no such file."""
    if not path.is_file():
        raise InputError(f"{path} does not exist; check the data root and the split")
    return path


def plain_name(name: Any) -> bool:
    """Whether a name from a data file can stand for a file without leaving its folder."""
    return (
        isinstance(name, str)
        and name not in ("", ".", "..")
        and not any(c in name for c in "/\\\0")
        and Path(name).name == name
    )


def read_json(path: Path) -> Any:
    """Parse a JSON file.

    Raises:
        InputError: missing, not UTF-8, malformed (names line and column), or a key stands twice.
    """
    existing_file(path)
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"), object_pairs_hook=_no_twins)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path} is not valid JSON: {error.msg} at line {error.lineno} column {error.colno};"
            " repair or download it again"
        ) from None
    except (UnicodeDecodeError, RecursionError, ValueError) as error:
        raise InputError(f"{path} is not valid JSON: {error}; download it again") from None


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        twin = next(key for key in made if keys.count(key) > 1)
        raise ValueError(f"the key {twin!r} stands twice in one object")
    return made


class JsonTable:
    """A JSON object of lists, on disk: where each value stands is kept, not the values.

    Ground truth of large splits takes gigabytes as text and several times that as Python objects.
    One pass over the mapped file notes the place of each value; a value is parsed when asked for.
    So a file of any size takes the memory of its keys, one value and a window of the file.

    Raises:
        InputError: missing or unreadable file, or text that is no JSON object of lists (names
            line and column). Mistakes inside a value show when it is asked for.
    """

    def __init__(self, path: Path) -> None:
        self.path = existing_file(path)
        if path.stat().st_size == 0:
            raise InputError(f"{path} is empty; download it again")
        with path.open("rb") as file:
            self._text = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._places = self._scan()

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, key: str) -> Any:
        start, end = self._places[key]
        text = self._text[start:end]
        self._forget()
        try:
            return json.loads(text)
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            # The place inside of the value, counted in bytes: such files are ASCII.
            at = start + getattr(error, "pos", 0)
            raise self._error(at, f"the value of {key!r} is malformed") from None

    def _scan(self) -> dict[str, tuple[int, int]]:
        text, places = self._text, {}
        head = re.compile(rb"(?:\xef\xbb\xbf)?\s*\{\s*(\}?)").match(text)
        if head is None:
            raise self._error(0, "an object {...} was expected")
        at, more, forgotten = head.end(), not head[1], 0
        while more:
            if at - forgotten > _WINDOW:
                self._forget()
                forgotten = at
            key = _KEY.match(text, at)
            if key is None:
                raise self._error(at, 'a key in quotes, as in "12": [...], was expected')
            try:
                name = json.loads(b'"' + key[1] + b'"')
            except (json.JSONDecodeError, UnicodeDecodeError):
                raise self._error(at, "a key is malformed") from None
            if name in places:
                raise self._error(at, f"the key {name!r} stands twice")
            start, at = key.end(), self._end_of_list(key.end())
            places[name] = (start, at)
            after = _AFTER.match(text, at)
            if after is None:
                raise self._error(at, "a comma or a closing brace was expected")
            at, more = after.end(), after[1] == b","
        if text[at:].strip():
            raise self._error(at, "there is text after the end of the object")
        return places

    def _forget(self) -> None:
        """Take the file out of this process's memory; what is read again comes back."""
        self._text.madvise(mmap.MADV_DONTNEED)

    def _end_of_list(self, start: int) -> int:
        if self._text[start : start + 1] != b"[":
            raise self._error(start, "a list [...] was expected")
        depth = 0
        for token in _TOKEN.finditer(self._text, start):
            depth += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(token[0], 0)
            if depth == 0:
                return token.end()
        raise self._error(len(self._text), "the file ends within a list")

    def _error(self, at: int, what: str) -> InputError:
        at = re.compile(rb"\s*").match(self._text, at).end()
        before = self._text[:at]
        line, column = before.count(b"\n") + 1, at - before.rfind(b"\n")
        return InputError(
            f"{self.path} is not valid JSON: {what} at line {line} column {column}; repair or"
            " download it again"
        )
