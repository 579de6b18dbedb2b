"""Fetch the text models into folders, for machines without a network.

    python -m scripts.fetch_text_models DIR [--encoder roberta-base]

writes DIR/encoder (RoBERTa) and DIR/tagger (stanza's English tagger) and says how to use them.
"""

import sys
from pathlib import Path

from cache_schema.host import cli
from extract.text import TextEncoder, WordDecoupler
from extract.text.decoupler import LANGUAGE
from extract.text.hub import check_reachable


def main(argv: list[str]) -> int:
    """Command line; see the module's docstring."""
    parser = cli.parser("scripts.fetch_text_models", __doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="where they go")
    parser.add_argument("--encoder", default="roberta-base", help="its name on the hub")
    arguments = parser.parse_args(argv)
    encoder, tagger = arguments.folder / "encoder", arguments.folder / "tagger"
    TextEncoder(arguments.encoder).save(encoder)
    import stanza  # heavy, and only needed now

    check_reachable(stanza.resources.common.DEFAULT_RESOURCES_URL, what="stanza's English tagger")
    stanza.download(LANGUAGE, model_dir=str(tagger), processors="tokenize,pos", verbose=False)
    TextEncoder(encoder)  # what was written can be read without a network
    WordDecoupler(tagger)
    print(f"fetched; use them with --cfg-options text.encoder={encoder} text.tagger={tagger}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
