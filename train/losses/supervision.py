"""What predictions are compared with: made once a batch, used by every head that trains on it.

Samples of one size are put side by side, so that one operation serves them all. Samples without
targets are left out: they have nothing to be matched with.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from train.bilinear import neighbours
from train.mask_logits import MaskFeatures, MaskStack


@dataclass
class Targets:
    """The true masks of one sample.

    Attributes:
        masks: (M, T, H, W) uint8 at original size; M may be 0.
        labels: (M,) int64 classes; zeros where there is one class only.
        extent: (x, y) fractions of the padded image that the image fills.
    """

    masks: Tensor
    labels: Tensor
    extent: tuple[float, float] = (1.0, 1.0)

    def to(self, device: torch.device | str) -> "Targets":
        """The same targets on another device."""
        return Targets(self.masks.to(device), self.labels.to(device), self.extent)


class TargetStack:
    """The true masks of G samples of one size.

    The image fills only the upper left part of the padded one, the rest is zero. Resizing keeps
    fractions of the image, so a point of the padded image, divided by that part's extent, is a
    point of the original mask.

    Args:
        samples: at least one target each.

    Attributes:
        counts: M of each sample.
        firsts: the number of each sample's first target among all.
        labels: (G, largest M) int64, zeros at the end.
    """

    def __init__(self, samples: Sequence[Targets]) -> None:
        masks = samples[0].masks
        device = masks.device
        _, self.frames, self.height, self.width = masks.shape
        self.counts = [len(sample.masks) for sample in samples]
        self.firsts = [sum(self.counts[:g]) for g in range(len(samples))]
        self.labels = torch.nn.utils.rnn.pad_sequence(
            [sample.labels for sample in samples], batch_first=True
        )
        # Column by column, as they lie in memory already where they come from runs.
        columns = [sample.masks.transpose(2, 3).reshape(-1) for sample in samples]
        self._pixels = columns[0] if len(columns) == 1 else torch.cat(columns)
        extents = [sample.extent for sample in samples]
        self._extents = torch.tensor(extents, device=device)  # (G, 2)
        clips = torch.arange(len(samples)).repeat_interleave(torch.tensor(self.counts))
        numbers = torch.arange(sum(self.counts))
        slots = numbers - torch.tensor(self.firsts)[clips]
        self._clips, self._slots = clips.to(device), slots.to(device)  # of each target
        starts = torch.arange(len(numbers) * self.frames, device=device)
        self._starts = starts.view(-1, self.frames) * (self.height * self.width)

    def shared(self, points: Tensor) -> Tensor:
        """Values of all targets at points of their sample, the same in every frame.

        Args:
            points: (G, L, P, 2), fractions of the padded image.

        Returns:
            (G, L, P, T, largest M); zeros for targets that a sample does not have.
        """
        x, y, part = neighbours(
            points / self._extents[:, None, None], self.height, self.width
        )  # (4, G, L, P)
        pixels = (x * self.height + y)[:, self._clips]  # (4, all M, L, P)
        starts = self._starts[:, None, None]  # (all M, 1, 1, T)
        values = self._read(pixels[..., None] + starts, part[:, self._clips][..., None])
        if len(self.counts) == 1:
            return values.permute(1, 2, 3, 0)[None]
        shape = (len(points), values.shape[1], *values.shape[2:], self.labels.shape[1])
        padded = values.new_zeros(shape)
        padded[self._clips, :, :, :, self._slots] = values
        return padded

    def own(self, targets: Tensor, points: Tensor) -> Tensor:
        """Values of some targets at points of their own in every frame.

        Args:
            targets: (I,) int64, numbers among all targets.
            points: (I, T, P, 2), fractions of the padded image.

        Returns:
            (I, T, P).
        """
        extents = self._extents[self._clips[targets]][:, None, None]  # (I, 1, 1, 2)
        x, y, part = neighbours(points / extents, self.height, self.width)  # (4, I, T, P)
        return self._read(x * self.height + y + self._starts[targets][:, :, None], part)

    def _read(self, places: Tensor, part: Tensor) -> Tensor:
        """The weighted sum over pixels, (4, ...) to (...)."""
        values = self._pixels.index_select(0, places.flatten()).view(places.shape)
        return (values * part).sum(dim=0)


@dataclass
class Group:
    """G samples whose maps and masks have one size.

    Attributes:
        samples: their numbers in the batch.
        features: their mask features.
        targets: their targets.
    """

    samples: list[int]
    features: MaskStack
    targets: TargetStack


class Supervision:
    """The mask features and the targets of a batch.

    Args:
        features: of each of the B samples, of any size.
        targets: of each sample.

    Attributes:
        groups: the samples that have targets, by size.
        labels: of each sample.
        num_targets: of all samples.
    """

    def __init__(self, features: Sequence[MaskFeatures], targets: Sequence[Targets]) -> None:
        self.labels = [own.labels for own in targets]
        self.num_targets = sum(len(labels) for labels in self.labels)
        alike: dict[tuple, list[int]] = defaultdict(list)
        for b, (maps, own) in enumerate(zip(features, targets, strict=True)):
            if len(own.labels):
                alike[(id(maps.codec), *maps.shape, *own.masks.shape[2:])].append(b)
        self.groups = [
            Group(
                samples,
                MaskStack([features[b] for b in samples]),
                TargetStack([targets[b] for b in samples]),
            )
            for samples in alike.values()
        ]
