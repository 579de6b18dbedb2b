"""What a sweep trains: rows of ablation tables, each with several seeds.

A sweep is a Python file such as `train/configs/sweeps/encoder.py`:

    reference = "dmvs"
    rows = {
        "dmvs": "dmvs",                                    # of train/configs/rows, or a file
        "N_m-3": dict(model=dict(num_motion_queries=3)),   # or what differs, written out
        "ovis": ["dmvs", dict(caches=["ovis"])],           # or several of these, one over the other
    }
    paper = {"dmvs": (48.6, 44.2, 52.9)}                   # J&F, J, F as published; optional

``caches`` names caches that were given to the command as ``--cache NAME=PATH``.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config

from cache_schema.host.cli import InputError
from cache_schema.host.lookup import find_config
from train.config import complete, from_options, load_row, merge, read_config
from train.places import CONFIGS, SWEEPS
from train.trainee import Member

LABEL = re.compile(r"[A-Za-z0-9][\w.+-]*")


@dataclass(frozen=True)
class Sweep:
    """A sweep as its file says it.

    Attributes:
        reference: the label of the row that the others are compared with.
        rows: label to the sections and keys that differ from the base config.
        caches: label to the names of its caches; none for those that are given without a name.
        paper: label to J&F, J and F in percent, as published.
    """

    reference: str
    rows: Mapping[str, Mapping[str, Any]]
    caches: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    paper: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)


def load_sweep(name: str | Path) -> Sweep:
    """Read a sweep.

    Args:
        name: of a file in `configs/sweeps` without its ending, or a file.

    Raises:
        InputError: no such file, or it does not say a sweep.
    """
    path = find_config(name, SWEEPS, "sweep")
    try:
        content = Config.fromfile(path).to_dict()
    except (Exception, SystemExit) as error:  # it is a program: anything may go wrong in it
        raise InputError(
            f"sweep {path} cannot be read ({type(error).__name__}: {error})"
        ) from error
    unknown = set(content) - {"reference", "rows", "paper"}
    rows = content.get("rows")
    if unknown or not isinstance(rows, dict) or content.get("reference") not in list(rows):
        raise InputError(
            f"sweep {path} has to say rows, a dict, and reference, the label of one of them; paper "
            f"may stand beside" + (f", {', '.join(sorted(unknown))} may not" if unknown else "")
        )
    parsed, caches = {}, {}
    for label, parts in rows.items():
        if not isinstance(label, str) or not LABEL.fullmatch(label):
            raise InputError(
                f"sweep {path}: a row is called {label!r}; it names a folder, so take a word of "
                "letters, digits, '_', '.', '+' and '-'"
            )
        parsed[label], caches[label] = _parse(parts, f"sweep {path}: row {label}")
    paper = content.get("paper", {})
    try:
        paper = {label: tuple(map(float, figures)) for label, figures in paper.items()}
        sound = set(paper) <= set(rows) and all(len(figures) == 3 for figures in paper.values())
    except (AttributeError, TypeError, ValueError):
        sound = False
    if not sound:
        raise InputError(f"sweep {path}: paper has to give three figures for labels of rows")
    return Sweep(content["reference"], parsed, caches, paper)


def make_members(
    sweep: Sweep, config: str | Path, seeds: Sequence[int], options: Mapping[str, Any] | None = None
) -> list[Member]:
    """Every row with every seed.

    All heads see the same samples in the same order: that of ``data.seed``, or else of the first
    seed.

    Args:
        sweep: from `load_sweep`.
        config: the base config, which the rows differ from.
        seeds: at least one.
        options: dotted keys and values that hold for all rows.

    Raises:
        InputError: a row does not fit the config.
    """
    if len(set(seeds)) < len(seeds):
        raise InputError(f"--seeds {' '.join(map(str, seeds))}: each may stand there once")
    config, members = find_config(config, CONFIGS), []
    given = read_config(config)
    for label, row in sweep.rows.items():
        for seed in seeds:
            own = {"data.seed": seeds[0], **(options or {}), "train.seed": seed}
            layers = [(str(config), given), ("in the sweep", row), from_options(own)]
            try:
                complete_config = complete(layers, path=config)
            except InputError as error:
                raise InputError(f"row {label}: {error}") from None
            members.append(Member(label, seed, complete_config, sweep.caches.get(label, ())))
    return members


def _parse(parts: Any, where: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What a row differs in, and the names of its caches."""
    row: dict[str, Any] = {}
    caches: tuple[str, ...] = ()
    for part in parts if isinstance(parts, (list, tuple)) else [parts]:
        if isinstance(part, str):
            part = load_row(part)
        if not isinstance(part, Mapping):
            raise InputError(f"{where} is {part!r}; give a name, a dict or a list of these")
        part = dict(part)
        caches = part.pop("caches", caches)
        if isinstance(caches, str) or not isinstance(caches, Sequence):
            raise InputError(f"{where}: caches is {caches!r}; give a list of names")
        if any(not isinstance(values, Mapping) for values in part.values()):
            raise InputError(f"{where}: every section has to be a dict, as in model=dict(...)")
        merge(row, part)
    return row, tuple(caches)
