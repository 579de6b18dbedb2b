"""Whether a checkpoint may be gone on with: only by the run that wrote it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader
from train.config import differences
from train.data.compatible import signature
from train.provenance import CONTENTS, cache_identity, contents

# What may change between a run and its resumption: nothing that shapes the weights.
FREE_TO_CHANGE = (
    "train.max_iters", "train.log_interval", "train.checkpoint_interval", "train.val_",
    "train.keep_checkpoints", "train.tensorboard", "train.graphs", "train.together",
    "data.num_workers", "data.ram_gb", "evaluation.",
)  # fmt: skip

#: What is told of a cache beside its fingerprint, for who has the checkpoint alone.
ADDED = {"segmenter_type", "resize", "release"}


def training_facts(config: Config, caches: Sequence[CacheReader]) -> dict[str, Any]:
    """What a checkpoint keeps of its run, JSON-able."""
    return {
        "config": config.to_dict(),
        "seed": config.train.seed,
        "caches": [
            {
                **cache_identity(reader),
                **contents(reader),
                "models": signature(reader.fingerprint, codec=False),
                "segmenter_type": reader.segmenter.type,
                "resize": reader.fingerprint.get("resize"),
            }
            for reader in caches
        ],
    }


def check_same_run(
    path: Path,
    checkpoint: dict[str, Any],
    training: Mapping[str, Any],
    *,
    advice: str = "choose another --work-dir",
) -> None:
    """Refuse to go on from a checkpoint of another run.

    Args:
        path: of the checkpoint.
        checkpoint: from `read_checkpoint`.
        training: from `training_facts`.
        advice: what else to do than to give what it was started with.
    """
    earlier = checkpoint["meta"].get("training")
    config = earlier.get("config") if isinstance(earlier, dict) else None
    if not isinstance(config, dict) or not all(isinstance(part, dict) for part in config.values()):
        raise InputError(f"--resume: {path} does not say the config that it was trained with")
    free = FREE_TO_CHANGE
    if training["config"]["schedule"]["type"] == "poly":  # it ends with the run
        free = tuple(key for key in free if key != "train.max_iters")
    changed = [
        difference
        for difference in differences(training["config"], config)
        if not difference.startswith(free)
    ]
    changed += _other_caches(earlier.get("caches"), training["caches"])
    if changed:
        raise InputError(
            f"--resume: {path} belongs to another run ({'; '.join(changed)}); give what it "
            f"was started with, or {advice}"
        )


def _other_caches(earlier: Any, ours: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is to be said of caches that are not those of the earlier run."""
    if not isinstance(earlier, list) or len(earlier) != len(ours):
        return ["the caches are not those of the earlier run"]
    for then, now in zip(earlier, ours, strict=True):
        then = then if isinstance(then, dict) else {}
        # The fingerprint covers what older checkpoints say nothing of.
        if any(then.get(key) != now[key] for key in now.keys() - CONTENTS - ADDED):
            return ["the caches are not those of the earlier run"]
        # Older checkpoints do not tell the videos.
        if any(then.get(key, now[key]) != now[key] for key in CONTENTS):
            return [
                f"{now['dataset']} {now['split']} holds other videos, {now['videos']} now and "
                f"{then.get('videos')} then"
            ]
    return []
