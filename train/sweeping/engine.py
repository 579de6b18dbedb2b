"""Many heads in one pass over the cache.

Each batch is read and put on the device once, and every head takes its own step on it with its own
optimiser, schedule and random state. Nothing passes from one head to another, so its weights are
those that it would have got alone.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.registry import PARAM_SCHEDULERS
from tqdm import tqdm

from cache_schema.host import files
from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader
from train.checkpoint import (
    NAME,
    check_state,
    checkpoints,
    load_weights,
    parameter_shapes,
    read_checkpoint,
    save_checkpoint,
)
from train.data import Batch, workers
from train.heads import CacheSizes
from train.losses import Diverged
from train.runner import build_dataset, build_loader, check_same_run, on_device, training_facts
from train.sweeping.together import MOST, Together, kind_of
from train.sweeping.variants import Member
from train.trainable import build_optimizer, build_trainable, scheduler_configs

DROPPED = "dropped.json"
LOG = "log.jsonl"

Caches = Sequence[CacheReader]


class Trainee:
    """A member of a sweep with all that its training needs.

    Args:
        member: what is trained.
        caches: on what.
        folder: for its checkpoints (``iter_N.pth``, as `train.runner` writes them) and its log.
        device: where.
        sizes: of the caches.

    Attributes:
        seconds: that its own steps took so far.
    """

    def __init__(
        self,
        member: Member,
        caches: Caches,
        folder: Path,
        device: torch.device,
        sizes: CacheSizes,
    ) -> None:
        self.member, self.folder = member, folder
        self.facts = training_facts(member.config, caches)
        self.model = build_trainable(member.config, sizes, device).train()
        self.optimizer = build_optimizer(member.config, self.model)
        self.schedulers = [
            PARAM_SCHEDULERS.build({**settings, "optimizer": self.optimizer})
            for settings in scheduler_configs(member.config)
        ]
        self.seconds = 0.0

    def step(self, batch: Batch, iteration: int) -> dict[str, torch.Tensor]:
        """One optimiser step; the loss terms for the log."""
        start = time.perf_counter()
        losses = self.model.step(batch, self.optimizer, iteration)
        self.stepped(time.perf_counter() - start)
        return losses

    def stepped(self, seconds: float) -> None:
        """To be called after each step, with what it took."""
        for scheduler in self.schedulers:
            scheduler.step()
        self.seconds += seconds

    def check(self) -> None:
        """Raise `Diverged` if the last step's loss was not finite."""
        self.model.check()

    def log(self, iteration: int, losses: Mapping[str, torch.Tensor]) -> None:
        """Append a line to the log; ``iteration`` counts from 1 here."""
        line = {"iteration": iteration, "lr": self.optimizer.get_lr()["lr"][0]}
        line |= {name: float(value) for name, value in losses.items()}
        files.append(self.folder / LOG, json.dumps(line))

    def save(self, iteration: int, keep: int) -> None:
        """Write the checkpoint after so many iterations; the oldest over ``keep`` go."""
        content = {
            "meta": {
                "iter": iteration,
                "epoch": 0,
                "seed": self.member.seed,
                "dataset_meta": {},
                "training": self.facts,
                "seconds": self.seconds,
            },
            "state_dict": self.model.state_dict(),
            **self._state(),
            "message_hub": {"log_scalars": {}, "runtime_info": {}, "resumed_keys": {}},
        }
        save_checkpoint(content, self.folder / NAME.format(iteration))
        for path in list(checkpoints(self.folder).values())[: -max(keep, 2)]:
            path.unlink()

    def _state(self) -> dict[str, Any]:
        return {
            "optimizer": self.optimizer.state_dict(),
            "param_schedulers": [scheduler.state_dict() for scheduler in self.schedulers],
        }

    def load(self, iteration: int) -> None:
        """Go back to the checkpoint after so many iterations."""
        path = self.folder / NAME.format(iteration)
        content = read_checkpoint(path)
        check_same_run(path, content, self.facts)
        load_weights(self.model, content["state_dict"], where=f"checkpoint {path}")
        check_state(path, content, self._state(), parameter_shapes(self.optimizer))
        self.optimizer.load_state_dict(content["optimizer"])
        for scheduler, state in zip(self.schedulers, content["param_schedulers"], strict=True):
            scheduler.load_state_dict(state)
        self.seconds = content["meta"].get("seconds") or 0.0
        if (self.folder / LOG).is_file():  # what it says beyond is said again, or was cut short
            whole = (self.folder / LOG).read_bytes().rpartition(b"\n")[0].splitlines()
            kept = [line + b"\n" for line in whole if _iteration(line, self.folder) <= iteration]
            files.write(self.folder / LOG, b"".join(kept))

    def drop(self, reason: str) -> None:
        """Note why it is out."""
        files.write(self.folder / DROPPED, json.dumps({"reason": reason}) + "\n")


