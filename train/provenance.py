"""Where a result comes from: what was run on what, with which code, on which machine, at what cost.

result["run"] = describe_run(config=config.to_dict(), seed=seed, caches={"training": [...]},
                             device=device, seconds=seconds)
"""

import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

import cache_schema
import train
from cache_schema.reader import CacheReader

GIT_SECONDS = 5
#: The keys of `contents`.
CONTENTS = {"videos", "contents"}


def describe_run(
    *,
    config: Mapping[str, Any],
    seed: int | None,
    caches: Mapping[str, Sequence[Mapping[str, Any]]],
    device: torch.device | str,
    seconds: float,
    **more: Any,
) -> dict[str, Any]:
    """The part of a results file that says how it came about, as JSON types.

    Args:
        config: complete, as nested dicts.
        seed: of the training; None if it is not known.
        caches: what caches were used for ("training", "evaluation") and which they were, see
            `cache_identity`.
        device: what was computed on.
        seconds: how long it took.
        more: put after these, such as ``checkpoint``.

    Returns:
        The arguments, ``code`` (see `code_version`), ``machine`` (see `machine`), ``torch`` and
        ``peak_memory_mb`` of this process and ``peak_gpu_memory_mb``, None without a GPU.
    """
    return {
        "config": dict(config),
        "seed": seed,
        "caches": {use: [dict(cache) for cache in of_use] for use, of_use in caches.items()},
        **more,
        "code": code_version(),
        "machine": machine(device),
        "torch": torch.__version__,
        "device": str(device),
        "peak_memory_mb": peak_memory_mb(),
        "peak_gpu_memory_mb": peak_gpu_memory_mb(device),
        "seconds": round(seconds, 1),
    }


def cache_identity(reader: CacheReader) -> dict[str, str]:
    """Which cache it is: ``fingerprint`` (hex), ``dataset``, ``split``; ``release`` where known."""
    release = reader.facts.release
    return {
        "fingerprint": reader.fingerprint_hex,
        "dataset": reader.dataset,
        "split": reader.split,
        **({"release": release} if release else {}),
    }


def contents(reader: CacheReader) -> dict[str, int | str]:
    """Which videos a cache holds: their number, and a digest of their ids and checksums (hex)."""
    listed = [[entry.id, entry.checksum] for entry in reader.entries.values()]
    digest = hashlib.sha256(json.dumps(listed).encode()).hexdigest()
    return {"videos": len(listed), "contents": digest}


def prediction_digest(
    reader: CacheReader,
    config: Config,
    checkpoint: str,
    device: torch.device,
    **how: Any,
) -> str:
    """A digest (hex) of all that a head's predictions from a cache depend on.

    Args:
        reader: of the cache.
        config: of the head.
        checkpoint: SHA-256 of its file.
        device: where it runs.
        how: what else decides what is stored, JSON-able.

    Returns:
        Empty for a head of one's own, whose code nobody follows.
    """
    if ":" in config.model.type:
        return ""
    code = hashlib.sha256()
    for package in (cache_schema, train):
        for path in sorted(Path(package.__file__).parent.rglob("*.py")):
            code.update(path.read_bytes())
    parts = {
        **cache_identity(reader),
        **contents(reader),
        "checkpoint": checkpoint,
        "model": config.model.to_dict(),
        "device": device.type,
        "torch": torch.__version__,
        "code": code.hexdigest(),
        **how,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def code_version() -> dict[str, str | None]:
    """The package's ``version``, and the ``commit`` it was run from.

    The commit ends in "-dirty" if files were changed since; it is None for an installed package,
    or where git does not answer.
    """
    folder = Path(cache_schema.__file__).parent
    # A package that is installed below somebody's checkout is not part of it.
    tracked = _git(folder, "ls-files", "--error-unmatch", "__init__.py") is not None
    describe = ("describe", "--always", "--abbrev=40", "--dirty", "--exclude=*")
    commit = _git(folder, *describe) if tracked else None
    return {"version": cache_schema.__version__, "commit": commit}


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says; None if it fails, is not there or does not answer in time."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=GIT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def machine(device: torch.device | str = "cpu") -> dict[str, Any]:
    """``platform``, number of ``processors`` and the name of the ``gpu`` or None."""
    on_gpu = torch.device(device).type == "cuda"
    return {
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "gpu": torch.cuda.get_device_name(device) if on_gpu else None,
    }


def peak_memory_mb() -> int:
    """The most memory that this process has had, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes on Linux, bytes on macOS.
    return peak // (1024 if sys.platform != "darwin" else 1024**2)


def peak_gpu_memory_mb(device: torch.device | str) -> int | None:
    """The most memory that tensors have had on a GPU, in MB; None without one."""
    if torch.device(device).type != "cuda":
        return None
    return torch.cuda.max_memory_allocated(device) // 1024**2
