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

from cache_schema.codecs import LOWRANK, get_codec
from cache_schema.host.cli import InputError
from cache_schema.host.keys import Key, checked, fill
from cache_schema.host.lookup import find_config
from extract.arguments import MIRRORS, PRESETS
from extract.segmenters import DEFAULT

#: Every key of a configuration; of a plain `Key`, what it holds is checked elsewhere.
KEYS = {
    **dict.fromkeys(("dataset", "segmenter", "text", "resize", "codec", "clips"), Key()),
    "segmenter_masks": Key({}),
    "mirror": Key(None, str | None, choices=MIRRORS),
}
#: Keys that are a name, or a dict with settings and a name under this key.
NAMED = {"codec": "name", "dataset": "name", "segmenter": "type"}
COUNT = (1, 1e6)
#: The keys inside the others. Masks of ``segmenter_masks.keep`` video queries go into a cache
#: without mask features, None keeps all.
INNER = {
    "text": dict.fromkeys(("encoder", "tagger"), Key(hint=str)),
    "resize": dict.fromkeys(("short", "max"), Key(hint=int | None, limits=COUNT)),
    "clips": {
        "num": Key(hint=int, limits=(0, 1e6)),
        "frames": Key(hint=int, limits=COUNT),
        "range": Key(None, int | None, COUNT),
    },
    "segmenter_masks": {"keep": Key(None, int | None, COUNT)},
}
#: Those of them that may be None.
OPTIONAL = ("text", "resize")
#: What the low-rank codec may be told: the rank of its basis, or "auto" for the lowest that keeps
#: this mask IoU; the number of frames that the basis is fitted on.
LOWRANK_KEYS = {
    "rank": Key("auto", int, COUNT),
    "iou": Key(0.99, float, (1e-9, 1)),
    "frames": Key(256, int, COUNT),
}


@dataclass(frozen=True)
class ExtractConfig:
    """The keys of `KEYS`; ``text`` is None when no expressions are to be encoded.

    ``segmenter`` is what its key holds beside the type, for the segmenter to check. ``codec`` has a
    ``name``; for ``lowrank-int8`` also every key of `LOWRANK_KEYS`.
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
    except (Exception, SystemExit) as error:  # whatever a file from outside may raise
        raise InputError(f"{path} does not run: {type(error).__name__}: {error}") from error
    values = {
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
    where = f"{path} (with --cfg-options): "
    merged = checked(wrapped.to_dict()["keys"], KEYS, where=where)
    fill(merged, KEYS, where=where)
    for section, keys in INNER.items():
        if merged[section] is not None or section not in OPTIONAL:
            merged[section] = checked(merged[section], keys, section, where)
            fill(merged[section], keys, section, where)
    for key, name in NAMED.items():
        value = merged[key] if isinstance(merged[key], dict) else {}
        default = DEFAULT if key == "segmenter" and value else None
        if not isinstance(value.setdefault(name, default), str):
            raise InputError(
                f"{where}config key {key} is {merged[key]!r:.80}; it has to be a {name}, or a dict "
                f"with a {name}"
            )
    complete_codec(merged["codec"], where)
    dataset, segmenter = merged["dataset"], merged["segmenter"]
    merged["dataset"], merged["dataset_settings"] = dataset.pop("name"), dataset
    return ExtractConfig(**merged, segmenter_type=segmenter.pop("type"))


def complete_codec(codec: dict[str, Any], where: str) -> None:
    """Check a codec and the settings beside its name, and give it those that it lacks."""
    name = codec["name"]
    if name != LOWRANK:
        try:
            get_codec(name)
        except InputError as error:
            raise InputError(f"{where}{error}") from None
    # As they were given: 1 and 1.0 are not the same in a fingerprint.
    checked(codec, {"name": Key(), **LOWRANK_KEYS}, "codec", where)
    if name == LOWRANK:
        fill(codec, LOWRANK_KEYS)
    elif settings := [key for key in codec if key != "name"]:
        raise InputError(
            f"{where}'codec.{settings[0]}' is a setting of {LOWRANK}, and the codec is {name}: "
            f"remove it, or replace the whole codec by codec={name}"
        )
