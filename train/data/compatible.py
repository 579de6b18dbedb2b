"""Whether caches fit each other, and whether a cache fits a trained head."""

from collections.abc import Mapping
from typing import Any

from cache_schema.fingerprint import differences
from cache_schema.host.cli import InputError

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


def check_models(
    training: Any,
    fingerprint: Mapping[str, Any],
    *,
    checkpoint: str,
    cache: str,
    allowed: bool = False,
) -> str | None:
    """Refuse a cache of other frozen models than a head was trained on. Codecs may differ.

    Args:
        training: the checkpoint's ``meta["training"]``, whatever it holds.
        fingerprint: of the cache.
        checkpoint, cache: where they are, for the message.
        allowed: do not refuse.

    Returns:
        What is wrong, None if nothing is.

    Raises:
        InputError: the models differ or the checkpoint does not tell them; names the fields.
    """
    try:
        trained = [known["models"] for known in training["caches"]]
        own = signature(fingerprint, codec=False)
        found = next(filter(None, (differences(models, own) for models in trained)), [])
    except (TypeError, KeyError, AttributeError):
        trained = []
    if not trained:
        problem = f"{checkpoint} says nothing about the models that it was trained on"
    elif found:
        problem = f"{checkpoint} was trained on other models than {cache}: {'; '.join(found)}"
    else:
        return None
    if allowed:
        return problem
    raise InputError(
        f"{problem}; give a cache of the same models, or --allow-other-models to go on"
    )
