"""The demo world: seeded scenes of moving shapes whose sentences only motion can resolve.

A scene holds two to four shapes with disjoint paths. Two of them look alike: either *twins*, which
do opposite things (one moves left, the other right), or a pair whose motions differ in kind (one
stays, the other moves). So "the red circle moving left" has a rival that every other word fits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from extract.demo import grammar

RGB = {
    "red": (205, 45, 45),
    "green": (50, 165, 70),
    "blue": (55, 85, 205),
    "yellow": (220, 195, 50),
}
KINDS = tuple((colour, shape) for colour in grammar.COLOURS for shape in grammar.SHAPES)

TRAVEL = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
SPIN = {"clockwise": 1, "counterclockwise": -1}
SCALE = {"grows": (0.75, 1.35), "shrinks": (1.35, 0.75)}
MOTIONS = ("stays", *TRAVEL, *SPIN, *SCALE)
#: What an object does, as it looks from both ends of time.
HABITS = ("stays", "sideways", "vertically", "spins", "resizes")
#: Circumradius relative to the circle's, so that all shapes cover about the same area.
STRETCH = {"circle": 1.0, "square": 1.2, "triangle": 1.4}
SIZE = 96, 160  # height and width of a scene
FRAMES = 12
MARGIN = 3  # pixels that stay free between the paths of any two shapes
EXPOSURE = 2.0  # frames that the camera's shutter stays open
SAMPLES = 4  # a side of a pixel
MAX_TURN = np.deg2rad(16.0)  # turn of a spinning shape a frame


@dataclass(frozen=True)
class Shape:
    """One object of a scene: how it looks and what it does."""

    colour: str
    shape: str
    motion: str
    start: tuple[float, float]  # centre (x, y) in the first frame, pixels
    end: tuple[float, float]  # centre in the last frame
    radius: float  # pixels, before scaling
    angle: float  # radians, in the first frame
    turn: float  # radians a frame, positive is clockwise on the screen

    @property
    def kind(self) -> tuple[str, str]:
        return self.colour, self.shape

    @property
    def habit(self) -> str:
        """The one of `HABITS` that a video and the same video played backwards share."""
        if self.motion in TRAVEL:
            return "sideways" if TRAVEL[self.motion][0] else "vertically"
        if self.motion in SPIN:
            return "spins"
        return "resizes" if self.motion in SCALE else "stays"

    @property
    def label(self) -> int:
        """Class of the object for a video segmenter: its kind and its habit."""
        return KINDS.index(self.kind) * len(HABITS) + HABITS.index(self.habit)

    @cached_property
    def fits(self) -> frozenset[str]:
        """Every motion word of the grammar that is true of this object."""
        return frozenset(
            {self.motion, self.habit} | ({"moves"} if self.motion in TRAVEL else set())
        )

    def outline(self, frame: float) -> np.ndarray:
        """Polygon (P, 2) float64 in pixels at a time, counted in frames."""
        moment = frame / (FRAMES - 1)
        first, last = SCALE.get(self.motion, (1.0, 1.0))
        radius = self.radius * (first + (last - first) * moment)
        corners = {"circle": 48, "square": 4, "triangle": 3}[self.shape]
        angles = self.angle + self.turn * frame + np.arange(corners) * 2 * np.pi / corners
        centre = (1 - moment) * np.array(self.start) + moment * np.array(self.end)
        return centre + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)

    def reach(self) -> tuple[float, float, float, float]:
        """Box (x0, y0, x1, y1) that the object never leaves."""
        radius = self.radius * max(SCALE.get(self.motion, (1.0, 1.0)))
        low = np.minimum(self.start, self.end) - radius
        high = np.maximum(self.start, self.end) + radius
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])


@dataclass(frozen=True)
class Sentence:
    """An expression: its text, the indices of the objects it means, and what it needs."""

    text: str
    targets: tuple[int, ...]
    tag: str  # one of `grammar.TAGS`


@dataclass(frozen=True)
class Scene:
    """A video of the demo world, before it is drawn."""

    shapes: tuple[Shape, ...]
    sentences: tuple[Sentence, ...]
    seed: tuple[int, ...]

    def draw(self, indices: Sequence[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Draw the frames of the given indices, by default all T.

        Returns:
            Frames (t, H, W, 3) uint8 RGB and visible masks (t, N, H, W) bool, N = objects.
        """
        rng = np.random.default_rng([*self.seed, 1])
        height, width = SIZE
        background = _background(rng, height, width)
        paint = {c: np.clip(RGB[c] + rng.normal(0, 6, 3), 0, 255) for c in grammar.COLOURS}
        indices = range(FRAMES) if indices is None else indices
        frames = np.empty((len(indices), height, width, 3), np.uint8)
        masks = np.zeros((len(indices), len(self.shapes), height, width), bool)
        for i, t in enumerate(indices):
            noise = np.random.default_rng([*self.seed, 2, t])
            canvas = background + noise.normal(0, 4, background.shape)
            for n, shape in enumerate(self.shapes):
                box, cover = self._exposed(shape, t)
                canvas[box] += cover[..., None] * (paint[shape.colour] - canvas[box])
                masks[i, n][box] = cover >= 0.5
            frames[i] = np.clip(canvas, 0, 255).astype(np.uint8)
        return frames, masks

    def _exposed(self, shape: Shape, frame: int) -> tuple[tuple[slice, slice], np.ndarray]:
        """Where a shape is while a frame is exposed, and what share of each pixel there it covers.

        As with a real camera, what moves is blurred along its way. It is blurred in the same way
        when the video is played backwards, so a frame may show that something moves, but never
        whether it moves to the left or to the right.

        Returns:
            Rows and columns of a box, and shares (h, w) float64.
        """
        times = frame + EXPOSURE * np.linspace(-0.5, 0.5, 5)
        times = times.clip(0, FRAMES - 1)
        counts = np.zeros(SIZE, np.uint8)
        for t in times:
            _count(shape.outline(t), counts)
        x, y, w, h = cv2.boundingRect(counts)
        box = slice(y, y + h), slice(x, x + w)
        return box, counts[box] / (len(times) * SAMPLES**2)


