"""Weights of a VITA: read the published checkpoints and our own safetensors, write the latter."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from cache_schema.cli import InputError
from extract.segmenters.config import SegmenterConfig
from extract.segmenters.key_mapping import rename
from extract.segmenters.vita import VITA

# In the library's model, but without influence on what we take from it: no file has to hold them.
UNUSED = re.compile(
    r".*\.num_batches_tracked|.*\.swin\.layernorm\..*|frame_model\.criterion\.empty_weight"
)
# Keys that an error names before it only counts.
NAMED = 3


def load_vita(
    config: SegmenterConfig, path: str | Path, device: str | torch.device = "cpu"
) -> VITA:
    """Build a VITA and load its weights.

    Raises:
        InputError: as `load_weights`.
    """
    vita = VITA(config)
    load_weights(vita, path)
    return vita.to(device)


def load_weights(vita: VITA, path: str | Path) -> None:
    """Fill a VITA in place.

    Args:
        vita: built with the sizes that the file has.
        path: ``.safetensors`` with the names of ``vita.state_dict()``, or a detectron2 checkpoint
            (``{"model": ...}``) with the names of the published VITA. Floats of any width are
            converted to those of the model.

    Raises:
        InputError: the file is missing or no such file, or its keys or shapes are not the
            model's; names the file and the first keys that differ.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"weights {path} do not exist: give a .pth or .safetensors file")
    own = vita.state_dict()
    if path.suffix == ".safetensors":
        tensors, names_of = _read_safetensors(path), _own_name
    else:
        tensors, names_of = _read_checkpoint(path), rename

    loaded: dict[str, Tensor] = {}
    found: set[str] = set()
    unknown, misshapen = [], []
    for key, tensor in tensors.items():
        names = names_of(key)
        if names is None or not own.keys() >= set(names):
            unknown.append(key)
        elif names:
            found.update(names)
            expected = _shape_of_all([own[name] for name in names])
            if tensor.shape == expected:
                loaded |= zip(names, _cut(tensor, len(names)), strict=True)
            else:
                shapes = f"{_text(tensor.shape)} in the file, {_text(expected)} in the model"
                misshapen.append(f"{key} ({shapes})")
    missing = [name for name in own if name not in found and not UNUSED.fullmatch(name)]
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
    vita.load_state_dict(loaded, strict=False)  # copies into tensors of the model's own dtype


def save_safetensors(vita: VITA, path: str | Path, dtype: torch.dtype = torch.float32) -> None:
    """Write the weights in our own layout, floats as `dtype`."""
    tensors = {
        name: (tensor.to(dtype) if tensor.is_floating_point() else tensor).cpu().contiguous()
        for name, tensor in vita.state_dict().items()
        if not UNUSED.fullmatch(name)
    }
    save_file(tensors, path, metadata={"format": "pt"})


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"weights {path} cannot be read as safetensors ({error}): fetch the file again"
        ) from error


def _read_checkpoint(path: Path) -> Mapping[str, Tensor]:
    try:
        # weights_only: a file from outside must not run code
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the bytes of a wrong file make the unpickler stumble on
        raise InputError(
            f"weights {path} cannot be read: damaged, or no PyTorch checkpoint of plain tensors "
            f"({type(error).__name__}); give a detectron2 .pth or a .safetensors file"
        ) from error
    model = content.get("model") if isinstance(content, Mapping) else None
    if not isinstance(model, Mapping) or not all(
        isinstance(tensor, Tensor) for tensor in model.values()
    ):
        raise InputError(
            f"weights {path} hold no tensors under the key 'model', where detectron2 puts them: "
            "give a published VITA checkpoint or a .safetensors file"
        )
    return model


def _own_name(key: str) -> list[str]:
    """Our own layout: each key is its name."""
    return [key]


def _shape_of_all(parts: list[Tensor]) -> torch.Size:
    """Shape of tensors of one shape stacked along their rows."""
    first = parts[0].shape
    return first if len(parts) == 1 else torch.Size([first[0] * len(parts), *first[1:]])


def _cut(tensor: Tensor, count: int) -> Sequence[Tensor]:
    """The opposite: `count` tensors of equally many rows each."""
    return [tensor] if count == 1 else tensor.chunk(count)


def _text(shape: torch.Size) -> str:
    return "x".join(map(str, shape)) or "scalar"
