"""The head with its loss and its optimiser: what one step of training is.

Everything random in iteration i is a function of (seed, i) and, for the points of the loss, of the
sample's place in the batch. So a checkpoint needs no random state, a resumed run ends in the same
weights as an uninterrupted one, and neither the number of ranks nor other heads that are trained on
the same batches change a number.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dist import get_rank, get_world_size
from mmengine.model import BaseModel
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cache_schema.host.cli import InputError
from train.data import Batch
from train.graphed import GraphedHead, GraphedStep
from train.heads import CacheSizes, Head, HeadOutput, build_head, find_head
from train.losses import Criterion, Diverged
from train.losses.points import sample_points

Losses = dict[str, Tensor]


class TrainableHead(BaseModel):
    """The head with its loss, in the form that mmengine's loop calls.

    Args:
        seed: of everything random in a step.
        autocast: the head's reduced precision; the loss is always float32.
        ema_decay: of the running average of the weights; 0 keeps none.
        graphs: record the head's passes as CUDA graphs; not where the head is wrapped.
        mean: over all ranks, of what each counts; see `Criterion.terms`.

    Attributes:
        graphed: the head as it is called.
    """

    def __init__(
        self,
        head: Head,
        criterion: Criterion,
        *,
        seed: int = 0,
        autocast: torch.dtype | None = None,
        ema_decay: float = 0.0,
        graphs: bool = False,
        mean: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.head = head
        self.criterion = criterion
        self.seed = seed
        self.mean = mean
        self.graphed = GraphedHead(head, autocast, enabled=graphs)
        self._total: tuple[int, Callable[[], Tensor]] | None = None  # of the last step
        self.average = None
        if ema_decay:
            self.average = AveragedModel(head, multi_avg_fn=get_ema_multi_avg_fn(ema_decay))
            self.average.requires_grad_(False)

    @property
    def recorded(self) -> bool:
        """Whether a step is recorded as CUDA graphs."""
        return self.graphed.enabled and next(self.head.parameters()).is_cuda

    def evaluated_head(self) -> Head:
        """The head that is evaluated: the average of the weights where one is kept."""
        return self.head if self.average is None else self.average.module

    def forward(self, batch: Batch, iteration: int = 0) -> Losses:
        """The weighted loss terms of a batch in an iteration."""
        outputs = self.decode(batch, iteration)
        logits = outputs[-1].logits
        points = sample_points(self.point_seeds(iteration, len(logits)), logits.device)
        return self.criterion.terms(outputs, batch, random=points, average=self.mean)

    def decode(self, batch: Batch, iteration: int) -> list[HeadOutput]:
        """What the head says of a batch in an iteration, in float32."""
        self.seed_step(iteration)
        return self.graphed(batch.inputs)

    def seed_step(self, iteration: int) -> None:
        """Let dropout draw what it draws in an iteration."""
        torch.manual_seed(step_seeds(self.seed, iteration, 0)[0])

    def point_seeds(self, iteration: int, samples: int) -> list[int]:
        """Of the random points of each of this process's samples."""
        first = 1 + samples * get_rank()
        return step_seeds(self.seed, iteration, samples * get_world_size())[first:][:samples]

    def step(
        self,
        batch: Batch,
        optim_wrapper: OptimWrapper,
        iteration: int,
        *,
        forward: Callable[[Batch, int], Losses] | None = None,
    ) -> Losses:
        """One optimiser step.

        Args:
            iteration: from 0.
            forward: called instead of this module, for one that is wrapped.

        Returns:
            The loss terms, their sum and the norm of the gradient, for the log.

        Raises:
            Diverged: a loss is not finite. On a GPU, which is not waited for, it is that of the
                step before; see `check`.
        """
        batch = batch.to(next(self.head.parameters()).device)
        total, log = self.parse_losses((forward or self)(batch, iteration))
        if not (isinstance(total, Tensor) and total.requires_grad):  # no term is 0, a plain number
            raise InputError(
                f"{type(self.criterion).__name__}.terms gives nothing to learn from: at least one "
                "term has to have 'loss' in its name and depend on the head's parameters"
            )
        # One rank's trouble is everybody's, in the same step.
        watched = total.detach() if self.mean is None else self.mean(total.detach())
        self.watch(iteration, Fetch(watched).get)
        if not total.is_cuda:
            self.check()
        optim_wrapper.update_params(total)
        self.updated()
        log = {name: value.detach() for name, value in log.items()}
        if isinstance(optim_wrapper, _Clipped):
            log["grad_norm"] = optim_wrapper.norm
        return log

    def updated(self) -> None:
        """To be called after each step of the optimiser."""
        if self.average is not None:
            self.average.update_parameters(self.head)

    def watch(self, iteration: int, total: Callable[[], Tensor]) -> None:
        """Have a loss looked at later, and look at the last one, which has come long since."""
        self.check()
        self._total = iteration, total

    def check(self) -> None:
        """Wait for the last step's loss; to be called before what came of it is kept.

        Raises:
            Diverged: it is not finite.
        """
        if self._total is None:
            return
        (iteration, get), self._total = self._total, None
        total = get()
        if not torch.isfinite(total):
            raise Diverged(
                f"the loss is {float(total)} in iteration {iteration}; lower optimizer.lr or "
                "optimizer.clip_norm"
            )


