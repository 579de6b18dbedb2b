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

from cache_schema.codecs import KNOWN, LOWRANK, get_codec
from cache_schema.host.cli import InputError
from cache_schema.host.lookup import find_config, nearest
from extract.arguments import MIRRORS, PRESETS
from extract.segmenters import DEFAULT

#: Every key of a configuration and the keys inside it (None: the owner of the key checks).
KEYS: dict[str, set[str] | None] = {
    "dataset": None,
    "segmenter": None,
    "text": {"encoder", "tagger"},
    "resize": {"short", "max"},
    "codec": None,
    "clips": {"num", "frames", "range"},
    "segmenter_masks": {"keep"},
    "mirror": None,
}
#: Of those that a configuration may leave out. Masks of so many video queries go into a cache
#: without mask features; None keeps all. ``mirror`` is one of `MIRRORS`, or None.
DEFAULTS: dict[str, Any] = {"segmenter_masks": {"keep": None}, "mirror": None}
#: Those that may be None, and the most that a number may be.
OPTIONAL = ("text", "resize")
MOST = 1 << 20
#: What the low-rank codec may be told, and is told otherwise: the rank of its basis, or "auto" for
#: the lowest that keeps this mask IoU; the number of frames that the basis is fitted on.
LOWRANK_DEFAULTS: dict[str, Any] = {"rank": "auto", "iou": 0.99, "frames": 256}


@dataclass(frozen=True)
class ExtractConfig:
    """The keys of `KEYS`; ``text`` is None when no expressions are to be encoded.

    ``segmenter`` is what its key holds beside the type, for the segmenter to check. ``codec`` has a
    ``name``; for ``lowrank-int8`` also every key of `LOWRANK_DEFAULTS`.
    """

    dataset: str
    dataset_settings: dict[str, Any]
    segmenter_type: str
    segmenter: dict[str, Any]
    text: dict[str, str] | None
    resize: dict[str, int | None] | None
    codec: dict[str, Any]
    clips: dict[str, int | None]
    segmenter_masks: dict[str, int | None]
    mirror: str | None


#: Keys that are a name, or a dict with settings and a name under this key.
NAMED = {"codec": "name", "dataset": "name", "segmenter": "type"}