def make_scene(seed: tuple[int, ...], *, sentences_per_tag: int = 2, crowd: bool = False) -> Scene:
    """A scene as a pure function of its seed.

    Args:
        seed: non-negative integers, for example (world seed, split, video).
        sentences_per_tag: at most this many expressions of each tag.
        crowd: up to seven objects of one kind, which only their places tell apart.
    """
    rng = np.random.default_rng([*seed, 0])
    shapes: list[Shape] = []
    while len(shapes) < 2:
        shapes = _place(rng, _cast(rng, crowd))
    spoken = _sentences(rng, shapes, sentences_per_tag)
    return Scene(tuple(shapes), tuple(spoken), tuple(seed))


def _cast(rng: np.random.Generator, crowd: bool) -> list[tuple[tuple[str, str], str]]:
    """Who is in the scene: (kind, motion) of a look-alike pair and of some others."""
    pair_kind = KINDS[rng.integers(len(KINDS))]
    able = [m for m in MOTIONS if not (m in SPIN and pair_kind[1] == "circle")]
    first = able[rng.integers(len(able))]
    if rng.random() < 0.6 and first in grammar.OPPOSITE:
        second = grammar.OPPOSITE[first]
    else:
        second = rng.choice([m for m in able if m not in (first, grammar.OPPOSITE.get(first))])
    cast = [(pair_kind, first), (pair_kind, str(second))]
    for _ in range(5 if crowd else rng.integers(1, 4)):
        kind = pair_kind if crowd else KINDS[rng.integers(len(KINDS))]
        able = [m for m in MOTIONS if not (m in SPIN and kind[1] == "circle")]
        cast.append((kind, able[rng.integers(len(able))]))
    return cast


def _place(rng: np.random.Generator, cast: list[tuple[tuple[str, str], str]]) -> list[Shape]:
    """Put the cast on disjoint paths; [] when the look-alike pair finds no room."""
    height, width = SIZE
    unit = min(height, width * 0.6)
    placed: list[Shape] = []
    for number, ((colour, shape), motion) in enumerate(cast):
        for _ in range(100):
            radius = unit * rng.uniform(0.115, 0.15) * STRETCH[shape]
            step = np.array(TRAVEL.get(motion, (0, 0))) * unit * rng.uniform(0.36, 0.54)
            start = rng.uniform((0, 0), (width, height))
            turn = SPIN.get(motion, 0) * MAX_TURN * rng.uniform(0.6, 1.0)
            candidate = Shape(
                colour=colour,
                shape=shape,
                motion=motion,
                start=(float(start[0]), float(start[1])),
                end=(float(start[0] + step[0]), float(start[1] + step[1])),
                radius=float(radius),
                angle=float(rng.uniform(0, 2 * np.pi)),
                turn=float(turn * 12 / FRAMES),
            )
            x0, y0, x1, y1 = candidate.reach()
            inside = x0 >= 1 and y0 >= 1 and x1 <= width - 1 and y1 <= height - 1
            if inside and all(_apart(candidate.reach(), other.reach()) for other in placed):
                placed.append(candidate)
                break
        else:
            if number < 2:
                return []
    return placed