class _Clipped:
    """Clips gradients as mmengine does, but does not wait for their norm to log it.

    Attributes:
        norm: of the gradient of the last step, before it was clipped.
    """

    norm: Tensor

    def _clip_grad(self) -> None:
        groups = self.optimizer.param_groups
        own = [p for group in groups for p in group["params"] if p.grad is not None]
        self.norm = self.clip_func(own, **self.clip_grad_kwargs)


class HeadOptimizer(_Clipped, OptimWrapper):
    """mmengine's optimiser of a head.

    Args:
        graphs: record the step as a CUDA graph.
        settings: mmengine's.
    """

    def __init__(self, *, graphs: bool, **settings: Any) -> None:
        super().__init__(**settings)
        self._graphed = GraphedStep(self.optimizer, self._eager) if graphs else None

    def step(self) -> None:
        """Clip the gradients and take the step."""
        self.norm = self._graphed() if self._graphed else self._eager()

    def _eager(self) -> Tensor:
        super().step()
        return self.norm

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        if self._graphed:
            self._graphed.forget()


class ScaledHeadOptimizer(_Clipped, AmpOptimWrapper):
    """The same with scaled gradients, for float16."""


def step_seeds(seed: int, iteration: int, samples: int) -> list[int]:
    """Seeds of an iteration: of the step as a whole, then of each sample of the batch."""
    sequence = np.random.SeedSequence([seed, iteration])
    # A longer state begins with a shorter one, so no seed depends on the size of the batch.
    return [int(state) for state in sequence.generate_state(1 + samples, np.uint64)]


def build_trainable(
    config: Config,
    sizes: CacheSizes,
    device: torch.device | str = "cpu",
    mean: Callable[[Tensor], Tensor] | None = None,
) -> TrainableHead:
    """The head of a complete config with seeded initial weights, ready for its first step.

    Raises:
        InputError: the config does not fit the caches, or there is nothing to train.
    """
    criterion = find_head(config.model.type).loss(**config.loss)
    torch.manual_seed(config.train.seed)
    head = build_head(config, sizes)
    if not any(parameter.requires_grad for parameter in head.parameters()):
        raise InputError(f"{type(head).__name__} has no parameters that can be trained")
    if isinstance(criterion, nn.Module) and any(True for _ in criterion.parameters()):
        raise InputError(
            f"{type(criterion).__name__} has parameters, which nobody trains: a loss may have "
            "buffers; what is to be learned belongs to the head"
        )
    return TrainableHead(
        head,
        criterion,
        seed=config.train.seed,
        autocast=None if config.train.autocast == "none" else getattr(torch, config.train.autocast),
        ema_decay=config.optimizer.ema_decay,
        graphs=config.train.graphs and mean is None and head.recorded,
        mean=mean,
    ).to(device)


def build_optimizer(config: Config, model: TrainableHead) -> OptimWrapper:
    """AdamW on the head, with gradient clipping and the linear rule for its learning rate."""
    optimizer = torch.optim.AdamW(
        model.head.parameters() if config.optimizer.decay_norms else decay_groups(model.head),
        lr=learning_rate(config),
        weight_decay=config.optimizer.weight_decay,
        fused=True,
    )
    clip = {"max_norm": config.optimizer.clip_norm}
    if config.train.autocast == "float16":  # its gradients need scaling
        if not torch.cuda.is_available():
            raise InputError(
                "config key train.autocast: float16 needs a GPU, which scales its gradients; take "
                "bfloat16, or none"
            )
        return ScaledHeadOptimizer(dtype="float16", optimizer=optimizer, clip_grad=clip)
    return HeadOptimizer(optimizer=optimizer, clip_grad=clip, graphs=model.recorded)


def decay_groups(head: nn.Module) -> list[dict[str, Any]]:
    """The parameters of a head for an optimiser that leaves norms and embeddings undecayed."""
    groups: list[dict[str, Any]] = [{"params": []}, {"params": [], "weight_decay": 0.0}]
    for module in head.modules():
        whole = isinstance(module, (nn.LayerNorm, nn.Embedding))
        for name, parameter in module.named_parameters(recurse=False):
            groups[whole or name == "embedding"]["params"].append(parameter)
    return [group for group in groups if group["params"]]


def learning_rate(config: Config) -> float:
    """The linear rule: the learning rate grows in proportion with the batch."""
    return config.optimizer.lr * config.train.batch_size / config.optimizer.lr_batch_size


def scheduler_configs(config: Config) -> list[dict[str, Any]]:
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


class Fetch:
    """Asks for a copy of a tensor at once and waits for it when it is looked at.

    On a CPU it is the tensor itself.

    Args:
        tensor: of any shape and type, without gradients.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        self._host = tensor
        if tensor.is_cuda:
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            self._event = torch.cuda.current_stream(tensor.device).record_event()

    def get(self) -> Tensor:
        """The copy on the host."""
        if self._event is not None:
            self._event.synchronize()
        return self._host
