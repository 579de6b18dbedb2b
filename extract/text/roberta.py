"""RoBERTa's forward pass in plain torch.

Loading `transformers` takes seconds, most of what another sentence on a known video would cost.
This gives its numbers bit by bit, to which a test holds it.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

ATTENTION = tuple(f"attention.self.{name}" for name in ("query", "key", "value"))
#: Tables of embeddings, and the config's name for their lengths.
TABLES = {
    "word": "vocab_size",
    "token_type": "type_vocab_size",
    "position": "max_position_embeddings",
}


class Roberta:
    """A RoBERTa without a head.

    Args:
        config: as its ``config.json`` says it.
        weights: by their names in `transformers`; others than a RoBERTa's are left out.

    Attributes:
        config: that.
        weights: float32.
        missing: names of weights that are not given, or not of the config's size.

    Raises:
        KeyError, ValueError: the config is incomplete, or another kind of model's.
    """

    def __init__(self, config: dict[str, Any], weights: dict[str, Tensor]) -> None:
        self.config = config
        kind, activation = config["model_type"], config["hidden_act"]
        if (kind, activation) != ("roberta", "gelu"):
            raise ValueError(f"it is of type {kind!r} with {activation!r}")
        self.channels, self.vocabulary = config["hidden_size"], config["vocab_size"]
        self.layers, self.heads = config["num_hidden_layers"], config["num_attention_heads"]
        if self.channels % self.heads:
            raise ValueError(f"{self.heads} heads cannot share {self.channels} channels")
        self.pad, self.eps = config["pad_token_id"], config["layer_norm_eps"]
        # Positions are counted from pad + 1.
        self.max_tokens = config["max_position_embeddings"] - self.pad - 1
        weights = {name.removeprefix("roberta."): value for name, value in weights.items()}
        shapes = _shapes(config)
        self.missing = [n for n in shapes if n not in weights or weights[n].shape != shapes[n]]
        self.weights = {n: weights[n].float() for n in shapes if n not in self.missing}

    def __call__(self, ids: Tensor, real: Tensor) -> Tensor:
        """Features of the last layer.

        Args:
            ids: (B, K) int64 tokens.
            real: (B, K) bool, false for padding.

        Returns:
            (B, K, C) float32; those of padding mean nothing.
        """
        words = ids != self.pad
        rows = {
            "word": ids, "token_type": ids * 0, "position": words.cumsum(1) * words + self.pad
        }  # fmt: skip
        x = sum(
            F.embedding(rows[n], self.weights[f"embeddings.{n}_embeddings.weight"]) for n in TABLES
        )
        x = self._norm("embeddings", x)  # (B, K, C)
        mask = None if real.all() else real[:, None, None]
        for layer in (f"encoder.layer.{n}." for n in range(self.layers)):
            q, k, v = (
                self._linear(layer + name, x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
                for name in ATTENTION
            )  # (B, heads, K, C / heads)
            seen = F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2)
            seen = self._linear(f"{layer}attention.output.dense", seen)
            x = self._norm(f"{layer}attention.output", seen + x)
            inner = F.gelu(self._linear(f"{layer}intermediate.dense", x))
            x = self._norm(f"{layer}output", self._linear(f"{layer}output.dense", inner) + x)
        return x

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def _norm(self, name: str, x: Tensor) -> Tensor:
        weight, bias = (self.weights[f"{name}.LayerNorm.{part}"] for part in ("weight", "bias"))
        return F.layer_norm(x, weight.shape, weight, bias, self.eps)


def _shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Of every weight, by its name."""
    c, inner = config["hidden_size"], config["intermediate_size"]
    layer = {
        **dict.fromkeys(ATTENTION, (c, c)),
        "attention.output.dense": (c, c),
        "attention.output.LayerNorm": (c,),
        "intermediate.dense": (inner, c),
        "output.dense": (c, inner),
        "output.LayerNorm": (c,),
    }
    modules = {"embeddings.LayerNorm": (c,)}
    for n in range(config["num_hidden_layers"]):
        modules |= {f"encoder.layer.{n}.{name}": shape for name, shape in layer.items()}
    shapes = {f"embeddings.{n}_embeddings.weight": (config[size], c) for n, size in TABLES.items()}
    shapes |= {f"{name}.weight": shape for name, shape in modules.items()}
    return shapes | {f"{name}.bias": shape[:1] for name, shape in modules.items()}
