"""RoBERTa as the paper uses it: always frozen, word features F_w and the pooled sentence F_se."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save
from tokenizers import Tokenizer

from cache_schema.host import files
from cache_schema.host.cli import InputError
from extract.text.hub import check_reachable, in_hub_cache
from extract.text.roberta import Roberta

FILES = CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
#: Sentences that go through the encoder together.
BATCH = 64


@dataclass(frozen=True)
class WordFeatures:
    """A sentence seen by the encoder, one row a sub-word token, without <s> and </s>."""

    words: np.ndarray  # (K_w, C) float32
    sentence: np.ndarray  # (C,) float32
    offsets: np.ndarray  # (K_w, 2) int32, character spans


class TextEncoder:
    """A frozen RoBERTa, on the CPU.

    Args:
        name_or_folder: a folder in the layout of `save_pretrained`, read without any network; or
            a model's name on the Hugging Face hub, such as ``roberta-base``.

    Raises:
        InputError: no such folder or model, another architecture, weights that leave parameters
            at random, or a vocabulary that does not fit.
    """

    def __init__(self, name_or_folder: str | Path) -> None:
        name = str(name_or_folder)
        local = Path(name).is_dir()
        if not local and (Path(name).is_absolute() or name.startswith(".") or name.count("/") > 1):
            raise InputError(f"text encoder: the folder {name} does not exist")
        if local and not (Path(name) / CONFIG).is_file():
            raise InputError(
                f"text encoder: {name} has no {CONFIG}; give a folder that save_pretrained wrote,"
                f" with {CONFIG}, {WEIGHTS} and {TOKENIZER}"
            )
        found = [Path(name) / file if local else in_hub_cache(name, file) for file in FILES]
        if None in found:
            check_reachable(constants.ENDPOINT, what=f"text encoder: {name}")
        try:
            if all(file and file.is_file() for file in found):
                config, weights, tokenizer = found
                config, weights = json.loads(config.read_text("utf-8")), load_file(weights)
                self.tokenizer = Tokenizer.from_file(str(tokenizer))
            else:
                config, weights, self.tokenizer = _by_transformers(name, local=local)
            self.model = Roberta(config, weights)
        # The libraries raise some ten types here, and every one means "not a usable model".
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise InputError(
                f"text encoder: {name} cannot be loaded as RoBERTa ({lines[0].rstrip('.')}); check"
                " the files, or the network for a hub name"
            ) from error
        if missing := self.model.missing:
            raise InputError(
                f"text encoder: {name} lacks {len(missing)} of the weights that its config.json"
                f" asks for ({', '.join(missing[:3])}); they belong to another model"
            )
        tokens = self.tokenizer.get_vocab_size()
        # Without its vocabulary the library builds a tokenizer of special tokens and says nothing.
        if not 5 < tokens <= self.model.vocabulary:
            raise InputError(
                f"text encoder: {name} has a tokenizer of {tokens} tokens for a model of"
                f" {self.model.vocabulary}; {TOKENIZER} (or vocab.json and merges.txt) is missing"
                " or belongs to another model"
            )
        self.tokenizer.no_truncation()
        self.tokenizer.enable_padding(pad_id=self.model.pad)
        self.name = Path(name).resolve().name if local else name

    @property
    def channels(self) -> int:
        """C of the word features."""
        return self.model.channels

    def identity(self) -> dict[str, Any]:
        """What the features depend on, for the cache's fingerprint: content, not place."""
        weights = hashlib.sha256()
        for name, tensor in sorted(self.model.weights.items()):
            weights.update(name.encode())
            weights.update(tensor.contiguous().numpy())
        pieces = json.loads(self.tokenizer.to_str())["model"]
        tokens = hashlib.sha256(json.dumps(pieces, sort_keys=True).encode())
        return {
            "name": self.name,
            "hidden_size": self.channels,
            "weights_sha256": weights.hexdigest(),
            "tokenizer_sha256": tokens.hexdigest(),
        }

    def save(self, folder: Path) -> None:
        """Write the model as a folder that needs no network and loads fast."""
        files.make_folder(folder)
        files.write(folder / CONFIG, json.dumps(self.model.config))
        files.write(folder / WEIGHTS, save(self.model.weights, {"format": "pt"}))
        files.write(folder / TOKENIZER, self.tokenizer.to_str())

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
        batch = self.tokenizer.encode_batch(sentences)
        lengths = [sum(item.attention_mask) for item in batch]
        for sentence, length in zip(sentences, lengths, strict=True):
            if length <= 2:
                raise InputError(f"the expression {sentence!r} has no words")
            if length > self.model.max_tokens:
                raise InputError(
                    f"the expression {sentence[:40]!r}... has {length - 2} tokens, but the text"
                    f" encoder {self.name} takes {self.model.max_tokens - 2}; shorten it"
                )
        ids = torch.tensor([item.ids for item in batch])
        real = torch.tensor([item.attention_mask for item in batch]) > 0
        hidden = self.model(ids, real)  # (B, K, C)
        made = []
        for row, item, length in zip(hidden, batch, lengths, strict=True):
            words = row[1 : length - 1]  # (K_w, C): without <s>, </s> and padding
            offsets = np.array(item.offsets[1 : length - 1], np.int32)
            made.append(WordFeatures(words.numpy(), words.mean(0).numpy(), offsets))
        return made


def _by_transformers(name: str, *, local: bool) -> tuple[dict, dict[str, torch.Tensor], Tokenizer]:
    """Config, weights and tokenizer that lie in other files, or are still on the hub."""
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # of loading weights: the run has one of its own
    model, report = AutoModel.from_pretrained(
        name, add_pooling_layer=False, local_files_only=local, output_loading_info=True
    )
    weights = model.state_dict()
    for random in report["missing_keys"]:
        del weights[random]
    tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=local)
    return model.config.to_dict(), weights, tokenizer.backend_tokenizer
