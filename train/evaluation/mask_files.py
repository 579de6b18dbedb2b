"""Masks that somebody predicted, as PNG files in a folder or a zip: finding and reading them."""

import os
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path

from cache_schema.host.cli import InputError

MAX_BYTES = 1 << 28  # of one file; a zip may claim anything


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
            self._zip = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
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
            if info.file_size > MAX_BYTES:
                raise ValueError(f"{info.file_size} bytes are too many for a mask")
            return self._zip.read(info)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (
            OSError, ValueError, RuntimeError, NotImplementedError, EOFError,
            zipfile.BadZipFile, zlib.error,
        ) as error:  # fmt: skip
            raise InputError(f"the mask {self.path / name} cannot be read ({error})") from None


def open_masks(path: Path) -> MaskFiles:
    """`MaskFiles`, opened once a process: a file that a fork shares has one place to read from."""
    return _open(path, os.getpid(), path.stat().st_mtime_ns if path.exists() else 0)


@lru_cache(maxsize=1)
def _open(path: Path, process: int, changed: int) -> MaskFiles:
    return MaskFiles(path)
