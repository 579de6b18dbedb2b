"""Multi-scale deformable attention as in `deformable`, by one CUDA kernel between the projections.

`deformable_kernel.cu` says what the kernel does. NVRTC compiles it for the device when it is first
used, in about a second.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cache_schema.host import nvrtc
from extract.segmenters.vita.forms import constant
from extract.segmenters.vita.tokens import Shape

SOURCE = Path(__file__).with_suffix(".cu")
NAME = "deformable_attention"
#: Of a block: each thread takes the same number of points and of channels in published sizes.
THREADS = 256
TOKENS = 64


class KernelError(RuntimeError):
    """The kernel cannot be compiled, loaded or launched here."""


def sample_by_kernel(
    attention: nn.Module, tokens: Tensor, positions: Tensor, shapes: tuple[Shape, ...]
) -> Tensor:
    """What the library's multi-scale deformable attention says to all tokens of all frames.

    Args:
        attention: the library's module, for its projections and sizes.
        tokens: (t, S, C) float32.
        positions: (S, C).
        shapes: of the maps whose cells the tokens are.

    Returns:
        (t, S, C) float32.

    Raises:
        KernelError: there is no such kernel here.
    """
    queries = tokens + positions
    mixed = weighted_sums(
        attention.value_proj(tokens),
        attention.sampling_offsets(queries),
        attention.attention_weights(queries),
        shapes,
        heads=attention.n_heads,
        points=attention.n_points,
    )
    return attention.output_proj(mixed)


def weighted_sums(
    values: Tensor,
    offsets: Tensor,
    logits: Tensor,
    shapes: tuple[Shape, ...],
    *,
    heads: int,
    points: int,
) -> Tensor:
    """The weighted sums of values: (t, S, C) float32.

    Args:
        values: (t, S, C).
        offsets: (t, S, heads*L*P*2), x and y of each point in turn, in cells of its map.
        logits: (t, S, heads*L*P), of the points' weights.
        shapes: of the L maps.
        heads, points: their numbers; points in each map.
    """
    # Nothing else would notice a kernel that reads what is laid out in another way.
    values, offsets, logits = (each.float().contiguous() for each in (values, offsets, logits))
    frames, length, channels = values.shape
    mixed = torch.empty_like(values)
    try:
        kernel = _kernel(heads, channels // heads, len(shapes), points, values.device)
        with torch.cuda.device(values.device):
            # On the current stream, as all operations are; graphs capture it like any other.
            kernel(
                grid=(-(-length // TOKENS), heads, frames),
                block=(THREADS, 1, 1),
                args=[values, offsets, logits, _maps(shapes, values.device), mixed, length],
            )
    except Exception as error:  # of torch's private interfaces, of the compiler, of the driver
        raise KernelError(f"{type(error).__name__}: {error}") from error
    return mixed


@constant(maxsize=4)
def _maps(shapes: tuple[Shape, ...], device: torch.device) -> Tensor:
    """Height, width and first token of the maps, (L, 3) int32."""
    with torch.inference_mode(False):  # an ordinary tensor: it outlives the call
        sizes = torch.tensor(shapes, dtype=torch.int32)
        cells = sizes.prod(1, dtype=torch.int32)
        starts = cells.cumsum(0, dtype=torch.int32) - cells
        return torch.cat([sizes, starts[:, None]], 1).to(device)


@lru_cache
def _kernel(heads: int, channels: int, levels: int, points: int, device: torch.device) -> Any:
    """The compiled kernel, to be called as torch calls its own."""
    from torch.cuda._utils import _cuda_load_module

    with torch.cuda.device(device):
        code = compiled(
            heads, channels, levels, points, "{}{}".format(*torch.cuda.get_device_capability())
        )
        return _cuda_load_module(code, [NAME])[NAME]


def compiled(heads: int, channels: int, levels: int, points: int, capability: str) -> bytes:
    """Machine code of the kernel for devices of a compute capability, such as "90".

    Raises:
        OSError: there is no NVRTC.
        RuntimeError: it does not compile this.
    """
    from torch.cuda._utils import _get_gpu_rtc_library

    sizes = {
        "HEADS": heads,
        "CHANNELS": channels,
        "LEVELS": levels,
        "POINTS": points,
        "THREADS": THREADS,
        "TOKENS": TOKENS,
    }
    return nvrtc.compiled(_get_gpu_rtc_library(), SOURCE, capability, sizes)
