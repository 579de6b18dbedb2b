"""PNG files of masks: what is wrong with one, what is object in it, and how ours are written."""

import io
import struct
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from cache_schema.host.limits import beyond

Image.MAX_IMAGE_PIXELS = None  # our own limit is looked at before anything is decoded


@dataclass(frozen=True)
class PNG:
    """A PNG file whose chunks are whole.

    Attributes:
        size: (H, W).
        mode: as Pillow calls it.
    """

    data: bytes
    size: tuple[int, int]
    mode: str

    @classmethod
    def parse(cls, data: bytes) -> "PNG":
        """Look at the header and the checksums.

        Raises:
            ValueError: no PNG, cut short, a wrong checksum, or of more pixels than are read.
        """
        if not data.startswith(b"\x89PNG\r\n\x1a\n"):
            raise ValueError("it is not a PNG file")
        try:
            with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
                (width, height), mode = image.size, image.mode
                image.verify()
        except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
            # Pillow's own words for a header that it cannot read name an object in memory.
            unknown = isinstance(error, Image.UnidentifiedImageError)
            reason = "its header" if unknown else error
            raise ValueError(f"it is cut short or damaged ({reason})") from None
        if much := beyond(width * height, "DMVS_MAX_PIXELS"):
            raise ValueError(f"its header says {height}x{width}, {much}")
        return cls(data, (height, width), mode)


class Undecided(ValueError):
    """A whole image of which it cannot be told what is object in it."""


def object_pixels(png: PNG) -> np.ndarray:
    """What is object in a mask of any mode, (H, W) bool: what is not zero, as it is stored.

    Transparency counts where the colours are all the same, indices where no colour is.

    Raises:
        ValueError: the image data are broken; `Undecided`: two readings of it differ.
    """
    if png.mode == "P":
        return _of_indices(png)
    image = _decoded(png, cv2.IMREAD_UNCHANGED)
    if image.ndim == 2:
        return image != 0
    coloured = (image[..., :3] != 0).any(-1)
    opaque = image[..., 3] != 0 if image.shape[-1] == 4 else np.ones_like(coloured)
    if opaque.all() or (opaque == coloured).all():
        return coloured
    if coloured.all() or not coloured.any():
        return opaque
    raise Undecided("its colours and its transparency say different masks; save it as 0 and 255")


def _of_indices(png: PNG) -> np.ndarray:
    indices, palette = _indices(png)
    colours = np.zeros(256, bool)
    colours[: len(palette)] = palette.any(1)
    coloured, numbered = colours[indices], indices != 0
    if not coloured.any() or (coloured == numbered).all():
        return numbered
    raise Undecided("its palette and its indices say different masks; save it as 0 and 255")


def grey_values(png: PNG) -> np.ndarray:
    """The image in grey, (H, W) uint8, as the benchmarks' evaluators read masks of any mode.

    Raises:
        ValueError: the image data are broken.
    """
    return _decoded(png, cv2.IMREAD_GRAYSCALE)


def labels(png: PNG) -> np.ndarray:
    """Object ids, (H, W) uint8: palette indices or grey values.

    Raises:
        ValueError: neither palette nor grey, or the image data are broken.
    """
    if png.mode not in ("P", "L"):
        raise ValueError(f"it has mode {png.mode}, not a palette")
    return _indices(png)[0]


def _decoded(png: PNG, how: int) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(png.data, np.uint8), how)
    if image is None:
        raise ValueError("its image data are broken")
    return image


def _indices(png: PNG) -> tuple[np.ndarray, np.ndarray]:
    """Values as they are stored, (H, W) uint8, and the palette (colours, 3)."""
    _decoded(png, cv2.IMREAD_UNCHANGED)  # Pillow takes an image whose last rows are missing
    try:
        with Image.open(io.BytesIO(png.data), formats=["PNG"]) as image:
            palette = image.getpalette("RGB") if png.mode == "P" else None
            return np.asarray(image), np.array(palette or [0, 0, 0]).reshape(-1, 3)
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"its image data are broken ({error})") from None


def encode_mask(mask: np.ndarray) -> bytes:
    """A mask (H, W) bool as a PNG of mode L, 0 and 255.

    Without filters and with run lengths only: the smallest and quickest for masks.
    """
    how = [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
    how += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE]
    return cv2.imencode(".png", mask.astype(np.uint8) * 255, how)[1].tobytes()


def encode_labels(ids: np.ndarray) -> bytes:
    """Object ids (H, W) uint8 as a palette PNG in the colours of DAVIS."""
    image = Image.fromarray(np.ascontiguousarray(ids, np.uint8), mode="L")
    image.putpalette(_colours())
    made = io.BytesIO()
    image.save(made, "PNG")
    return made.getvalue()


def _colours() -> bytes:
    """PASCAL VOC's colours, which DAVIS uses: the bits of the index, spread over red green blue."""
    index = np.arange(256)
    channels = [
        sum(((index >> (3 * bit + channel)) & 1) << (7 - bit) for bit in range(3))
        for channel in range(3)
    ]
    return np.stack(channels, axis=1).astype(np.uint8).tobytes()
