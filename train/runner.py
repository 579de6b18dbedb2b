"""The one loop of training, under mmengine's runner: a pass over the batches for one or many heads.

heads = [Trainee(member, caches, work_dir, device) for member in members]
build_runner(heads, caches, work_dir, device=device).train()
"""

import importlib.util
import itertools
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import get_rank, get_world_size, is_main_process
from mmengine.logging import MMLogger, print_log
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner
from mmengine.runner.base_loop import BaseLoop
from mmengine.visualization.vis_backend import (
    BaseVisBackend,
    LocalVisBackend,
    TensorboardVisBackend,
)
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from cache_schema.host import files
from cache_schema.host.cli import InputError
from cache_schema.host.cores import CORES
from cache_schema.reader import CacheReader
from train.data import Batch, ClipDataset, CounterBatches, Stager, Staging, collate, workers
from train.data.staging import PREFETCH
from train.heads import find_head
from train.hooks import Checkpoints, Log, RunFile, Validation
from train.losses import Diverged
from train.progress import INTERVAL
from train.together import Together, grouped
from train.trainable import Losses, learning_rate
from train.trainee import Trainee

#: Numbers the passes of this process.
_PASSES = itertools.count(1)


class Heads(nn.ModuleList):
    """The heads of a pass, as the runner's model.

    Attributes:
        alive: those that are trained.
        dropped: those that have diverged, and why.
    """

    def __init__(self, heads: Sequence[Trainee], *, together: bool = False) -> None:
        super().__init__(head.model for head in heads)
        self.alive = list(heads)
        self.dropped: dict[Trainee, str] = {}
        self._together = together
        self._groups: list[Together] | None = None  # None: to be made of those that are left

    def train_step(self, batch: Batch, iteration: int) -> dict[str, Losses]:
        """A step of every head on one batch; the loss terms of those that took it, by name."""
        losses: dict[str, Losses] = {}
        if self._together:
            self.each(Trainee.check)
            if self._groups is None:
                self._groups = grouped(self.alive)
        waiting = list(self.alive)
        for some in self._groups or ():
            with suppress(Diverged):  # one of them: each for itself then says which
                for head, terms in some.step(batch, iteration):
                    waiting.remove(head)
                    losses[head.name] = terms

        def step(head: Trainee) -> None:
            losses[head.name] = head.step(batch, iteration)

        self.each(step, waiting)
        return losses

    def each(
        self, work: Callable[[Trainee], object], some: Sequence[Trainee] | None = None
    ) -> None:
        """Work on every head that is left, or on some; one that has diverged is dropped.

        Raises:
            Diverged: it is the only one of a run.
        """
        for head in list(self.alive if some is None else some):
            try:
                work(head)
            except Diverged as error:
                if not head.name:
                    raise
                print_log(f"{head.name} is dropped, the others go on: {error}", "current")
                head.drop(str(error))
                self.alive.remove(head)
                self.dropped[head] = str(error)
                self._groups = None


class Pass(BaseLoop):
    """Every batch is read and put on the device once, and every head takes its own step on it.

    Args:
        runner: its model is `Heads`.
        dataloader: from `build_loader`.
        start: iterations that were done before.
        max_iters: after which training ends.
        title: of the bar that shows progress in a terminal.
    """

    max_epochs, epoch = 1, 0

    def __init__(
        self, runner: Runner, dataloader: DataLoader, *, start: int, max_iters: int, title: str
    ) -> None:
        super().__init__(runner, dataloader)
        self.iter, self.max_iters, self.title = start, max_iters, title

    def run(self) -> nn.Module:
        runner, heads = self.runner, self.runner.model
        self.dataloader.batch_sampler.start = self.iter
        runner.call_hook("before_train")
        bar = runner.bar = tqdm(
            desc=self.title, total=self.max_iters, initial=self.iter, unit="it", mininterval=1.0,
            disable=None if is_main_process() else True,  # None: nobody sees it in a log file
        )  # fmt: skip
        with workers.one_sentence(), bar:
            for batch in on_device(self.dataloader, runner.device):
                runner.call_hook("before_train_iter", batch_idx=self.iter, data_batch=batch)
                losses = heads.train_step(batch, self.iter)
                runner.call_hook(
                    "after_train_iter", batch_idx=self.iter, data_batch=batch, outputs=losses
                )
                self.iter += 1
                bar.update()
                if not heads.alive:
                    break
        runner.call_hook("after_train")
        return heads


