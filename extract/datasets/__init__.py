"""Data sets of stage one, as they lie on the disks of their users; nothing else reads them."""

from extract.datasets.folder import VideoFolder
from extract.datasets.mevis import MeViS
from extract.datasets.records import RLE, SourceExpression, SourceVideo

#: The values of the config key ``dataset``. Each is built as ``cls(root, split)``.
DATASETS = {"mevis": MeViS, "folder": VideoFolder}

__all__ = ["DATASETS", "RLE", "MeViS", "SourceExpression", "SourceVideo", "VideoFolder"]
