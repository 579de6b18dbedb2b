"""Draw a picture sheet: truth and prediction of some expressions over the frames of their videos.

    python -m scripts.draw_overlays --data-root D --split S --masks DIR/masks \\
        --metrics DIR/metrics.json --out overlays.png [--name DMVS] [--beside NAME=DIR ...] \\
        [--num 6] [--columns 8]

Frames in columns; for each expression the sentence with its tag and score, a row of truth and a
row of each head's prediction; DIR of a head beside is the folder of its evaluation. The choice is a
spread by the first head: high and low scores of every tag, and a sentence that means nothing in its
video. The same results give the same sheet.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cache_schema.host import cli, files
from cache_schema.host.cli import InputError
from extract.datasets.mevis import MeViS
from extract.datasets.records import SourceExpression, SourceVideo
from train.evaluation.pngs.files import mask_name, read_mask
from train.evaluation.protocols.expressions import TAGS, Truth

TRUTH, PREDICTION = (0, 190, 215), (235, 30, 170)  # cyan and magenta: no object of the demo is
INK, FAINT, PAPER = (25, 28, 33), (110, 116, 125), (255, 255, 255)
CELL, GAP, GUTTER, HEADER, SPACE, MARGIN = 208, 5, 96, 34, 22, 20  # pixels
QUANTILES = (0.9, 0.1, 0.5, 0.7, 0.3)  # of J&F within a tag, in the order of choice


@dataclass(frozen=True)
class Shown:
    """An expression of the sheet."""

    video: str
    expression: SourceExpression
    score: float  # J&F of the first head

    @property
    def key(self) -> str:
        return f"{self.video}/{self.expression.id}"


@dataclass(frozen=True)
class Drawn:
    """A head on the sheet: its name, its masks, and J&F by expression."""

    name: str
    masks: Path
    scores: Mapping[str, float]


def main(argv: list[str]) -> int:
    """Command line; see the module's docstring."""
    parser = cli.parser("scripts.draw_overlays", __doc__)
    parser.add_argument("--data-root", required=True, help="data set in the layout of MeViS")
    parser.add_argument("--split", required=True)
    parser.add_argument("--masks", required=True, help="masks/ of an evaluation")
    parser.add_argument("--metrics", required=True, help="metrics.json of the same evaluation")
    parser.add_argument("--out", required=True, help="picture to write (.png)")
    parser.add_argument("--name", default="DMVS", help="what the head is called (default DMVS)")
    parser.add_argument("--beside", nargs="+", default=[], metavar="NAME=DIR", help="other heads")
    parser.add_argument("--num", type=int, default=6, help="expressions (default 6)")
    parser.add_argument("--columns", type=int, default=8, help="frames (default 8)")
    arguments = parser.parse_args(argv)

    kind = Image.registered_extensions().get(Path(arguments.out).suffix.lower())
    if kind is None:
        raise InputError(f"--out {arguments.out}: give a file that ends in .png")
    if min(arguments.num, arguments.columns) < 1:
        raise InputError("--num and --columns: give 1 or more")
    data = MeViS(arguments.data_root, arguments.split)
    heads = [Drawn(arguments.name, Path(arguments.masks), _scores(Path(arguments.metrics)))]
    for word in arguments.beside:
        name, _, folder = word.rpartition("=")
        heads.append(Drawn(name, Path(folder, "masks"), _scores(Path(folder, "metrics.json"))))
    shown = choose(data, heads[0].scores, arguments.num)
    sheet = draw(data, shown, heads, arguments.columns)
    try:
        with files.replacing(Path(arguments.out)) as temporary:
            sheet.save(temporary, kind)
    except ValueError as error:
        raise InputError(f"{arguments.out} cannot be written ({error})") from None
    print(f"{len(shown)} expressions drawn: {arguments.out}")
    return 0


