"""The text side with the shipped tiny models, which load as official ones do."""

import json
import pickle
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import extract
from cache_schema.host.cli import InputError
from extract.demo import grammar
from extract.text import TextEncoder, TextPipeline, WordDecoupler, normalise
from extract.text.decoupler import inherit, split_words

ASSETS = Path(extract.__file__).parent / "assets"
ROBERTA, STANZA = ASSETS / "roberta_tiny", ASSETS / "stanza_tiny"


@pytest.fixture(scope="module")
def pipeline():
    """Both models, loaded with the network out of reach."""
    with pytest.MonkeyPatch.context() as patch:

        def connect(*_):
            raise AssertionError("a local folder must not need the network")

        patch.setattr(socket.socket, "connect", connect)
        yield TextPipeline(TextEncoder(ROBERTA), WordDecoupler(STANZA))


@pytest.fixture
def roberta(tmp_path):
    """A copy of the encoder to spoil."""
    return Path(shutil.copytree(ROBERTA, tmp_path / "roberta"))


@pytest.fixture
def stanza(tmp_path):
    """A copy of the tagger to spoil."""
    return Path(shutil.copytree(STANZA, tmp_path / "stanza"))


def motion_words(pipeline, text):
    return [normalise(text)[a:b] for a, b in pipeline.decoupler.motion_spans([normalise(text)])[0]]


def test_shapes_types_and_meaning(pipeline):
    (first, second) = pipeline.encode(["the red circle moving left", "All  Circles\n"])
    channels = pipeline.encoder.channels
    assert first.words.shape == (5, channels) and first.words.dtype == np.float32
    assert first.sentence.shape == (channels,) and first.sentence.dtype == np.float32
    np.testing.assert_allclose(first.sentence, first.words.mean(0), atol=1e-6)
    assert first.offsets.tolist() == [[0, 3], [4, 7], [8, 14], [15, 21], [22, 26]]
    assert first.offsets.dtype == np.int32
    assert first.motion.tolist() == [False, False, False, True, True]
    assert first.motion.dtype == first.static.dtype == bool
    assert (first.static == ~first.motion).all()
    assert len(second.words) == 2 and not second.motion.any()
    assert pipeline.encode([]) == []


def test_case_and_white_space_do_not_matter_and_padding_does_not_leak(pipeline):
    one, two, _ = pipeline.encode(
        ["the bird", "  THE\tbird ", "a much longer sentence about a bird that flies away slowly"]
    )
    (alone,) = pipeline.encode(["the bird"])
    assert (one.words == two.words).all()
    np.testing.assert_allclose(one.words, alone.words, atol=1e-5)


def test_sub_word_tokens_inherit_the_mark_of_their_word(pipeline):
    text = "the crocodile zigzagging"
    (encoded,) = pipeline.encode([text])
    pieces = [text[a:b] for a, b in encoded.offsets]
    assert len(pieces) > 6 and "".join(pieces) == text.replace(" ", "")
    spans = pipeline.decoupler.motion_spans([text])[0]
    assert [text[a:b] for a, b in spans] == ["zigzagging"]
    assert encoded.motion.tolist() == [a >= 14 for a, _ in encoded.offsets]


def test_any_language_has_tokens_and_special_ones_cannot_be_smuggled_out(pipeline):
    encoded = pipeline.encode(["ünïcode 犬 🐕", "<s> </s> <pad>", "?!"])
    for item in encoded:
        assert len(item.words) and np.isfinite(item.words).all()


def test_the_tagger_knows_its_grammar(pipeline):
    sentences = grammar.sentences()
    wrong = []
    for sentence, tagged in zip(sentences, pipeline.decoupler.tags(sentences), strict=True):
        words = sentence.split()
        expected = [
            grammar.part_of_speech(word, previous)
            for previous, word in zip(["", *words], words, strict=False)
        ]
        if [tag for _, tag, _ in tagged] != expected:
            wrong.append(sentence)
    assert wrong == []


def test_left_is_a_noun_or_an_adverb(pipeline):
    assert motion_words(pipeline, "the circle moving left") == ["moving", "left"]
    assert motion_words(pipeline, "the circle that slides to the left") == ["slides"]


def test_motion_is_verbs_adverbs_and_negation(pipeline):
    assert motion_words(pipeline, "The dog doesn't run.") == ["n't", "run"]
    assert motion_words(pipeline, "the man that is not jumping") == ["not", "jumping"]
    assert motion_words(pipeline, "the white rabbit on the grass") == []


def test_particles_count_where_the_model_knows_them(monkeypatch):
    decoupler = object.__new__(WordDecoupler)
    tagged = [((0, 5), "VERB", "VBG"), ((6, 12), "ADP", "RP"), ((13, 15), "ADP", "IN")]
    monkeypatch.setattr(decoupler, "tags", lambda texts: [tagged], raising=False)
    assert decoupler.motion_spans(["turning around it"]) == [[(0, 5), (6, 12)]]


