"""What happens beside the steps of a training run."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook, RuntimeInfoHook
from mmengine.runner import Runner
from torch import Tensor

from cache_schema.host.cli import InputError
from train.checkpoint import read_checkpoint, save_checkpoint
from train.data import Batch
from train.distributed import unwrapped
from train.evaluation.report import write_metrics
from train.heads import Head
from train.provenance import describe_run, peak_memory_mb


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
            runner.message_hub.update_scalar("train/memory", peak_memory_mb())


class LossLog(RuntimeInfoHook):
    """Mmengine's, but losses come to the host when the log or a checkpoint needs them.

    On a GPU each would wait for the device, in every iteration.

    Args:
        intervals: iterations after which they are needed.
    """

    def __init__(self, intervals: Sequence[int]) -> None:
        self.intervals = list(intervals)
        self._waiting: list[dict[str, Tensor]] = []

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Batch | None = None,
        outputs: dict[str, Tensor] | None = None,
    ) -> None:
        self._waiting.append(outputs)
        wanted = any(self.every_n_train_iters(runner, interval) for interval in self.intervals)
        if not wanted and not self.is_last_train_iter(runner):
            return
        names = list(outputs)
        rows = torch.stack([torch.stack([own[n] for n in names]) for own in self._waiting])
        self._waiting.clear()
        for row in rows.tolist():
            for name, value in zip(names, row, strict=True):
                runner.message_hub.update_scalar(f"train/{name}", value)


class RunFile(Hook):
    """Writes ``run.json`` when training ends: what was trained on what, and what it cost.

    Args:
        work_dir: where it goes.
        training: from `train.runner.training_facts`.
    """

    def __init__(self, work_dir: Path, training: dict[str, Any]) -> None:
        self.path, self.training = work_dir / "run.json", training

    def before_train(self, runner: Runner) -> None:
        self.start, self.first = time.perf_counter(), runner.iter

    def after_train(self, runner: Runner) -> None:
        if is_main_process():
            content = describe_run(
                config=self.training["config"],
                seed=self.training["seed"],
                caches={"training": self.training["caches"]},
                device=runner.device,
                seconds=time.perf_counter() - self.start,
                processes=get_world_size(),
                resumed_after=self.first,
                iterations=runner.iter,
            )
            write_metrics(self.path, content)


class Validation(Hook):
    """Evaluates the head now and then on a few videos, and keeps the best checkpoint.

    Args:
        validate: gives J, F and J&F of a head; called by rank 0 alone.
        interval: iterations between two evaluations.
        work_dir: where ``best.pth`` goes.
        training: facts about the run, for its ``meta["training"]``.
    """

    priority = "LOW"  # after the optimiser's and before the checkpoint's

    def __init__(
        self,
        validate: Callable[[Head], dict[str, float]],
        interval: int,
        work_dir: Path,
        training: dict[str, Any],
    ) -> None:
        self.validate, self.interval, self.training = validate, interval, training
        self.path = work_dir / "best.pth"

    def before_train(self, runner: Runner) -> None:
        self.best = -1.0
        if self.path.is_file():  # of the run that is resumed
            match read_checkpoint(self.path)["meta"].get("validation"):
                case {"J&F": float(best)} if 0 <= best <= 1:
                    self.best = best
                case _:
                    raise InputError(f"{self.path} does not say how good it is; move it away")

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Batch | None = None,
        outputs: dict | None = None,
    ) -> None:
        if not self.every_n_train_iters(runner, self.interval) or not is_main_process():
            return
        model = unwrapped(runner.model)
        found = self.validate(model.evaluated_head())
        for name in ("J", "F", "J&F"):
            runner.visualizer.add_scalar(f"val/{name}", found[name], runner.iter + 1)
        better = found["J&F"] > self.best
        runner.logger.info(
            f"validation after {runner.iter + 1} iterations: J&F {100 * found['J&F']:.1f} over "
            f"{found['num_expressions']} expressions" + (", the best so far" if better else "")
        )
        if better:
            self.best = found["J&F"]
            meta = {"iter": runner.iter + 1, "training": self.training, "validation": found}
            save_checkpoint({"meta": meta, "state_dict": model.state_dict()}, self.path)
