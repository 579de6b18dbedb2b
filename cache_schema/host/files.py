"""How this project writes files: a file appears whole, and on the disk, or not at all.

What cannot be written, for want of room or of the right to, is one sentence, and no temporary file
is left.
"""

import glob
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cache_schema.host.cli import InputError

ADVICE = "check the folder and the space left on it, or give another"


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """A temporary path, which takes the name of ``path`` when the block ends well.

    Args:
        path: of the new file; folders above it are made.
        durable: wait until it is on the disk.

    Raises:
        InputError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():  # a folder, or a device, which nobody replaces
            raise OSError("it is no file")
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        _remove_leftovers(path.parent, glob.escape(path.name))
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        yield temporary
        if durable:
            _sync(temporary, os.O_RDWR)
        os.replace(temporary, path)
        if durable:
            sync_folder(path.parent)
    except OSError as error:
        # An error of writing names no other file; one of what the block reads does.
        if error.filename not in (None, str(temporary), temporary, str(path)):
            raise
        raise unwritable(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def output(path: str, ending: str, source: str | None = None) -> Path:
    """The file that a command writes, by its option ``--out``.

    Raises:
        InputError: it ends otherwise, or is the file that is read.
    """
    out = Path(path)
    if out.suffix.lower() != ending:
        raise InputError(f"--out {path}: give a file that ends in {ending}")
    if out.exists() and source and out.samefile(source):
        raise InputError(f"--out {path} is what is read, and would be lost: give another file")
    return out


def write(path: Path, data: bytes | str, *, durable: bool = True) -> None:
    """Write a file in one piece, see `replacing`; text as UTF-8."""
    with replacing(path, durable=durable) as temporary, open(temporary, "wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)


def append(path: Path, line: str) -> None:
    """Append a line of text to a log; `InputError` if that fails."""
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{line}\n")
    except OSError as error:
        raise unwritable(path, error) from error


def make_folder(path: Path) -> None:
    """Make a folder that will be written to; `InputError` if it cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
        _remove_leftovers(path, "*")
    except OSError as error:
        raise unwritable(path, error) from error


def sync_folder(path: Path) -> None:
    """Make new and renamed names in a folder durable."""
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def unwritable(path: Path, error: OSError) -> InputError:
    """What is said of a file or folder that cannot be written."""
    return InputError(f"{path} cannot be written ({error.strerror or error}); {ADVICE}")


def _remove_leftovers(folder: Path, name: str) -> None:
    """Remove what killed processes left of the files whose names match."""
    for left in folder.glob(f".{name}.*.tmp"):
        process = left.name.split(".")[-2]
        if process.isdigit() and not _lives(int(process)):
            left.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
