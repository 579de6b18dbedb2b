"""A step of several heads at once on a GPU, where many short operations cost more than long ones.

The loss is one for all heads whose outputs have one shape and whose losses have the same settings:
its operations are those for one head, on more samples. Heads that differ in their seed alone make
their passes as one head, too; the passes of others, and all optimisers, follow each other.

Passes do not run beside each other in streams of their own. Graphs that were recorded in one
stream share the memory in which products of matrices keep their sums and locks, and on an H100 a
trial with four of them at once did not end.
"""

import json
import time
from collections.abc import Iterator, Sequence
from itertools import groupby

from mmengine.config import Config

from train.data import Batch
from train.graphed import GraphedHeads
from train.heads import HeadOutput, find_head
from train.heads.dmvs import DMVS
from train.losses import HeadCriterion
from train.losses.points import sample_points
from train.trainable import Fetch, Losses
from train.trainee import Trainee


def kind_of(config: Config) -> str | None:
    """What heads have to have in common to take their steps together; None for one that cannot."""
    if config.train.autocast == "float16":  # each scales its gradients by itself
        return None
    head = find_head(config.model.type)
    if not issubclass(head, DMVS) or head.loss is not HeadCriterion:  # any shapes, any terms
        return None
    names = ("num_motion_queries", "num_layers", "initialisation")
    model = {name: config.model[name] for name in names}
    model["frames"] = config.model.mask_start == "frames"  # then embeddings have other numbers, too
    return json.dumps([model, config.loss.to_dict()], sort_keys=True)


def inside_of(head: Trainee) -> str:
    """What heads that can make their passes as one have in common: all but their seed."""
    config = head.member.config
    one = [config.model.to_dict(), config.train.autocast, config.train.graphs]
    # A pass that waits for numbers cannot wait for those of several heads.
    alike = one if find_head(config.model.type).recorded else [head.name]
    return json.dumps(alike, sort_keys=True)


#: Heads whose losses are computed at once: more would save little and take more memory.
MOST = 8


class Together:
    """Heads of one kind that train on the same batches.

    Args:
        heads: from two to `MOST`; those that differ in their seed alone follow each other.
    """

    def __init__(self, heads: Sequence[Trainee]) -> None:
        self.heads = list(heads)
        self.device = next(heads[0].model.head.parameters()).device
        alike = [[head.model for head in own] for _, own in groupby(heads, inside_of)]
        self._passes = [(own, GraphedHeads([model.graphed for model in own])) for own in alike]

    def step(self, batch: Batch, iteration: int) -> Iterator[tuple[Trainee, Losses]]:
        """One optimiser step of each.

        Yields:
            Each head with its loss terms for the log, after all steps were taken.

        Raises:
            Diverged: a prediction of some head is not finite, and matching waits for the device. No
                head has taken its step then.
        """
        start = time.perf_counter()
        models = [head.model for head in self.heads]
        batch = batch.to(self.device)
        outputs = self._decode(batch, iteration)
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

    def _decode(self, batch: Batch, iteration: int) -> list[list[HeadOutput]]:
        """What each head says, in the order of the heads."""
        outputs = []
        for models, together in self._passes:
            if len(models) > 1:
                models[0].seed_step(iteration)
                outputs += together(batch.inputs)
            else:
                outputs.append(models[0].decode(batch, iteration))
        return outputs


def grouped(heads: Sequence[Trainee]) -> list[Together]:
    """Heads by what they can do together; those that are left over take their steps alone."""
    alike: dict[str, list[Trainee]] = {}
    for head in heads:
        if kind := kind_of(head.member.config):
            alike.setdefault(kind, []).append(head)
    every = [sorted(own, key=inside_of) for own in alike.values()]
    parts = [own[i : i + MOST] for own in every for i in range(0, len(own), MOST)]
    return [Together(own) for own in parts if len(own) > 1]
