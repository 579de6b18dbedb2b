"""The text side of stage one: frozen RoBERTa word features and static/motion word maps."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from cache_schema.host.cli import InputError
from cache_schema.records import Expression
from extract.datasets.records import SourceVideo
from extract.text.decoupler import WordDecoupler, inherit
from extract.text.encoder import TextEncoder, WordFeatures


@dataclass(frozen=True)
class EncodedText(WordFeatures):
    """A sentence as stage two needs it; offsets count in ``normalise(text)``.

    `static` and `motion` exclude each other and cover every token.
    """

    static: np.ndarray  # (K_w,) bool
    motion: np.ndarray  # (K_w,) bool


def normalise(text: str) -> str:
    """What is encoded for a text: lower case, white space folded (as the public loaders do)."""
    return " ".join(text.lower().split())


class TextPipeline:
    """Encoder and decoupler over normalised sentences."""

    def __init__(self, encoder: TextEncoder, decoupler: WordDecoupler) -> None:
        self.encoder, self.decoupler = encoder, decoupler

    def identity(self) -> dict[str, Any]:
        """What the result depends on, for the cache's fingerprint."""
        return {"encoder": self.encoder.identity(), "decoupler": self.decoupler.identity()}

    def encode(self, sentences: list[str]) -> list[EncodedText]:
        """Encode sentences as their authors wrote them.

        Raises:
            InputError: an empty sentence, or one too long for the encoder.
        """
        texts = [normalise(sentence) for sentence in sentences]
        for number, text in enumerate(texts, 1):
            if not text:
                raise InputError(f"expression {number} of {len(texts)} is empty; write a sentence")
        made = []
        spans = self.decoupler.motion_spans(texts)
        for features, motion_spans in zip(self.encoder.encode(texts), spans, strict=True):
            motion = inherit(features.offsets, motion_spans)
            made.append(EncodedText(**vars(features), static=~motion, motion=motion))
        return made


def encode_expressions(text: TextPipeline | None, video: SourceVideo) -> list[Expression]:
    """The text side of a video; nothing without a text pipeline.

    Raises:
        InputError: an empty or overlong expression; names it.
    """
    if text is None or not video.expressions:
        return []
    for expression in video.expressions:
        if not normalise(expression.text):
            raise InputError(
                f"expression {expression.id!r} of video {video.id!r} is empty: "
                "write a sentence or remove it"
            )
    encoded = text.encode([expression.text for expression in video.expressions])
    return [
        Expression(
            expression_id=source.id,
            text=source.text,
            object_ids=source.object_ids,
            annotation_ids=source.annotation_ids,
            tag=source.tag,
            **vars(features),
        )
        for source, features in zip(video.expressions, encoded, strict=True)
    ]
