"""Stage one's configuration: a Python file whose top-level names are its keys.

mmengine's own file reader is not used because it reserves the name ``text``, which is one of the
keys; its nested merging of ``--cfg-options`` is.
"""

import runpy
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from mmengine.config import Config

from cache_schema.cli import InputError

#: Every key of a configuration and the keys inside it (None: the owner of the key checks).
KEYS: dict[str, set[str] | None] = {
    "dataset": None,
    "segmenter": None,
    "text": {"encoder", "tagger"},
    "resize": {"short", "max"},
    "codec": None,
    "clips": {"num", "frames"},
}


@dataclass(frozen=True)
class ExtractConfig:
    """The keys of `KEYS`; ``text`` is None when no expressions are to be encoded."""

    dataset: str
    segmenter: dict[str, Any]
    text: dict[str, str] | None
    resize: dict[str, int | None] | None
    codec: str
    clips: dict[str, int]


def load_config(path: str | Path, options: dict[str, Any] | None = None) -> ExtractConfig:
    """Read a configuration file and merge dotted options into it.

    Args:
        path: a Python file; it may import from another one to inherit.
        options: for example ``{"clips.num": 2}``.

    Raises:
        InputError: no such file, Python that does not run, an unknown or missing key.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no configuration file {path}: give one such as extract/configs/demo.py")
    try:
        names = runpy.run_path(str(path))
    except Exception as error:  # whatever a file from outside may raise
        raise InputError(f"{path} does not run: {type(error).__name__}: {error}") from error
    values = {
        name: value
        for name, value in names.items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    wrapped = Config({"keys": values})
    try:
        wrapped.merge_from_dict({f"keys.{name}": value for name, value in (options or {}).items()})
    except (KeyError, TypeError, AssertionError) as error:
        raise InputError(f"--cfg-options do not fit {path}: {error}") from error
    merged = wrapped.to_dict()["keys"]
    _check(path, merged)
    return ExtractConfig(**merged)


def _check(path: Path, values: dict[str, Any]) -> None:
    for where, given, known in (
        ("", values, set(KEYS)),
        *((f"{k}.", values[k], inner) for k, inner in KEYS.items() if inner and values.get(k)),
    ):
        if not isinstance(given, dict):
            raise InputError(f"{path}: '{where[:-1]}' is {given!r}, give a dict of {sorted(known)}")
        for name in given:
            if name not in known:
                raise InputError(
                    f"{path} (with --cfg-options) has the unknown key '{where}{name}': "
                    f"known are {', '.join(sorted(known))}"
                )
        for name in sorted(known - set(given)):
            raise InputError(f"{path} lacks the key '{where}{name}'")
    clips = values["clips"]
    if not all(
        isinstance(clips[k], int) and clips[k] >= least for k, least in (("num", 0), ("frames", 1))
    ):
        raise InputError(
            f"{path}: clips is {clips}, give num of at least 0 and frames of at least 1"
        )
