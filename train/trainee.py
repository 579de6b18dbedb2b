"""A head in training, with all that is its own: optimiser, schedule, folder, checkpoints, scalars.

Nothing passes from one head to another, so that heads which train on the same batches get the
weights that each would have got alone.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import get_world_size, is_main_process
from mmengine.registry import PARAM_SCHEDULERS
from mmengine.visualization.vis_backend import BaseVisBackend
from torch.nn.parallel import DistributedDataParallel

from cache_schema.host import files
from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader
from train.checkpoint import check_state, load_weights, read_checkpoint, save_checkpoint
from train.data import Batch
from train.data.sizes import common_sizes
from train.distributed import mean_over_ranks
from train.places import NAME, checkpoints
from train.resume import check_same_run, training_facts
from train.trainable import Losses, build_optimizer, build_trainable, scheduler_configs

DROPPED = "dropped.json"


@dataclass(frozen=True)
class Member:
    """A head that is to be trained: a row of a sweep with a seed, or the only one of a run.

    Attributes:
        label: of the row; a run's own head has none.
        seed: of the weights and of everything random in a step.
        config: complete; with it the head trained alone gets the same weights.
        caches: names of its caches.
    """

    label: str
    seed: int
    config: Config
    caches: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """As it is called in messages, and its folder within the sweep's; "" in a run."""
        return f"{self.label}/seed-{self.seed}" if self.label else ""


class Trainee:
    """A member with all that its training needs.

    Attributes:
        folder: of its checkpoints and logs.
        facts: about its training, for the checkpoints' ``meta["training"]``.
        rate: the learning rate of the last step.
        seconds: that its own steps took so far.
        backends: mmengine's, which write its scalars; in the main process only.
    """

    def __init__(
        self, member: Member, caches: Sequence[CacheReader], work_dir: Path, device: torch.device
    ) -> None:
        config = member.config
        self.member, self.name, self.folder = member, member.name, work_dir / member.name
        self.facts = training_facts(config, caches)
        several = get_world_size() > 1
        mean = mean_over_ranks if several else None
        self.model = build_trainable(config, common_sizes(caches), device, mean).train()
        self.optimizer = build_optimizer(config, self.model)
        self.schedulers = [
            PARAM_SCHEDULERS.build({**settings, "optimizer": self.optimizer})
            for settings in scheduler_configs(config)
        ]
        # A static graph may leave parameters out, as one process may.
        self.forward = (
            DistributedDataParallel(self.model, static_graph=True) if several else self.model
        )
        self.rate, self.seconds = 0.0, 0.0
        self.backends: list[BaseVisBackend] = []

    def step(self, batch: Batch, iteration: int) -> Losses:
        """One optimiser step; the loss terms for the log."""
        start = time.perf_counter()
        losses = self.model.step(batch, self.optimizer, iteration, forward=self.forward)
        self.stepped(time.perf_counter() - start)
        return losses

    def stepped(self, seconds: float) -> None:
        """To be called after each step, with what it took."""
        self.rate = self.optimizer.get_lr()["lr"][0]
        for scheduler in self.schedulers:
            scheduler.step()
        self.seconds += seconds

    def check(self) -> None:
        """Raise `Diverged` if the last step's loss was not finite."""
        self.model.check()

    def record(self, scalars: Mapping[str, float], step: int) -> None:
        """Write scalars after so many iterations."""
        for backend in self.backends:
            backend.add_scalars(dict(scalars), step)

    def content(self, iteration: int, **more: Any) -> dict[str, Any]:
        """What `train.checkpoint` keeps of it to evaluate it; ``more`` goes into ``meta``."""
        meta = {"iter": iteration, "seed": self.member.seed, "seconds": self.seconds}
        meta |= {"training": self.facts, **more}
        return {"meta": meta, "state_dict": self.model.state_dict()}

    def save(self, iteration: int) -> None:
        """Write the checkpoint after so many iterations; the oldest go."""
        path = self.folder / NAME.format(iteration)
        save_checkpoint({**self.content(iteration), **self._state()}, path)
        # One alone would leave no way back to where all heads of a sweep have been.
        keep = max(self.member.config.train.keep_checkpoints, 2)
        for path in list(checkpoints(self.folder).values())[:-keep]:
            path.unlink()

    def load(self, iteration: int) -> None:
        """Go back to the checkpoint after so many iterations.

        Raises:
            InputError: it is not of this head.
        """
        path = self.folder / NAME.format(iteration)
        content = read_checkpoint(path)
        load_weights(self.model, content["state_dict"], where=f"checkpoint {path}")
        shapes = [p.shape for group in self.optimizer.param_groups for p in group["params"]]
        check_state(path, content, self._state(), shapes)
        self.optimizer.load_state_dict(content["optimizer"])
        for scheduler, state in zip(self.schedulers, content["param_schedulers"], strict=True):
            scheduler.load_state_dict(state)
        self.seconds = content["meta"].get("seconds") or 0.0

    def drop(self, reason: str) -> None:
        """Note why it is out."""
        if is_main_process():
            note = {"reason": reason, "training": self.facts}
            files.write(self.folder / DROPPED, json.dumps(note) + "\n")

    def _state(self) -> dict[str, Any]:
        return {
            "optimizer": self.optimizer.state_dict(),
            "param_schedulers": [scheduler.state_dict() for scheduler in self.schedulers],
        }


def why_dropped(folder: Path, training: Mapping[str, Any]) -> str:
    """Why the head in a folder was dropped.

    Args:
        training: the facts of its training now; with others than then it might not diverge.
    """
    path = folder / DROPPED
    try:
        note = json.loads(path.read_text("utf-8"))
        reason = str(note["reason"])
        if "training" in note:  # which older ones do not say
            advice = f"delete {folder} to train this head anew"
            check_same_run(path, {"meta": note}, training, advice=advice)
        return reason
    except (ValueError, TypeError, KeyError, RecursionError):
        raise InputError(
            f"{path} does not say why the head was dropped; delete it to train the head again"
        ) from None
