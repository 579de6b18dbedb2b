"""`select`: no mask is drawn; the head says which of the segmenter's own objects are meant.

It reads no mask features: a light cache is enough to train it and to replay what it says.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import nn

from train.heads.base import CacheSizes, Head, HeadInputs, HeadOutput
from train.heads.dmvs import check_heads
from train.heads.parts.decoder import Memory, MotionQueryDecoder
from train.heads.parts.initialisation import VideoInitialisation
from train.heads.parts.text import TextProjection, keys_with_stand_in
from train.heads.parts.trajectories import ORDERS, Trajectories, check_parts
from train.losses import SelectionCriterion


class Select(Head):
    """The segmenter's likeliest objects with their trajectories read the words and each other.

    An object's score is a linear map of what came of it, plus how that agrees with the sentence.

    Args:
        sizes: of the caches.
        hidden_dim: the head's channels C. Video queries are projected where they have another
            number of them, else taken as they are.
        num_motion_queries: N_m, objects to choose from.
        num_layers: decoder layers; they start as the identity.
        num_heads: attention heads everywhere.
        feedforward_dim: width of the feed-forward blocks.
        dropout: dropout rate.
        tracks, frame_reading, frame_order: see `Trajectories`.
    """

    reads = ("frame_queries", "video_queries", "video_logits", "tracks", "times")
    loss = SelectionCriterion
    CHOICES: ClassVar = {"frame_order": ORDERS}

    def __init__(
        self,
        sizes: CacheSizes,
        *,
        hidden_dim: int = 256,
        num_motion_queries: int = 20,
        num_layers: int = 2,
        num_heads: int = 8,
        feedforward_dim: int = 1024,
        dropout: float = 0.0,
        tracks: bool = True,
        frame_reading: bool = False,
        frame_order: str = "time",
    ) -> None:
        super().__init__()
        same = sizes.query_dim == hidden_dim
        self.projection = nn.Identity() if same else nn.Linear(sizes.query_dim, hidden_dim)
        self.words = TextProjection(sizes.text_dim, hidden_dim)
        self.sentence = TextProjection(sizes.text_dim, hidden_dim)
        self.objects = VideoInitialisation(num_motion_queries, hidden_dim)
        self.trajectories = Trajectories(
            hidden_dim,
            num_heads,
            frame_dim=sizes.query_dim,
            tracks=tracks,
            frame_reading=frame_reading,
            frame_order=frame_order,
        )
        self.dropout = nn.Dropout(dropout)
        self.decoder = MotionQueryDecoder(
            hidden_dim,
            num_layers,
            num_heads,
            feedforward_dim=feedforward_dim,
            reads=("words",),
            dropout=dropout,
        )
        self.decoder.start_as_identity()
        self.class_head = nn.Linear(hidden_dim, 1)
        self.agreement = nn.Linear(hidden_dim, hidden_dim, bias=False)

    @classmethod
    def check(cls, model: Mapping[str, Any], loss: Mapping[str, Any]) -> None:
        """See `Head.check`."""
        check_heads(model)
        check_parts(model)

    def forward(self, inputs: HeadInputs) -> list[HeadOutput]:
        """Score the objects.

        Returns:
            One output a decoder layer, without masks.
        """
        sentence = self.sentence(inputs.sentence)  # (B, C)
        words = keys_with_stand_in(self.words(inputs.words), inputs.word_mask, sentence)
        video_queries = self.projection(inputs.video_queries)
        queries, sources = self.objects(video_queries, inputs.video_logits, sentence)  # (B, N_m, C)
        tracks = torch.take_along_dim(inputs.tracks, sources[:, :, None, None], dim=1)
        trajectories = self.trajectories(queries, replace(inputs, tracks=tracks))
        queries = self.dropout(queries) + self.dropout(trajectories)
        memory = Memory({"words": words}, inputs.frame_queries, inputs.frame_mask)
        outputs = []
        for decoded in self.decoder(queries, memory):
            agreement = (self.agreement(decoded) @ sentence[:, :, None]).squeeze(-1)  # (B, N_m)
            logits = self.class_head(decoded).squeeze(-1) + agreement / decoded.shape[-1] ** 0.5
            outputs.append(HeadOutput(logits, None, sources))
        return outputs
