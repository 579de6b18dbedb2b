"""Data sets of stage one, as they lie on the disks of their users; nothing else reads them."""

from extract.datasets.folder import VideoFolder
from extract.datasets.mevis import MeViS
from extract.datasets.records import RLE, SourceExpression, SourceVideo
from extract.datasets.ref_davis import RefDAVIS
from extract.datasets.ref_youtube_vos import RefYouTubeVOS
from extract.datasets.refcoco import RefCOCO, RefCOCOg, RefCOCOPlus

#: The values of the config key ``dataset``. Each is built as ``cls(root, split)``.
DATASETS = {
    "mevis": MeViS,
    "ref_youtube_vos": RefYouTubeVOS,
    "ref_davis": RefDAVIS,
    "refcoco": RefCOCO,
    "refcoco+": RefCOCOPlus,
    "refcocog": RefCOCOg,
    "folder": VideoFolder,
}

__all__ = [
    "DATASETS",
    "RLE",
    "MeViS",
    "RefCOCO",
    "RefCOCOPlus",
    "RefCOCOg",
    "RefDAVIS",
    "RefYouTubeVOS",
    "SourceExpression",
    "SourceVideo",
    "VideoFolder",
]
