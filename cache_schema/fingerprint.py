"""The fingerprint of a cache: everything that decides what its numbers are, hashed."""

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cache_schema.host.cli import InputError

HASH = re.compile(r'"([0-9a-f]{12})[0-9a-f]{52}"')
SHORT = r'"\1..."'


@dataclass(frozen=True)
class Fingerprint:
    """A plain dict (JSON types, string keys) with its canonical JSON and SHA-256.

    Attributes:
        data: segmenter, weights, resize, codec, text encoder and so on, as nested dicts.
    """

    data: dict[str, Any]

    @cached_property
    def json(self) -> str:
        """Canonical JSON: keys sorted, no spaces, ASCII; NaN raises `ValueError`."""
        return json.dumps(self.data, sort_keys=True, separators=(",", ":"), allow_nan=False)

    @cached_property
    def hex(self) -> str:
        """SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.json.encode()).hexdigest()


def differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Where two fingerprints differ, one ``dotted.field: value in a != value in b`` each.

    What says most comes first: the segmenter, then all else, and hashes (cut short) at the end,
    those of weights before others. Values are compared as JSON, so tuples equal lists; a field that
    one side lacks is "absent".
    """
    a, b = flat(a), flat(b)
    pairs = [(f, a.get(f, "absent"), b.get(f, "absent")) for f in sorted(a.keys() | b.keys())]
    found = [(field, [left, right]) for field, left, right in pairs if left != right]
    found.sort(key=lambda own: _rank(*own))
    return [
        f"{field}: {' != '.join(HASH.sub(SHORT, value) for value in values)}"
        for field, values in found
    ]


def check_same(found: dict[str, Any], expected: dict[str, Any], path: Path) -> None:
    """Raise `InputError` naming what differs, in what ``path`` was made with."""
    if different := differences(found, expected):
        raise InputError(
            f"{path} was made with other settings, {'; '.join(different)} (found != expected): "
            "use those settings again, or another folder"
        )


def _rank(field: str, values: list[str]) -> int:
    """Where a difference stands: the least first."""
    if any(map(HASH.fullmatch, values)):
        return 2 if field.startswith("weights") else 3
    return 0 if field.startswith("segmenter") else 1


def flat(value: Any, field: str = "") -> dict[str, str]:
    """Dotted field to JSON text of every leaf; empty dicts and lists are leaves."""
    if isinstance(value, dict) and (value or not field):
        leaves: dict[str, str] = {}
        for key, inner in value.items():
            leaves |= flat(inner, f"{field}.{key}" if field else str(key))
        return leaves
    return {field: json.dumps(value, sort_keys=True)}


def file_sha256(path: Path) -> str:
    """Hex digest of a file, read in pieces: what a fingerprint says of weights and annotations."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
