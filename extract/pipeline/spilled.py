"""What a video's frames said and its end needs, in a file: memory does not grow with the video."""

import os
import tempfile
from pathlib import Path

import numpy as np

from cache_schema.host.cli import InputError


class Spilled:
    """An array a frame, in a file without a name that goes when this goes.

    Attributes:
        frames, shape: T, and the shape of a frame's array.

    Args:
        folder: on a disk with room for the arrays; by default that of temporary files (``TMPDIR``).

    Raises:
        InputError: there is no room, now or later.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or tempfile.gettempdir()
        self.shape: tuple[int, ...] = ()
        self.frames = 0
        try:
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        except OSError as error:
            raise self._refused(error) from error

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()

    def append(self, frames: np.ndarray) -> None:
        """The next frames, (t, ...) float32."""
        self.shape = frames.shape[1:]
        try:
            left = np.ascontiguousarray(frames).reshape(-1).view(np.uint8)
            while len(left):
                left = left[self._file.write(left) :]
        except OSError as error:
            raise self._refused(error) from error
        self.frames += len(frames)

    def __getitem__(self, t: int) -> np.ndarray:
        """Frame t, (...) float32; from any thread."""
        frame = np.empty(self.shape, np.float32)
        os.preadv(self._file.fileno(), [frame], t * frame.nbytes)
        return frame

    def _refused(self, error: OSError) -> InputError:
        return InputError(
            f"{self._folder} cannot hold what a video's frames said until it ends: "
            f"{error.strerror}; make room there (TMPDIR names the folder of temporary files)"
        )
