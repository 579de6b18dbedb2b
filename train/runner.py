"""The mmengine side of training: one loop, its hooks, and the runner's parts."""

import importlib.util
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import get_rank, get_world_size, is_main_process
from mmengine.registry import HOOKS, LOOPS
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import nn
from torch.utils.data import DataLoader

from cache_schema.host import files
from cache_schema.host.cli import InputError
from cache_schema.host.cores import CORES
from cache_schema.host.lock import CacheLock
from cache_schema.reader import CacheReader
from train.checkpoint import (
    PlainCheckpoint,
    check_state,
    latest_checkpoint,
    load_weights,
    parameter_shapes,
    read_checkpoint,
)
from train.config import differences, load_config
from train.data import Batch, ClipDataset, CounterBatches, Stager, collate, stage, workers
from train.data.compatible import signature
from train.distributed import mean_over_ranks, unwrapped, wrap
from train.heads import CacheSizes, Head, find_head
from train.hooks import LossLog, PeakMemory, RunFile, Validation
from train.provenance import CONTENTS, cache_identity, contents
from train.trainable import (
    build_head,
    build_optimizer,
    build_trainable,
    learning_rate,
    scheduler_configs,
)

__all__ = ["build_runner", "load_config", "load_head"]

# What may change between a run and its resumption: nothing that shapes the weights.
FREE_TO_CHANGE = (
    "train.max_iters", "train.log_interval", "train.checkpoint_interval", "train.val_",
    "train.keep_checkpoints", "train.tensorboard", "train.graphs", "train.together",
    "data.num_workers", "data.ram_gb", "evaluation.",
)  # fmt: skip


class ResumableLoop(IterBasedTrainLoop):
    """mmengine's loop, but a resume starts the sampler where it stopped.

    The parent reads and throws away every batch that was trained on already.
    """

    def run(self) -> nn.Module:
        self.dataloader_iterator = None  # the parent's own, whose processes read ahead for nobody
        self.runner.call_hook("before_train")
        self.runner.call_hook("before_train_epoch")
        self.dataloader.batch_sampler.start = self._iter
        self.runner.model.train()
        with workers.one_sentence():
            for batch in on_device(self.dataloader, self.runner.device):
                self.run_iter(batch)
        self.runner.call_hook("after_train_epoch")
        self.runner.call_hook("after_train")
        return self.runner.model

    def run_iter(self, data_batch: Batch) -> None:
        unwrapped(self.runner.model).iteration = self._iter
        super().run_iter(data_batch)


LOOPS.register_module(module=ResumableLoop, force=True)
HOOKS.register_module(module=LossLog, force=True)


def _stop(record: logging.LogRecord) -> None:
    """For a log handler, which would print a traceback for every line that it cannot write."""
    error = sys.exc_info()[1]
    raise InputError(f"the log cannot be written ({error}); {files.ADVICE}") from error


class HeadRunner(Runner):
    """mmengine's runner on a device of our choice, without its page of environment."""

    def __init__(self, *, device: torch.device, **arguments: Any) -> None:
        self.device = device
        super().__init__(log_level="WARNING", **arguments)
        # mmengine warns of its own use of its own old names, which nobody here can change.
        self.logger.addFilter(lambda record: "deprecated" not in record.getMessage())
        if is_main_process():
            self.logger.setLevel(logging.INFO)
            for handler in self.logger.handlers:
                handler.setLevel(logging.INFO)
                handler.handleError = _stop

    def resume(self, filename: str, **how: Any) -> None:
        content = read_checkpoint(filename)
        load_weights(unwrapped(self.model), content["state_dict"], where=f"checkpoint {filename}")
        own = {
            "optimizer": self.optim_wrapper.state_dict(),
            "param_schedulers": [s.state_dict() for s in self.param_schedulers],
        }
        check_state(Path(filename), content, own, parameter_shapes(self.optim_wrapper))
        super().resume(filename, **how)

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        return wrap(model.to(self.device))

    def _log_env(self, env_cfg: dict) -> None:
        pass


