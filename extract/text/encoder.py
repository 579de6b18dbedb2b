"""RoBERTa as the paper uses it: always frozen, word features F_w and the pooled sentence F_se."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import constants, try_to_load_from_cache
from transformers import AutoConfig, RobertaModel, RobertaTokenizerFast
from transformers.utils.logging import disable_progress_bar

from cache_schema.host.cli import InputError
from extract.frozen import freeze
from extract.text.hub import check_reachable

disable_progress_bar()  # of loading weights: the run has one of its own
#: Sentences that go through the encoder together.
BATCH = 64


@dataclass(frozen=True)
class WordFeatures:
    """A sentence seen by the encoder, one row a sub-word token, without <s> and </s>."""

    words: np.ndarray  # (K_w, C) float32
    sentence: np.ndarray  # (C,) float32
    offsets: np.ndarray  # (K_w, 2) int32, character spans


class TextEncoder:
    """A frozen RoBERTa.

    Args:
        name_or_folder: a folder in the layout of `save_pretrained`, read without any network; or
            a model's name on the Hugging Face hub, such as ``roberta-base``.

    Raises:
        InputError: no such folder or model, another architecture, weights that leave parameters
            at random, or a vocabulary that does not fit.
    """

    def __init__(self, name_or_folder: str | Path, device: str | torch.device = "cpu") -> None:
        name = str(name_or_folder)
        local = Path(name).is_dir()
        if not local and (Path(name).is_absolute() or name.startswith(".") or name.count("/") > 1):
            raise InputError(f"text encoder: the folder {name} does not exist")
        if local and not (Path(name) / "config.json").is_file():
            raise InputError(
                f"text encoder: {name} has no config.json; give a folder that save_pretrained"
                " wrote, with config.json, model.safetensors and the tokenizer's files"
            )
        if not local and not isinstance(try_to_load_from_cache(name, "config.json"), str):
            check_reachable(constants.ENDPOINT, what=f"text encoder: {name}")
        try:
            # First the one small file: without a network, each file costs half a minute of retries.
            kind = AutoConfig.from_pretrained(name, local_files_only=local).model_type
            if kind != "roberta":
                raise ValueError(f"it is of type {kind!r}")
            self.tokenizer = RobertaTokenizerFast.from_pretrained(name, local_files_only=local)
            self.model, report = RobertaModel.from_pretrained(
                name,
                add_pooling_layer=False,
                local_files_only=local,
                dtype=torch.float32,
                output_loading_info=True,
            )
        # The library raises some ten types here, and every one means "not a usable model".
        except Exception as error:
            raise InputError(
                f"text encoder: {name} cannot be loaded as RoBERTa"
                f" ({_first_line(error)}); check the files, or the network for a hub name"
            ) from error
        if report["missing_keys"]:
            missing = ", ".join(sorted(report["missing_keys"])[:3])
            raise InputError(
                f"text encoder: {name} lacks {len(report['missing_keys'])} of the weights that its"
                f" config.json asks for ({missing}); they belong to another model"
            )
        # Without its vocabulary the library builds a tokenizer of special tokens and says nothing.
        if not 5 < len(self.tokenizer) <= self.model.config.vocab_size:
            raise InputError(
                f"text encoder: {name} has a tokenizer of {len(self.tokenizer)} tokens for a"
                f" model of {self.model.config.vocab_size}; tokenizer.json (or vocab.json and"
                " merges.txt) is missing or belongs to another model"
            )
        self.name = Path(name).resolve().name if local else name
        self.device = torch.device(device)
        freeze(self.model).to(self.device)
        # RoBERTa counts positions from padding_idx + 1.
        self.max_tokens = (
            self.model.config.max_position_embeddings - self.model.config.pad_token_id - 1
        )

    @property
    def channels(self) -> int:
        """C of the word features."""
        return self.model.config.hidden_size

    def identity(self) -> dict[str, Any]:
        """What the features depend on, for the cache's fingerprint: content, not place."""
        weights = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            weights.update(name.encode())
            weights.update(tensor.cpu().contiguous().numpy().tobytes())
        pieces = json.loads(self.tokenizer.backend_tokenizer.to_str())["model"]
        tokens = hashlib.sha256(json.dumps(pieces, sort_keys=True).encode())
        return {
            "name": self.name,
            "hidden_size": self.channels,
            "weights_sha256": weights.hexdigest(),
            "tokenizer_sha256": tokens.hexdigest(),
        }

    @torch.no_grad()
    def encode(self, sentences: list[str]) -> list[WordFeatures]:
        """Word features F_w of each sentence and their mean, F_se ("pooling the features of every
        single word"); sub-word tokens stand for words.

        Raises:
            InputError: a sentence without tokens, or with more than the model has positions for
                (nothing is cut off silently).
        """
        made: list[WordFeatures] = []
        for start in range(0, len(sentences), BATCH):
            made += self._encode(sentences[start : start + BATCH])
        return made

    def _encode(self, sentences: list[str]) -> list[WordFeatures]:
        batch = self.tokenizer(
            sentences, padding=True, return_offsets_mapping=True, return_tensors="pt"
        )
        lengths = batch["attention_mask"].sum(1).tolist()
        for sentence, length in zip(sentences, lengths, strict=True):
            if length <= 2:
                raise InputError(f"the expression {sentence!r} has no words")
            if length > self.max_tokens:
                raise InputError(
                    f"the expression {sentence[:40]!r}... has {length - 2} tokens, but the text"
                    f" encoder {self.name} takes {self.max_tokens - 2}; shorten it"
                )
        hidden = self.model(
            input_ids=batch["input_ids"].to(self.device),
            attention_mask=batch["attention_mask"].to(self.device),
        ).last_hidden_state  # (B, K, C)
        made = []
        for row, offsets, length in zip(hidden, batch["offset_mapping"], lengths, strict=True):
            words = row[1 : length - 1]  # (K_w, C): without <s>, </s> and padding
            made.append(
                WordFeatures(
                    words=words.float().cpu().numpy(),
                    sentence=words.float().mean(0).cpu().numpy(),
                    offsets=offsets[1 : length - 1].numpy().astype(np.int32),
                )
            )
        return made


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
