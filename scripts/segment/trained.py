"""What a checkpoint says of the models that its head needs, and these models."""

from pathlib import Path
from typing import Any

from cache_schema.fingerprint import differences, file_sha256
from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader
from extract.arguments import PRESETS
from extract.config import ExtractConfig, complete_codec, load_config
from extract.segmenters import DEFAULT
from extract.segmenters.base import find_segmenter
from extract.text import TextEncoder, TextPipeline, WordDecoupler
from train.checkpoint import read_checkpoint
from train.config import stored_config
from train.data.compatible import signature
from train.places import find_checkpoint

ASSETS = PRESETS.parent / "assets"
#: The demo's text models, by the name that its caches give them; others are names on their hubs.
DEMO_TEXT = {"roberta_tiny": (str(ASSETS / "roberta_tiny"), str(ASSETS / "stanza_tiny"))}
DEMO_WEIGHTS = ASSETS / "vita_tiny.safetensors"


class Trained:
    """A checkpoint that knows its head, its segmenter and its text models.

    Args:
        path: a checkpoint, or the work folder of a run, whose latest is taken.

    Attributes:
        checkpoint: as `read_checkpoint` gives it.
        config: that the head was trained with.

    Raises:
        InputError: there is none, or it does not tell.
    """

    def __init__(self, path: Path) -> None:
        self.path = find_checkpoint(path)
        self.checkpoint = read_checkpoint(self.path)
        training = self.checkpoint["meta"].get("training")
        self.config = stored_config(self.path, training)
        try:
            self._cache: dict[str, Any] = training["caches"][0]
            self._models: dict[str, Any] = self._cache["models"]
            self._text: dict[str, Any] = self._models["text"]
        except (TypeError, KeyError, IndexError):
            raise InputError(
                f"checkpoint {self.path} does not say what it was trained with; train again"
            ) from None

    def extraction(self, preset: str | None, codec: str, thinning: dict[str, int]) -> ExtractConfig:
        """Stage one as the caches of the training had it, for a video without sentences.

        Args:
            preset: of stage one, instead of what the checkpoint knows.
            codec: of the mask features.
            thinning: which frames are used, see `OneVideo`.
        """
        if preset is not None:
            config = load_config(preset)
            kind, segmenter, resize = config.segmenter_type, config.segmenter, config.resize
        elif "resize" in self._cache:
            segmenter = self._models["segmenter"]
            kind, resize = self._cache["segmenter_type"], self._cache["resize"]
        else:
            raise InputError(
                f"checkpoint {self.path} does not say how frames were resized; give --config, the "
                "preset or file of stage one that its caches were made with"
            )
        codec = {"name": codec}
        complete_codec(codec, "--codec: ")
        return ExtractConfig(
            dataset="video",
            dataset_settings=thinning,
            segmenter_type=kind,
            segmenter=segmenter,
            text=None,
            resize=resize,
            codec=codec,
            clips={"num": 0, "frames": 1},
            segmenter_masks={"keep": None},
            mirror=None,
        )

    def weights(self, given: str | None) -> str:
        """The segmenter's weights: those given, or the demo's if they are it.

        Raises:
            InputError: none, or others than the head was trained on.
        """
        wanted = self._models["weights_sha256"]
        if given is None:
            if file_sha256(DEMO_WEIGHTS) != wanted:
                raise InputError(
                    "--weights is missing: give the segmenter's file that the caches of "
                    f"{self.path} were made with (SHA-256 {wanted:.12}...)"
                )
            return str(DEMO_WEIGHTS)
        kind = find_segmenter(self._models["segmenter"].get("type", DEFAULT))
        found = given if given == wanted else kind.digest(given)
        if found != wanted:
            raise InputError(
                f"--weights {given} has the SHA-256 {found:.12}..., but {self.path} was trained on "
                f"caches of weights with {wanted:.12}...; give those"
            )
        return given

    def check_cache(self, reader: CacheReader) -> None:
        """Refuse a cache of another segmenter."""
        ours, theirs = self._models, signature(reader.fingerprint, codec=False)
        found = differences(*({**models, "text": None} for models in (ours, theirs)))
        if found:
            raise InputError(
                f"{reader.path} is of other models than {self.path}: {'; '.join(found)}; choose "
                "another --out"
            )

    def text(self, encoder: str | None, tagger: str | None) -> TextPipeline:
        """The text models.

        Args:
            encoder, tagger: folders or hub names, instead of the demo's or RoBERTa's own.

        Raises:
            InputError: they cannot be loaded, or are others than the head was trained on.
        """
        name = str(self._text["encoder"]["name"])
        own_encoder, own_tagger = DEMO_TEXT.get(name, (name, "en"))
        text = TextPipeline(
            TextEncoder(encoder or own_encoder), WordDecoupler(tagger or own_tagger)
        )
        found = [
            difference
            for difference in differences(self._text, text.identity())
            if not difference.startswith(("encoder.name", "decoupler.stanza"))
        ]
        if found:
            raise InputError(
                f"the text models are not those that {self.path} was trained with "
                f"({'; '.join(found)}); give theirs with --encoder and --tagger"
            )
        return text
