"""How many parameters a head has, part by part.

python -m train.params [CONFIG] [--row ROW] [--cfg-options key=value ...]
"""

import argparse
import sys
from collections import Counter

import torch

from cache_schema.host import cli
from train.config import BASE, Options, load_config
from train.evaluation.report import align
from train.trainable import build_head

#: Learnable parameters as the paper's Table 8 gives them, in millions.
PAPER = {"DMVS": 12.7, "DsHmp": 102.3}


def main(argv: list[str]) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m train.params",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", nargs="?", default=str(BASE), help="default: the paper's size")
    parser.add_argument("--row", help="of an ablation table")
    parser.add_argument("--cfg-options", nargs="+", action=Options, metavar="KEY=VALUE")
    arguments = parser.parse_args(argv)
    config = load_config(arguments.config, arguments.cfg_options, arguments.row)
    with torch.device("meta"):
        parts = count(build_head(config))
    rows = [["", "parameters"], *([name, f"{number:,}"] for name, number in parts.items())]
    print(align([*rows, ["all", f"{parts.total():,}"]]))
    print(", ".join(f"{name} of the paper: {millions} M" for name, millions in PAPER.items()))
    return 0


def count(head: torch.nn.Module) -> Counter[str]:
    """Learnable parameters of each part of a head."""
    parts: Counter[str] = Counter()
    for name, parameter in head.named_parameters():
        if parameter.requires_grad:
            parts[name.split(".")[0].replace("_", " ")] += parameter.numel()
    return parts


if __name__ == "__main__":
    sys.exit(cli.run(main))
