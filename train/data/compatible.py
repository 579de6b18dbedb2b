"""Whether caches fit each other, and whether a cache fits a trained head."""

from collections.abc import Mapping
from typing import Any

from cache_schema.cli import InputError
from cache_schema.fingerprint import differences

# What the frozen models said is only comparable if these are the same. Frames may be resized in
# another way, and data sets, clips and bases of a codec differ between caches of one training.
MODELS = ("segmenter", "weights_sha256", "dtype", "autocast", "text")


def signature(fingerprint: Mapping[str, Any], *, codec: bool) -> dict[str, Any]:
    """The fields of a fingerprint that have to agree.

    Args:
        fingerprint: of a cache.
        codec: whether the codec's name and rank are among them.
    """
    fields = {name: fingerprint.get(name) for name in MODELS}
    if codec:
        stored = fingerprint.get("codec") or {}
        fields["codec"] = {name: stored.get(name) for name in ("name", "rank")}
    return fields


def check_compatible(
    fingerprints: Mapping[str, Mapping[str, Any]], *, mixed_codecs: bool = False
) -> None:
    """Refuse caches whose features do not mean the same.

    Args:
        fingerprints: where each cache is, and its fingerprint.
        mixed_codecs: codecs and ranks may differ.

    Raises:
        InputError: names the two caches, the fields and both values.
    """
    (first, reference), *others = fingerprints.items()
    for where, fingerprint in others:
        found = differences(
            *(signature(f, codec=not mixed_codecs) for f in (fingerprint, reference))
        )
        if found:
            only_codec = all(difference.startswith("codec.") for difference in found)
            advice = "extract both with the same models" + (
                " and codec, or set data.mixed_codecs=True" if only_codec else ""
            )
            raise InputError(f"{where} does not fit {first}: {'; '.join(found)}; {advice}")
