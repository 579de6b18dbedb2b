"""How many videos and sentences data sets hold, as their publishers say."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """How much a release holds, as its publishers say (None: they do not)."""

    release: str
    videos: int
    expressions: int | None = None


#: Data set -> split -> its releases. Pseudo-videos are counted as images.
PUBLISHED: dict[str, dict[str, list[Published]]] = {
    "mevis": {
        "train": [Published("v1", 1662, 23051), Published("v2", 1662, 27502)],
        "valid_u": [Published("v1", 50, 793), Published("v2", 50, 907)],
        "valid": [Published("v1", 140, 2236), Published("v2", 140, 2523)],
    },
    "ref_youtube_vos": {
        "train": [Published("full-video sentences", 3471, 12913)],
        "valid": [Published("the challenge's", 202)],
        "test": [Published("the challenge's", 305)],
    },
    "ref_davis": {
        "train": [Published("DAVIS 2017", 60)],
        "valid": [Published("DAVIS 2017", 30)],
        "val": [Published("DAVIS 2017", 30)],
    },
    "refcoco": {
        "train": [Published("unc", 16994, 120624)],
        "val": [Published("unc", 1500, 10834)],
        "testA": [Published("unc", 750, 5657)],
        "testB": [Published("unc", 750, 5095)],
        "train@google": [Published("google", 19213)],
        "val@google": [Published("google", 4559)],
        "test@google": [Published("google", 4527)],
    },
    "refcoco+": {
        "train": [Published("unc", 16992)],
        "val": [Published("unc", 1500)],
        "testA": [Published("unc", 750)],
        "testB": [Published("unc", 750)],
    },
    "refcocog": {
        "train": [Published("umd", 21899)],
        "val": [Published("umd", 1300)],
        "test": [Published("umd", 2600)],
        "train@google": [Published("google", 24698)],
        "val@google": [Published("google", 4650)],
    },
}
