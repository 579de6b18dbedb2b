"""Training configs: reading them, and refusing what they must not say.

`train/configs/base.py` has the keys that every head trains with; those of `model` and `loss` are
keyword arguments of the head and of its criterion. A default gives a key's type.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from mmengine.config import Config

from cache_schema.host.cli import InputError
from cache_schema.host.lookup import find_config, nearest
from train.heads import find_head
from train.places import BASE, CONFIGS, ROWS

#: The least and the most that a number may be, both allowed; every other one: `ANY`.
ANY = {int: (0, 1e9), float: (0, 1e30)}
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
REQUIRED = inspect.Parameter.empty
WORDS = {int: "whole number", float: "number", str: "word", bool: "True or False"}
#: Keys that a config may leave to the cache.
FROM_CACHE = ("model.text_dim", "model.mask_dim")

#: Where it stands, for messages, and its sections.
Layer = tuple[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Key:
    """What a key may be: of its default's type or, where that is None or missing, its hint's."""

    default: Any
    hint: Any = int | None
    limits: tuple[float, float] | None = None
    choices: Sequence[str] = ()

    def checked(self, key: str, value: Any) -> Any:
        """The value in the key's type.

        Raises:
            InputError: it is of another type, out of range, or none of the choices.
        """
        many, optional = isinstance(self.default, (list, tuple)), self.default is None
        if optional and value is None:
            return None
        sample = next(iter(self.default), 0) if many else self.default
        if optional or self.default is REQUIRED:
            kind = next(t for t in (*get_args(self.hint), self.hint) if t is not type(None))
        else:
            kind = type(sample)
        # The command line cannot tell 5 from [5].
        values = list(value) if many and isinstance(value, (list, tuple)) else [value]
        if kind is float:
            values = [float(v) if type(v) is int and abs(v) < 1e300 else v for v in values]
        if any(type(v) is not kind for v in values):
            word = WORDS[kind]
            expected = f"a list of {word}s" if many else word if kind is bool else f"a {word}"
            expected += " or None" * optional
            raise InputError(f"config key {key} is {value!r}; it has to be {expected}")
        least, most = self.limits or ANY.get(kind, (0, 0))
        for number in values if kind in ANY else []:
            if not least <= number <= most:  # nor is NaN
                raise InputError(
                    f"config key {key} is {number!r:.40}; it has to be from {least:g} to {most:g}"
                )
        known = set(self.choices)
        if known and not (values and set(values) <= known and len(set(values)) == len(values)):
            some = "choose from" if many else "choose one of"
            raise InputError(f"config key {key} is {value!r}; {some} {', '.join(self.choices)}")
        return values if many else values[0]


def keys_of(own: type) -> dict[str, Key]:
    """The keys that a class declares: keyword-only arguments of its constructor.

    Those of its base classes are among them where it takes ``**keywords``.
    """
    found: dict[str, Key] = {}
    ranges, choices = (
        {k: v for base in reversed(own.__mro__) for k, v in vars(base).get(name, {}).items()}
        for name in ("RANGES", "CHOICES")
    )
    for base in own.__mro__:
        parameters = inspect.signature(base.__init__).parameters.values()
        hints = get_type_hints(base.__init__)
        for p in parameters:
            if p.kind is p.KEYWORD_ONLY and p.name not in found:
                known = ranges.get(p.name), choices.get(p.name, ())
                found[p.name] = Key(p.default, hints.get(p.name), *known)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return found


def known_keys(head: str) -> dict[str, dict[str, Key]]:
    """The keys of every section for a head, ``model.type``."""
    own, sections = find_head(head), {}
    for section, content in Config.fromfile(BASE).to_dict().items():
        names = {name: f"{section}.{name}" for name in content}
        sections[section] = {
            name: Key(content[name], limits=RANGES.get(key), choices=CHOICES.get(key, ()))
            for name, key in names.items()
        }
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
            head = known["model"]["type"].checked("model.type", chosen)
            known = known_keys(head)
            for section, own in content.items():
                content[section] = {n: value for n, value in own.items() if n in known[section]}
        for section, values in sections.items():
            _check_name(where, section, known, section)
            if not isinstance(values, Mapping):
                raise InputError(f"{where}: {section} has to be a dict, not {values!r}")
            for name, value in values.items():
                _check_name(where, name, known[section], key := f"{section}.{name}")
                content[section][name] = known[section][name].checked(key, value)
    for section, keys in known.items():
        for name, key in keys.items():
            value = content[section].setdefault(name, key.default)
            if value is REQUIRED:
                raise InputError(f"config key {section}.{name} has no default; give it")
            if isinstance(value, tuple):
                content[section][name] = list(value)
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
    except Exception as error:  # a config is a program: anything may go wrong in it
        raise InputError(
            f"{what} {path} cannot be read ({type(error).__name__}: {error}); it has to be a "
            "Python file that assigns dicts, see train/configs/base.py"
        ) from error


def _check_name(where: str, name: str, known: Mapping[str, Any], key: str) -> None:
    if name not in known:
        raise InputError(
            f"{where}: unknown config key {key!r}{nearest(name, known)}: known are "
            f"{', '.join(known) or 'none'}"
        )
