"""Words and sentence as attention keys: projections, and the sentence where words are missing."""

import torch
from torch import Tensor, nn


class TextProjection(nn.Sequential):
    """A linear map and LayerNorm from the text encoder's channels to the head's."""

    def __init__(self, text_dim: int, hidden_dim: int) -> None:
        super().__init__(nn.Linear(text_dim, hidden_dim), nn.LayerNorm(hidden_dim))


def keys_with_stand_in(words: Tensor, mask: Tensor, sentence: Tensor) -> tuple[Tensor, Tensor]:
    """Select words as keys; where an expression has none of them, the sentence stands in.

    Softmax over no keys is not a number, so the sentence is appended as one more key that is
    real exactly for the expressions without a selected word.

    Args:
        words: (B, K_w, C).
        mask: (B, K_w) bool, True for the words to keep.
        sentence: (B, C).

    Returns:
        keys (B, K_w + 1, C) and their mask (B, K_w + 1), at least one True in each row.
    """
    missing = ~mask.any(dim=1, keepdim=True)  # (B, 1)
    keys = torch.cat([words, sentence[:, None]], dim=1)  # (B, K_w + 1, C)
    return keys, torch.cat([mask, missing], dim=1)


def max_pooled(words: Tensor, mask: Tensor, sentence: Tensor) -> Tensor:
    """The largest value of each channel over the words; without any word the sentence.

    Args:
        words: (B, K_w, C).
        mask: (B, K_w) bool, True for real words.
        sentence: (B, C).

    Returns:
        (B, C).
    """
    keys, key_mask = keys_with_stand_in(words, mask, sentence)
    return keys.masked_fill(~key_mask[:, :, None], -torch.inf).amax(dim=1)