def load_config(path: str | Path, options: dict[str, Any] | None = None) -> ExtractConfig:
    """Read a configuration file and merge dotted options into it.

    Args:
        path: a Python file, which may import from another one to inherit, or the name of a preset.
        options: for example ``{"clips.num": 2}``.

    Raises:
        InputError: no such file, Python that does not run, an unknown or missing key, a codec with
            settings that it does not have.
    """
    path = find_config(path, PRESETS, "configuration")
    try:
        names = runpy.run_path(str(path))
    except Exception as error:  # whatever a file from outside may raise
        raise InputError(f"{path} does not run: {type(error).__name__}: {error}") from error
    values = DEFAULTS | {
        name: value
        for name, value in names.items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    options = dict(options or {})
    for key, name in NAMED.items():  # it replaces all that was said; settings are added to it
        for given in (values, options):
            if isinstance(given.get(key), str):
                values[key] = {name: given[key]}
                if given is options:
                    del options[key]
    wrapped = Config({"keys": values})
    try:
        wrapped.merge_from_dict({f"keys.{name}": value for name, value in options.items()})
    except (AttributeError, KeyError, TypeError, AssertionError) as error:
        raise InputError(f"--cfg-options do not fit {path}: {error}") from error
    merged = wrapped.to_dict()["keys"]
    if isinstance(merged.get("clips"), dict):
        merged["clips"].setdefault("range", None)
    _check(path, merged)
    dataset = merged["dataset"]
    if not isinstance(dataset, dict) or not isinstance(dataset.get("name"), str):
        raise InputError(f"{path}: dataset is {dataset!r}, give a name or a dict with a name")
    segmenter = merged["segmenter"]
    if not isinstance(segmenter, dict):
        raise InputError(f"{path}: segmenter is {segmenter!r}, give a dict of its settings")
    merged["dataset_settings"] = {key: dataset[key] for key in dataset if key != "name"}
    merged["segmenter_type"] = segmenter.pop("type", DEFAULT)
    merged |= {"dataset": dataset["name"], "codec": _codec(path, merged["codec"])}
    return ExtractConfig(**merged)


def _check(path: Path, values: dict[str, Any]) -> None:
    for where, given, known in (
        ("", values, set(KEYS)),
        *(
            (f"{k}.", values[k], inner)
            for k, inner in KEYS.items()
            if inner and k in values and (values[k] is not None or k not in OPTIONAL)
        ),
    ):
        if not isinstance(given, dict):
            raise InputError(f"{path}: '{where[:-1]}' is {given!r}, give a dict of {sorted(known)}")
        for name in given:
            if name not in known:
                raise InputError(
                    f"{path} (with --cfg-options) has the unknown key '{where}{name}'"
                    f"{nearest(name, known)}: known are {', '.join(sorted(known))}"
                )
        for name in sorted(known - set(given)):
            raise InputError(f"{path} lacks the key '{where}{name}'")
    clips, resize, text = values["clips"], values["resize"], values["text"]
    if not (
        _is_count(clips["num"], least=0)
        and _is_count(clips["frames"])
        and (clips["range"] is None or _is_count(clips["range"]))
    ):
        raise InputError(
            f"{path}: clips is {clips}, give num of at least 0, frames of at least 1, and range of "
            "at least 1 or None"
        )
    if values["mirror"] not in (None, *MIRRORS):
        raise InputError(
            f"{path}: mirror is {values['mirror']!r:.40}, give {', '.join(MIRRORS)} or None"
        )
    for name, value in (resize or {}).items():
        if value is not None and not _is_count(value):
            raise InputError(f"{path}: resize.{name} is {value!r:.40}, give pixels or None")
    keep = values["segmenter_masks"]["keep"]
    if keep is not None and not _is_count(keep):
        raise InputError(f"{path}: segmenter_masks.keep is {keep!r:.40}, give a number or None")
    for name, value in (text or {}).items():
        if not isinstance(value, str):
            raise InputError(f"{path}: text.{name} is {value!r:.40}, give a name or a folder")


def _codec(path: Path, given: Any) -> dict[str, Any]:
    """A codec's name, or a name with settings, as a dict with all of its settings."""
    codec = {"name": given} if isinstance(given, str) else given
    where = f"{path} (with --cfg-options)"
    if not isinstance(codec, dict) or not isinstance(codec.get("name"), str):
        raise InputError(
            f"{where}: codec is {given!r}, give a name ({', '.join(KNOWN)}) or a dict with a name"
        )
    name = codec["name"]
    if name != LOWRANK:
        try:
            get_codec(name)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
    for key in codec:
        if key != "name" and key not in LOWRANK_DEFAULTS:
            raise InputError(
                f"{where} has the unknown key 'codec.{key}': "
                f"known are name, {', '.join(LOWRANK_DEFAULTS)}"
            )
        if key != "name" and name != LOWRANK:
            raise InputError(
                f"{where}: 'codec.{key}' is a setting of {LOWRANK}, and the codec is {name}: "
                f"remove it, or replace the whole codec by codec={name}"
            )
    if name != LOWRANK:
        return dict(codec)
    codec = {"name": name, **LOWRANK_DEFAULTS, **codec}
    rank, iou, frames = (codec[key] for key in LOWRANK_DEFAULTS)
    if rank != "auto" and not _is_count(rank):
        raise InputError(f"{where}: codec.rank is {rank!r}, give 'auto' or a number of at least 1")
    if isinstance(iou, bool) or not isinstance(iou, (int, float)) or not 0 < iou <= 1:
        raise InputError(f"{where}: codec.iou is {iou!r}, give a mask IoU above 0 and at most 1")
    if not _is_count(frames):
        raise InputError(f"{where}: codec.frames is {frames!r}, give a number of at least 1")
    return codec


def _is_count(value: Any, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= MOST
