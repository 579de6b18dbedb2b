"""The mmengine side of training: one model class, one loop, three hooks, and the runner's parts.

Everything random in iteration i is a function of (seed, i): the samples through their counters,
torch's generators through `SeedEachIteration`. So a checkpoint needs no random state, and a
resumed run ends in the same weights as an uninterrupted one.
"""

import logging
import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.registry import LOOPS
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader

from cache_schema.cli import InputError
from cache_schema.reader import CacheReader
from train.checkpoint import PlainCheckpoint, latest_checkpoint, load_weights, read_checkpoint
from train.config import differences, load_config
from train.data import Batch, ClipDataset, CounterBatches, collate
from train.data.compatible import signature
from train.losses import Binary, Diverged, SetCriterion
from train.models import DMVS

__all__ = ["build_runner", "load_config", "load_head"]

# What may change between a run and its resumption: nothing that shapes the weights.
FREE_TO_CHANGE = (
    "train.max_iters", "train.log_interval", "train.checkpoint_interval",
    "train.keep_checkpoints", "data.num_workers", "data.ram_gb", "evaluation.",
)  # fmt: skip


class TrainableHead(BaseModel):
    """The head with its loss, in the form that mmengine's loop calls.

    Args:
        head: the head.
        criterion: the loss.
    """

    def __init__(self, head: DMVS, criterion: SetCriterion) -> None:
        super().__init__()
        self.head = head
        self.criterion = criterion

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The weighted loss terms of a batch."""
        outputs = self.head(batch.inputs)
        layers = [(output.logits, output.mask_embeds) for output in outputs]
        distances = [
            distance[sources]  # (N_m, M)
            for distance, sources in zip(batch.distances, outputs[-1].sources, strict=True)
        ]
        return self.criterion(layers, batch.mask_features, batch.targets, prior=distances)

    def train_step(self, data: Batch, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """One optimiser step.

        Returns:
            The loss terms and their sum, for the log.

        Raises:
            Diverged: a loss is not finite.
        """
        device = next(self.parameters()).device
        with optim_wrapper.optim_context(self):
            losses = self(data.to(device))
        total, log = self.parse_losses(losses)
        if not torch.isfinite(total):
            raise Diverged(
                f"the loss is {float(total)} in iteration "
                f"{optim_wrapper.message_hub.get_info('iter', 0)}; lower optimizer.lr or "
                "optimizer.clip_norm"
            )
        optim_wrapper.update_params(total)
        return log


class ResumableLoop(IterBasedTrainLoop):
    """mmengine's loop, but a resume starts the sampler where it stopped.

    The parent reads and throws away every batch that was trained on already.
    """

    def run(self) -> nn.Module:
        self.runner.call_hook("before_train")
        self.runner.call_hook("before_train_epoch")
        self.dataloader.batch_sampler.start = self._iter
        self.runner.model.train()
        for batch in self.dataloader:
            self.run_iter(batch)
        self.runner.call_hook("after_train_epoch")
        self.runner.call_hook("after_train")
        return self.runner.model


LOOPS.register_module(module=ResumableLoop, force=True)


class SeedEachIteration(Hook):
    """Seeds torch with a function of (seed, iteration) before each iteration."""

    priority = "VERY_HIGH"

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Batch | None = None
    ) -> None:
        state = np.random.SeedSequence([self.seed, runner.iter]).generate_state(1, np.uint64)
        torch.manual_seed(int(state[0]))


class PeakMemory(Hook):
    """Logs the process's peak memory in MB where there is no GPU, whose memory mmengine logs."""

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Batch | None = None,
        outputs: dict | None = None,
    ) -> None:
        if not torch.cuda.is_available():
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            # Kilobytes on Linux, bytes on macOS.
            megabytes = peak // (1024 if sys.platform != "darwin" else 1024**2)
            runner.message_hub.update_scalar("train/memory", megabytes)


class HeadRunner(Runner):
    """mmengine's runner on a device of our choice, without its page of environment."""

    def __init__(self, *, device: torch.device, **arguments: Any) -> None:
        self.device = device
        super().__init__(log_level="WARNING", **arguments)
        # mmengine warns of its own use of its own old names, which nobody here can change.
        self.logger.addFilter(lambda record: "deprecated" not in record.getMessage())
        self.logger.setLevel(logging.INFO)
        for handler in self.logger.handlers:
            handler.setLevel(logging.INFO)

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        return model.to(self.device)

    def _log_env(self, env_cfg: dict) -> None:
        pass


def build_head(config: Config) -> DMVS:
    """The head of a complete config."""
    return DMVS(**config.model)


