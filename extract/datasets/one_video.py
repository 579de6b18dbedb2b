"""One video without expressions: a file of any usual kind, or a folder of images."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2

from cache_schema.fingerprint import file_sha256
from cache_schema.host.cli import InputError
from cache_schema.records import Facts
from extract.datasets.folder import VideoFolder, video_file
from extract.datasets.frames import FrameSource, ImageFiles, VideoDecoder
from extract.datasets.records import Dataset, SourceVideo

#: Frames a second of a folder of images, and of a file that does not say when its frames are shown.
RATE = 10.0


@dataclass(frozen=True)
class Thinned:
    """Some frames of a video file, in order."""

    frames: FrameSource
    indices: Sequence[int]

    def read(self, index: int):
        """Frame ``index`` of those, (H, W, 3) uint8 RGB."""
        return self.frames.read(self.indices[index])

    def where(self, index: int) -> str:
        """What to call it in a message."""
        return self.frames.where(self.indices[index])


class OneVideo(Dataset):
    """One video, or every ``stride``-th of its frames.

    Args:
        root: a video file, or a folder of images.
        split: not taken; there is one.
        stride: frames from one that is used to the next.
        max_frames: the most that are used; 0 takes all.

    Raises:
        InputError: no such file or folder, one without frames, or several videos.
    """

    facts = Facts(one_object=False, protocol="expressions", has_text=False)

    def __init__(
        self, root: str | Path, split: str | None = None, *, stride: int = 1, max_frames: int = 0
    ) -> None:
        self.path = Path(root)
        if not self.path.exists():
            raise InputError(f"the video {self.path} does not exist; check the path")
        if stride < 1:
            raise InputError(f"a stride of {stride} frames leaves none; give 1 or more")
        self._is_file = self.path.is_file()
        whole = video_file(self.path, self.path.stem) if self._is_file else _of_folder(self.path)
        self.indices = list(range(0, whole.num_frames, stride))[: max_frames or None]
        if isinstance(whole.frames, ImageFiles):
            frames = replace(whole.frames, paths=[whole.frames.paths[i] for i in self.indices])
        else:
            frames = Thinned(whole.frames, self.indices)
        names = [whole.frame_names[i] for i in self.indices]
        self._video = SourceVideo(
            id=whole.id,
            frame_names=names,
            frame_times=self.indices,
            frames=frames,
            notes=whole.notes,
        )
        self.ids = [whole.id]

    def video(self, video_id: str, *, objects: bool = True) -> SourceVideo:
        """The video; its frames keep the names that they have among all frames."""
        frames = self._video.frames
        if self._is_file:  # the threads of one that is open are not there in a forked process
            frames = Thinned(VideoDecoder(self.path, video_id=video_id), self.indices)
        return replace(self._video, frames=frames)

    def fingerprint(self) -> dict[str, str]:
        """Of the file, or of the names, sizes and times of the images; and which are used."""
        digest = hashlib.sha256(repr(self.indices).encode())
        if self._is_file:
            digest.update(file_sha256(self.path).encode())
        else:
            for path in self._video.frames.paths:
                found = path.stat()
                digest.update(f"{path.name} {found.st_size} {found.st_mtime_ns}\n".encode())
        return {self.path.name: digest.hexdigest()}

    def seconds(self) -> list[float]:
        """When each frame is shown; ``RATE`` frames a second where nothing says so."""
        times = []
        if self._is_file:
            capture = cv2.VideoCapture(str(self.path), cv2.CAP_FFMPEG)
            while capture.grab():
                times.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
        if any(later <= earlier for earlier, later in zip(times, times[1:], strict=False)):
            times = []
        return [times[i] - times[0] if times else i / RATE for i in self.indices]


def _of_folder(path: Path) -> SourceVideo:
    videos = VideoFolder(path)
    if len(videos) != 1:
        raise InputError(
            f"{path} holds {len(videos)} videos; give one of them, or extract all of them with "
            "dataset=folder"
        )
    return next(iter(videos))
