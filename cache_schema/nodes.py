"""Groups, datasets and attributes seen as data from outside.

Every name, link, type and size is checked before it is used, and every failure is an `InputError`,
or a `SystemTrouble` where the file is not to blame.
"""

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, TypeVar

import h5py
import numpy as np

from cache_schema.host import system
from cache_schema.host.cli import InputError
from cache_schema.host.limits import beyond

Node = TypeVar("Node", h5py.Group, h5py.Dataset)
Value = TypeVar("Value", list, dict)
SMALL = 1 << 16  # bytes that need not be compared with the size of a file


def where(node: h5py.Group | h5py.Dataset) -> str:
    """File and path of an object, for messages."""
    return f"{node.file.filename}:{node.name}"


def attribute(node: h5py.Group | h5py.Dataset, name: str, kind: type):
    """A scalar attribute as a Python ``int``, ``float``, ``bool`` or ``str``.

    Raises:
        InputError: it is missing or of another kind.
    """
    value = scalar(node, name)
    if type(value) is not kind:
        raise InputError(f"{where(node)}: attribute {name!r} is {value!r}, not {kind.__name__}")
    return value


def scalar(node: h5py.Group | h5py.Dataset, name: str) -> Any:
    """A scalar attribute of any kind as Python knows it; an array comes back empty."""
    try:
        # As h5py reads them. With its own lookups, they take thrice as long.
        stored = h5py.h5a.open(node.id, name.encode(errors="surrogateescape"))
        # Looked at first: an array as an attribute could ask for any amount of memory.
        if stored.shape != ():
            value = np.empty(0)
        else:
            dtype, in_memory, _ = known_type(stored)
            value = np.empty((), dtype)
            stored.read(value, in_memory)
            value = value[()]
        if type(value) is bytes:
            value = value.decode()  # HDF5 lets anything pass as UTF-8
    except (KeyError, OSError, RuntimeError, TypeError, ValueError, SystemError) as error:
        system.check(error, where(node))
        raise InputError(f"{where(node)} has no readable attribute {name!r}") from None
    return value.item() if isinstance(value, np.generic) else value


def json_attribute(node: h5py.Group, name: str, kind: type[Value]) -> Value:
    """An attribute that is a JSON object (dict), or a JSON list of strings (list)."""
    try:
        value = json.loads(attribute(node, name, str))
    except (ValueError, RecursionError):
        value = None
    strings = kind is dict or (isinstance(value, list) and all(isinstance(v, str) for v in value))
    if not isinstance(value, kind) or not strings:
        what = "object" if kind is dict else "list of strings"
        raise InputError(f"{where(node)}: attribute {name!r} is not a JSON {what}")
    return value


def child(group: h5py.Group, name: str, kind: type[Node]) -> Node:
    """A member of a group, only if it is really inside this file.

    Raises:
        InputError: missing, an external or soft link, of the other kind, or a dataset with
            filters, object types, or data stored in other files.
    """
    node = _member(group, name)
    if not isinstance(node, kind):
        raise InputError(f"{where(group)}: member {name!r} is not a {kind.__name__.lower()}")
    return node


