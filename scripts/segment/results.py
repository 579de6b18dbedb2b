"""What comes out for one sentence: a film, masks, scores and a sheet of pictures."""

import json
import re
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import av
import cv2
import numpy as np
from PIL import Image

from cache_schema.host import files
from extract.datasets.records import SourceVideo, encode_mask
from train.evaluation.pngs.files import write_png
from train.evaluation.pngs.png import encode_mask as png_of

COLOUR = (235, 30, 170)  # RGB of masks
#: What becomes of a pixel's three values, each from 0 to 255, beside a mask and in it.
PALE = (np.arange(256) * 0.75 + 32).astype(np.uint8)
TINTED = (np.arange(256)[None, :, None] * 0.5 + np.array(COLOUR) * 0.5).astype(np.uint8)
#: Half the time of x264's default, and no larger files.
H264 = {"crf": "20", "preset": "veryfast"}
#: Presentation times of a film are whole numbers of these.
TICK = Fraction(1, 90_000)
COLUMNS, SHOWN, CELL = 4, 8, 320  # of the sheet: pictures a row, in all, and pixels of their width


def folder_of(out: Path, number: int, sentence: str) -> Path:
    """Where the results of a sentence go."""
    words = re.sub(r"[^a-z0-9]+", "-", sentence.lower()).strip("-")[:40].strip("-")
    return out / f"{number:02d}-{words}".rstrip("-")


class Results:
    """The files of one sentence; a context, whose film is there if it ends well.

    Args:
        out: folder of all sentences.
        number: of the sentence, from 1.
        sentence: what was asked.
        video: whose frames will come.
        seconds: when each of them is shown.

    Attributes:
        folder: of this sentence.
        frames, shown: that came, and those of them with a mask.
    """

    def __init__(
        self, out: Path, number: int, sentence: str, video: SourceVideo, seconds: list[float]
    ) -> None:
        self.folder = folder_of(out, number, sentence)
        self.sentence, self.video, self.seconds = sentence, video, seconds
        self.frames = self.shown = 0
        self._masks: list[dict | None] = []
        self._sheet: list[np.ndarray] = []
        self._wanted = set(np.linspace(0, len(seconds) - 1, SHOWN).round().astype(int).tolist())

    def __enter__(self) -> Self:
        files.make_folder(self.folder)
        with ExitStack() as stack:
            partial = stack.enter_context(files.replacing(self.folder / "overlay.mp4"))
            self._film = stack.enter_context(Film(partial))
            self._closing = stack.pop_all()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._closing.__exit__(*raised)

    def add(self, image: np.ndarray, mask: np.ndarray) -> None:
        """The next frame, (H, W, 3) uint8 RGB, and its mask, (H, W) bool."""
        picture = overlay(image, mask)
        self._film.add(picture, self.seconds[self.frames])
        name = self.video.frame_names[self.frames]
        write_png(self.folder / "masks" / f"{name}.png", png_of(mask))
        self._masks.append(encode_mask(mask) if mask.any() else None)
        if self.frames in self._wanted:
            height = max(1, round(CELL * image.shape[0] / image.shape[1]))
            self._sheet.append(cv2.resize(picture, (CELL, height), interpolation=cv2.INTER_AREA))
        self.frames += 1
        self.shown += bool(mask.any())

    def finish(self, scores: np.ndarray, kept: np.ndarray, *, rule: str, sigma: float) -> None:
        """Write what is known at the end: run lengths, scores (N,) of all candidates, the sheet."""
        names = {f"{name}.png" for name in self.video.frame_names}
        for mask in (self.folder / "masks").glob("*.png"):
            if mask.name not in names:  # of another video, or of other frames of this one
                mask.unlink()
        masks = {
            "sentence": self.sentence,
            "frames": dict(zip(self.video.frame_names, self._masks, strict=True)),
        }
        files.write(self.folder / "masks.json", json.dumps(masks))
        content = {
            "sentence": self.sentence,
            "rule": rule,
            "sigma": sigma,
            "kept": kept.tolist(),
            "scores": [round(float(score), 6) for score in scores],
        }
        files.write(self.folder / "scores.json", json.dumps(content, indent=1))
        height, width = self._sheet[0].shape[:2]
        rows = -(-len(self._sheet) // COLUMNS)
        columns = min(COLUMNS, len(self._sheet))
        sheet = np.full((rows * height, columns * width, 3), 255, np.uint8)
        for number, picture in enumerate(self._sheet):
            y, x = divmod(number, COLUMNS)
            sheet[y * height : (y + 1) * height, x * width : (x + 1) * width] = picture
        with files.replacing(self.folder / "sheet.png") as temporary:
            Image.fromarray(sheet).save(temporary, "png", compress_level=1)


class Film:
    """An H.264 film that browsers play; a context that ends it."""

    def __init__(self, path: Path) -> None:
        self._container = av.open(str(path), "w", format="mp4")
        self._stream: av.VideoStream | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, *raised: Any) -> None:
        with self._container:
            if kind is None:
                self._container.mux(self._stream.encode())

    def add(self, picture: np.ndarray, seconds: float) -> None:
        """Append a picture, (H, W, 3) uint8 RGB, that is shown from ``seconds`` on."""
        # The colours of H.264 are stored for four pixels together: both sides have to be even.
        height, width = (size + size % 2 for size in picture.shape[:2])
        if self._stream is None:
            self._stream = self._container.add_stream("libx264", options=H264)
            self._stream.width, self._stream.height = width, height
            self._stream.pix_fmt = "yuv420p"
            self._stream.codec_context.time_base = TICK
        below, right = height - picture.shape[0], width - picture.shape[1]
        picture = np.pad(picture, ((0, below), (0, right), (0, 0)), "edge")
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = round(seconds / TICK), TICK
        self._container.mux(self._stream.encode(frame))


def overlay(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A frame with its mask coloured and outlined, the rest of it paler; sizes as `Results.add`."""
    picture = cv2.LUT(image, PALE)
    picture[mask] = cv2.LUT(image, TINTED)[mask]
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, contours, -1, COLOUR, max(1, image.shape[0] // 240), cv2.LINE_AA)
    return picture
