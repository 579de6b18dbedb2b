"""The fitted codec of a cache in progress, in ``codec.h5`` beside the shards.

A run that was killed after the fit, and every rank of a run, codes with the very same basis.
"""

import io
import json
import os
from pathlib import Path
from typing import Any

import h5py

from cache_schema import manifest
from cache_schema.checksums import CRC
from cache_schema.codecs import Codec
from cache_schema.fingerprint import check_same
from cache_schema.host import system
from cache_schema.host.cli import InputError
from cache_schema.host.files import replacing
from cache_schema.nodes import attribute
from cache_schema.shard import (
    LIBVER,
    UnreadableShard,
    check_texts,
    open_shard,
    read_codec,
    texts_crc32,
    write_codec,
)

CODEC_FILE = "codec.h5"
TEXTS = ("codec", "codec_json", "settings")


def save(folder: Path, codec: Codec, settings: dict[str, Any]) -> None:
    """Keep a codec that was just fitted; atomic and durable. The folder is made when missing.

    Args:
        settings: what it was fitted for, as plain JSON; see `load`.

    Raises:
        InputError: the folder cannot be written, or another process has saved its own meanwhile.
    """
    path = folder / CODEC_FILE
    image = io.BytesIO()
    with h5py.File(image, "w", libver=LIBVER) as file:
        file.attrs["settings"] = json.dumps(settings, sort_keys=True, allow_nan=False)
        write_codec(file, codec)
        file.attrs[CRC] = texts_crc32(file, TEXTS)
    with replacing(path) as temporary:
        temporary.write_bytes(image.getvalue())
        if path.exists():  # but not when this process looked, or it would not have fitted
            raise InputError(
                f"{path} has come into being: another process is writing the cache {folder}; "
                "wait for it, or use another folder"
            )


def load(folder: Path, settings: dict[str, Any]) -> Codec | None:
    """The codec of the cache in progress, from ``codec.h5`` or else from any finished shard.

    Args:
        folder: of the cache; need not exist.
        settings: plain JSON, the fingerprint with ``"codec"`` as it was asked for (name, rank and
            so on) in place of what came out of the fit.

    Returns:
        None when nothing has been fitted yet.

    Raises:
        InputError: it was fitted for other settings (names the fields), or it cannot be read.
    """
    path = folder / CODEC_FILE
    if not path.exists():
        return _from_shard(folder, settings)
    try:
        codec, fitted_for = _read(path)
    except InputError as error:
        raise InputError(f"{error}: delete it and run the same command again") from error
    check_same(fitted_for, settings, path)
    return codec


def damage(folder: Path, codec: Codec) -> str:
    """What is wrong with ``codec.h5`` in a cache whose shards have this codec; '' if nothing."""
    path = folder / CODEC_FILE
    if not path.exists():
        return ""
    try:
        found, _ = _read(path)
    except InputError as error:
        return str(error)
    same = found.describe() == codec.describe()
    return "" if same else f"{path} holds another codec than the shards"


def _read(path: Path) -> tuple[Codec, Any]:
    """The codec and the settings in a file."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            check_texts(file, TEXTS)
            return read_codec(file), json.loads(attribute(file, "settings", str))
    except system.SystemTrouble:
        raise
    except Exception as error:  # HDF5 raises all kinds of exceptions on broken metadata
        system.check(error, path)
        raise InputError(f"{path} cannot be read ({error})") from error


def _from_shard(folder: Path, settings: dict[str, Any]) -> Codec | None:
    """The codec of the first readable shard; its rank and IoU are a result, so not compared."""
    names = os.listdir(folder) if folder.is_dir() else []
    for name in sorted(n for n in names if manifest.SHARD.fullmatch(n)):
        try:
            file, header = open_shard(folder / name)
        except UnreadableShard:
            continue
        file.close()
        made_for, wanted = dict(header.fingerprint.data), dict(settings)
        made_for["codec"] = {"name": header.codec.name}
        wanted["codec"] = {"name": settings["codec"]["name"]}
        check_same(made_for, wanted, folder / name)
        return header.codec
    return None