def _member(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset | None:
    """A member that is really inside this file; None if it is neither group nor dataset."""
    try:
        # As h5py decodes names. With its own lookups, a walk takes thrice as long.
        encoded = name.encode(errors="surrogateescape")
        link = group.id.links.get_info(encoded).type
        node = h5py.h5o.open(group.id, encoded) if link == h5py.h5l.TYPE_HARD else None
    except (KeyError, OSError, RuntimeError, ValueError, SystemError) as error:
        system.check(error, where(group))
        raise InputError(
            f"{where(group)} has no readable member {name!r} ({error}): run verify"
        ) from None
    if node is None:
        what = "an external link" if link == h5py.h5l.TYPE_EXTERNAL else "a soft link"
        raise InputError(f"{where(group)}: member {name!r} is {what}, which no cache has; refused")
    if isinstance(node, h5py.h5g.GroupID):
        return h5py.Group(node)
    if not isinstance(node, h5py.h5d.DatasetID):
        return None
    dataset = h5py.Dataset(node)
    _check_storage(dataset)
    return dataset


def known_type(
    stored: h5py.h5a.AttrID | h5py.h5d.DatasetID,
) -> tuple[np.dtype, h5py.h5t.TypeID, bool]:
    """The type of what is stored as NumPy has it, and HDF5's name of that.

    Returns:
        The type, what HDF5 calls it in memory, and whether its bytes in the file are the same.
    """
    return _known(stored.get_type().encode())


@lru_cache(maxsize=64)  # h5py finds them out anew each time
def _known(encoded: bytes) -> tuple[np.dtype, h5py.h5t.TypeID, bool]:
    stored = h5py.h5t.decode(encoded)
    dtype = stored.dtype
    return dtype, h5py.h5t.py_create(dtype), stored == h5py.h5t.py_create(dtype, logical=True)


@contextmanager
def readable(node: h5py.Group | h5py.Dataset) -> Iterator[None]:
    """Say of what HDF5 raises in the block that the object cannot be read."""
    try:
        yield
    except (OSError, OverflowError, RuntimeError, TypeError, ValueError, SystemError) as error:
        system.check(error, where(node))
        raise InputError(f"{where(node)} cannot be read ({error}): run verify") from None


def _check_storage(dataset: h5py.Dataset) -> None:
    """Refuse a dataset that is not plain numbers, all of them in this file."""
    with readable(dataset):
        shape, (dtype, *_) = dataset.shape, known_type(dataset.id)
        if shape is None or dtype.kind not in "fiub":
            raise InputError(f"{where(dataset)} has the type {dtype}, not numbers; refused")
        made = dataset.id.get_create_plist()
        if made.get_external_count() or made.get_layout() == h5py.h5d.VIRTUAL:
            raise InputError(f"{where(dataset)} keeps its data in other files; refused")
        if made.get_nfilters():
            raise InputError(f"{where(dataset)} has filters, which no cache has; refused")
        # Bounds every later allocation by the size of the file, which HDF5 itself does not.
        stored = dataset.id.get_storage_size()
        size = math.prod(shape) * dtype.itemsize
        if stored != size or (
            stored > SMALL and stored > h5py.h5i.get_file_id(dataset.id).get_filesize()
        ):
            raise InputError(f"{where(dataset)} holds {stored} of its {size} bytes")
        at_once = size // shape[0] if made.get_layout() == h5py.h5d.CHUNKED and shape[0] else size
        if much := beyond(at_once, "DMVS_MAX_ARRAY"):
            raise InputError(f"{where(dataset)} holds {much}")


def values(dataset: h5py.Dataset, selection: int | slice | tuple[()] = ()) -> np.ndarray:
    """Read a whole dataset, or an index or range of its first axis; `InputError` if it fails."""
    with readable(dataset):
        if selection != ():
            return dataset[selection]
        array = np.empty(dataset.shape, dataset.dtype)
        if array.size:
            dataset.id.read(h5py.h5s.ALL, h5py.h5s.ALL, array)
        return array


def rows(dataset: h5py.Dataset) -> Iterator[bytes | np.ndarray]:
    """What is stored of each row of a dataset with chunks of one row; `InputError` if it fails.

    Each takes the place of the one before it. A file that is only read is read past HDF5, which
    lets nothing else go on meanwhile.
    """
    with readable(dataset):
        size, inner = dataset.nbytes // dataset.shape[0], (0,) * (dataset.id.rank - 1)
        file, row = dataset.file, np.empty(size, np.uint8)
        if file.driver != "sec2" or file.mode != "r":
            for t in range(dataset.shape[0]):
                yield dataset.id.read_direct_chunk((t, *inner))[1]
            return
        descriptor = file.id.get_vfd_handle()
        for start in chunk_starts(dataset.id, size):
            if start < 0 or os.preadv(descriptor, [row], start) != size:
                raise OSError("a chunk is of another size, or was cut short")
            yield row


def chunk_starts(dataset: h5py.h5d.DatasetID, size: int) -> np.ndarray:
    """Offset of each chunk, a row each; -1 where one is missing or of another size in bytes."""
    inner = (0,) * (dataset.rank - 1)
    chunks = [dataset.get_chunk_info_by_coord((t, *inner)) for t in range(dataset.shape[0])]
    starts = [c.byte_offset if c.byte_offset is not None and c.size == size else -1 for c in chunks]
    return np.array(starts, np.int64)


def members(group: h5py.Group) -> list[str]:
    """Names in a group, without following any link."""
    with readable(group):
        return list(group)


def walk(group: h5py.Group, path: str = "") -> Iterator[tuple[str, h5py.Group | h5py.Dataset]]:
    """Every group and dataset from ``group`` down, with its path below it ('' is the group)."""
    yield path, group
    # Nothing in a video lies deeper than expressions/<id>/words; hard links could make a circle.
    if path.count("/") > 2:
        raise InputError(f"{where(group)} lies deeper than anything a cache holds; refused")
    for name in members(group):
        inner = f"{path}/{name}" if path else name
        node = _member(group, name)
        if isinstance(node, h5py.Group):
            yield from walk(node, inner)
        elif node is None:
            raise InputError(f"{where(group)}: member {name!r} is not a dataset")
        else:
            yield inner, node
