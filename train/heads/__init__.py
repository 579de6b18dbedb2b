"""The heads: everything that learns. One module a head; `base.py` says what one is.

``model.type`` of a config picks one: the name of a module here, or ``package.module:Class``.
"""

from dataclasses import fields

from mmengine.config import Config

from cache_schema.host.cli import InputError
from cache_schema.host.lookup import find_kind, nearest
from train.heads.base import CacheSizes, Head, HeadInputs, HeadOutput

#: Fields of `train.data.Batch` that only a loss may read.
OF_BATCH = ("mask_features", "overlaps", "ids")


def find_head(name: str) -> type[Head]:
    """The class of a head, by ``model.type``; InputError if there is none."""
    head = find_kind(name, "model.type", Head, __name__, ("base", "parts"))
    known = [field.name for field in fields(HeadInputs)]
    for owner in (head, head.loss):
        for wanted in owner.reads:
            if wanted not in known:
                raise InputError(
                    f"{owner.__name__}.reads has {wanted!r}{nearest(wanted, known)}: known are "
                    f"{', '.join(known)}"
                )
        known += OF_BATCH
    return head


def build_head(config: Config, sizes: CacheSizes) -> Head:
    """The head of a complete config, for caches of some sizes.

    Raises:
        InputError: the config does not fit the caches.
    """
    keys = dict(config.model)
    return find_head(keys.pop("type"))(sizes, **keys)