def build_runner(
    config: Config,
    caches: Sequence[CacheReader],
    work_dir: str | Path,
    *,
    device: torch.device | str = "cpu",
    resume: bool = False,
) -> Runner:
    """Everything a training run needs; call ``.train()`` on it.

    Args:
        config: from `load_config`.
        caches: what to train on.
        work_dir: for checkpoints (``iter_N.pth``) and logs; created.
        device: where to train.
        resume: go on from the latest checkpoint in `work_dir`; from the start without any.

    Raises:
        InputError: the caches cannot be trained on or do not fit the config, the folder cannot
            be written or holds another run.
    """
    work_dir = Path(work_dir)
    train = config.train
    dataset = ClipDataset(
        caches,
        seed=train.seed,
        pinned=torch.device(device).type == "cuda",
        **{n: value for n, value in config.data.items() if n not in ("num_workers", "ram_gb")},
    )
    for name, value in dataset.dims.items():
        if config.model[name] != value:
            raise InputError(
                f"config key model.{name} is {config.model[name]}, but {caches[0].path} was "
                f"extracted with {value}; set model.{name}={value}"
            )
    training = {
        "config": config.to_dict(),
        "seed": train.seed,
        "caches": [
            {
                "fingerprint": reader.fingerprint_hex,
                "dataset": reader.dataset,
                "split": reader.split,
                "models": signature(reader.fingerprint, codec=False),
            }
            for reader in caches
        ],
    }
    checkpoint = _start(work_dir, training, resume=resume)
    torch.manual_seed(train.seed)  # the initial weights
    loss = dict(config.loss)
    no_object_weight = loss.pop("no_object_weight")
    model = TrainableHead(build_head(config), SetCriterion(Binary(no_object_weight), **loss))
    runner = HeadRunner(
        device=torch.device(device),
        model=model,
        work_dir=str(work_dir),
        train_dataloader=DataLoader(
            dataset,
            batch_sampler=CounterBatches(train.batch_size, train.max_iters),
            collate_fn=collate,
            num_workers=config.data.num_workers,
        ),
        train_cfg={"type": "ResumableLoop", "max_iters": train.max_iters},
        optim_wrapper=OptimWrapper(
            torch.optim.AdamW(
                model.parameters(),
                lr=config.optimizer.lr,
                weight_decay=config.optimizer.weight_decay,
            ),
            clip_grad={"max_norm": config.optimizer.clip_norm},
        ),
        param_scheduler=_schedulers(config),
        default_hooks={
            "logger": {"type": "LoggerHook", "interval": train.log_interval},
            "sampler_seed": None,
            "checkpoint": {
                "type": "CheckpointHook",
                "by_epoch": False,
                "interval": train.checkpoint_interval,
                # The oldest goes before the newest is written: one alone could leave none.
                "max_keep_ckpts": max(train.keep_checkpoints, 2),
                "backend_args": {"backend": "atomic"},
            },
        },
        custom_hooks=[SeedEachIteration(train.seed), PeakMemory(), PlainCheckpoint(training)],
        log_processor={"by_epoch": False},
        load_from=str(checkpoint) if checkpoint else None,
        resume=checkpoint is not None,
        randomness={"seed": train.seed},
        # mmengine finds loggers by this name: two runs in one process must not share it.
        experiment_name=f"{Path(config.filename).stem}_{id(model):x}",
        cfg=config,
    )
    parameters = sum(p.numel() for p in model.parameters())
    runner.logger.info(
        f"{len(dataset)} expressions from {len(caches)} cache(s), {parameters / 1e6:.2f} M "
        f"parameters, {train.max_iters} iterations of {train.batch_size} on {device}; "
        f"checkpoints and logs in {work_dir}"
    )
    return runner


def load_head(config: Config, checkpoint: str | Path, device: torch.device | str = "cpu") -> DMVS:
    """The trained head of a checkpoint, in eval mode.

    Args:
        config: from `load_config`; its model has to be the checkpoint's.
        checkpoint: an ``iter_N.pth`` of this project; only weights are read from it.
        device: where the head goes.

    Raises:
        InputError: the checkpoint does not exist, cannot be read, or holds another head.
    """
    content = read_checkpoint(checkpoint, device)
    prefix = "head."
    weights = {
        name.removeprefix(prefix): value
        for name, value in content["state_dict"].items()
        if name.startswith(prefix)
    }
    head = build_head(config)
    load_weights(head, weights, where=f"checkpoint {checkpoint}")
    return head.to(device).eval()


def _start(work_dir: Path, training: dict[str, Any], *, resume: bool) -> Path | None:
    """Make the work folder; the checkpoint to go on from, if any."""
    try:
        work_dir.mkdir(parents=True, exist_ok=True)
        (work_dir / ".write_test").touch()
        (work_dir / ".write_test").unlink()
    except OSError as error:
        raise InputError(
            f"the work folder {work_dir} cannot be written ({error.strerror}); choose another "
            "--work-dir"
        ) from error
    for left in work_dir.glob(".iter_*.tmp"):  # of a run killed while saving
        left.unlink()
    checkpoint = latest_checkpoint(work_dir)
    if checkpoint is None:
        return None
    if not resume:
        raise InputError(
            f"{work_dir} already holds {checkpoint.name} of an earlier run; add --resume to go on "
            "with it, or choose another --work-dir"
        )
    earlier = read_checkpoint(checkpoint)["meta"].get("training", {})
    free = FREE_TO_CHANGE
    if training["config"]["schedule"]["type"] == "poly":  # it ends with the run
        free = tuple(key for key in free if key != "train.max_iters")
    changed = [
        difference
        for difference in differences(training["config"], earlier.get("config", {}))
        if not difference.startswith(free)
    ]
    if earlier.get("caches") != training["caches"]:
        changed.append("the caches are not those of the earlier run")
    if changed:
        raise InputError(
            f"--resume: {checkpoint} belongs to another run ({'; '.join(changed)}); give what it "
            "was started with, or choose another --work-dir"
        )
    return checkpoint


def _schedulers(config: Config) -> list[dict[str, Any]]:
    """mmengine's learning-rate schedulers."""
    schedule, max_iters = config.schedule, config.train.max_iters
    if schedule.type == "step":
        main = {
            "type": "MultiStepLR",
            "milestones": list(schedule.milestones),
            "gamma": schedule.gamma,
            "by_epoch": False,
            # Left out, it would be max_iters, and a resume for longer would keep the old one.
            "end": 10**9,
        }
    else:
        main = {"type": "PolyLR", "power": schedule.power, "end": max_iters, "by_epoch": False}
    if schedule.warmup_iters == 0:
        return [main]
    warmup = {
        "type": "LinearLR",
        "start_factor": 0.01,
        "end": schedule.warmup_iters,
        "by_epoch": False,
    }
    return [warmup, main]
