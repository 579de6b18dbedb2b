"""RoBERTa gives the numbers of `transformers`, whatever files it is read from."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import RobertaConfig, RobertaModel, RobertaTokenizerFast

import extract
from extract.text import TextEncoder
from tests.extract.refusals import refused

ROBERTA = Path(extract.__file__).parent / "assets" / "roberta_tiny"
SENTENCES = ["the red circle", "the bird that flies away to the left", "ünïcode 犬 <pad> </s>", "?"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the encoder, of the same name."""
    return Path(shutil.copytree(ROBERTA, tmp_path / ROBERTA.name))


def same(encoder: TextEncoder, other: TextEncoder) -> None:
    assert encoder.identity() == other.identity()
    for one, two in zip(encoder.encode(SENTENCES), other.encode(SENTENCES), strict=True):
        assert all(np.array_equal(vars(one)[name], vars(two)[name]) for name in vars(one))


@pytest.mark.parametrize("sentences", [SENTENCES, SENTENCES[1:2]], ids=["padded", "alone"])
@pytest.mark.parametrize("size", ["shipped", "wider"])
def test_its_numbers_are_those_of_transformers(
    sentences: list[str], size: str, folder: Path
) -> None:
    if size == "wider":
        torch.manual_seed(0)
        sizes = {"hidden_size": 96, "num_attention_heads": 3, "num_hidden_layers": 3}
        config = RobertaConfig(vocab_size=600, intermediate_size=200, type_vocab_size=2, **sizes)
        RobertaModel(config, add_pooling_layer=False).save_pretrained(folder)
    model = RobertaModel.from_pretrained(folder, add_pooling_layer=False).eval()
    batch = RobertaTokenizerFast.from_pretrained(folder)(
        sentences, padding=True, return_offsets_mapping=True, return_tensors="pt"
    )
    offsets = batch.pop("offset_mapping")
    with torch.no_grad():
        expected = model(**batch).last_hidden_state
    for n, item in enumerate(TextEncoder(folder).encode(sentences)):
        end = int(batch["attention_mask"][n].sum()) - 1
        assert np.array_equal(item.words, expected[n, 1:end].numpy())
        assert np.array_equal(item.offsets, offsets[n, 1:end].numpy())


def test_files_of_a_model_with_a_head(folder: Path) -> None:
    """As hubs have them: names with a prefix, other weights beside, merges as texts."""
    own = load_file(folder / "model.safetensors")
    weights = {f"roberta.{name}": tensor for name, tensor in own.items()}
    weights |= {"lm_head.bias": torch.zeros(3), "roberta.embeddings.position_ids": torch.arange(3)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    model = tokenizer["model"]
    model["merges"] = [" ".join(pair) for pair in model["merges"]]
    kept = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk")
    tokenizer["model"] = {name: model[name] for name in (*kept, "vocab", "merges")}
    tokenizer["truncation"] = {
        "max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer | {"padding": None}))
    same(TextEncoder(folder), TextEncoder(ROBERTA))


def test_files_in_another_layout(folder: Path, tmp_path: Path) -> None:
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = "\n".join(" ".join(pair) for pair in model["merges"])
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    for name in ("tokenizer.json", "model.safetensors"):
        (folder / name).unlink()
    encoder = TextEncoder(folder)
    same(encoder, TextEncoder(ROBERTA))
    saved = tmp_path / "saved" / ROBERTA.name
    encoder.save(saved)
    same(TextEncoder(saved), encoder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_act": "relu"}, "'relu'"),
        ({"num_attention_heads": 7}, "7 heads cannot share 64 channels"),
        ({"intermediate_size": 127}, "lacks 6 of the weights"),
        ({"vocab_size": 400}, "lacks 1 of the weights"),
        ({"num_hidden_layers": 3}, "encoder.layer.2.attention.self.query.weight"),
    ],
)
def test_configs_of_other_models_are_refused(
    change: dict[str, object], words: str, folder: Path
) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    refused(lambda: TextEncoder(folder), words, str(folder))
