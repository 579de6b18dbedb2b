"""Checksums of datasets: of the bytes of their values, however HDF5 keeps them."""

import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from cache_schema import checksums
from cache_schema.host.cli import InputError


@pytest.mark.parametrize("chunks", [None, (1, 3, 5), (2, 3, 2)], ids=["whole", "rows", "others"])
@pytest.mark.parametrize("dtype", ["float16", "int8", "bool", "<u4", ">f4"])
@pytest.mark.parametrize("piece", [64, 1 << 24], ids=["in pieces", "at once"])
def test_a_checksum_is_that_of_the_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunks: tuple | None, dtype: str, piece: int
) -> None:
    monkeypatch.setattr(checksums, "PIECE", piece)
    array = np.random.default_rng(0).integers(0, 2, (7, 3, 5)).astype(dtype)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = file.create_dataset("a", data=array, chunks=chunks)
        assert checksums.crc32(dataset) == zlib.crc32(array.tobytes())
    with h5py.File(tmp_path / "a.h5") as file:
        assert checksums.crc32(file["a"]) == zlib.crc32(array.tobytes())


@pytest.mark.parametrize("size", [0, 1, 2, 7, 1000])
def test_checksums_of_pieces_make_that_of_the_whole(size: int) -> None:
    pieces = np.random.default_rng(size).integers(0, 256, (5, size), np.uint8)
    crcs = [zlib.crc32(piece) for piece in pieces]
    for count in range(6):
        assert checksums.joined(crcs[:count], size) == zlib.crc32(pieces[:count].tobytes())


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0)])
def test_nothing_has_the_checksum_of_nothing(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        assert checksums.crc32(file.create_dataset("a", shape, "f2")) == 0


def test_a_row_that_was_never_written_is_bad_input(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = file.create_dataset("a", (2, 3), "f2", chunks=(1, 3))
        dataset[0] = 1
        with pytest.raises(InputError, match=r"a\.h5:/a cannot be read"):
            checksums.crc32(dataset)
    with (
        h5py.File(tmp_path / "a.h5") as file,
        pytest.raises(InputError, match=r"a\.h5:/a cannot be read"),
    ):
        checksums.crc32(file["a"])
