"""Point sampling: masks are compared at a few points instead of at every pixel.

The points of the loss lie where the prediction is least certain (PointRend). Coordinates are
(x, y), fractions of the padded image, so a target can stay at its own resolution.
"""

from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from train import kernels
from train.masks.bilinear import sample

#: Of a state, from one pair of numbers to the next; see `kernels.cu`.
STEP = 0x9E3779B97F4A7C15

RandomPoints = Callable[[Sequence[int], int], Tensor]
"""(sample of each row, points) to uniform numbers (rows, points, 2) in [0, 1).

Rows of one sample follow each other. A test feeds recorded numbers."""


def uniform_points(device: torch.device | str) -> RandomPoints:
    """The ordinary source: torch's global generator of the device."""
    return lambda samples, points: torch.rand(len(samples), points, 2, device=device)


def sample_points(seeds: Sequence[int], device: torch.device | str) -> RandomPoints:
    """A source whose numbers for a sample do not depend on what else is in the batch.

    So a batch spread over several processes gets the points that it gets in one.

    Args:
        seeds: of each sample of the batch.
    """
    device = torch.device(device)
    if kernels.available(device):
        return _kernel_draws(seeds, device)
    on_cpu = device.type == "cpu"
    draw = [_numpy_draw(seed) if on_cpu else _torch_draw(seed, device) for seed in seeds]

    def random(samples: Sequence[int], points: int) -> Tensor:
        numbers = torch.empty(len(samples), points, 2, device=device)
        start = 0
        for number, rows in groupby(samples):
            stop = start + sum(1 for _ in rows)
            draw[number](numbers[start:stop])
            start = stop
        return numbers

    return random


def _kernel_draws(seeds: Sequence[int], device: torch.device) -> RandomPoints:
    """All rows by one launch."""
    states = np.array(seeds, np.uint64)

    def random(samples: Sequence[int], points: int) -> Tensor:
        rows = np.asarray(samples)
        firsts = np.flatnonzero(np.diff(rows, prepend=-1))  # a row of each sample
        counts = np.diff(firsts, append=len(rows))
        before = np.arange(len(rows)) - np.repeat(firsts, counts)
        own = states[rows] + np.uint64(STEP) * (before * points).astype(np.uint64)
        states[rows[firsts]] += np.uint64(STEP) * (counts * points).astype(np.uint64)
        sent = torch.from_numpy(own.view(np.int64)).to(device, non_blocking=True)
        return kernels.draw(sent, points)

    return random


def _numpy_draw(seed: int) -> Callable[[Tensor], object]:
    """Fills tensors on the CPU with numbers of 16 bits, in a quarter of torch's time.

    So a point lies on one of 2^16 places along each side of the image.
    """
    generator = np.random.Generator(np.random.SFC64(seed))

    def draw(numbers: Tensor) -> None:
        size = -(-numbers.numel() // 4)  # four numbers of 64 bits
        bits = generator.integers(2**64 - 1, size=size, dtype=np.uint64, endpoint=True)
        short = bits.view(np.uint16)[: numbers.numel()].reshape(numbers.shape)
        np.multiply(short, np.float32(2**-16), out=numbers.numpy())

    return draw


def _torch_draw(seed: int, device: torch.device | str) -> Callable[[Tensor], object]:
    """Fills tensors on a device."""
    generator = torch.Generator(device).manual_seed(seed)
    return lambda numbers: numbers.uniform_(generator=generator)


@torch.no_grad()
def uncertain_points(
    logits: Tensor,
    num_points: int,
    random: RandomPoints,
    *,
    samples: Sequence[int],
    oversample_ratio: float = 3.0,
    importance_ratio: float = 0.75,
) -> Tensor:
    """Points for the loss: the least certain of many, and some at random.

    Args:
        logits: (R, h, w) mask logits; the closer to zero, the less certain.
        num_points: P.
        random: called first for the candidates, then for the random points.
        samples: the sample of each row.
        oversample_ratio: candidates per point.
        importance_ratio: share of the points that is chosen for being uncertain.

    Returns:
        (R, P, 2).
    """
    candidates = random(samples, int(num_points * oversample_ratio))  # (R, 3P, 2)
    num_uncertain = int(num_points * importance_ratio)
    extra = random(samples, num_points - num_uncertain)
    certainty = sample(logits[:, None], candidates)[:, 0].abs()  # (R, 3P)
    chosen = certainty.topk(num_uncertain, dim=1, largest=False, sorted=False).indices
    # As complex numbers, for x and y move together.
    uncertain = torch.view_as_complex(candidates).gather(1, chosen)  # (R, P')
    return torch.cat([torch.view_as_real(uncertain), extra], dim=1)
