"""The fingerprint of a cache: everything that decides what its numbers are, hashed."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any


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

    Values are compared as JSON, so tuples equal lists; a field that one side lacks is "absent".
    """
    return [
        f"{field}: {left} != {right}"
        for field, left, right in _paired(flat(a), flat(b))
        if left != right
    ]


def flat(value: Any, field: str = "") -> dict[str, str]:
    """Dotted field to JSON text of every leaf; empty dicts and lists are leaves."""
    if isinstance(value, dict) and (value or not field):
        leaves: dict[str, str] = {}
        for key, inner in value.items():
            leaves |= flat(inner, f"{field}.{key}" if field else str(key))
        return leaves
    return {field: json.dumps(value, sort_keys=True)}


def _paired(a: dict[str, str], b: dict[str, str]) -> list[tuple[str, str, str]]:
    return [(f, a.get(f, "absent"), b.get(f, "absent")) for f in sorted(a.keys() | b.keys())]


def file_sha256(path: Path) -> str:
    """Hex digest of a file, read in pieces: what a fingerprint says of weights and annotations."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
