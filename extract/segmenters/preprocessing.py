"""From an RGB frame to what the segmenter takes: resize, normalise, pad; and the sizes it took."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from cache_schema.host.cli import InputError
from cache_schema.records import Geometry


class Preprocessor:
    """Resize, normalise, and pad right and bottom with zeros.

    As the reference prepares frames for a test: PIL's bilinear filter (which averages when it
    shrinks), sides rounded to the nearest pixel, padding after normalisation.

    Args:
        short: length of the short side after resizing; None takes frames as they are.
        max: bound of the long side, which wins over ``short``; None is no bound.
        mean, std: of each RGB channel, on values from 0 to 255.
        stride: of the mask features.
        divisor: frames are padded to a multiple of it.

    Attributes:
        square: length of both sides after resizing, instead of ``short``; None by default.

    Raises:
        InputError: a side below 1, or a ``max`` below ``short``.
    """

    def __init__(
        self,
        short: int | None,
        max: int | None,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        stride: int = 4,
        divisor: int = 32,
    ) -> None:
        for name, value in (("short", short), ("max", max)):
            if value is not None and value < 1:
                raise InputError(f"resize.{name} is {value}: give a length in pixels, or None")
        if short is not None and max is not None and max < short:
            raise InputError(f"resize.max is {max}, below resize.short ({short}): give at least it")
        self.short, self.max = short, max
        self.square: int | None = None
        self.stride, self.divisor = stride, divisor
        self.mean = torch.tensor(mean, dtype=torch.float32).view(3, 1, 1)
        self.std = torch.tensor(std, dtype=torch.float32).view(3, 1, 1)

    def resize(self, frame: np.ndarray) -> np.ndarray:
        """The first step: (H, W, 3) uint8 to (H', W', 3) uint8; the frame itself if it fits."""
        height, width = self.resized_size(*frame.shape[:2])
        if (height, width) == frame.shape[:2]:
            return frame
        image = Image.fromarray(frame)
        return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))

    def normalise(self, frames: Tensor) -> Tensor:
        """The other steps, wherever the frames are.

        Args:
            frames: (t, H', W', 3) uint8, resized.

        Returns:
            (t, 3, Hp, Wp) float32, in memory with channels last.
        """
        if self.mean.device != frames.device:  # they are copied there once
            self.mean, self.std = self.mean.to(frames.device), self.std.to(frames.device)
        pixels = frames.permute(0, 3, 1, 2).float()  # (t, 3, H', W')
        pixels = (pixels - self.mean) / self.std
        height, width = pixels.shape[2:]
        return F.pad(pixels, (0, -width % self.divisor, 0, -height % self.divisor))

    def geometry(self, height: int, width: int) -> Geometry:
        """The sizes that frames of a size take."""
        new_height, new_width = self.resized_size(height, width)
        return Geometry(
            height=height,
            width=width,
            resized_height=new_height,
            resized_width=new_width,
            padded_height=new_height + -new_height % self.divisor,
            padded_width=new_width + -new_width % self.divisor,
            stride=self.stride,
        )

    def resized_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after resizing, before padding."""
        if self.square is not None:
            return self.square, self.square
        if self.short is None:
            return height, width
        scale = self.short / min(height, width)
        # Each step in the reference's order: floating-point ties round as they do there.
        if height < width:
            new_height, new_width = float(self.short), scale * width
        else:
            new_height, new_width = scale * height, float(self.short)
        longest = max(new_height, new_width)
        if self.max is not None and longest > self.max:
            new_height *= self.max / longest
            new_width *= self.max / longest
        # A very long and thin frame keeps at least one pixel.
        return max(int(new_height + 0.5), 1), max(int(new_width + 0.5), 1)