def _apart(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return (
        a[2] + MARGIN < b[0] or b[2] + MARGIN < a[0] or a[3] + MARGIN < b[1] or b[3] + MARGIN < a[1]
    )


def _sentences(rng: np.random.Generator, shapes: list[Shape], per_tag: int) -> list[Sentence]:
    """A seeded choice of what can be said of the scene, at most ``per_tag`` of each tag."""
    spoken: list[Sentence] = []
    for tag, candidates in _candidates(rng, shapes).items():
        with_target = [s for s in candidates if s.targets]
        without = [s for s in candidates if not s.targets]
        rng.shuffle(with_target)
        rng.shuffle(without)
        chosen: dict[str, Sentence] = {}
        for sentence in with_target:
            if len(chosen) < per_tag:
                chosen.setdefault(sentence.text, sentence)
        if tag != "irreversible" and without and rng.random() < 0.15 * per_tag / 2:
            chosen.popitem() if len(chosen) == per_tag else None
            chosen[without[0].text] = without[0]
        spoken += chosen.values()
    rng.shuffle(spoken)
    return spoken


def _candidates(rng: np.random.Generator, shapes: list[Shape]) -> dict[str, list[Sentence]]:
    """Everything that can be said of the scene, by tag, with one seeded phrase a motion."""
    found: dict[str, list[Sentence]] = {tag: [] for tag in grammar.TAGS}
    for colour in (None, *grammar.COLOURS):
        for shape in (None, *grammar.SHAPES):
            named = [
                n
                for n, s in enumerate(shapes)
                if colour in (None, s.colour) and shape in (None, s.shape)
            ]
            noun = (colour, shape)
            if colour and (shape or len(named) > 1):
                found["static"].append(_say(rng, noun, "", named, "static"))
            if not named:
                continue
            for motion in (*grammar.REVERSIBLE, *grammar.IRREVERSIBLE):
                targets = [n for n in named if motion in shapes[n].fits]
                if len(targets) == len(named):
                    continue  # the other words alone would do
                if motion in grammar.REVERSIBLE:
                    found["reversible"].append(_say(rng, noun, motion, targets, "reversible"))
                elif targets and all(_has_twin(shapes, n, named) for n in targets):
                    found["irreversible"].append(_say(rng, noun, motion, targets, "irreversible"))
    return found


def _has_twin(shapes: list[Shape], target: int, among: list[int]) -> bool:
    """Is there an object that looks like the target and does the opposite?"""
    return any(
        shapes[n].kind == shapes[target].kind
        and shapes[n].motion == grammar.OPPOSITE[shapes[target].motion]
        for n in among
    )


def _say(
    rng: np.random.Generator,
    noun: tuple[str | None, str | None],
    motion: str,
    targets: list[int],
    tag: str,
) -> Sentence:
    colour, shape = noun
    several = len(targets) > 1
    words = ["all" if several else "the", colour or "", (shape or "object") + "s" * several]
    if motion:
        phrases = (grammar.REVERSIBLE | grammar.IRREVERSIBLE)[motion]
        phrase = phrases[rng.integers(len(phrases))]
        words.append(grammar.plural(phrase) if several else phrase)
    return Sentence(" ".join(word for word in words if word), tuple(targets), tag)


def _background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Soft grey clouds (H, W, 3) float64."""
    coarse = rng.normal(0, 1, (4, 6, 3)) * 7 + rng.normal(0, 12, (4, 6, 1))
    clouds = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return 125 + rng.uniform(-25, 25) + clouds


def _count(outline: np.ndarray, counts: np.ndarray) -> None:
    """Add to each pixel (H, W) uint8 how many of its `SAMPLES`^2 samples the polygon covers."""
    height, width = counts.shape
    x0, y0 = np.maximum(np.floor(outline.min(axis=0)).astype(int), 0)
    x1, y1 = np.minimum(np.ceil(outline.max(axis=0)).astype(int) + 1, (width, height))
    fine = np.zeros(((y1 - y0) * SAMPLES, (x1 - x0) * SAMPLES), np.uint8)
    corners = np.round((outline - (x0, y0)) * SAMPLES - 0.5).astype(np.int32)
    cv2.fillPoly(fine, [corners], SAMPLES**2)  # so that the mean over a pixel is the count
    counts[y0:y1, x0:x1] += cv2.resize(fine, (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA)
