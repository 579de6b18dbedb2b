"""Weights of a VITA: read the published checkpoints and our own safetensors, write the latter."""

import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cache_schema.host.cli import InputError
from cache_schema.host.files import replacing
from cache_schema.host.pickles import check_pickle
from extract.segmenters.vita.key_mapping import published, rename, shape_of_not_needed
from extract.segmenters.vita.numpy_pickle import Refused, load_arrays

# In the library's model, but without influence on what we take from it: no file has to hold them.
UNUSED = re.compile(
    r".*\.num_batches_tracked|.*\.swin\.layernorm\..*|frame_model\.criterion\.empty_weight"
)
# Keys that an error names before it only counts.
NAMED = 3
SAFETENSORS = ".safetensors"


def load_weights(vita: nn.Module, path: str | Path) -> None:
    """Fill a VITA in place.

    Args:
        vita: built with the sizes that the file has.
        path: ``.safetensors`` with the names of ``vita.state_dict()``, or a detectron2 checkpoint
            with the names of the published VITA: see `read_checkpoint`. Floats of any width are
            converted to those of the model.

    Raises:
        InputError: the file is missing or no such file, or its keys or shapes are not the
            model's; names the file and the first keys that differ.
    """
    path = Path(path)
    if path.suffix == SAFETENSORS:
        tensors = translate(vita, _read_safetensors(path), path, own_names=True)
    else:
        tensors = translate(vita, read_checkpoint(path), path)
    # Copies: the file may change or go away afterwards.
    vita.load_state_dict(tensors, strict=False)


def translate(
    vita: nn.Module, tensors: Mapping[str, Tensor], path: Path, *, own_names: bool = False
) -> dict[str, Tensor]:
    """The tensors of a file by the names of a VITA, if every one of them fits.

    Args:
        tensors: by published key; every one of them has to have a place, and every place a tensor.
        own_names: the keys are the names of ``vita.state_dict()`` instead.

    Returns:
        Tensors, or views of parts of them, by name; all but what is `UNUSED`.

    Raises:
        InputError: naming the keys that do not fit.
    """
    own = vita.state_dict()
    shapes = {name: tensor.shape for name, tensor in own.items()}
    loaded: dict[str, Tensor] = {}
    found: set[str] = set()
    unknown, misshapen = [], []
    for key, tensor in tensors.items():
        names = [key] if own_names else rename(key)
        expected = _shape_of(key, names, shapes)
        if names is None or expected is None:
            unknown.append(key)
            continue
        found.update(names)
        if tuple(tensor.shape) != tuple(expected):
            sides = f"{_text(tensor.shape)} in the file, {_text(expected)} in the model"
            misshapen.append(f"{key} ({sides})")
        elif names:
            # Several parameters that were stacked along their rows.
            parts = [tensor] if len(names) == 1 else tensor.chunk(len(names))
            loaded |= zip(names, parts, strict=True)
    lacking = [name for name in own if name not in found and not UNUSED.fullmatch(name)]
    missing = lacking if own_names else list(dict.fromkeys(map(published, lacking)))
    problems = [
        f"{len(keys)} {what}: {', '.join(keys[:NAMED])}{', ...' if len(keys) > NAMED else ''}"
        for what, keys in (
            ("of another shape", misshapen),
            ("unknown to the model", unknown),
            ("missing", missing),
        )
        if keys
    ]
    if problems:
        raise InputError(
            f"weights {path} do not fit the configured segmenter ({'; '.join(problems)}): "
            "set the sizes under `segmenter` to those of these weights"
        )
    return loaded


def save_safetensors(vita: nn.Module, path: str | Path, dtype: torch.dtype = torch.float32) -> None:
    """Write the weights in our own layout, floats as `dtype`; whole or not at all.

    Raises:
        InputError: the file cannot be written.
    """
    path = Path(path)
    tensors = {
        name: (tensor.to(dtype) if tensor.is_floating_point() else tensor).cpu().contiguous()
        for name, tensor in vita.state_dict().items()
        if not UNUSED.fullmatch(name)
    }
    with replacing(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # as of any new file: the library's are the owner's
        try:
            save_file(tensors, temporary, metadata={"format": "pt"})
        except SafetensorError as error:
            raise InputError(f"weights {path} cannot be written ({error})") from error
        temporary.chmod(mode)


def read_checkpoint(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a detectron2 checkpoint, by published key.

    Args:
        path: ``.pth`` (tensors) or ``.pkl`` (NumPy arrays), with the weights under ``"model"`` or
            with nothing but them.

    Raises:
        InputError: no such file, or one that holds or would do anything else. None of its code
            runs.
    """
    _check_exists(path)
    try:
        content = _read_pickle(path) if path.suffix == ".pkl" else _read_torch(path)
    except Refused as error:
        raise InputError(
            f"weights {path} would call {str(error)!r}, which plain arrays do not need: none of "
            "its code was run; give a checkpoint from a source that you trust"
        ) from None
    except InputError:
        raise
    except Exception as error:  # whatever the bytes of a wrong file make the unpickler stumble on
        raise InputError(
            f"weights {path} cannot be read: damaged, or no checkpoint of plain tensors or arrays "
            f"({type(error).__name__}); give a detectron2 .pth or .pkl, or a .safetensors file"
        ) from error
    model = content.get("model", content) if isinstance(content, Mapping) else None
    if not isinstance(model, Mapping) or not all(
        isinstance(key, str) and _is_plain(value) for key, value in model.items()
    ):
        raise InputError(
            f"weights {path} hold no plain tensors under the key 'model', where detectron2 puts "
            "them: give a published VITA checkpoint or a .safetensors file"
        )
    return model


def _is_plain(value: Any) -> bool:
    """A tensor with its values in memory, one after the other."""
    return (
        isinstance(value, Tensor)
        and value.device.type == "cpu"
        and value.layout == torch.strided
        and not (value.is_quantized or value.is_complex())
        and value.nbytes <= value.untyped_storage().nbytes()
    )


def _read_torch(path: Path) -> Any:
    check_pickle(path)
    # weights_only: a file from outside must not run code; mmap: as all but very old ones can be
    return torch.load(path, "cpu", weights_only=True, mmap=zipfile.is_zipfile(path))


def _read_pickle(path: Path) -> Any:
    content = load_arrays(path)
    model = content.get("model", content)
    tensors = {
        key: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        for key, value in model.items()
    }
    return {"model": tensors}


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    """Tensors in memory that is mapped from the file."""
    _check_exists(path)
    try:
        return load_file(path)  # mapped from the file
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"weights {path} cannot be read as safetensors ({error}): fetch the file again"
        ) from error


def _check_exists(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"weights {path} do not exist: give a .pth, .pkl or .safetensors file")


def _shape_of(
    key: str, names: list[str] | None, own: Mapping[str, Sequence[int]]
) -> Sequence[int] | None:
    """The shape that a key's tensor has to have; None if the model has no place for it."""
    if not names:
        return None if names is None else shape_of_not_needed(key, own)
    if not own.keys() >= set(names):
        return None
    if len(names) == 1:
        return own[names[0]]
    rows, *rest = own[names[0]]
    return (rows * len(names), *rest)  # stacked along their rows


def _text(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"
