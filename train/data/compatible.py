"""Whether caches fit each other, and whether a cache fits a trained head."""

from collections.abc import Iterable, Mapping
from typing import Any

from cache_schema.fingerprint import differences
from cache_schema.host.cli import InputError
from cache_schema.reader import CacheReader
from train.provenance import cache_identity

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
    if isinstance(fields["segmenter"], Mapping):  # format versions 1 and 2 do not name its type
        fields["segmenter"] = {k: v for k, v in fields["segmenter"].items() if k != "type"}
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


def mixed_releases(caches: Iterable[tuple[str, Mapping[str, Any]]]) -> str:
    """What to say where caches are of different releases of one data set; empty if none are.

    Args:
        caches: what each is called, and what `cache_identity` says of it.
    """
    seen: dict[Any, tuple[str, Any]] = {}
    for where, cache in caches:
        dataset, release = cache.get("dataset"), cache.get("release")
        first, known = seen.setdefault(dataset, (where, release)) if release else ("", release)
        if known != release:
            return (
                f"{first} is of release {known} of {dataset}, {where} of release {release}: "
                "their figures do not compare"
            )
    return ""


def check_releases(readers: Iterable[CacheReader]) -> None:
    """Refuse caches of different releases of one data set.

    Raises:
        InputError: names two of them.
    """
    if problem := mixed_releases((str(r.path), cache_identity(r)) for r in readers):
        raise InputError(f"{problem}; take one release")


def check_models(
    training: Any,
    reader: CacheReader,
    *,
    checkpoint: str,
    allowed: bool = False,
) -> str | None:
    """Refuse a cache of other frozen models than a head was trained on, or of another release.

    Args:
        training: the checkpoint's ``meta["training"]``, whatever it holds.
        reader: of the cache; its codec may be another one.
        checkpoint: where it is, for the message.
        allowed: do not refuse.

    Returns:
        What is wrong, None if nothing is.

    Raises:
        InputError: they differ or the checkpoint does not tell the models; names the fields.
    """
    own = signature(reader.fingerprint, codec=False)
    try:
        trained = training["caches"]
        found = next(filter(None, (differences(t["models"], own) for t in trained)), [])
        told = [(f"the training of {checkpoint}", cache) for cache in trained]
        mixed = mixed_releases([*told, (str(reader.path), cache_identity(reader))])
    except (TypeError, KeyError, AttributeError):
        trained = []
    if not trained:
        problem = f"{checkpoint} says nothing about the models that it was trained on"
    elif found:
        problem = f"{checkpoint} was trained on other models than {reader.path}: {'; '.join(found)}"
    elif mixed:
        problem = mixed
    else:
        return None
    if allowed:
        return problem
    raise InputError(f"{problem}; give a cache of the same, or --allow-other-models to go on")
