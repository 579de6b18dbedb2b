"""Images that lie in a `.tar` or `.zip` as it was downloaded, read from there."""

import errno
import io
import os
import tarfile
import threading
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from cache_schema.host.cli import InputError
from cache_schema.host.limits import beyond
from cache_schema.host.zips import open_zip, read_entry

#: Endings that are read where they lie; what is compressed as a whole has to be unpacked.
KINDS = (".tar", ".zip")


class Archive:
    """Files in an archive, by the last two parts of their names: ``<video>/<frame>.jpg``.

    Nothing is unpacked: bytes are read from their place. Threads may share an archive, and so may
    forked processes.

    Args:
        path: of the archive.

    Raises:
        InputError: it is none, or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip: tuple[int, zipfile.ZipFile] | None = None
        self._lock = threading.Lock()
        try:
            if path.suffix == ".zip":
                found = {i.filename: i for i in self._opened().infolist() if not i.is_dir()}
            else:
                with tarfile.open(path, "r:") as tar:  # refuses what is compressed as a whole
                    plain = [m for m in tar if m.isreg() and not m.issparse()]
                    found = {m.name: (m.offset_data, m.size) for m in plain}
        except (OSError, tarfile.TarError, EOFError, ValueError, OverflowError) as error:
            raise InputError(
                f"{path} cannot be read as an archive ({error}); download it again, or unpack it"
            ) from None
        # As in any archive, the last of two files of one name counts.
        self._names: dict[str, list[str]] = {}
        for name in found:
            self._names.setdefault("/".join(PurePosixPath(name).parts[-2:]), []).append(name)
        self._found = found

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def read(self, name: str) -> bytes:
        """The bytes of a file.

        Raises:
            OSError: it is not there, there are two in different folders, or it cannot be read.
        """
        names = self._names.get(name)
        if names is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"{self.path}:{name}")
        if len(names) > 1:
            raise OSError(errno.EEXIST, f"both {names[0]} and {names[1]} could be meant")
        place = self._found[names[0]]
        if isinstance(place, zipfile.ZipInfo):
            return read_entry(self._opened(), place)
        offset, size = place
        if much := beyond(size, "DMVS_MAX_UNPACKED"):
            raise OSError(errno.EFBIG, f"it holds {much}")
        data = os.pread(self._file, size, offset)
        if len(data) < size:
            raise OSError(errno.EIO, "the archive is cut short")
        return data

    @cached_property
    def _file(self) -> int:
        """A descriptor for `pread`, which has no place of its own to fight for."""
        return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)

    def _opened(self) -> zipfile.ZipFile:
        """The zip of this process: one that was forked shares its parent's place in the file."""
        with self._lock:
            if self._zip is None or self._zip[0] != os.getpid():
                self._zip = os.getpid(), open_zip(self.path)
            return self._zip[1]


@dataclass(frozen=True)
class Inside:
    """A file in an archive, with what readers of images ask of a path."""

    archive: Archive
    name: str

    def __str__(self) -> str:
        return f"{self.archive.path}:{self.name}"

    def read_bytes(self) -> bytes:
        """As `Path.read_bytes`."""
        return self.archive.read(self.name)

    def open(self, mode: str = "rb") -> io.BytesIO:
        """As `Path.open`, for reading bytes."""
        return io.BytesIO(self.read_bytes())


def find_archive(folder: Path, name: str) -> Archive | None:
    """The archive ``name`` of a folder, with any of the endings `KINDS`; None if there is none."""
    for kind in KINDS:
        if (path := folder / f"{name}{kind}").is_file():
            return Archive(path)
    return None
