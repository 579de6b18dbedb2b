"""Train the demo's part-of-speech tagger with stanza and lay it out as stanza's own folder.

    python -m scripts.make_demo_tagger [--out extract/assets/stanza_tiny]

Its treebank is the sentences of the demo's grammar, and made-up ones with words of everyday videos
so that other sentences do not fail badly. With one thread, the same machine and the same library
versions give the same weights; it takes a few minutes. Nothing is downloaded.
"""

import json
import random
import tempfile
from pathlib import Path

import torch

from cache_schema.host import cli
from extract.demo import grammar

#: What stanza's own index says of its packages; the one package here is small and stands alone.
RESOURCES = {
    "en": {
        "lang_name": "English",
        "packages": {"default": {"tokenize": "tiny", "pos": "tiny"}},
        "tokenize": {"tiny": {}},
        "pos": {"tiny": {}},
    }
}

#: Words of everyday videos by universal part of speech: a taste of English, not a treebank.
WORDS = {
    "NOUN": "man woman boy girl person people child dog cat bird horse cow sheep elephant monkey"
    " lizard turtle fish panda car truck bike boat plane ball toy grass water road wall tree table"
    " hand head side front back middle group shirt hat leader player animal rabbit",
    "ADJ": "big small white black brown orange first second last other tall little same largest",
    "VERB": "walking running jumping flying eating playing sitting lying swimming climbing turning"
    " walks runs jumps flies eats plays sits lies swims climbs turns moved walked stopped jumped"
    " moving moves move walk run jump fly holding pushing pulling following chasing being",
    "ADV": "quickly away forward backward together slowly then back first straight"
    " gently suddenly upwards outside",
    "ADP": "with on in at from behind towards near over under across of into by",
    "DET": "the a this two both every",
    "AUX": "is are was does did has",
}
#: Functional words that stand for themselves in the patterns below and in the grammar.
FIXED = {
    "and": "CCONJ",
    "that": "PRON",
    "who": "PRON",
    "not": "PART",
    "n't": "PART",
    "'s": "PART",
    ",": "PUNCT",
    ".": "PUNCT",
    "while": "SCONJ",
    "to": "ADP",
    "left": "NOUN",
    "right": "NOUN",
}
PATTERNS = (
    "DET NOUN VERB ADV",
    "DET ADJ NOUN VERB ADP DET NOUN .",
    "DET NOUN that AUX VERB ADV and VERB",
    "NOUN VERB ADP DET NOUN 's NOUN",
    "DET NOUN who VERB to DET left and VERB ADV",
    "DET ADJ ADJ NOUN that AUX not VERB",
    "NOUN VERB to DET right ADP DET ADJ NOUN , VERB ADV",
    "DET NOUN AUX n't VERB while DET NOUN VERB",
    "DET NOUN ADP NOUN ADV VERB",
    "DET NOUN AUX ADJ",
)

OPTIONS = (
    "--mode train --lang en --shorthand en_tiny --no_pretrain --cpu --seed 0 --max_steps 300"
    " --fix_eval_interval --eval_interval 100 --batch_size 500 --hidden_dim 32 --word_emb_dim 32"
    " --transformed_dim 24 --deep_biaff_hidden_dim 32 --composite_deep_biaff_hidden_dim 16"
    " --tag_emb_dim 8 --num_layers 1 --word_cutoff 0 --lr 0.01 --char_emb_dim 16"
    " --char_hidden_dim 32 --word_dropout 0.33 --augment_nopunct 0"
)


def everyday_sentences(rng: random.Random, count: int) -> list[list[tuple[str, str]]]:
    """Made-up sentences as (word, universal part of speech)."""
    words = {tag: line.split() for tag, line in WORDS.items()}
    return [
        [
            (item, FIXED[item]) if item in FIXED else (rng.choice(words[item]), item)
            for item in rng.choice(PATTERNS).split()
        ]
        for _ in range(count)
    ]


def grammar_sentences() -> list[list[tuple[str, str]]]:
    """The grammar's sentences as (word, universal part of speech)."""
    made = []
    for sentence in grammar.sentences():
        words = sentence.split()
        pairs = zip(words, ["", *words], strict=False)
        made.append([(word, grammar.part_of_speech(word, previous)) for word, previous in pairs])
    return made


def conllu(sentences: list[list[tuple[str, str]]]) -> str:
    """Tagged sentences as CoNLL-U: words, universal tags, a flat tree."""
    blocks = []
    for sentence in sentences:
        lines = [f"# text = {' '.join(word for word, _ in sentence)}"]
        for i, (word, tag) in enumerate(sentence):
            head = "0\troot" if i == 0 else "1\tdep"
            lines.append(f"{i + 1}\t{word}\t_\t{tag}\t_\t_\t{head}\t_\t_")
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks) + "\n"


def main(argv: list[str]) -> int:
    parser = cli.parser("scripts.make_demo_tagger", __doc__)
    parser.add_argument("--out", type=Path, default=Path("extract/assets/stanza_tiny"))
    out: Path = parser.parse_args(argv).out
    from stanza.models import tagger  # heavy, and only needed here

    torch.set_num_threads(1)
    rng = random.Random(0)
    sentences = grammar_sentences() + everyday_sentences(rng, 1500)
    rng.shuffle(sentences)
    (out / "en" / "pos").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        treebank = Path(folder) / "en_tiny.conllu"
        treebank.write_text(conllu(sentences), encoding="utf-8")
        held_out = Path(folder) / "en_tiny_dev.conllu"
        held_out.write_text(conllu(sentences[:200]), encoding="utf-8")
        tagger.main(
            [
                *OPTIONS.split(),
                *("--train_file", str(treebank), "--eval_file", str(held_out)),
                *("--save_dir", folder, "--save_name", "tiny.pt"),
            ]
        )
        # Only the model is shipped: not the optimiser's state, nor paths of this machine.
        model = torch.load(Path(folder) / "tiny.pt", weights_only=True)
    model["config"] = {
        key: None if isinstance(value, str) and folder in value else value
        for key, value in model["config"].items()
    }
    torch.save(model, out / "en" / "pos" / "tiny.pt")
    (out / "resources.json").write_text(json.dumps(RESOURCES, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {out}")
    return 0


if __name__ == "__main__":
    import sys

    sys.exit(cli.run(main))