def _iteration(line: bytes, folder: Path) -> int:
    try:
        return int(json.loads(line)["iteration"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        raise InputError(
            f"{folder / LOG} has the line {line!r:.60}, which is none of a log; delete the file"
        ) from None


def _reason(path: Path) -> str:
    try:
        return str(json.loads(path.read_text("utf-8"))["reason"])
    except (ValueError, TypeError, KeyError, RecursionError):
        raise InputError(
            f"{path} does not say why the head was dropped; delete it to train the head again"
        ) from None


@dataclass
class Trained:
    """What came of a sweep's training.

    Attributes:
        checkpoints: the last one of each member.
        seconds: that each member's own steps took.
        dropped: members that diverged, and why.
    """

    checkpoints: dict[Member, Path] = field(default_factory=dict)
    seconds: dict[Member, float] = field(default_factory=dict)
    dropped: dict[Member, str] = field(default_factory=dict)


def train_members(
    members: Sequence[Member],
    caches: Mapping[tuple[str, ...], Caches],
    work_dir: Path,
    *,
    device: torch.device | str = "cpu",
    resume: bool = False,
) -> Trained:
    """Train all members of a sweep; those that read the same batches in one pass.

    Args:
        members: from `train.sweeping.variants.make_members`.
        caches: the caches of each combination of names.
        work_dir: each member has a folder in it, see `Member.name`.
        device: where to train.
        resume: go on from the checkpoints in `work_dir`, as far as they are of this sweep.

    Raises:
        InputError: caches that cannot be trained on, or a folder that holds another sweep.
    """
    trained = Trained()
    groups: dict[str, list[Member]] = {}
    for member in members:
        groups.setdefault(_batches_of(member), []).append(member)
    for number, group in enumerate(groups.values(), 1):
        name = f"pass {number} of {len(groups)}" if len(groups) > 1 else "train"
        one_pass = Pass(group, caches[group[0].caches], work_dir, torch.device(device), resume)
        with workers.one_sentence():
            one_pass.run(name)
        for trainee in one_pass.alive:
            last = trainee.folder / NAME.format(trainee.member.config.train.max_iters)
            trained.checkpoints[trainee.member] = last
            trained.seconds[trainee.member] = trainee.seconds
        trained.dropped |= one_pass.dropped
    return trained


def _batches_of(member: Member) -> str:
    """What decides which batches a member reads, and when it is saved."""
    config = member.config.to_dict()
    shared = {**config["train"], "seed": None, "autocast": None}
    return json.dumps([member.caches, config["data"], shared], sort_keys=True)


class Pass:
    """The members that read the same batches; see `train_members`."""

    def __init__(
        self,
        members: Sequence[Member],
        caches: Caches,
        work_dir: Path,
        device: torch.device,
        resume: bool,
    ) -> None:
        self.config = members[0].config
        self.device = device
        self.dropped: dict[Member, str] = {}
        self.alive: list[Trainee] = []
        self._groups: tuple[int, list[Together]] | None = None
        self.start = 0
        self.dataset = build_dataset([member.config for member in members], caches, device)
        for member in members:
            folder = work_dir / member.name
            if not resume and folder.is_dir():
                raise InputError(
                    f"{folder} is there already, of an earlier sweep; add --resume to go on with "
                    "it, or choose another --work-dir"
                )
            files.make_folder(folder)
            if (folder / DROPPED).is_file():
                self.dropped[member] = _reason(folder / DROPPED)
            else:
                self.alive.append(Trainee(member, caches, folder, device, self.dataset.sizes))
        if resume and self.alive:
            self._go_back()

    def run(self, name: str) -> None:
        """Train to the end."""
        train = self.config.train
        progress = tqdm(
            self.batches(), desc=name, total=train.max_iters, initial=self.start, unit="it",
            disable=None, mininterval=1.0,
        )  # fmt: skip
        for iteration, batch in progress:
            self.step(iteration, batch)
            done = iteration + 1
            if done % train.checkpoint_interval == 0 or done == train.max_iters:
                self._each(Trainee.check)
                for trainee in self.alive:
                    trainee.save(done, train.keep_checkpoints)
            if not self.alive:
                break

    def batches(self) -> Iterator[tuple[int, Batch]]:
        """Iterations that are left, with their batches on the device."""
        if self.start == self.config.train.max_iters or not self.alive:
            return
        loader = build_loader(self.config, self.dataset)
        loader.batch_sampler.start = self.start
        yield from enumerate(on_device(loader, self.device), self.start)

    def step(self, iteration: int, batch: Batch) -> None:
        """A step of every head that is left."""

        def log(trainee: Trainee, losses: Mapping[str, torch.Tensor]) -> None:
            if (iteration + 1) % self.config.train.log_interval == 0:
                trainee.log(iteration + 1, losses)

        if self.device.type == "cuda" and self.config.train.together:
            self._each(Trainee.check)
        waiting = list(self.alive)
        for together in self._together():
            with suppress(Diverged):  # one of them: each for itself then says which
                for trainee, losses in together.step(batch, iteration):
                    waiting.remove(trainee)
                    log(trainee, losses)
        self._each(lambda trainee: log(trainee, trainee.step(batch, iteration)), waiting)

    def _together(self) -> list[Together]:
        """The heads that are left by what they can do together, if they are to."""
        if self.device.type != "cuda" or not self.config.train.together:
            return []
        if not self._groups or self._groups[0] != len(self.alive):
            alike: dict[str, list[Trainee]] = {}
            for trainee in self.alive:
                if kind := kind_of(trainee.member.config):
                    alike.setdefault(kind, []).append(trainee)
            parts = [
                own[first : first + MOST]
                for own in alike.values()
                for first in range(0, len(own), MOST)
            ]
            self._groups = len(self.alive), [Together(own) for own in parts if len(own) > 1]
        return self._groups[1]

    def _each(
        self, work: Callable[[Trainee], object], some: "Sequence[Trainee] | None" = None
    ) -> None:
        """Work on every head that is left, or on some; one that has diverged is dropped."""
        for trainee in list(self.alive if some is None else some):
            try:
                work(trainee)
            except Diverged as error:
                self._drop(trainee, str(error))

    def _drop(self, trainee: Trainee, reason: str) -> None:
        tqdm.write(f"{trainee.member.name} is dropped, the others go on: {reason}")
        trainee.drop(reason)
        self.alive.remove(trainee)
        self.dropped[trainee.member] = reason

    def _go_back(self) -> None:
        """To the latest iteration that all have a checkpoint of; a kill may have come between."""
        common = set.intersection(*(set(checkpoints(trainee.folder)) for trainee in self.alive))
        self.start = max(common, default=0)
        for trainee in self.alive:
            if self.start:
                trainee.load(self.start)
            else:
                (trainee.folder / LOG).unlink(missing_ok=True)
