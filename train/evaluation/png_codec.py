"""PNG files of masks: read down to their bytes, so that what is wrong can be said, and written.

Most of the time of scoring masks on disk goes into decoding them, and most of that into undoing
the PNG filters byte by byte. In a mask of 0 and 255 a filtered byte only says whether a pixel is
like its neighbour, so the usual filters are undone here on 64 pixels at once; all other files go
through OpenCV. The format: https://www.w3.org/TR/png-3/.
"""

import io
import struct
import zlib
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from train.evaluation import bits, jf

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_PIXELS = 1 << 26
MODES = {0: "L", 2: "RGB", 3: "P", 4: "LA", 6: "RGBA"}  # by colour type
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
PALETTE = 3
SUB, UP = 1, 2  # filters; 0 is none
#: Of an interlaced image, pass by pass: the first row and column, and the steps to the next.
ADAM7 = (
    (0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)
)  # fmt: skip


@dataclass(frozen=True)
class PNG:
    """A PNG file whose chunks are whole.

    Attributes:
        size: (H, W).
        mode: as Pillow calls it; with the depth where that is not 8 (or at most 8, with a palette).
    """

    data: bytes
    size: tuple[int, int]
    depth: int
    colour: int
    interlaced: bool
    compressed: bytes

    @classmethod
    def parse(cls, data: bytes) -> "PNG":
        """Read the chunks.

        Raises:
            ValueError: no PNG, cut short, a wrong checksum, or beyond `MAX_PIXELS`.
        """
        if not data.startswith(SIGNATURE):
            raise ValueError("it is not a PNG file")
        at, header, compressed, kind = len(SIGNATURE), b"", [], b""
        while kind != b"IEND":
            if at + 12 > len(data):
                raise ValueError("it is cut short")
            length, kind = struct.unpack_from(">I4s", data, at)
            end = at + 8 + length
            if end + 4 > len(data):
                raise ValueError("it is cut short")
            if zlib.crc32(data[at + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
                raise ValueError("a checksum in it is wrong")
            if kind == b"IHDR":
                header = data[at + 8 : end]
            elif kind == b"IDAT":
                compressed.append(data[at + 8 : end])
            at = end + 4
        if len(header) != 13:
            raise ValueError("it has no header")
        width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
        if not 0 < width * height <= MAX_PIXELS or colour not in MODES:
            raise ValueError(f"its header says {height}x{width} pixels of colour type {colour}")
        return cls(data, (height, width), depth, colour, interlaced > 0, b"".join(compressed))

    @property
    def mode(self) -> str:
        mode = MODES[self.colour]
        return mode if self.depth == 8 or mode == "P" else f"{mode} of {self.depth} bits"

    def inflated(self) -> bytes:
        """The filtered rows, of every pass of an interlaced image one after the other.

        Raises:
            ValueError: the image data are broken.
        """
        (height, width), bits_each = self.size, self.depth * CHANNELS[self.colour]
        size = 0
        for y, x, down, right in ADAM7 if self.interlaced else ((0, 0, 1, 1),):
            rows, columns = -(-(height - y) // down), -(-(width - x) // right)
            if rows > 0 and columns > 0:
                size += rows * (1 + (columns * bits_each + 7) // 8)
        stream = zlib.decompressobj()
        try:
            raw = stream.decompress(self.compressed, size + 1)
        except zlib.error as error:
            raise ValueError(f"its image data are broken ({error})") from None
        if len(raw) != size or not stream.eof:
            raise ValueError("its image data are not the rows of its header")
        return raw

    def filtered(self) -> np.ndarray:
        """The inflated rows of an image that is not interlaced: (H, 1 + bytes) uint8.

        The first byte of each is its filter.

        Raises:
            ValueError: the image data are broken.
        """
        return np.frombuffer(self.inflated(), np.uint8).reshape(self.size[0], -1)


class MaskDecoder:
    """Decodes masks of one origin, packed as `train.evaluation.jf.Outline` takes them.

    Whoever writes masks writes all of them in one way: once that way turned out not to be the
    simple one, OpenCV is asked at once.
    """

    def __init__(self) -> None:
        self._simple = 0

    def decode(self, png: PNG) -> np.ndarray:
        """What is not black: (H, `jf.row_words`) uint64.

        Raises:
            ValueError: the image data are broken.
        """
        words = jf.row_words(*png.size)
        if png.depth == 8 and png.colour == 0 and not png.interlaced and self._simple >= 0:
            packed = _unfiltered(png.filtered(), words)
            self._simple += 1 if packed is not None else -2
            if packed is not None:
                return packed
        return bits.pack(object_pixels(png), words)


def _unfiltered(rows: np.ndarray, words: int) -> np.ndarray | None:
    """A mask of 0 and 255 from rows filtered with none, Sub or Up; None if it is anything else.

    A filtered byte is the difference to a neighbour, modulo 256: 255 switches a pixel on, 1 off.
    Differences within a row (Sub) add up along it, those to the row above (Up) down the rows.
    """
    kinds, content = rows[:, 0], rows[:, 1:]
    if kinds.max() > UP:
        return None
    on, off = bits.pack(content == 255, words), bits.pack(content == 1, words)
    change = on | off
    if bits.count(change) != np.count_nonzero(content):
        return None
    width = content.shape[1]
    along = bits.parity(change) & bits.first(width, words)
    mask = np.where((kinds == SUB)[:, None], along, change)
    if (kinds == UP).any():
        total = np.bitwise_xor.accumulate(mask, axis=0)
        # Of the last row at or above each one that does not look up: that is where sums begin.
        start = np.maximum.accumulate(np.where(kinds == UP, 0, np.arange(len(kinds))))
        before = np.where((start > 0)[:, None], total[start - 1], 0).astype(np.uint64)
        mask = total ^ before
    # Only then are the values really 0 and 255, and not sums beyond.
    return None if (on & ~mask).any() or (off & mask).any() else mask


class Undecided(ValueError):
    """A whole image of which it cannot be told what is object in it."""


def object_pixels(png: PNG) -> np.ndarray:
    """What is object in a mask of any mode, (H, W) bool: what is not zero, as it is stored.

    Transparency counts where the colours are all the same, indices where no colour is.

    Raises:
        ValueError: the image data are broken; `Undecided`: two readings of it differ.
    """
    if png.colour == PALETTE:
        return _of_indices(png)
    image = cv2.imdecode(np.frombuffer(png.data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise ValueError("its image data are broken")
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
    try:
        with Image.open(io.BytesIO(png.data)) as image:
            indices = np.asarray(image)
            palette = np.array(image.getpalette("RGB") or [0, 0, 0]).reshape(-1, 3)
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"its image data are broken ({error})") from None
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
    image = cv2.imdecode(np.frombuffer(png.data, np.uint8), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise ValueError("its image data are broken")
    return image


def labels(png: PNG) -> np.ndarray:
    """Object ids, (H, W) uint8: palette indices or grey values.

    Raises:
        ValueError: neither palette nor grey, or the image data are broken.
    """
    if png.mode not in ("P", "L"):
        raise ValueError(f"it has mode {png.mode}, not a palette")
    try:
        with Image.open(io.BytesIO(png.data)) as image:
            return np.asarray(image)
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
