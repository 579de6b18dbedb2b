"""Training configs: reading them, and refusing what they must not say.

`train/configs/base.py` has the keys that every head trains with; those of `model` and `loss` are
keyword arguments of the head and of its criterion. A default gives a key's type.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from cache_schema.host.cli import InputError
from cache_schema.host.keys import Key, checked, fill, keys_of
from cache_schema.host.lookup import find_config
from train.heads import find_head
from train.places import BASE, CONFIGS, ROWS

#: The least and the most that a number may be, both allowed; see `Key`.
RANGES = {
    "data.num_frames": (1, 1e9),
    "data.num_workers": (0, 1024),
    "data.cache_weights": (1, 1e6),
    "data.ram_gb": (0, 1e6),
    "data.seed": (0, (1 << 32) - 1),
    "train.seed": (0, (1 << 32) - 1),
    "optimizer.ema_decay": (0, 1 - 1e-9),
    "schedule.gamma": (0, 1),
    "evaluation.sigma": (0, 1),
    "train.batch_size": (1, 1e6),
    **dict.fromkeys(("train.max_iters", "train.log_interval", "train.checkpoint_interval",
                     "train.keep_checkpoints", "train.val_videos", "optimizer.lr_batch_size"),
                    (1, 1e9)),
}  # fmt: skip
CHOICES = {
    "data.clip_source": ("bank", "video"),
    "data.frame_choice": ("first", "random"),
    "schedule.type": ("step", "poly"),
    "train.autocast": ("none", "bfloat16", "float16"),
    "evaluation.rule": ("auto", "threshold", "top1"),
}
#: Keys that a config may leave to the cache.
FROM_CACHE = ("model.text_dim", "model.mask_dim")

#: Where it stands, for messages, and its sections.
Layer = tuple[str, Mapping[str, Any]]


def known_keys(head: str) -> dict[str, dict[str, Key]]:
    """The keys of every section for a head, ``model.type``."""
    own, sections = find_head(head), {}
    for section, content in Config.fromfile(BASE).to_dict().items():
        sections[section] = {}
        for name, value in content.items():
            hint, key = int | None if value is None else None, f"{section}.{name}"
            known = RANGES.get(key), CHOICES.get(key, ())
            sections[section][name] = Key(value, hint, *known)
    sections["model"] |= keys_of(own)
    return {**sections, "loss": keys_of(own.loss)}


def load_config(
    path: str | Path, options: Mapping[str, Any] | None = None, row: str | Path | None = None
) -> Config:
    """Read a config; what it leaves out comes from `configs/base.py` and from its head.

    Args:
        path: a pure-Python mmengine config, or the name of one in `configs`. It is a program and is
            run: read your own only.
        options: dotted keys and values that replace the config's, from the command line.
        row: of an ablation table: what differs from the config, see `load_row`.

    Returns:
        The complete config, checked.

    Raises:
        InputError: no such file, not a config, an unknown key, a value of another type, or one
            out of range.
    """
    path = find_config(path, CONFIGS)
    return complete(
        [(str(path), read_config(path)), *row_layer(row), from_options(options)], path=path
    )


def stored_config(
    checkpoint: str | Path,
    training: Any,
    options: Mapping[str, Any] | None = None,
    row: str | Path | None = None,
) -> Config:
    """The complete config that a checkpoint says it was trained with.

    Args:
        training: its ``meta["training"]``, whatever it holds.
        options, row: to be put over it, see `load_config`.

    Raises:
        InputError: it does not say one, or one that is not valid.
    """
    config = training.get("config") if isinstance(training, dict) else None
    if not isinstance(config, dict):
        raise InputError(f"{checkpoint} does not say the config that it was trained with; give one")
    layers = [(f"checkpoint {checkpoint}", config), *row_layer(row), from_options(options)]
    return complete(layers)


def read_config(path: str | Path) -> dict[str, Any]:
    """The sections of a config as its file says them; see `load_config`."""
    return _read(find_config(path, CONFIGS), "config")


def row_layer(row: str | Path | None) -> list[Layer]:
    """The layer of a row, if there is one."""
    return [] if row is None else [(f"row {row}", load_row(row))]


def load_row(name: str | Path) -> dict[str, Any]:
    """A row of an ablation table: the sections and keys that differ, nothing else.

    Args:
        name: of a file in `configs/rows` without its ending, or a file.

    Raises:
        InputError: as `load_config`.
    """
    return _read(find_config(name, ROWS, "row"), "row")


def from_options(options: Mapping[str, Any] | None) -> Layer:
    """The layer of dotted keys and values from the command line."""
    sections: dict[str, dict[str, Any]] = {}
    for key, value in (options or {}).items():
        section, _, name = key.partition(".")
        sections.setdefault(section, {})[name] = value
    return "--cfg-options", sections


def merge(content: dict[str, Any], row: Mapping[str, Any]) -> None:
    """Put a row's keys over those of a config, in place."""
    for section, values in row.items():
        content[section] = {**content.get(section, {}), **values}


def complete(layers: Sequence[Layer], *, path: str | Path | None = None) -> Config:
    """Put layers of a config over each other and over the defaults, and check them.

    A layer may take another head (``model.type``). Of what the layers below say for theirs, it gets
    what it has a key of that name for.

    Args:
        layers: the last one counts.
        path: of the config, for its name, if it has one.

    Raises:
        InputError: an unknown key, a value of another type or out of range, or keys that do not go
            together.
    """
    head, known = "dmvs", known_keys("dmvs")
    content: dict[str, dict[str, Any]] = {section: {} for section in known}
    for where, sections in layers:
        model = sections.get("model")
        chosen = model.get("type", head) if isinstance(model, Mapping) else head
        if chosen != head:
            head = known["model"]["type"].checked(f"{where}: config key model.type", chosen)
            known = known_keys(head)
            for section, own in content.items():
                content[section] = {n: value for n, value in own.items() if n in known[section]}
        checked(sections, dict.fromkeys(known, Key()), where=f"{where}: ")
        for section, values in sections.items():
            content[section] |= checked(values, known[section], section, f"{where}: ")
    for section, keys in known.items():
        fill(content[section], keys, section)
    find_head(head).check(content["model"], content["loss"])
    return Config(content, filename=path and str(path))


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """What two configs (nested dicts) set differently, as ``section.key: x != y``.

    Older ones do not say ``model.type``, and sizes that one leaves to the cache are the cache's.
    """
    found = []
    for section in sorted(set(ours) | set(theirs)):
        mine, other = ours.get(section, {}), theirs.get(section, {})
        if section == "model":
            mine, other = ({"type": "dmvs", **own} for own in (mine, other))
        for name in sorted(set(mine) | set(other)):
            key, values = f"{section}.{name}", [mine.get(name), other.get(name)]
            if values[0] != values[1] and not (key in FROM_CACHE and None in values):
                found.append(f"{key}: {values[0]!r} != {values[1]!r}")
    return found


def _read(path: Path, what: str) -> dict[str, Any]:
    """The sections of a config or of a row."""
    try:
        return Config.fromfile(path).to_dict()
    except (Exception, SystemExit) as error:  # a config is a program: anything may go wrong in it
        raise InputError(
            f"{what} {path} cannot be read ({type(error).__name__}: {error}); it has to be a "
            "Python file that assigns dicts, see train/configs/base.py"
        ) from error
