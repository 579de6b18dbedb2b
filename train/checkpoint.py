"""Checkpoints that a kill cannot tear and that load without running any code.

A checkpoint holds tensors, numbers and strings only, so `torch.load(weights_only=True)` reads it
as it is.
"""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.utils import apply_to
from torch import Tensor, nn

from cache_schema.host import files, system
from cache_schema.host.cli import InputError
from cache_schema.host.pickles import check_pickle
from train.heads import CacheSizes, Head, build_head

#: What a checkpoint's ``meta`` may say of its run, as far as it is used.
META = {"iter": int, "seed": int, "seconds": (float, int)}
#: What AdamW keeps for each parameter, of its shape.
MOMENTS = ("exp_avg", "exp_avg_sq")


def save_checkpoint(content: dict[str, Any], path: Path) -> None:
    """Write a checkpoint; it appears whole or not at all.

    Args:
        content: tensors, numbers and strings only, as `read_checkpoint` gives them.
    """
    buffer = io.BytesIO()
    torch.save(apply_to(content, torch.is_tensor, Tensor.cpu), buffer)
    files.write(path, buffer.getvalue())


def read_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Load a checkpoint of this project.

    Returns:
        ``state_dict``, ``optimizer``, ``param_schedulers`` and ``meta``: ``iter`` and
        ``training`` with ``config`` (nested dicts), ``seed`` and ``caches`` (``fingerprint``,
        ``dataset``, ``split`` and ``models``, see `train.data.compatible.signature`).

    Raises:
        InputError: no such file, not readable as plain weights, or not a checkpoint of ours.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"checkpoint {path} does not exist; train first, or check the path")
    check_pickle(path)
    try:
        checkpoint = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises half a dozen types for a broken file
        system.check(error, path)
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(
            f"checkpoint {path} cannot be read ({reason}); it is broken or not a checkpoint of "
            "this project"
        ) from error
    if not isinstance(checkpoint, dict) or not {"meta", "state_dict"} <= set(checkpoint):
        raise InputError(f"checkpoint {path} has no 'meta' and 'state_dict'; give an iter_*.pth")
    if wrong := _wrong_content(checkpoint["meta"], checkpoint["state_dict"]):
        raise InputError(f"checkpoint {path}: {wrong}; it is broken or not of this project")
    return checkpoint


def _wrong_content(meta: Any, weights: Any) -> str | None:
    """The first thing in a checkpoint that is not what every one of ours holds."""
    if not isinstance(meta, dict):
        return f"'meta' is {type(meta).__name__}, not a dict"
    for name, kind in META.items():
        value = meta.get(name)
        if value is not None and (
            not isinstance(value, kind) or isinstance(value, int) and not 0 <= value < 1 << 62
        ):
            return f"'meta' says {name} = {value!r:.60}"
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and _is_plain(tensor) for name, tensor in weights.items()
    ):
        return "'state_dict' is not names and tensors"
    spoilt = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
    return f"the weights {spoilt[0]} are NaN or infinite" if spoilt else None


def _is_plain(value: Any) -> bool:
    """Whether it is a tensor of plain real numbers that lie in memory."""
    return (
        isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and not (value.is_quantized or value.is_complex() or value.is_meta)
        and value.nbytes <= value.untyped_storage().nbytes()  # not one number many times
    )


def check_state(
    path: Path, checkpoint: dict[str, Any], own: dict[str, Any], shapes: Sequence[torch.Size]
) -> None:
    """Refuse a checkpoint whose training state is not such as this run's; torch does not look.

    Args:
        checkpoint: from `read_checkpoint`.
        own: ``optimizer`` and ``param_schedulers`` as this run would write them.
        shapes: of the parameters, in the optimizer's order.

    Raises:
        InputError: something is missing, or of another type or shape.
    """
    found = {name: checkpoint.get(name) for name in own}
    optimizer = found["optimizer"]
    state = optimizer.get("state") if isinstance(optimizer, dict) else None
    wrong = None
    if type(checkpoint["meta"].get("iter")) is not int:
        wrong = "meta does not say after which iteration it was written"
    elif not isinstance(state, dict) or not set(state) <= set(range(len(shapes))):
        wrong = "optimizer.state is not of the parameters"
    else:
        moments = {n: {"step": torch.zeros(()), **dict.fromkeys(MOMENTS, shapes[n])} for n in state}
        expected = {**own, "optimizer": {**own["optimizer"], "state": moments}}
        wrong = _differs(found, expected, "")
    if wrong:
        raise InputError(
            f"checkpoint {path} cannot be resumed: {wrong}; take an earlier one (delete it), or "
            "start again in another --work-dir"
        )


def _differs(found: Any, own: Any, where: str) -> str | None:
    """The first place where a structure is not one such as ours; numbers may be others."""
    if isinstance(own, torch.Tensor):
        own = own.shape
    if isinstance(own, torch.Size):
        if not _is_plain(found) or found.shape != own:
            shape = tuple(found.shape) if isinstance(found, torch.Tensor) else found
            return f"{where} is {shape!r:.60}, not of shape {tuple(own)}"
        return None if found.isfinite().all() else f"{where} is NaN or infinite"
    if isinstance(own, dict):
        if not isinstance(found, dict) or set(found) != set(own):
            return f"{where} has not the parts {', '.join(map(str, own)):.60}"
        parts = [(f"{where}.{name}".lstrip("."), found[name], own[name]) for name in own]
    elif isinstance(own, (list, tuple)):
        if not isinstance(found, (list, tuple)) or len(found) != len(own):
            return f"{where} has not {len(own)} parts"
        parts = [(f"{where}.{n}", *pair) for n, pair in enumerate(zip(found, own, strict=True))]
    elif own is None or isinstance(own, (bool, str)):
        return None if type(found) is type(own) else f"{where} is {found!r:.60}, not {own!r}"
    else:
        fits = type(found) in (int, float) and math.isfinite(found)
        return None if fits else f"{where} is {found!r:.60}, not a number"
    return next(filter(None, (_differs(a, b, place) for place, a, b in parts)), None)


def load_weights(module: nn.Module, weights: dict[str, torch.Tensor], *, where: str) -> None:
    """Fill a module with weights of exactly its names and shapes.

    Raises:
        InputError: names the first weights that are missing, unknown or of another shape.
    """
    own = module.state_dict()
    wrong = [f"{name} is missing" for name in own if name not in weights]
    wrong += [f"{name} is unknown" for name in weights if name not in own]
    wrong += [
        f"{name} is {tuple(weights[name].shape)}, expected {tuple(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise InputError(
            f"{where} does not fit the config's head: {'; '.join(wrong[:3])}{more}; use the config "
            "it was trained with, and a cache of the same models"
        )
    module.load_state_dict(weights)


def load_head(
    config: Config, checkpoint: str | Path, sizes: CacheSizes, device: torch.device | str = "cpu"
) -> Head:
    """The trained head of a checkpoint, in eval mode; the average of its weights where kept.

    Args:
        config: from `load_config`; its model has to be the checkpoint's.
        checkpoint: an ``iter_N.pth`` of this project; only weights are read from it.

    Raises:
        InputError: the checkpoint does not exist, cannot be read, or holds another head or
            one for a cache of other sizes.
    """
    weights = read_checkpoint(checkpoint, device)["state_dict"]
    average = "average.module."
    prefix = average if any(name.startswith(average) for name in weights) else "head."
    own = {n.removeprefix(prefix): value for n, value in weights.items() if n.startswith(prefix)}
    head = build_head(config, sizes)
    load_weights(head, own, where=f"checkpoint {checkpoint}")
    return head.to(device).eval()
