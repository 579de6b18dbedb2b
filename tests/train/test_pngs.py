"""PNGs of masks: whatever wrote them, and what is said of broken files."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cache_schema.host.limits import most
from train.evaluation.pngs import png as codec

FILTERS = {
    "none": cv2.IMWRITE_PNG_FILTER_NONE, "sub": cv2.IMWRITE_PNG_FILTER_SUB,
    "up": cv2.IMWRITE_PNG_FILTER_UP, "average": cv2.IMWRITE_PNG_FILTER_AVG,
    "paeth": cv2.IMWRITE_PNG_FILTER_PAETH, "mixed": cv2.IMWRITE_PNG_ALL_FILTERS,
}  # fmt: skip


def _by_opencv(values: np.ndarray, kind: int) -> bytes:
    return cv2.imencode(".png", values, [cv2.IMWRITE_PNG_FILTER, kind])[1].tobytes()


def _by_pillow(image: Image.Image, **how: int) -> bytes:
    made = io.BytesIO()
    image.save(made, "PNG", **how)
    return made.getvalue()


def _decoded(data: bytes) -> np.ndarray:
    return codec.object_pixels(codec.PNG.parse(data))


@settings(max_examples=60)
@given(st.data())
def test_masks_of_any_writer_come_back(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 150))
    rng = np.random.default_rng(data.draw(st.integers(0, 9999)))
    value = data.draw(st.sampled_from([255, 1, 128, 254]))
    if data.draw(st.booleans()):
        mask = rng.random((height, width)) < data.draw(st.sampled_from([0, 0.02, 0.5, 1]))
    else:
        mask = np.zeros((height, width), bool)
        y, x = rng.integers(0, height), rng.integers(0, width)
        mask[y : y + rng.integers(1, 9), x : x + rng.integers(1, 99)] = True
    values = mask * np.uint8(value)
    for kind in FILTERS.values():
        np.testing.assert_array_equal(_decoded(_by_opencv(values, kind)), mask)
    np.testing.assert_array_equal(_decoded(_by_pillow(Image.fromarray(values))), mask)
    np.testing.assert_array_equal(_decoded(codec.encode_mask(mask)), mask)


@pytest.mark.parametrize("kind", FILTERS)
def test_grey_values_are_no_mask_of_two(kind: str) -> None:
    """Values between, and differences that would only seem to switch on and off."""
    rng = np.random.default_rng(0)
    for palette in ([0, 255, 254], [0, 1, 2], [0, 7, 255]):
        values = rng.choice(np.uint8(palette), (20, 70))
        np.testing.assert_array_equal(_decoded(_by_opencv(values, FILTERS[kind])), values > 0)


def test_masks_of_other_modes_are_read_as_opencv_reads_them() -> None:
    mask = np.zeros((12, 20), np.uint8)
    mask[3:7, 4:15] = 1
    grey = Image.fromarray(mask * 255)
    palette = Image.fromarray(mask)
    palette.putpalette([0, 0, 0, 128, 0, 0])
    for image in (grey.convert("1"), grey.convert("RGB"), grey.convert("LA"), palette):
        np.testing.assert_array_equal(_decoded(_by_pillow(image)), mask > 0)


@pytest.mark.parametrize("ids", [[0, 1, 2], [0, 254, 255], list(range(256))])
def test_labels_come_back_whatever_the_depth(ids: list[int]) -> None:
    values = np.random.default_rng(0).choice(np.uint8(ids), (11, 13))
    png = codec.PNG.parse(codec.encode_labels(values))
    assert (png.mode, png.size) == ("P", (11, 13))
    np.testing.assert_array_equal(codec.labels(png), values)
    few = Image.fromarray(values % 4)
    few.putpalette([i for i in range(4) for _ in range(3)])
    small = codec.PNG.parse(_by_pillow(few))
    assert small.mode == "P"
    np.testing.assert_array_equal(codec.labels(small), values % 4)


def test_the_palette_is_that_of_davis() -> None:
    image = Image.open(io.BytesIO(codec.encode_labels(np.zeros((2, 2), np.uint8))))
    assert image.getpalette()[:12] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]


def test_broken_files_are_told_apart() -> None:
    whole = codec.encode_mask(np.eye(8, 9, dtype=bool))
    for data, words in (
        (b"", "not a PNG"),
        (b"GIF89a" + whole, "not a PNG"),
        (whole[:20], "cut short"),
        (whole[:-12], "cut short"),
        (whole[:-20] + b"\0" + whole[-19:], "checksum"),
        (whole[:8] + whole[33:], "its header"),
    ):
        with pytest.raises(ValueError, match=words):
            codec.PNG.parse(data)
    huge = _by_pillow(Image.new("1", (most("DMVS_MAX_PIXELS") + 1, 1)))
    with pytest.raises(ValueError, match="its header says"):
        codec.PNG.parse(huge)


#: Of an interlaced image, pass by pass: the first row and column, and the steps to the next.
ADAM7 = (
    (0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)
)  # fmt: skip
MASK = np.zeros((5, 9), bool)
MASK[1:3, 2:7] = True


def _in_palette(values: np.ndarray, *colours: int) -> bytes:
    image = Image.fromarray(values.astype(np.uint8))
    image.putpalette([channel for colour in colours for channel in (colour,) * 3])
    return _by_pillow(image)


def _with_alpha(colour: np.ndarray, alpha: np.ndarray, kind: type = np.uint8) -> bytes:
    channels = [colour, colour, colour, alpha]
    return cv2.imencode(".png", np.dstack([c.astype(kind) for c in channels]))[1].tobytes()


def _interlaced(values: np.ndarray) -> bytes:
    rows = b""
    for y, x, down, right in ADAM7:
        part = values[y::down, x::right]
        rows += b"".join(b"\0" + row.tobytes() for row in part if part.shape[1])
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 8, 0, 0, 0, 1)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


FULL = np.full(MASK.shape, 255)
GUISES = {
    "grey of 1": lambda: _by_opencv(MASK.astype(np.uint8), 0),
    "16 bits of 1": lambda: _by_opencv(MASK.astype(np.uint16), 0),
    "16 bits of 255": lambda: _by_opencv(MASK.astype(np.uint16) * 255, 0),
    "16 bits of 65535": lambda: _by_opencv(MASK.astype(np.uint16) * 65535, 0),
    "1 bit": lambda: _by_pillow(Image.fromarray(MASK)),
    "blue of 1": lambda: cv2.imencode(".png", np.dstack([MASK, 0 * MASK, 0 * MASK]) * np.uint8(1))[
        1
    ].tobytes(),
    "black, transparent": lambda: _with_alpha(0 * FULL, MASK * 255),
    "white, transparent": lambda: _with_alpha(FULL, MASK * 255),
    "opaque": lambda: _with_alpha(MASK * 255, FULL),
    "both": lambda: _with_alpha(MASK * 255, MASK * 255),
    "16 bits, transparent": lambda: _with_alpha(0 * FULL, MASK * 1, np.uint16),
    "palette": lambda: _in_palette(MASK, 0, 128),
    "black palette": lambda: _in_palette(MASK, 0, 0),
    "interlaced": lambda: _interlaced(MASK.astype(np.uint8) * 255),
}


@pytest.mark.parametrize("guise", GUISES)
def test_stored_values_decide_what_is_object(guise: str) -> None:
    np.testing.assert_array_equal(_decoded(GUISES[guise]()), MASK)


@pytest.mark.parametrize(
    "data",
    [_in_palette(MASK, 255, 0), _in_palette(MASK * 2, 128, 0, 128), _with_alpha(MASK, MASK[::-1])],
)
def test_what_cannot_be_decided_is_refused(data: bytes) -> None:
    with pytest.raises(codec.Undecided, match="different masks"):
        _decoded(data)


def test_image_data_that_are_not_those_of_the_header_are_broken() -> None:
    """All checksums are right, yet rows are missing."""
    whole = codec.encode_mask(MASK)
    rows = zlib.compress(bytes(10 * 4))
    chunk = b"IDAT" + rows
    data = whole[:33] + struct.pack(">I", len(rows)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    png = codec.PNG.parse(data + whole[-12:])
    for read in (codec.object_pixels, codec.grey_values, codec.labels):
        with pytest.raises(ValueError, match="image data are broken"):
            read(png)
