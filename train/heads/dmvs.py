"""DMVS: the light head that finds which of the segmenter's objects a sentence means.

head = DMVS(sizes)                         # of the cache, `CacheSizes`
output = head(inputs)[-1]                  # the last decoder layer
output.logits.sigmoid()                    # (B, N_m) scores, Eq. (9)
output.mask_embeds                         # (B, N_m, C_mask), dotted with F_mask: Eq. (10)
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from cache_schema.host.cli import InputError
from train.heads.base import CacheSizes, Head, HeadInputs, HeadOutput
from train.heads.parts.attention import check_heads, three_layers
from train.heads.parts.decoder import READS, Memory, MotionQueryDecoder
from train.heads.parts.encoder import ENCODERS, MotionExpressionEncoder
from train.heads.parts.initialisation import INITIALISATIONS
from train.heads.parts.text import TextProjection, keys_with_stand_in, max_pooled


class DMVS(Head):
    """The whole head, equations (1) to (10); 12.70 M parameters by default.

    The arguments from `encoder` to `sentence` are the paper's ablations. The last two say where the
    head starts: at random, as the paper's equations have it, post-norm layers make all motion
    queries look alike, so that which one is matched with a target is arbitrary, and the head learns
    to draw its neighbours. With both of the others, query n starts with the mask of object n.

    The queries that enter the decoder are not supervised: they are the segmenter's own and know
    nothing of the sentence, so a class loss on them could only teach the class head to ignore it.

    Args:
        hidden_dim: the head's channels C. The segmenter's queries are projected where they have
            another number of them, else taken as they are.
        text_dim, mask_dim: the caches', which may be stated: another number is refused.
        num_motion_queries: N_m.
        num_layers: decoder layers.
        num_heads: attention heads everywhere.
        feedforward_dim: width of the decoder's feed-forward blocks.
        dropout: dropout rate of encoder and decoder.
        encoder: what the sentence reads before the decoder (Table 4), one of `ENCODERS`.
        initialisation: of the motion queries (Table 5), one of `INITIALISATIONS`.
        decoder_reads: of `READS`, what the decoder's queries read, in this order.
        sentence: "mean", the cached F_se; or "max", the maximum over the words.
        mask_start: the mask head starts at "random"; or as the "segmenter"'s own, with its
            activation. Or masks start as the segmenter's own in each of the "frames", where its
            embeddings change from one to the next, and what is added to them is learned; by its
            mask head, too, where this head has the segmenter's channels.
        decoder_start: decoder layers start at "random"; or as the "identity", adding nothing.
        query_positions: motion queries have learned positions where they read each other, as in
            LMPM and DsHmp; at first they are zero.

    Raises:
        InputError: a stated size is not the caches', or they hold no mask head to start from.
    """

    reads = ("frame_queries", "video_queries", "video_logits")
    CHOICES: ClassVar = {
        "encoder": ENCODERS,
        "initialisation": tuple(INITIALISATIONS),
        "decoder_reads": READS,
        "sentence": ("mean", "max"),
        "mask_start": ("random", "segmenter", "frames"),
        "decoder_start": ("random", "identity"),
    }

    def __init__(
        self,
        sizes: CacheSizes,
        *,
        hidden_dim: int = 256,
        text_dim: int | None = None,
        mask_dim: int | None = None,
        num_motion_queries: int = 20,
        num_layers: int = 6,
        num_heads: int = 8,
        feedforward_dim: int = 2048,
        dropout: float = 0.0,
        encoder: str = "full",
        initialisation: str = "video",
        decoder_reads: Sequence[str] = ("words", "expression"),
        sentence: str = "mean",
        mask_start: str = "random",
        decoder_start: str = "random",
        query_positions: bool = False,
    ) -> None:
        super().__init__()
        for name, stated in (("text_dim", text_dim), ("mask_dim", mask_dim)):
            if stated not in (None, own := getattr(sizes, name)):
                raise InputError(
                    f"config key model.{name} is {stated}, but the cache was extracted with {own}; "
                    f"set model.{name}={own}, or leave it out"
                )
        self.sentence = sentence
        with_encoder = encoder != "none"
        self.frame_projection = self.video_projection = nn.Identity()
        if sizes.query_dim != hidden_dim:
            if with_encoder or "frames" in decoder_reads:
                self.frame_projection = nn.Linear(sizes.query_dim, hidden_dim)
            if with_encoder or "video" in decoder_reads or initialisation == "video":
                self.video_projection = nn.Linear(sizes.query_dim, hidden_dim)
        reads_words = encoder in ("static", "motion", "full") or "words" in decoder_reads
        self.word_projection = TextProjection(sizes.text_dim, hidden_dim) if reads_words else None
        self.sentence_projection = TextProjection(sizes.text_dim, hidden_dim)
        self.encoder = MotionExpressionEncoder(hidden_dim, num_heads, dropout, kind=encoder)
        self.decoder = MotionQueryDecoder(
            hidden_dim,
            num_layers,
            num_heads,
            feedforward_dim=feedforward_dim,
            reads=decoder_reads,
            dropout=dropout,
        )
        self.class_head = nn.Linear(hidden_dim, 1)
        gelu = mask_start != "random" and sizes.activation == "gelu"
        between = nn.GELU if gelu else nn.ReLU
        self.mask_head = three_layers(hidden_dim, sizes.mask_dim, between)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        if query_positions:
            self.decoder.place(num_motion_queries)
        if decoder_start == "identity":
            self.decoder.start_as_identity()
        if mask_start != "random":
            try:
                _start_mask_head(self.mask_head, sizes)
            except InputError:
                if mask_start == "segmenter":
                    raise
                nn.init.zeros_(self.mask_head[-1].weight)  # its bias makes no difference
        self.own_masks = sizes.num_video_queries if mask_start == "frames" else 0
        if self.own_masks and not sizes.by_frame:
            raise InputError(
                "config key model.mask_start is 'frames', but the segmenter's mask embeddings are "
                "the same in all frames; set model.mask_start='segmenter'"
            )
        # After the others, since it draws its own way.
        self.initialisation = INITIALISATIONS[initialisation](num_motion_queries, hidden_dim)

    @classmethod
    def check(cls, model: Mapping[str, Any], loss: Mapping[str, Any]) -> None:
        """See `Head.check`."""
        check_heads(model)
        if model["mask_start"] == "frames" and model["initialisation"] != "video":
            raise InputError(
                "config key model.mask_start='frames' goes with model.initialisation='video' only: "
                "other motion queries have no masks to start from"
            )

    @classmethod
    def needs(cls, model: Mapping[str, Any]) -> frozenset[str]:
        """See `Head.needs`."""
        own = {"mask_embeds"} if model.get("mask_start") == "frames" else set()
        return super().needs(model) | own

    def objects(self, inputs: HeadInputs) -> Tensor:
        """Q_v in the head's channels, (B, N_v, C); here a head adds what else it knows of them."""
        return self.video_projection(inputs.video_queries)

    def forward(self, inputs: HeadInputs) -> list[HeadOutput]:
        """Decode the motion queries.

        Returns:
            One output per decoder layer, the last one being the prediction.
        """
        frame_queries = self.frame_projection(inputs.frame_queries)  # (B, T, N_f, C)
        video_queries = self.objects(inputs)  # (B, N_v, C)
        pooled = inputs.sentence
        if self.sentence == "max":
            pooled = max_pooled(inputs.words, inputs.word_mask, inputs.sentence)
        sentence = self.sentence_projection(pooled)  # (B, C)
        words = None if self.word_projection is None else self.word_projection(inputs.words)
        expression = self.encoder(
            frame_queries,
            video_queries,
            frame_mask=inputs.frame_mask,
            words=words,
            static=inputs.static & inputs.word_mask,
            motion=inputs.motion & inputs.word_mask,
            sentence=sentence,
        )  # (B, 1, C)
        queries, sources = self.initialisation(
            video_queries, inputs.video_logits, sentence
        )  # (B, N_m, C), (B, N_m)
        keys = {"expression": (expression, None), "video": (video_queries, None)}
        if words is not None:
            keys["words"] = keys_with_stand_in(words, inputs.word_mask, sentence)
        layers = self.decoder(queries, Memory(keys, frame_queries, inputs.frame_mask))
        masks = [self.mask_head(decoded) for decoded in layers]
        if self.own_masks:
            start = self.mask_head(queries)
            own = one_hot(sources, self.own_masks).to(start.dtype)  # (B, N_m, N_v)
            masks = [torch.cat([each - start, own], dim=-1) for each in masks]
        return [
            HeadOutput(self.class_head(decoded).squeeze(-1), embeds, sources)
            for decoded, embeds in zip(layers, masks, strict=True)
        ]


@torch.no_grad()
def _start_mask_head(mask_head: nn.Sequential, sizes: CacheSizes) -> None:
    """Copy the segmenter's own mask head.

    Raises:
        InputError: the cache does not hold it, or it has other sizes.
    """
    layers = [layer for layer in mask_head if isinstance(layer, nn.Linear)]
    if not sizes.mask_head:
        raise InputError(
            "config key model.mask_start is 'segmenter', but the cache does not hold the "
            "segmenter's mask head (format version 3 does): extract it again, or set "
            "model.mask_start='random'"
        )
    ours = [tuple(layer.weight.shape) for layer in layers]
    theirs = [weight.shape for weight, _ in sizes.mask_head]
    if ours != theirs:
        raise InputError(
            f"config key model.mask_start is 'segmenter', whose mask head has layers of {theirs} "
            f"(out, in), and this head {ours}: set model.hidden_dim={theirs[0][1]}, or "
            "model.mask_start='random'"
        )
    for layer, (weight, bias) in zip(layers, sizes.mask_head, strict=True):
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.copy_(torch.from_numpy(bias))
