"""`trajectory`: DMVS whose queries also carry the ordered trajectory of their object.

It is added to the video queries, so that both the motion queries that start as them and the motion
expression that reads them know what moved where, and when.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from train.heads.base import CacheSizes, HeadInputs
from train.heads.dmvs import DMVS
from train.heads.parts.trajectories import ORDERS, Trajectories, check_parts


class Trajectory(DMVS):
    """`DMVS` with `Trajectories`; 1.2 M more parameters at the paper's size.

    Args:
        sizes: of the caches.
        tracks, frame_reading, frame_order: see `Trajectories`.
        keywords: see `DMVS`.
    """

    reads = (*DMVS.reads, "tracks", "times")
    CHOICES: ClassVar = {"frame_order": ORDERS}

    def __init__(
        self,
        sizes: CacheSizes,
        *,
        tracks: bool = True,
        frame_reading: bool = False,
        frame_order: str = "time",
        **keywords: Any,
    ) -> None:
        super().__init__(sizes, **keywords)
        self.trajectories = Trajectories(
            self.class_head.in_features,
            keywords.get("num_heads", 8),
            frame_dim=sizes.query_dim,
            tracks=tracks,
            frame_reading=frame_reading,
            frame_order=frame_order,
        )

    @classmethod
    def check(cls, model: Mapping[str, Any], loss: Mapping[str, Any]) -> None:
        """See `Head.check`."""
        super().check(model, loss)
        check_parts(model)

    def objects(self, inputs: HeadInputs) -> Tensor:
        """Q_v with the trajectories of their objects, (B, N_v, C)."""
        queries = super().objects(inputs)
        return queries + self.trajectories(queries, inputs)