def test_features_tell_words_apart(pipeline):
    left, right, blue = (
        item.words
        for item in pipeline.encode(
            ["the red circle moving left", "the red circle moving right",
             "the blue circle moving left"]
        )
    )  # fmt: skip
    scale = np.linalg.norm(left - left.mean(0), axis=1).mean()
    assert np.linalg.norm(left[-1] - right[-1]) > 0.5 * scale
    assert np.linalg.norm(left[1] - blue[1]) > 0.5 * scale


def test_frozen(pipeline):
    assert not any(weight.requires_grad for weight in pipeline.encoder.model.weights.values())


def test_identity_is_content_not_place(pipeline, roberta, stanza):
    identity = pipeline.identity()
    json.dumps(identity)
    assert identity["encoder"]["hidden_size"] == 64
    copy = roberta.rename(roberta.with_name("roberta_tiny"))
    assert TextEncoder(copy).identity() == identity["encoder"]
    assert WordDecoupler(stanza).identity() == identity["decoupler"]
    weights = load_file(copy / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][7, 7] += 1
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    changed = TextEncoder(copy).identity()
    assert {k for k in changed if changed[k] != identity["encoder"][k]} == {"weights_sha256"}


def refused(call, *words):
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


@pytest.mark.parametrize("text", ["", "  ", "\n\t"])
def test_empty_expressions(pipeline, text):
    refused(lambda: pipeline.encode(["a bird", text]), "expression 2 of 2", "empty")


def test_too_long_expressions_are_not_cut_silently(pipeline):
    longest = "the" + " left" * (pipeline.encoder.model.max_tokens - 3)
    assert len(pipeline.encode([longest])[0].words) == 254
    refused(lambda: pipeline.encode([longest + " left"]), "'the left", "255 tokens", "takes 254")


def test_bad_encoders(roberta):
    refused(lambda: TextEncoder(roberta / "gone"), "gone does not exist")
    (roberta / "tokenizer.json").rename(roberta / "aside.json")
    refused(lambda: TextEncoder(roberta), str(roberta))
    (roberta / "aside.json").rename(roberta / "tokenizer.json")
    weights = load_file(roberta / "model.safetensors")
    kept = {k: v for k, v in weights.items() if "layer.1.output" not in k}
    save_file(kept, roberta / "model.safetensors", metadata={"format": "pt"})
    refused(lambda: TextEncoder(roberta), "layer.1.output", "lacks 4")
    config = json.loads((roberta / "config.json").read_text())
    (roberta / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    refused(lambda: TextEncoder(roberta), "type 'bert'")
    (roberta / "model.safetensors").write_bytes(b"no weights")
    refused(lambda: TextEncoder(roberta), str(roberta))
    (roberta / "config.json").unlink()
    refused(lambda: TextEncoder(roberta), "config.json")


class Evil:
    """Leaves a trace if it is ever unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_bad_taggers(stanza, tmp_path):
    refused(lambda: WordDecoupler(tmp_path / "gone"), "gone", "neither a folder")
    model = stanza / "en" / "pos" / "tiny.pt"
    torch.save({"model": Evil(tmp_path / "trace")}, model)
    refused(lambda: WordDecoupler(stanza), str(stanza))
    model.write_bytes(pickle.dumps(Evil(tmp_path / "trace"), protocol=2))
    refused(lambda: WordDecoupler(stanza), str(stanza))
    assert not (tmp_path / "trace").exists()
    model.unlink()
    refused(lambda: WordDecoupler(stanza), str(stanza))
    (stanza / "resources.json").unlink()
    refused(lambda: WordDecoupler(stanza), "resources.json")


def test_packages_are_found_by_stanzas_own_index(stanza):
    index = stanza / "resources.json"
    index.write_text(index.read_text().replace("tiny", "combined_charlm"))
    (stanza / "en" / "pos" / "tiny.pt").rename(stanza / "en" / "pos" / "combined_charlm.pt")
    assert list(WordDecoupler(stanza).identity()["files"]) == ["combined_charlm.pt"]


@settings(max_examples=100)
@given(st.text(max_size=40))
def test_words_cover_everything_but_white_space(text):
    text = normalise(text)
    spans = split_words(text)
    assert all(a < b for a, b in spans)
    assert all(b <= c for (_, b), (c, _) in zip(spans, spans[1:], strict=False))
    assert "".join(text[a:b] for a, b in spans) == text.replace(" ", "")


def test_words_are_split_as_treebanks_split_them():
    text = "the dog's tail doesn't move, left-most!"
    words = " ".join(text[a:b] for a, b in split_words(text))
    assert words == "the dog 's tail does n't move , left - most !"


def test_tokens_that_straddle_words():
    offsets = np.array([[0, 5], [5, 7], [8, 8], [8, 12]], np.int32)
    assert inherit(offsets, [(4, 7)]).tolist() == [True, True, False, False]
    assert inherit(offsets, [(8, 12)]).tolist() == [False, False, True, True]
    assert inherit(offsets, []).tolist() == [False] * 4
