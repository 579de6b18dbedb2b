"""Training configs: reading them, and refusing what they must not say.

`train/configs/base.py` is the list of keys and their types; a config states what differs.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction

from cache_schema.cli import InputError

BASE = Path(__file__).parent / "configs" / "base.py"

AT_LEAST_ONE = {
    "model": ("hidden_dim", "text_dim", "mask_dim", "num_motion_queries", "num_layers",
              "num_heads", "feedforward_dim"),
    "data": ("num_frames",),
    "loss": ("num_points",),
    "train": ("max_iters", "batch_size", "log_interval", "checkpoint_interval",
              "keep_checkpoints"),
}  # fmt: skip
CHOICES = {
    "data.clip_source": ("bank", "video"),
    "data.frame_choice": ("first", "random"),
    "schedule.type": ("step", "poly"),
    "evaluation.rule": ("auto", "threshold", "top1"),
}


class Options(DictAction):
    """argparse action for ``--cfg-options key=value ...``."""

    def __call__(
        self,
        parser: ArgumentParser,
        namespace: Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        for value in values or []:
            if "=" not in value:
                raise InputError(f"{option_string} {value}: write key=value, as in train.seed=1")
        super().__call__(parser, namespace, values, option_string)


def load_config(path: str | Path, options: Mapping[str, Any] | None = None) -> Config:
    """Read a config; what it leaves out comes from `configs/base.py`.

    Args:
        path: a pure-Python mmengine config. It is a program and is run: read your own only.
        options: dotted keys and values that replace the config's, from the command line.

    Returns:
        The complete config, checked.

    Raises:
        InputError: no such file, not a config, an unknown key, a value of another type, or one
            out of range.
    """
    path = Path(path)
    if not path.is_file():
        known = ", ".join(sorted(f"train/configs/{p.name}" for p in BASE.parent.glob("[!_]*.py")))
        raise InputError(f"config {path} does not exist; the project's own are {known}")
    try:
        config = Config.fromfile(path)
    except Exception as error:  # a config is a program: anything may go wrong in it
        raise InputError(
            f"config {path} cannot be read ({type(error).__name__}: {error}); it has to be a "
            "Python file that assigns dicts, see train/configs/base.py"
        ) from error
    known = Config.fromfile(BASE).to_dict()
    given = config.to_dict()
    _check_sections(given, known, where=str(path))
    for key, value in (options or {}).items():
        section, _, name = key.partition(".")
        if name == "" or section not in known or name not in known[section]:
            raise InputError(
                f"--cfg-options {key}: unknown key; known are "
                + ", ".join(f"{s}.{n}" for s, content in known.items() for n in content)
            )
        given.setdefault(section, {})[name] = value
    for section, content in given.items():
        for name, value in content.items():
            known[section][name] = _typed(f"{section}.{name}", value, known[section][name])
    _check_values(known)
    return Config(known, filename=str(path))


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """What two configs (nested dicts) set differently, as ``section.key: x != y``."""
    found = []
    for section in sorted(set(ours) | set(theirs)):
        mine, other = ours.get(section, {}), theirs.get(section, {})
        for name in sorted(set(mine) | set(other)):
            if mine.get(name) != other.get(name):
                found.append(f"{section}.{name}: {mine.get(name)!r} != {other.get(name)!r}")
    return found


def _check_sections(given: Mapping[str, Any], known: Mapping[str, Any], *, where: str) -> None:
    for section, content in given.items():
        if section not in known:
            raise InputError(
                f"{where}: unknown config key {section!r}; known are {', '.join(known)}"
            )
        if not isinstance(content, Mapping):
            raise InputError(f"{where}: {section} has to be a dict, not {content!r}")
        for name in content:
            if name not in known[section]:
                raise InputError(
                    f"{where}: unknown config key '{section}.{name}'; known in {section} are "
                    + ", ".join(known[section])
                )


def _typed(key: str, value: Any, default: Any) -> Any:
    """The value in the type of the default; None stands for an optional whole number."""
    if default is None:
        fits = value is None or (isinstance(value, int) and not isinstance(value, bool))
        expected = "a whole number or None"
    elif isinstance(default, list):
        if isinstance(value, int) and not isinstance(value, bool):
            value = [value]  # the command line cannot tell 5 from [5]
        fits = isinstance(value, (list, tuple)) and all(isinstance(v, int) for v in value)
        value, expected = (list(value) if fits else value), "a list of whole numbers"
    elif isinstance(default, float):
        fits = isinstance(value, (int, float)) and not isinstance(value, bool)
        value, expected = (float(value) if fits else value), "a number"
    elif isinstance(default, bool):
        fits, expected = isinstance(value, bool), "True or False"
    else:
        fits = type(value) is type(default)
        expected = "a word" if isinstance(default, str) else "a whole number"
    if not fits:
        raise InputError(f"config key {key} is {value!r}; it has to be {expected}")
    return value


def _check_values(config: Mapping[str, Any]) -> None:
    for section, names in AT_LEAST_ONE.items():
        for name in names:
            value = config[section][name]
            if value is not None and value < 1:
                raise InputError(f"config key {section}.{name} is {value}; it has to be at least 1")
    for key, choices in CHOICES.items():
        section, name = key.split(".")
        if config[section][name] not in choices:
            raise InputError(
                f"config key {key} is {config[section][name]!r}; choose one of {', '.join(choices)}"
            )
    for key in ("train.seed", "data.num_workers", "data.ram_gb", "optimizer.lr"):
        section, name = key.split(".")
        if config[section][name] < 0:
            raise InputError(f"config key {key} is negative")
    if any(weight < 1 for weight in config["data"]["cache_weights"]):
        raise InputError("config key data.cache_weights has a number below 1")
    dim, heads = config["model"]["hidden_dim"], config["model"]["num_heads"]
    if dim % heads:
        raise InputError(
            f"config key model.hidden_dim is {dim}, which model.num_heads = {heads} does not divide"
        )
