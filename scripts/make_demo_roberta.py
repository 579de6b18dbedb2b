"""Train the demo's text encoder: a byte-level BPE tokenizer and a tiny RoBERTa.

    python -m scripts.make_demo_roberta [--out extract/assets/roberta_tiny]

Masked language modelling on the sentences of the demo's grammar, with two changes that a grammar
this small needs. In it colours and directions are interchangeable, so plain masked modelling maps
"red" and "blue" to nearly one feature; therefore every token is predicted, visible ones too, the
sentence's words are predicted from the mean of its features, and noise is added to the features
that predict. With one thread, the same machine and the same library versions give the same
weights; it takes about three minutes. The tokenizer starts from all 256 bytes: any text can be
encoded, only in more tokens.
"""

import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import ByteLevelBPETokenizer
from torch import nn
from transformers import RobertaConfig, RobertaForMaskedLM, RobertaTokenizerFast

from cache_schema.host import cli
from extract.demo import grammar

STEPS = 2500
BATCH = 64
#: Standard deviation of the noise on features (their own is about 1.5).
NOISE = 0.5


def train_tokenizer(sentences: list[str]) -> RobertaTokenizerFast:
    """RoBERTa's tokenizer over the sentences: 256 bytes, special tokens, merges of their words."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        sentences,
        vocab_size=500,
        min_frequency=2,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        show_progress=False,
    )
    with tempfile.TemporaryDirectory() as folder:
        bpe.save_model(folder)
        # The old argument names vocab_file and merges_file are ignored without a word.
        tokenizer = RobertaTokenizerFast(
            vocab=f"{folder}/vocab.json", merges=f"{folder}/merges.txt"
        )
    if len(tokenizer) < 300:
        raise RuntimeError(f"the tokenizer came out with {len(tokenizer)} tokens")
    return tokenizer


def loss_of(
    model: RobertaForMaskedLM,
    bag: nn.Linear,
    ids: torch.Tensor,
    attention: torch.Tensor,
    special: torch.Tensor,
    mask_id: int,
) -> torch.Tensor:
    """Cross-entropy of every token, and of the set of tokens given the mean feature."""
    inputs = ids.masked_fill((torch.rand(ids.shape) < 0.15) & ~special, mask_id)
    features = model.roberta(input_ids=inputs, attention_mask=attention).last_hidden_state
    features = features + NOISE * torch.randn_like(features)  # (B, K, C)
    words = ~special
    tokens = F.cross_entropy(model.lm_head(features)[words], ids[words])
    mean = (features * words[..., None]).sum(1) / words.sum(1, keepdim=True)  # (B, C)
    present = torch.zeros(len(ids), bag.out_features).scatter_(1, ids, 1.0)
    return tokens + 10 * F.binary_cross_entropy_with_logits(bag(mean), present)


def main(argv: list[str]) -> int:
    parser = cli.parser("scripts.make_demo_roberta", __doc__)
    parser.add_argument("--out", type=Path, default=Path("extract/assets/roberta_tiny"))
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args(argv)

    torch.set_num_threads(1)
    torch.manual_seed(0)
    sentences = grammar.sentences()
    tokenizer = train_tokenizer(sentences)
    encoded = tokenizer(sentences, padding=True, return_tensors="pt")
    ids, attention = encoded["input_ids"], encoded["attention_mask"]
    special = (ids == tokenizer.bos_token_id) | (ids == tokenizer.eos_token_id) | (attention == 0)
    model = RobertaForMaskedLM(
        RobertaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=128,
            max_position_embeddings=258,
            type_vocab_size=1,
            layer_norm_eps=1e-5,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    bag = nn.Linear(64, len(tokenizer))  # only for training
    parameters = [*model.parameters(), *bag.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=args.steps)
    started, average = time.time(), None
    for step in range(args.steps):
        rows = torch.randint(len(ids), (BATCH,))
        longest = int(attention[rows].sum(1).max())
        batch = ids[rows, :longest]  # (B, K)
        loss = loss_of(
            model,
            bag,
            batch,
            attention[rows, :longest],
            special[rows, :longest],
            tokenizer.mask_token_id,
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        average = loss.item() if average is None else 0.98 * average + 0.02 * loss.item()
        if (step + 1) % 250 == 0:
            print(f"step {step + 1}: loss {average:.3f}, {time.time() - started:.0f} s", flush=True)
    tokenizer.save_pretrained(args.out)
    model.roberta.save_pretrained(args.out)
    print(f"wrote {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
