"""A plain folder of videos, without expressions: sub-folders of images, or video files.

A folder that itself holds images is one video.
"""

import os
import re
from pathlib import Path

from cache_schema.host.cli import InputError
from cache_schema.records import Facts
from extract.datasets.files import existing_folder, plain_name
from extract.datasets.frames import ImageFiles, VideoDecoder
from extract.datasets.records import Dataset, SourceVideo

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
VIDEOS = (".mp4", ".m4v", ".avi", ".mov", ".mkv", ".webm", ".gif")


class VideoFolder(Dataset):
    """Videos of a folder, in natural order ("2" before "10"). Hidden files are left out.

    Args:
        split: name of a sub-folder to use instead, if any.

    Raises:
        InputError: no such folder, no videos in it, two videos of one name, or images beside
            videos (it is then unclear what the videos are).
    """

    facts = Facts(one_object=False, protocol="expressions", has_text=False)

    def __init__(self, root: str | Path, split: str | None = None) -> None:
        self.folder = existing_folder(Path(root), what="data root")
        if split:
            if not plain_name(split):
                raise InputError(f"the split {split!r} is not the plain name of a folder")
            self.folder = existing_folder(self.folder / split, what="split folder")
        entries = _listing(self.folder)
        # A link that leads nowhere is a video that fails.
        videos = [p for p in entries if p.is_dir() or p.suffix.lower() in VIDEOS or _is_dead(p)]
        #: What is worth knowing of the folder as a whole.
        self.notes = _left_out(self.folder, entries, videos, VIDEOS)
        kinds = sorted({p.suffix.lower() for p in videos if p.is_file()})
        if len(kinds) > 1:
            self.notes.append(f"{self.folder} has {' and '.join(kinds)}: each is its own video")
        if any(p.suffix.lower() in IMAGES for p in entries if p.is_file()):
            if videos:
                raise InputError(
                    f"{self.folder} holds images beside {videos[0].name}; put the images of each"
                    " video into a folder of their own"
                )
            self._paths = {self.folder.resolve().name or "video": self.folder}
            self.notes = []  # the video has its own
            return
        self._paths: dict[str, Path] = {}
        for path in videos:
            video_id = path.stem if path.suffix.lower() in VIDEOS else path.name
            if video_id in self._paths:
                raise InputError(
                    f"{self.folder} holds {self._paths[video_id].name} and {path.name}, both"
                    f" named {video_id!r}; rename one"
                )
            self._paths[video_id] = path
        if not videos:
            raise InputError(
                f"{self.folder} holds no videos: neither folders of images nor files"
                f" ({', '.join(VIDEOS)})"
            )

    @classmethod
    def splits(cls, root: Path) -> list[None]:
        """One, the folder itself."""
        return [None]

    @property
    def ids(self) -> list[str]:
        """Video ids: names of folders, or of files without extension."""
        return list(self._paths)

    def video(self, video_id: str, *, objects: bool = True) -> SourceVideo:
        """See `Dataset.video`."""
        path = self._paths[video_id]
        if _is_dead(path):
            raise InputError(
                f"video {video_id}: {path} is a link to {os.readlink(path)}, which is not there; "
                "mount or download what it leads to"
            )
        if path.is_file():
            return video_file(path, video_id)
        entries = _listing(path)
        # A link that leads nowhere is a frame that cannot be read.
        frames = [p for p in entries if p.suffix.lower() in IMAGES and not p.is_dir()]
        if not frames:
            raise InputError(
                f"video {video_id}: the folder {path} holds no images ({', '.join(IMAGES)});"
                " fill or remove it"
            )
        names = [p.stem for p in frames]
        if twins := {name for name in names if names.count(name) > 1}:
            raise InputError(
                f"video {video_id}: {path} holds two images named {min(twins)!r}; keep one"
            )
        return SourceVideo(
            id=video_id,
            frame_names=names,
            frames=ImageFiles(frames, video_id),
            notes=_left_out(path, entries, frames, IMAGES),
        )


def video_file(path: Path, video_id: str) -> SourceVideo:
    """The video of a file; its frames are named 00000, 00001, ...

    Raises:
        InputError: it cannot be decoded, or has no frames.
    """
    decoder = VideoDecoder(path, video_id=video_id)
    count = decoder.count()
    if count == 0:
        raise InputError(f"video {video_id}: {path} has no frames; check that it plays")
    return SourceVideo(id=video_id, frame_names=[f"{i:05d}" for i in range(count)], frames=decoder)


def _is_dead(path: Path) -> bool:
    return path.is_symlink() and not path.exists()


def _left_out(
    folder: Path, there: list[Path], used: list[Path], kinds: tuple[str, ...]
) -> list[str]:
    """A note on what is in a folder and is not used, if there is anything."""
    left = sorted({path.name for path in there} - {path.name for path in used})
    if not left:
        return []
    what = f"{len(left)} of {len(there)} in {folder} are left out"
    return [f"{what}, such as {left[0]!r}; known are {', '.join(kinds)}"]


def _listing(folder: Path) -> list[Path]:
    try:
        entries = [p for p in folder.iterdir() if not p.name.startswith(".")]
    except OSError as error:
        raise InputError(f"{folder} cannot be listed ({error.strerror})") from None
    return sorted(entries, key=lambda p: (_natural(p.name), p.name))


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key that puts "2" before "10"; numbers sort before letters."""
    return [
        (0, int(piece), "") if piece.isdecimal() else (1, 0, piece.lower())
        for piece in re.split(r"(\d+)", name)
        if piece
    ]