def build_dataset(
    configs: Sequence[Config], caches: Sequence[CacheReader], device: torch.device | str = "cpu"
) -> ClipDataset:
    """The samples of heads that are trained together, with what any of them needs.

    Args:
        configs: of the heads, equal in the section ``data``.

    Raises:
        InputError: the caches cannot be trained on or do not fit the config.
    """
    config = configs[0]
    needs = frozenset().union(*(find_head(own.model.type).needs() for own in configs))
    settings = dict(config.data)
    for name in ("num_workers", "ram_gb"):
        del settings[name]
    if settings["seed"] is None:
        settings["seed"] = config.train.seed
    staged = torch.device(device).type == "cuda"
    return ClipDataset(caches, staged=staged, needs=needs, **settings)


def build_loader(config: Config, dataset: ClipDataset) -> DataLoader:
    """This rank's part of every batch.

    Raises:
        InputError: the batch cannot be shared evenly.
    """
    batch_size, ranks = config.train.batch_size, get_world_size()
    if batch_size % ranks:
        raise InputError(
            f"config key train.batch_size is {batch_size}, which {ranks} processes cannot share; "
            "it counts the samples of all of them together"
        )
    return DataLoader(
        dataset,
        batch_sampler=CounterBatches(
            batch_size, config.train.max_iters, rank=get_rank(), world_size=ranks
        ),
        collate_fn=stage if dataset.staged else collate,
        num_workers=num_workers(config, "cuda" if dataset.staged else "cpu"),
        worker_init_fn=workers.start,
    )


def num_workers(config: Config, device: torch.device | str) -> int:
    """Processes that look for samples: ``data.num_workers``, or what suits the device."""
    if config.data.num_workers is not None:
        return config.data.num_workers
    return min(CORES // 4, 8) if torch.device(device).type == "cuda" else 0


def on_device(loader: DataLoader, device: torch.device) -> Iterator[Batch]:
    """The batches of `build_loader`; on a GPU they are brought there ahead of training."""
    dataset: ClipDataset = loader.dataset
    if dataset.staged:
        return Stager(dataset.caches, device).ahead(loader)
    return iter(loader)


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
            }
            for reader in caches
        ],
    }