class HeadRunner(Runner):
    """mmengine's runner on a device of our choice, for many heads, without its page of environment.

    Attributes:
        bar: of the loop.
    """

    bar: tqdm
    _said = float("-inf")

    def __init__(self, *, device: torch.device, **arguments: Any) -> None:
        self.device = device
        super().__init__(log_level="WARNING", **arguments)
        if is_main_process():
            self.logger.setLevel(logging.INFO)
            for handler in self.logger.handlers:
                handler.setLevel(logging.INFO)
                handler.handleError = _stop

    def build_logger(self, **how: Any) -> MMLogger:
        """mmengine's, but no line tears the bar, which stands for the lines of progress."""
        logger = super().build_logger(**how)
        console = logger.handlers[0]
        console.emit = lambda record: tqdm.write(console.format(record))
        console.addFilter(lambda record: not getattr(record, "behind_bar", False))
        return logger

    def progress(self, line: str, **shown: str) -> None:
        """Say how far training is: a line of the log, and a few words beside the bar.

        Where there is no bar, a line is shown every half minute, and the last one.
        """
        now = time.monotonic()
        last = self.iter + 1 >= self.max_iters
        seen = not self.bar.disable or (now - self._said < INTERVAL and not last)
        self._said = self._said if seen else now
        self.logger.info(line, extra={"behind_bar": seen})
        self.bar.set_postfix(shown)

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        return model  # each head is wrapped by itself

    def dump_config(self) -> None:
        pass  # each head's folder has its own

    def _log_env(self, env_cfg: dict) -> None:
        pass


def _stop(record: logging.LogRecord) -> None:
    """For a log handler, which would print a traceback for every line that it cannot write."""
    error = sys.exc_info()[1]
    raise InputError(f"the log cannot be written ({error}); {files.ADVICE}") from error


def build_runner(
    heads: Sequence[Trainee],
    caches: Sequence[CacheReader],
    work_dir: Path,
    *,
    device: torch.device | str = "cpu",
    start: int = 0,
    title: str = "train",
    validation: CacheReader | None = None,
) -> HeadRunner:
    """Everything that a pass needs; call ``.train()`` on it.

    In several processes each builds its own, after `train.distributed.join`.

    Args:
        heads: to train; they read the same batches, and are saved at the same iterations.
        work_dir: for the log; created. Each head has a folder of its own.
        start: iterations that the heads have behind them.
        validation: to evaluate heads on, every ``train.val_interval`` iterations.

    Raises:
        InputError: the caches cannot be trained on or do not fit the config, or a folder cannot
            be written.
    """
    device = torch.device(device)
    config = heads[0].member.config
    train = config.train
    dataset = build_dataset([head.member.config for head in heads], caches, device)
    loader = build_loader(config, dataset)
    hooks = [Log(train.log_interval), Checkpoints(train.checkpoint_interval), RunFile()]
    if validation is not None:
        hooks.append(Validation(validation, train.val_interval, train.val_videos))
    together = device.type == "cuda" and train.together and get_world_size() == 1
    runner = HeadRunner(
        device=device,
        model=Heads(heads, together=together),
        work_dir=str(work_dir),
        train_dataloader=loader,
        train_cfg={"type": Pass, "start": start, "max_iters": train.max_iters, "title": title},
        optim_wrapper=OptimWrapperDict(**{head.name: head.optimizer for head in heads}),
        # What mmengine's own do, heads do by themselves and the hooks for each of them.
        default_hooks=dict.fromkeys(
            ("runtime_info", "timer", "sampler_seed", "logger", "param_scheduler", "checkpoint")
        ),
        custom_hooks=hooks,
        randomness={"seed": 0},  # a step draws from seeds of its own
        # mmengine finds its globals by this name and the second: passes may take less.
        experiment_name=f"{work_dir.absolute()} {title} {next(_PASSES)}",
    )
    for head in heads if is_main_process() else ():
        name = Path(head.member.config.filename).name
        files.write(head.folder / name, head.member.config.pretty_text)
        head.backends = backends(config, head.folder / runner.timestamp / "vis_data")
    parameters = sum(p.numel() for head in heads for p in head.model.head.parameters())
    runner.logger.info(
        f"{len(dataset)} expressions from {len(caches)} cache(s), {len(heads)} head(s) with "
        f"{parameters / 1e6:.2f} M parameters, {train.max_iters} iterations on {device}; "
        f"checkpoints and logs in {work_dir}"
    )
    rates = dict.fromkeys(
        f"{learning_rate(own):.3g} = {own.optimizer.lr:.3g} x {train.batch_size} / "
        f"{own.optimizer.lr_batch_size}"
        for own in (head.member.config for head in heads)
    )
    runner.logger.info(
        f"effective batch {train.batch_size} = {get_world_size()} process(es) x "
        f"{train.batch_size // get_world_size()}; learning rate {', '.join(rates)}"
    )
    return runner