def _scores(path: Path) -> dict[str, float]:
    """J&F by expression ("video/expression") from metrics.json."""
    try:
        content = json.loads(path.read_text("utf-8"))
        return {key: float(value["J&F"]) for key, value in content["per_expression"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is not the metrics.json of an evaluation ({error}); run train.evaluate first"
        ) from None


def choose(data: MeViS, scores: Mapping[str, float], num: int) -> list[Shown]:
    """A spread of expressions: a high and a low score of each tag, one without target, and on.

    Raises:
        InputError: the metrics and the data set have no expression in common.
    """
    everything = [
        Shown(video.id, expression, scores[key])
        for video in data
        for expression in video.expressions
        if (key := f"{video.id}/{expression.id}") in scores
    ]
    if not everything:
        raise InputError(
            f"no expression of {data.meta.path} was scored; give the metrics of this split"
        )
    everything.sort(key=lambda s: (s.score, s.video, s.expression.id))
    absent = [s for s in everything if not s.expression.annotation_ids]
    groups = {
        tag: [s for s in everything if s.expression.tag == tag and s not in absent]
        for tag in sorted({s.expression.tag for s in everything}, key=_tag_order)
    }
    wanted = [(group, q) for q in QUANTILES for group in groups.values() if group]
    if absent:
        wanted.insert(min(len(groups), num - 1), (absent, 0.5))
    chosen: list[Shown] = []
    for group, quantile in cycle(wanted):
        if len(chosen) == min(num, len(everything)):
            break
        place = quantile * (len(group) - 1)
        left = [s for s in group if s not in chosen]
        # The nearest to the quantile, of a video that is not on the sheet yet if possible.
        seen = {s.video for s in chosen}
        left.sort(key=lambda s: (s.video in seen, abs(group.index(s) - place)))
        chosen += left[:1]
    return sorted(
        chosen,
        key=lambda s: (s in absent, _tag_order(s.expression.tag), -s.score, s.video),
    )


def _tag_order(tag: str) -> tuple[int, str]:
    return (TAGS.index(tag) if tag in TAGS else len(TAGS)), tag


def draw(data: MeViS, shown: Sequence[Shown], heads: Sequence[Drawn], columns: int) -> Image.Image:
    """The sheet as a picture.

    Raises:
        InputError: a frame or a predicted mask is missing or broken.
    """
    blocks = [_block(data.video(s.video), s, heads, columns) for s in shown]
    width = max(block.width for block in blocks) + 2 * MARGIN
    height = sum(block.height + SPACE for block in blocks) + 2 * MARGIN + HEADER
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    x = MARGIN
    title = " and ".join(head.name for head in heads)
    for words, colour in ((title, INK), ("   truth", TRUTH), ("   prediction", PREDICTION)):
        pen.text((x, MARGIN), words, fill=colour, font=_font(19, bold=True))
        x += int(pen.textlength(words, font=_font(19, bold=True)))
    y = MARGIN + HEADER
    for block in blocks:
        sheet.paste(block, (MARGIN, y))
        y += block.height + SPACE
    return sheet


def _block(video: SourceVideo, shown: Shown, heads: Sequence[Drawn], columns: int) -> Image.Image:
    """One expression: a header, a row of truth, a row of each head's prediction."""
    count = min(columns, video.num_frames)
    frames = np.linspace(0, video.num_frames - 1, count).round().astype(int)
    height, width = video.size()
    scale = CELL / width
    cell = (CELL, max(1, round(height * scale)))
    truth = Truth(
        video.objects, [shown.expression.annotation_ids], size=(height, width), where=video.id
    )
    rows: list[tuple[str, Drawn | None]] = [("truth", None)]
    for head in heads:  # a score stands in the caption if there is no other head
        scored = f"{head.name}\n{100 * head.scores.get(shown.key, 0):.1f}"
        rows.append(("prediction" if len(heads) == 1 else scored, head))
    size = (GUTTER + count * (CELL + GAP), HEADER + len(rows) * (cell[1] + GAP))
    block = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(block)
    parts = [shown.video, shown.expression.tag]
    parts += [] if shown.expression.annotation_ids else ["no target"]
    right = "  ·  ".join(filter(None, [*parts, f"J&F {100 * shown.score:.1f}"]))
    room = block.width - 24 - pen.textlength(right, font=_font(16))
    pen.text((0, 2), _fit(pen, f"“{shown.expression.text}”", room), fill=INK, font=_font(18, True))
    pen.text((block.width - GAP, 4), right, fill=FAINT, font=_font(16), anchor="ra")
    for row, (name, head) in enumerate(rows):
        colour = TRUTH if head is None else PREDICTION
        y = HEADER + row * (cell[1] + GAP)
        pen.multiline_text(
            (0, y + cell[1] // 2), name, fill=colour, font=_font(15, True), anchor="lm"
        )
        for column, t in enumerate(frames.tolist()):
            if head is None:
                mask = truth.frame(t)[0]
            else:
                mask = _predicted(head.masks, shown, video.frame_names[t], (height, width))
            picture = overlay(video.read_frame(t), mask, cell, colour)
            block.paste(Image.fromarray(picture), (GUTTER + column * (CELL + GAP), y))
    return block


def _predicted(masks: Path, shown: Shown, frame: str, size: tuple[int, int]) -> np.ndarray:
    path = masks / mask_name(shown.video, shown.expression.id, frame)
    mask = read_mask(path)
    if mask.shape != size:
        raise InputError(f"the mask {path} is {mask.shape}, the frames are {size}; predict again")
    return mask


def overlay(
    frame: np.ndarray, mask: np.ndarray, size: tuple[int, int], colour: tuple[int, int, int]
) -> np.ndarray:
    """A frame with a coloured, outlined mask, the rest of it paler.

    Args:
        frame: (H, W, 3) uint8 RGB.
        mask: (H, W) bool.
        size: (width, height) of the picture.
        colour: RGB.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    method = cv2.INTER_AREA if size[0] < frame.shape[1] else cv2.INTER_CUBIC
    image = cv2.resize(frame, size, interpolation=method).astype(np.float32)
    soft = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    inside = soft > 0.5
    grey = image.mean(axis=-1, keepdims=True)
    paler = 0.6 * (0.6 * image + 0.4 * grey) + 0.4 * 235
    picture = np.where(inside[..., None], 0.84 * image + 0.16 * np.float32(colour), paler)
    picture = np.ascontiguousarray(picture.clip(0, 255).astype(np.uint8))
    contours, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, contours, -1, colour, 2, cv2.LINE_AA)
    return picture


def _fit(pen: ImageDraw.ImageDraw, text: str, room: float) -> str:
    """The text, cut with an ellipsis where it is wider than the room."""
    font = _font(18, True)
    if pen.textlength(text, font=font) <= room:
        return text
    while text and pen.textlength(text + "…”", font=font) > room:
        text = text[:-1]
    return text + "…”"


def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/{name}", size)


if __name__ == "__main__":
    sys.exit(cli.run(main))
