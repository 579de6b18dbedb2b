"""Whether a model that is not on this machine can be fetched, before a library tries for long."""

import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

from cache_schema.host.cli import InputError

#: Seconds that a hub has to answer in.
PATIENCE = 2.0
ADVICE = (
    "where there is a network, run `python -m scripts.fetch_text_models DIR`, then give its "
    "folders: --cfg-options text.encoder=DIR/encoder text.tagger=DIR/tagger"
)


def check_reachable(url: str, *, what: str, advice: str = ADVICE) -> None:
    """Refuse to ask a hub that does not answer.

    Args:
        url: of the hub; with a proxy set, as libraries read it, the proxy is asked.
        advice: how to do without the network.

    Raises:
        InputError: it cannot be reached; says how to do without.
    """
    proxy = os.environ.get("https_proxy") or os.environ.get("HTTPS_PROXY")
    place = urlsplit(proxy or url)
    port = place.port or (443 if place.scheme == "https" else 80)
    try:
        socket.create_connection((place.hostname or "", port), PATIENCE).close()
    except OSError as error:
        raise InputError(
            f"{what} is not on this machine, and {place.hostname} cannot be reached ({error}); "
            f"{advice}"
        ) from None


def in_hub_cache(model: str, file: str) -> Path | None:
    """A file of a model on the Hugging Face hub, if this machine has it."""
    from huggingface_hub import try_to_load_from_cache  # heavy

    found = try_to_load_from_cache(model, file)
    return Path(found) if isinstance(found, str) else None
