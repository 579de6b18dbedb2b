"""Masks as PNG files in a folder or a zip: their names, and finding, reading and writing them.

At the original size. MeViS and Ref-YouTube-VOS: ``<folder>/<video>/<expression>/<frame>.png``, 0
and 255. Ref-DAVIS17: ``<folder>/anno_{0..3}/<video>/<frame>.png``, object ids with a palette.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from cache_schema.host import files
from cache_schema.host.cli import InputError
from cache_schema.host.zips import open_zip, read_entry
from cache_schema.names import escape
from train.evaluation.pngs.png import PNG, object_pixels


def mask_name(video: str, expression: str, frame: str) -> str:
    """Where an expression's mask lies in its folder.

    Ids that are no plain file names are escaped as in the cache, so that none leaves the folder.
    """
    return f"{_plain(video)}/{_plain(expression)}/{_plain(frame)}.png"


def map_name(annotator: int, video: str, frame: str) -> str:
    """Where an annotator's map of objects lies in its folder."""
    return f"anno_{annotator}/{_plain(video)}/{_plain(frame)}.png"


def is_plain(part: str) -> bool:
    """Whether an id can be the name of a file or folder as it is, on the disk and in a zip."""
    return part.isprintable() and part not in ("", ".", "..") and not set(part) & set("/\\:")


def _plain(part: str) -> str:
    return part if is_plain(part) else escape(part)


def write_png(path: Path, data: bytes) -> None:
    """Write a PNG, and the folders above it. Raises InputError: the file cannot be written."""
    files.write(path, data, durable=False)


def read_mask(path: Path) -> np.ndarray:
    """Read a mask, (H, W) bool: what is not zero.

    Raises:
        InputError: the file is missing or not an image.
    """
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise InputError(f"the mask {path} cannot be read ({error}); predict again") from None
    try:
        return object_pixels(PNG.parse(data))
    except ValueError as error:
        raise InputError(f"the mask {path} is not usable ({error}); predict again") from None


class MaskFiles:
    """The files of a folder or of a zip, by name; nothing is ever unpacked to disk.

    Args:
        path: the folder or the zip.

    Raises:
        InputError: it is neither.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._zip = path, None
        if path.is_dir():
            return
        try:
            self._zip = open_zip(path)
        except (OSError, ValueError) as error:
            found = "does not exist" if not path.exists() else f"cannot be read ({error})"
            raise InputError(
                f"{path} is neither a folder nor a zip file: it {found}; give the masks"
            ) from None

    def has_folder(self, name: str) -> bool:
        """Whether there is a folder of this name at the top."""
        if self._zip is None:
            return (self.path / name).is_dir()
        return any(entry.startswith(f"{name}/") for entry in self._zip.NameToInfo)

    def names(self) -> list[str]:
        """The files of a zip as they are named in it, folders left out.

        Raises:
            InputError: it is a folder.
        """
        if self._zip is None:
            raise InputError(f"{self.path} is a folder; give the zip that is to be handed in")
        return [info.filename for info in self._zip.infolist() if not info.is_dir()]

    def read(self, name: str) -> bytes | None:
        """Content of a file; None if there is none of that name.

        Raises:
            InputError: it cannot be read.
        """
        try:
            if self._zip is None:
                with open(f"{self.path}/{name}", "rb") as file:
                    return file.read()
            info = self._zip.NameToInfo.get(name)
            if info is None:
                return None
            return read_entry(self._zip, info)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            raise InputError(f"the mask {self.path / name} cannot be read ({error})") from None

    def pixels(
        self, name: str, decode: Callable[[PNG], np.ndarray], size: tuple[int, int] | None
    ) -> np.ndarray | None:
        """What is in a PNG, to be scored; None if there is none of that name.

        Args:
            decode: `object_pixels` or `labels`.
            size: (H, W) that it has to have; None takes any.

        Raises:
            InputError: it is broken, of another size, or not to be decoded like that.
        """
        data = self.read(name)
        if data is None:
            return None
        try:
            png = PNG.parse(data)
            if size is not None and png.size != size:
                raise ValueError("it is {}x{} pixels, the video {}x{}".format(*png.size, *size))
            return decode(png)
        except ValueError as error:
            raise InputError(
                f"the mask {self.path / name} cannot be scored: {error}; make it again"
            ) from None


def what_is_missing(
    kinds: tuple[str, str, str], video: str, rows: Mapping[str, Sequence[str]], frames: int
) -> Iterator[tuple[str, str]]:
    """Kind and name of what a video's files lack: all of it, else whole rows, else frames.

    Args:
        rows: name of each row to the names of the frames that it lacks.
        frames: how many a row has to have.
    """
    whole = {name for name, gaps in rows.items() if len(gaps) == frames}
    if len(whole) == len(rows):
        yield kinds[0], video
        return
    for name, gaps in rows.items():
        yield from [(kinds[1], name)] if name in whole else ((kinds[2], gap) for gap in gaps)


def open_masks(path: Path) -> MaskFiles:
    """`MaskFiles`, opened once a process: a file that a fork shares has one place to read from."""
    return _open(path, os.getpid(), path.stat().st_mtime_ns if path.exists() else 0)


@lru_cache(maxsize=1)
def _open(path: Path, process: int, changed: int) -> MaskFiles:
    return MaskFiles(path)
