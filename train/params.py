"""How many parameters a head has, part by part.

python -m train.params [CONFIG] [--row ROW] [--cache CACHE] [--cfg-options key=value ...]

Sizes are the cache's; without one what the config says, or those of a VITA of the head's width and
of RoBERTa-base.
"""

import sys
from collections import Counter

import numpy as np
import torch
from mmengine.config import Config

from cache_schema.host import cli
from cache_schema.host.options import Options
from cache_schema.reader import CacheReader
from train.config import load_config
from train.data.sizes import common_sizes
from train.evaluation.report import align
from train.heads import CacheSizes, build_head
from train.places import BASE

#: Learnable parameters as the paper's Table 8 gives them, in millions; and what of LMPM and DsHmp a
#: cache leaves, counted in their published code at C = 256.
PAPER = {"DMVS": 12.7, "DsHmp": 102.3}
OVER_A_CACHE = {"LMPM": 13.2, "DsHmp": 22.4}


def main(argv: list[str]) -> int:
    """Command line; see the module's docstring."""
    parser = cli.parser("train.params", __doc__)
    parser.add_argument("config", nargs="?", default=str(BASE), help="default: the paper's size")
    parser.add_argument("--row", help="of an ablation table")
    parser.add_argument("--cache", help="that the head is for")
    parser.add_argument("--cfg-options", nargs="+", action=Options, metavar="KEY=VALUE")
    arguments = parser.parse_args(argv)
    config = load_config(arguments.config, arguments.cfg_options, arguments.row)
    cache = arguments.cache
    sizes = common_sizes([CacheReader(cache)]) if cache else usual_sizes(config)
    with torch.device("meta"):
        parts = count(build_head(config, sizes))
    rows = [["", "parameters"], *([name, f"{number:,}"] for name, number in parts.items())]
    print(align([*rows, ["all", f"{parts.total():,}"]]))
    told = [f"{name} of the paper: {millions} M" for name, millions in PAPER.items()]
    told += [f"{name} over a cache: {millions} M" for name, millions in OVER_A_CACHE.items()]
    print(", ".join(told))
    return 0


def usual_sizes(config: Config) -> CacheSizes:
    """Sizes of a cache that a config is for, as far as one can tell."""
    width = config.model.get("hidden_dim") or 256
    mask_dim = config.model.get("mask_dim") or width
    layers = ((width, width), (width, width), (mask_dim, width))
    return CacheSizes(
        query_dim=width,
        text_dim=config.model.get("text_dim") or 768,
        mask_dim=mask_dim,
        num_video_queries=100,
        num_classes=25,
        mask_head=tuple((np.zeros(layer), np.zeros(layer[0])) for layer in layers),
        by_frame=config.model.get("mask_start") == "frames",
    )


def count(head: torch.nn.Module) -> Counter[str]:
    """Learnable parameters of each part of a head."""
    parts: Counter[str] = Counter()
    for name, parameter in head.named_parameters():
        if parameter.requires_grad:
            parts[name.split(".")[0].replace("_", " ")] += parameter.numel()
    return parts


if __name__ == "__main__":
    sys.exit(cli.run(main))
