"""Training configs: reading them, and refusing what they must not say.

`train/configs/base.py` is the list of keys and their types; a config states what differs.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction

from cache_schema.host.cli import InputError
from train.models.decoder import READS
from train.models.encoder import ENCODERS
from train.models.initialisation import INITIALISATIONS

BASE = Path(__file__).parent / "configs" / "base.py"
ROWS = Path(__file__).parent / "configs" / "rows"

#: The least and the most that a number may be, both allowed; every other one: `ANY`.
ANY = {int: (0, 1e9), float: (0, 1e30)}
RANGES = {
    "model.dropout": (0, 1),
    **dict.fromkeys(("model.hidden_dim", "model.text_dim", "model.mask_dim", "model.num_heads"),
                    (1, 1 << 16)),
    "model.feedforward_dim": (1, 1 << 18),
    "model.num_motion_queries": (1, 1 << 14),
    "model.num_layers": (1, 1000),
    "data.num_frames": (1, 1e9),
    "data.num_workers": (0, 1024),
    "data.cache_weights": (1, 1e6),
    "data.ram_gb": (0, 1e6),
    "data.seed": (0, (1 << 32) - 1),
    "train.seed": (0, (1 << 32) - 1),
    "loss.num_points": (1, 1e7),
    "loss.oversample_ratio": (1, 1000),
    "loss.importance_ratio": (0, 1),
    "optimizer.ema_decay": (0, 1 - 1e-9),
    "schedule.gamma": (0, 1),
    "evaluation.sigma": (0, 1),
    "train.batch_size": (1, 1e6),
    **dict.fromkeys(("train.max_iters", "train.log_interval", "train.checkpoint_interval",
                     "train.keep_checkpoints", "train.val_videos", "optimizer.lr_batch_size"),
                    (1, 1e9)),
}  # fmt: skip
CHOICES = {
    "model.encoder": ENCODERS,
    "model.initialisation": tuple(INITIALISATIONS),
    "model.decoder_reads": READS,
    "model.sentence": ("mean", "max"),
    "data.clip_source": ("bank", "video"),
    "data.frame_choice": ("first", "random"),
    "schedule.type": ("step", "poly"),
    "train.autocast": ("none", "bfloat16", "float16"),
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
        try:
            super().__call__(parser, namespace, values, option_string)
        except (RecursionError, ValueError) as error:  # brackets without end, too many digits
            raise InputError(f"{option_string}: a value cannot be read ({error})") from None


def load_config(
    path: str | Path, options: Mapping[str, Any] | None = None, row: str | Path | None = None
) -> Config:
    """Read a config; what it leaves out comes from `configs/base.py`.

    Args:
        path: a pure-Python mmengine config. It is a program and is run: read your own only.
        options: dotted keys and values that replace the config's, from the command line.
        row: of an ablation table: what differs from the config, see `load_row`.

    Returns:
        The complete config, checked.

    Raises:
        InputError: no such file, not a config, an unknown key, a value of another type, or one
            out of range.
    """
    config = read_config(path)
    if row is not None:
        merge(config, load_row(row))
    return complete(config, options, path=path)


def read_config(path: str | Path) -> dict[str, Any]:
    """The sections of a config as its file says them; see `load_config`."""
    return _read(Path(path), BASE.parent, "config")


def load_row(name: str | Path) -> dict[str, Any]:
    """A row of an ablation table: the sections and keys that differ, nothing else.

    Args:
        name: of a file in `configs/rows` without its ending, or a file.

    Raises:
        InputError: as `load_config`.
    """
    known = ROWS / f"{name}.py"
    path = known if known.is_file() else Path(name)
    return _read(path, ROWS, "row")


def merge(content: dict[str, Any], row: Mapping[str, Any]) -> None:
    """Put a row's keys over those of a config, in place."""
    for section, values in row.items():
        content[section] = {**content.get(section, {}), **values}


def complete(
    given: Mapping[str, Any], options: Mapping[str, Any] | None = None, *, path: str | Path
) -> Config:
    """What a config leaves out, and a check of the whole; see `load_config`.

    Args:
        given: the config's sections.
        options: dotted keys and values that replace the config's.
        path: of the config, for messages and for its name.
    """
    known = Config.fromfile(BASE).to_dict()
    _check_sections(given, known, where=str(path))
    given = {section: dict(content) for section, content in given.items()}
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


def _read(path: Path, folder: Path, what: str) -> dict[str, Any]:
    """The sections of a config or of a row, their names checked."""
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("[!_]*.py")))
        raise InputError(
            f"{what} {path} does not exist; the project's own, in "
            f"{folder.relative_to(BASE.parents[2])}, are {known}"
        )
    try:
        content = Config.fromfile(path).to_dict()
    except Exception as error:  # a config is a program: anything may go wrong in it
        raise InputError(
            f"{what} {path} cannot be read ({type(error).__name__}: {error}); it has to be a "
            "Python file that assigns dicts, see train/configs/base.py"
        ) from error
    _check_sections(content, Config.fromfile(BASE).to_dict(), where=str(path))
    return content


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
        kind = type(default[0]) if default else int
        if type(value) is kind:
            value = [value]  # the command line cannot tell 5 from [5]
        fits = isinstance(value, (list, tuple)) and all(type(v) is kind for v in value)
        value = list(value) if fits else value
        expected = f"a list of {'words' if kind is str else 'whole numbers'}"
    elif isinstance(default, float):
        fits = isinstance(value, (int, float)) and not isinstance(value, bool)
        fits = fits and abs(value) < 1e300
        value, expected = (float(value) if fits else value), "a number"
    elif isinstance(default, bool):
        fits, expected = isinstance(value, bool), "True or False"
    else:
        fits = type(value) is type(default)
        expected = "a word" if isinstance(default, str) else "a whole number"
    if not fits:
        raise InputError(f"config key {key} is {value!r}; it has to be {expected}")
    return value


def _check_range(key: str, value: Any) -> None:
    for number in value if isinstance(value, list) else [value]:
        if type(number) not in ANY:
            continue
        least, most = RANGES.get(key, ANY[type(number)])
        if not least <= number <= most:  # nor is NaN
            raise InputError(
                f"config key {key} is {number!r:.40}; it has to be from {least:g} to {most:g}"
            )


def _check_values(config: Mapping[str, Any]) -> None:
    for section, content in config.items():
        for name, value in content.items():
            _check_range(f"{section}.{name}", value)
    for key, choices in CHOICES.items():
        section, name = key.split(".")
        value = config[section][name]
        values = value if isinstance(value, list) else [value]
        if not values or len(set(values)) < len(values) or not set(values) <= set(choices):
            some = "choose from" if isinstance(value, list) else "choose one of"
            raise InputError(f"config key {key} is {value!r}; {some} {', '.join(choices)}")
    if config["loss"]["prior_weight"] and config["model"]["initialisation"] != "video":
        raise InputError(
            "config key loss.prior_weight compares a target with the track of the video query "
            "that a motion query started as, and with model.initialisation="
            f"{config['model']['initialisation']!r} there is none: set loss.prior_weight=0"
        )
    dim, heads = config["model"]["hidden_dim"], config["model"]["num_heads"]
    if dim % heads:
        raise InputError(
            f"config key model.hidden_dim is {dim}, which model.num_heads = {heads} does not divide"
        )
