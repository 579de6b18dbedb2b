"""What a checkpoint's pickle may ask for, looked at before it is loaded.

`torch.load(weights_only=True)` runs no code of a file, but allows ``bytearray``, and so any amount
of memory for a few bytes; and a zip may hold a few compressed bytes that become as many.
"""

import io
import pickletools
import zipfile
from pathlib import Path

from cache_schema.host.cli import InputError
from cache_schema.host.limits import beyond, most

REFUSED = "bytearray"


def check_pickle(path: Path) -> None:
    """Refuse a file of torch's that would ask for memory of its own choice.

    Args:
        path: a zip as torch writes it, or an old file that starts with pickles.

    Raises:
        InputError: it would. Anything else that is wrong is left to torch to find.
        OSError: it cannot be read.
    """
    try:
        pickles = _pickles(path)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError, RuntimeError):
        return
    for data in pickles:
        if REFUSED in _names(data):
            raise InputError(f"{path} asks for memory of its own choice ({REFUSED}); refused")


def _pickles(path: Path) -> list[bytes]:
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            return [file.read(most("DMVS_MAX_PICKLE"))]
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        packed = [e.filename for e in entries if e.compress_type != zipfile.ZIP_STORED]
        own = [e for e in entries if e.filename.endswith(".pkl")]
        if packed:
            raise InputError(f"{path} holds compressed parts, which torch never writes; refused")
        if much := beyond(sum(e.file_size for e in own), "DMVS_MAX_PICKLE"):
            raise InputError(f"{path} holds {much}; refused")
        return [archive.read(entry) for entry in own]


def _names(data: bytes) -> set[str]:
    """Every text in the pickles at the start of some bytes, names of what they call among them."""
    found: set[str] = set()
    stream = io.BytesIO(data)
    try:
        while True:  # an old file is several pickles, then numbers
            for _, argument, _ in pickletools.genops(stream):
                if isinstance(argument, str):
                    found.update(argument.split())
    except Exception:  # what follows is no pickle
        return found