def backends(config: Config, folder: Path) -> list[BaseVisBackend]:
    """What writes a head's scalars, for TensorBoard too where the config asks for that."""
    found = [LocalVisBackend(str(folder))]
    if config.train.tensorboard:
        if importlib.util.find_spec("tensorboard") is None:
            raise InputError(
                "config key train.tensorboard needs the package tensorboard, which is not "
                "installed: pip install tensorboard, or leave the key out"
            )
        found.append(TensorboardVisBackend(str(folder)))
    return found


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
    needs = frozenset().union(*(find_head(own.model.type).needs(own.model) for own in configs))
    settings = dict(config.data)
    for name in ("num_workers", "ram_gb"):
        del settings[name]
    if settings["seed"] is None:
        settings["seed"] = config.train.seed
    staged = torch.device(device).type == "cuda"
    return ClipDataset(caches, staged=staged, needs=needs, **settings)


def build_loader(config: Config, dataset: ClipDataset) -> DataLoader:
    """This rank's part of every batch. Raises InputError: the batch cannot be shared evenly."""
    batch_size, ranks = config.train.batch_size, get_world_size()
    if batch_size % ranks:
        raise InputError(
            f"config key train.batch_size is {batch_size}, which {ranks} processes cannot share; "
            "it counts the samples of all of them together"
        )
    batches = CounterBatches(batch_size, config.train.max_iters, rank=get_rank(), world_size=ranks)
    count = num_workers(config, "cuda" if dataset.staged else "cpu")
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=Staging(dataset, batches, count) if dataset.staged else collate,
        num_workers=count,
        prefetch_factor=PREFETCH if count else None,
        multiprocessing_context="fork" if count else None,  # others do not share `Staging`'s slots
        worker_init_fn=workers.start,
    )


def num_workers(config: Config, device: torch.device | str) -> int:
    """Processes that read samples: ``data.num_workers``, or what suits the device."""
    if config.data.num_workers is not None:
        return config.data.num_workers
    return min(CORES // 2, 8) if torch.device(device).type == "cuda" else 0


def ram_bytes(config: Config, caches: int, device: torch.device | str) -> int:
    """What the reader of each of so many caches may keep in memory, see ``data.ram_gb``."""
    return int(config.data.ram_gb * 1e9) // (caches * max(num_workers(config, device), 1))


def on_device(loader: DataLoader, device: torch.device) -> Iterator[Batch]:
    """The batches of `build_loader`; on a GPU they are brought there ahead of training."""
    dataset: ClipDataset = loader.dataset
    if dataset.staged:
        return iter(Stager(loader, device))
    return iter(loader)
