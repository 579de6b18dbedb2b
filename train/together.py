"""A step of several heads at once on a GPU, where many short operations cost more than long ones.

The heads' own passes and their optimisers follow each other. The loss is one for all of them: its
operations are those for one head, on more samples. Heads that differ in their seed, or in what is
inside them, can do that; their outputs have to have one shape, and their losses the same settings.

The passes do not run beside each other in streams of their own. Graphs that were recorded in one
stream share the memory in which products of matrices keep their sums and locks, and on an H100 a
trial with four of them at once did not end. So each head's kernels still take their time.
"""

import json
import time
from collections.abc import Iterator, Sequence

from mmengine.config import Config

from train.data import Batch
from train.losses.points import sample_points
from train.trainable import Fetch, Losses
from train.trainee import Trainee


def kind_of(config: Config) -> str | None:
    """What heads have to have in common to take their steps together; None for one that cannot."""
    if config.train.autocast == "float16":  # each scales its gradients by itself
        return None
    if config.model.type != "dmvs":  # the outputs of others may have any shape
        return None
    names = ("num_motion_queries", "num_layers", "initialisation")
    model = {name: config.model[name] for name in names}
    model["frames"] = config.model.mask_start == "frames"  # then embeddings have other numbers, too
    return json.dumps([model, config.loss.to_dict()])


#: Heads whose losses are computed at once: more would save little and take more memory.
MOST = 8


class Together:
    """Heads of one kind that train on the same batches.

    Args:
        heads: from two to `MOST`.
    """

    def __init__(self, heads: Sequence[Trainee]) -> None:
        self.heads = list(heads)
        self.device = next(heads[0].model.head.parameters()).device

    def step(self, batch: Batch, iteration: int) -> Iterator[tuple[Trainee, Losses]]:
        """One optimiser step of each.

        Yields:
            Each head with its loss terms for the log, after all steps were taken.

        Raises:
            Diverged: a prediction of some head is not finite. No head has taken its step then.
        """
        start = time.perf_counter()
        models = [head.model for head in self.heads]
        batch = batch.to(self.device)
        outputs = [model.decode(batch, iteration) for model in models]
        count = len(batch.targets)
        seeds = [seed for model in models for seed in model.point_seeds(iteration, count)]
        terms = models[0].criterion.terms_of(
            outputs, batch, random=sample_points(seeds, outputs[0][-1].logits.device)
        )  # (heads,) each
        total = sum(own for name, own in terms.items() if name.startswith("loss"))
        terms = {"loss": total, **terms}
        totals = Fetch(terms["loss"].detach())
        for number, model in enumerate(models):
            model.watch(iteration, lambda number=number: totals.get()[number])
        terms["loss"].sum().backward()
        for head in self.heads:
            head.optimizer.step()
            head.optimizer.zero_grad()
            head.model.updated()
        took = (time.perf_counter() - start) / len(models)
        for number, head in enumerate(self.heads):
            head.stepped(took)
            own = {name: values[number].detach() for name, values in terms.items()}
            yield head, {**own, "grad_norm": head.optimizer.norm}


def grouped(heads: Sequence[Trainee]) -> list[Together]:
    """Heads by what they can do together; those that are left over take their steps alone."""
    alike: dict[str, list[Trainee]] = {}
    for head in heads:
        if kind := kind_of(head.member.config):
            alike.setdefault(kind, []).append(head)
    parts = [own[i : i + MOST] for own in alike.values() for i in range(0, len(own), MOST)]
    return [Together(own) for own in parts if len(own) > 1]