def build_runner(
    config: Config,
    caches: Sequence[CacheReader],
    work_dir: str | Path,
    *,
    device: torch.device | str = "cpu",
    resume: bool = False,
    validate: Callable[[Head], dict[str, float]] | None = None,
) -> Runner:
    """Everything a training run needs; call ``.train()`` on it.

    In several processes each builds its own, after `train.distributed.join`.

    Args:
        config: from `load_config`.
        caches: what to train on.
        work_dir: for checkpoints (``iter_N.pth``) and logs; created.
        device: where to train.
        resume: go on from the latest checkpoint in `work_dir`; from the start without any.
        validate: gives J, F and J&F of a head, every ``train.val_interval`` iterations.

    Raises:
        InputError: the caches cannot be trained on or do not fit the config, the folder cannot
            be written or holds another run.
    """
    work_dir, train = Path(work_dir), config.train
    dataset = build_dataset([config], caches, device)
    loader = build_loader(config, dataset)
    training = training_facts(config, caches)
    checkpoint = _start(work_dir, training, resume=resume)
    model = build_trainable(
        config, dataset.sizes, mean=mean_over_ranks if get_world_size() > 1 else None
    )
    hooks = [PeakMemory(), PlainCheckpoint(training), RunFile(work_dir, training)]
    if validate is not None:
        hooks.append(Validation(validate, train.val_interval, work_dir, training))
    runner = HeadRunner(
        device=torch.device(device),
        model=model,
        work_dir=str(work_dir),
        train_dataloader=loader,
        train_cfg={"type": "ResumableLoop", "max_iters": train.max_iters},
        optim_wrapper=build_optimizer(config, model),
        param_scheduler=scheduler_configs(config),
        default_hooks={
            "logger": {"type": "LoggerHook", "interval": train.log_interval},
            "runtime_info": {
                "type": "LossLog",
                "intervals": [train.log_interval, train.checkpoint_interval],
            },
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
        custom_hooks=hooks,
        log_processor={"by_epoch": False},
        load_from=str(checkpoint) if checkpoint else None,
        resume=checkpoint is not None,
        randomness={"seed": train.seed},
        visualizer={"type": "Visualizer", "vis_backends": _log_backends(config)},
        # mmengine finds loggers by this name: two runs in one process must not share it.
        experiment_name=f"{Path(config.filename).stem}_{id(model):x}",
        launcher="pytorch" if get_world_size() > 1 else "none",
        cfg=config,
    )
    parameters = sum(p.numel() for p in model.head.parameters())
    runner.logger.info(
        f"{len(dataset)} expressions from {len(caches)} cache(s), {parameters / 1e6:.2f} M "
        f"parameters, {train.max_iters} iterations on {device}; checkpoints and logs in {work_dir}"
    )
    runner.logger.info(
        f"effective batch {train.batch_size} = {get_world_size()} process(es) x "
        f"{train.batch_size // get_world_size()}; learning rate {learning_rate(config):.3g} = "
        f"{config.optimizer.lr:.3g} x {train.batch_size} / {config.optimizer.lr_batch_size}"
    )
    return runner


def _log_backends(config: Config) -> list[dict[str, Any]]:
    """Where mmengine's visualizer writes the scalars."""
    backends = [{"type": "LocalVisBackend"}]
    if config.train.tensorboard:
        if importlib.util.find_spec("tensorboard") is None:
            raise InputError(
                "config key train.tensorboard needs the package tensorboard, which is not "
                "installed: pip install tensorboard, or leave the key out"
            )
        backends.append({"type": "TensorboardVisBackend"})
    return backends


def load_head(
    config: Config,
    checkpoint: str | Path,
    sizes: CacheSizes,
    device: torch.device | str = "cpu",
) -> Head:
    """The trained head of a checkpoint, in eval mode; the average of its weights where kept.

    Args:
        config: from `load_config`; its model has to be the checkpoint's.
        checkpoint: an ``iter_N.pth`` of this project; only weights are read from it.
        sizes: of the cache that the head is to read.
        device: where the head goes.

    Raises:
        InputError: the checkpoint does not exist, cannot be read, or holds another head or
            one for a cache of other sizes.
    """
    weights = read_checkpoint(checkpoint, device)["state_dict"]
    average = "average.module."
    prefix = average if any(name.startswith(average) for name in weights) else "head."
    own = {n.removeprefix(prefix): value for n, value in weights.items() if n.startswith(prefix)}
    head = build_head(config, sizes)
    load_weights(head, own, where=f"checkpoint {checkpoint}")
    return head.to(device).eval()


@contextmanager
def alone_in(work_dir: Path) -> Iterator[None]:
    """Keep other trainings out of a work folder, in the main process of a run.

    Raises:
        InputError: another one is at work there, or the folder cannot be written.
    """
    if not is_main_process():
        yield
        return
    files.make_folder(work_dir)
    with CacheLock(work_dir, what="the work folder"):
        yield


def _start(work_dir: Path, training: dict[str, Any], *, resume: bool) -> Path | None:
    """Make the work folder; the checkpoint to go on from, if any."""
    files.make_folder(work_dir)
    checkpoint = latest_checkpoint(work_dir)
    if checkpoint is None:
        return None
    if not resume:
        raise InputError(
            f"{work_dir} already holds {checkpoint.name} of an earlier run; add --resume to go on "
            "with it, or choose another --work-dir"
        )
    check_same_run(checkpoint, read_checkpoint(checkpoint), training)
    return checkpoint


def check_same_run(path: Path, checkpoint: dict[str, Any], training: dict[str, Any]) -> None:
    """Refuse to go on from a checkpoint of another run.

    Args:
        path: of the checkpoint.
        checkpoint: from `read_checkpoint`.
        training: from `training_facts`.
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
            "was started with, or choose another --work-dir"
        )


def _other_caches(earlier: Any, ours: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is to be said of caches that are not those of the earlier run."""
    if not isinstance(earlier, list) or len(earlier) != len(ours):
        return ["the caches are not those of the earlier run"]
    for then, now in zip(earlier, ours, strict=True):
        then = then if isinstance(then, dict) else {}
        if any(then.get(key) != now[key] for key in now.keys() - CONTENTS):
            return ["the caches are not those of the earlier run"]
        # Older checkpoints do not tell the videos.
        if any(then.get(key, now[key]) != now[key] for key in CONTENTS):
            return [
                f"{now['dataset']} {now['split']} holds other videos, {now['videos']} now and "
                f"{then.get('videos')} then"
            ]
    return []
