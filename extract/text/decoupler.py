"""Which words of a sentence are motion cues and which are static, by part of speech.

The paper takes verbs and adverbs as motion cues, nouns, adjectives and prepositions as static ones.
It leaves some classes open; here every word is one or the other:

- motion: VERB and ADV; particles of verbs ("turns *around*", Penn tag RP, where the model knows
  it); "not" and "n't", adverbs in school grammar, because "does not move" is about motion.
- static: everything else. Auxiliaries (AUX: is, does, has) carry tense, the verb that they serve
  carries the motion. Determiners, pronouns, numbers and punctuation go with the nouns.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from cache_schema.fingerprint import file_sha256
from cache_schema.host.cli import InputError
from cache_schema.host.loading import loading
from extract.text.hub import check_reachable

MOTION_TAGS = frozenset({"VERB", "ADV"})
NEGATIONS = frozenset({"not", "n't"})
LANGUAGE = "en"

#: Words as English treebanks split them: "doesn't" is does + n't, "dog's" is dog + 's, hyphens and
#: other punctuation stand alone.
_WORD = re.compile(r"\w+(?=n't\b)|n't\b|'(?:s|re|ve|ll|d|m)\b|\w+|[^\w\s]")


def split_words(text: str) -> list[tuple[int, int]]:
    """Character spans of the words and punctuation marks of a text."""
    return [match.span() for match in _WORD.finditer(text)]


class WordDecoupler:
    """stanza's part-of-speech tagger over `split_words`.

    One path for all models: words go in already split, so only the tagger is loaded, never stanza's
    own tokenizer. stanza reads model files with ``torch.load(weights_only=True)``: a model file
    cannot run code.

    Args:
        folder_or_language: a folder in the layout of stanza's resources (`resources.json`,
            `en/pos/*.pt`, ...), read without any network; or ``en`` for stanza's own folder in the
            user's home, which is filled from its hub when a model is missing.

    Raises:
        InputError: no such folder, no tagger in it, or a file that is no model.
    """

    def __init__(self, folder_or_language: str | Path = LANGUAGE) -> None:
        with loading("transformers"):  # which only other models of stanza's need
            import stanza  # here: it is heavy, with side effects on logging
        name = str(folder_or_language)
        options: dict[str, Any] = {"download_method": "reuse_resources"}
        if Path(name).is_dir():
            options = {"dir": name, "download_method": None}
            if not (Path(name) / "resources.json").is_file():
                raise InputError(
                    f"word decoupler: {name} has no resources.json; give a folder that"
                    " stanza.download('en', model_dir=...) filled"
                )
        elif name != LANGUAGE:
            raise InputError(
                f"word decoupler: {name} is neither a folder of stanza models nor {LANGUAGE!r}"
            )
        elif not (Path(stanza.resources.common.DEFAULT_MODEL_DIR) / LANGUAGE / "pos").is_dir():
            url = stanza.resources.common.DEFAULT_RESOURCES_URL
            check_reachable(url, what="word decoupler: stanza's English tagger")
        try:
            with _no_optimizer(stanza):
                self._tagger = stanza.Pipeline(
                    LANGUAGE,
                    processors="tokenize,pos",
                    tokenize_pretokenized=True,
                    device="cpu",
                    verbose=False,
                    **options,
                )
        # stanza, torch and requests raise types without a common base for "not a usable model".
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise InputError(
                f"word decoupler: no English tagger can be loaded from {name} ({lines[0]}); fill a"
                " folder with stanza.download('en', model_dir=..., processors='tokenize,pos')"
            ) from error
        self._version = stanza.__version__

    def identity(self) -> dict[str, Any]:
        """What the marks depend on, for the cache's fingerprint."""
        config = self._tagger.config
        paths = {value for key, value in config.items() if re.fullmatch(r"pos_.*_path", key)}
        return {
            "stanza": self._version,
            "files": {Path(path).name: file_sha256(Path(path)) for path in sorted(paths)},
        }

    def tags(self, texts: list[str]) -> list[list[tuple[tuple[int, int], str, str]]]:
        """(character span, universal tag, Penn tag or "") of every word of each text."""
        spans = [split_words(text) for text in texts]
        words = [[text[a:b] for a, b in row] for text, row in zip(texts, spans, strict=True)]
        if not any(words):
            return [[] for _ in texts]
        sentences = iter(self._tagger([row for row in words if row]).sentences)
        made = []
        for row in spans:
            tagged = next(sentences).words if row else []
            made.append(
                [(s, w.upos or "X", w.xpos or "") for s, w in zip(row, tagged, strict=True)]
            )
        return made

    def motion_spans(self, texts: list[str]) -> list[list[tuple[int, int]]]:
        """Character spans of the motion words of each text; all other words are static."""
        return [
            [
                (a, b)
                for (a, b), tag, penn in row
                if tag in MOTION_TAGS or penn == "RP" or text[a:b] in NEGATIONS
            ]
            for text, row in zip(texts, self.tags(texts), strict=True)
        ]


@contextmanager
def _no_optimizer(stanza: ModuleType) -> Iterator[None]:
    """Load taggers without what trains them: any optimiser of torch's loads its compiler."""
    module, name = stanza.models.common.utils, "get_split_optimizer"
    own = getattr(module, name, None)
    setattr(module, name, lambda *_, **__: {})
    try:
        yield
    finally:
        setattr(module, name, own)


def inherit(offsets: np.ndarray, spans: list[tuple[int, int]]) -> np.ndarray:
    """Which tokens lie in one of the spans, at least in part.

    Args:
        offsets: (K_w, 2) character spans of sub-word tokens. A span without characters is a lone
            space token: it belongs to the word that starts there.
        spans: character spans of words.

    Returns:
        (K_w,) bool.
    """
    start = offsets[:, 0]
    end = np.maximum(offsets[:, 1], start + 1)
    inside = np.zeros(len(offsets), bool)
    for a, b in spans:
        inside |= (start < b) & (end > a)
    return inside
