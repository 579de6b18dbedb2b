"""Seeded damage to what comes from files, and what commands make of it.

A structure gets a value of another kind, size or range; bytes get flips, cuts and copies. A `Kind`
of file says how a damaged one is made and read; `run` reads many in a process of its own, which may
crash, hang or want memory without end.
"""

import contextlib
import copy
import json
import math
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from cache_schema.host import cli, system

ODD = [None, True, -1, 0, 10**30, 1.5, math.nan, math.inf, "", "x", b"x", [], {}, [0], {"x": 0}]
#: What else text can hold: numbers beyond any type, names that leave a folder, no Unicode.
WORDS = ["9" * 400, "-0", "1e999", "../x", "/etc/passwd", "a\0b", "\ud800", "ä" * 300, "[[", "%s"]
OUTCOMES = ("clean", "accepted", "traceback", "crash", "hang", "memory", "outside")
PATIENCE = 600.0  # seconds for one case on a busy machine
MEMORY = 2 << 30  # bytes that one case may take beside what the process has


def places(content: Any, path: tuple = ()) -> list[tuple]:
    """The path of every value in nested dicts and lists, but for the whole."""
    found = [path] if path else []
    if isinstance(content, dict):
        items = list(content.items())
    else:
        items = list(enumerate(content)) if isinstance(content, list) else []
    for name, value in items:
        found += places(value, (*path, name))
    return found


def mutated(content: Any, rng: random.Random) -> tuple[Any, str]:
    """A copy with one value changed or gone, and what was done."""
    content = copy.deepcopy(content)
    # By depth first, so that a few keys at the top are met as often as many weights.
    by_depth: dict[int, list[tuple]] = {}
    for path in places(content):
        by_depth.setdefault(len(path), []).append(path)
    path = rng.choice(by_depth[rng.choice(sorted(by_depth))])
    parent = content
    for name in path[:-1]:
        parent = parent[name]
    old = parent[path[-1]]
    if rng.random() < 0.2:
        del parent[path[-1]]
        return content, f"{path} deleted"
    new = rng.choice(like(old) + ODD + WORDS * (not isinstance(old, torch.Tensor)))
    parent[path[-1]] = new
    return content, f"{path} = {new!r:.80}"


def like(value: Any) -> list[Any]:
    """Values of the same kind: tensors of another shape, type or content, numbers beside."""
    if isinstance(value, torch.Tensor):
        return [
            value.flatten()[:1].clone(),
            torch.zeros(3, 5, 7),
            torch.zeros(0),
            value.to(torch.complex64),
            torch.full_like(value, math.nan) if value.is_floating_point() else value.bool(),
            value[None].expand(2, *value.shape),
            torch.zeros(1).expand(1 << 40),
            value.to_sparse() if value.dim() else value.int(),
        ]
    if isinstance(value, np.ndarray):
        return [value[:0], value.astype(complex), np.full_like(value, np.inf), value.astype(object)]
    if isinstance(value, bool | None):
        return []
    if isinstance(value, int | float):
        return [value + 1, -value, value * 10**9, 2**31, 2**63]
    if isinstance(value, str):
        return [value + value, value[1:], value.upper(), value + "/../" + value]
    return [{**value, "": value}] if isinstance(value, dict) else [value * 2]


def mutated_json(path: Path, rng: random.Random) -> None:
    """Damage a JSON file: a value, now and then bytes."""
    if rng.random() < 0.2:
        return damage_bytes(path, rng)
    content, _ = mutated(json.loads(path.read_text()), rng)
    text = json.dumps(content, default=lambda value: value.decode())
    path.write_text(text, "utf-8", errors="surrogatepass")


def damage_bytes(path: Path, rng: random.Random) -> None:
    """Flip, cut, insert, copy or blank some bytes of a file."""
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 1, 3])):
        at, length = rng.randrange(len(data) + 1), rng.choice([1, 4, 64])
        match rng.randrange(6):
            case 0 | 1:
                data[at : at + 1] = bytes([rng.randrange(256)])
            case 2:
                del data[at:]
            case 3:
                data[at:at] = rng.randbytes(length)
            case 4:
                data[at:at] = data[:length]
            case 5:
                data[at : at + length] = bytes([rng.choice([0, 255])]) * length
    path.write_bytes(data)


def damage_hdf5(path: Path, rng: random.Random) -> None:
    """An attribute or an array of an HDF5 file gone or another; now and then bytes."""
    if rng.random() < 0.3:
        return damage_bytes(path, rng)
    with h5py.File(path, "r+") as file:
        names = ["/"]
        file.visit(names.append)
        node = file[rng.choice(names)]
        if isinstance(node, h5py.Dataset) and rng.random() < 0.5:
            _damage_array(node, rng)
        elif node.attrs and rng.random() < 0.8:
            name = rng.choice(sorted(node.attrs))
            old = node.attrs[name]
            del node.attrs[name]
            odd = [10**18, -1, 2.5, math.nan, "", "x", "[1", np.zeros(5), b"\xff", h5py.Empty("f4")]
            value = rng.choice([None, *odd, *(like(old) if isinstance(old, str) else [])])
            if value is not None:
                node.attrs[name] = value
        elif node.name != "/":
            parent, name = node.parent, node.name
            del parent[name]
            link = rng.choice([None, h5py.SoftLink("/"), h5py.ExternalLink("/etc/passwd", "/x")])
            if link is not None:
                parent[name] = link


def _damage_array(node: h5py.Dataset, rng: random.Random) -> None:
    group, name, shape = node.parent, node.name, node.shape or ()
    kind = rng.randrange(7)
    if kind == 0 and node.dtype.kind in "fi" and node.size:
        node[...] = rng.choice([np.nan, np.inf, -1] if node.dtype.kind == "f" else [-1, 100])
        return
    del group[name]
    how: dict[str, Any] = {"shape": shape, "dtype": node.dtype}
    how |= [
        {"shape": shape[:-1]},
        {"shape": [n + 1 for n in shape]},
        {"shape": [1 << 30] * max(1, len(shape)), "chunks": True},
        {"dtype": h5py.string_dtype()},
        {"external": [("/etc/passwd", 0, h5py.h5f.UNLIMITED)]},
        {"shape": (2, 2, 2)},
        {"shape": None, "data": h5py.Empty("f4")},
    ][kind]
    with contextlib.suppress(ValueError, TypeError):  # what HDF5 itself does not write stays away
        group.create_dataset(name, **how)


@dataclass(frozen=True)
class Kind:
    """A kind of file, or of settings.

    Attributes:
        name: of it.
        share: of all cases that are its.
        make: writes a damaged one into an empty folder and says what it is.
        read: reads it as commands do; gives an exit status, or None.
    """

    name: str
    share: float
    make: Callable[[Path, random.Random], Any]
    read: Callable[[Path, Any], Any]


def run(kind: Kind, cases: int, folder: Path) -> tuple[Counter, list[str]]:
    """Read so many damaged files; how they ended, and what to say of those that ended badly."""
    counts: Counter = Counter()
    bad: list[str] = []
    start = 0
    while start < cases:
        ours, theirs = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.get_context("fork").Process(
            target=_child, args=(kind, range(start, cases), folder, theirs)
        )
        process.start()
        theirs.close()
        with contextlib.suppress(EOFError):
            while ours.poll(PATIENCE):
                outcome, said = ours.recv()
                counts[outcome] += 1
                if outcome not in OUTCOMES[:2]:
                    bad.append(f"{kind.name}, case {start}: {outcome}: {said}")
                start += 1
        hangs = process.is_alive() and not ours.poll(0)
        process.kill() if hangs else None
        process.join()
        if start < cases:
            outcome = "hang" if hangs else "crash"
            counts[outcome] += 1
            said = (folder / "said").read_text()[-1000:]
            bad.append(f"{kind.name}, case {start}: {outcome}, {process.exitcode}: {said}")
            start += 1
    return counts, bad


def _child(kind: Kind, cases: range, folder: Path, pipe: Any) -> None:
    signal.alarm(0)
    sys.stdout = sys.stderr = open(folder / "said", "a", buffering=1)  # noqa: SIM115
    sys.dont_write_bytecode = True
    warnings.simplefilter("ignore")
    own = Path(tempfile.mkdtemp(dir=folder))
    tempfile.tempdir = str(own)
    left: list[str] = []
    sys.addaudithook(lambda event, arguments: _watch(event, arguments, own, left))
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY,) * 2)
    for case in cases:
        place = own / str(case)
        place.mkdir()
        rng = random.Random(f"{kind.name} {case}")
        try:
            what = kind.make(place, rng)
        except Exception as error:
            raise RuntimeError(f"{kind.name} {case} is not made") from error
        left.clear()
        outcome, said = _outcome(lambda place=place, what=what: kind.read(place, what))
        pipe.send(("outside", str(left)) if left else (outcome, f"{what!r:.200}: {said}"))


def _outcome(read: Callable[[], Any]) -> tuple[str, str]:
    try:
        status = read()
    except SystemExit as error:
        return ("clean", "") if error.code == 2 else ("traceback", f"it ends with {error.code}")
    except BaseException as error:
        sentence = cli.sentence_of(error)
        if sentence is None:
            return "traceback", "".join(traceback.format_exception(error)[-3:])
        return ("memory" if system.NO_MEMORY in sentence else "clean"), sentence
    return ("clean" if status else "accepted"), str(status)


def _watch(event: str, arguments: tuple, own: Path, left: list[str]) -> None:
    """Note what is written, made or started elsewhere."""
    if event == "socket.connect" and isinstance(arguments[1], str):
        return  # of this machine, by which processes of ours talk
    if event == "subprocess.Popen" and arguments[0] == "git":
        return  # which says of which code a file is
    if event == "open":
        path, _, flags = arguments
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        paths = [path] if writes and isinstance(path, (str, bytes, os.PathLike)) else []
    elif event in ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink"):
        paths = [part for part in arguments[:2] if isinstance(part, (str, bytes, os.PathLike))]
        if -1 not in arguments[1:] and event != "os.symlink":
            return  # beside a folder that has been opened
    else:
        if event in ("os.system", "os.exec", "subprocess.Popen", "socket.connect"):
            left.append(f"{event} {arguments}")
        return
    for path in map(os.fsdecode, paths):
        if not os.path.abspath(path).startswith((str(own), "/dev/")):
            left.append(f"{event} {path}")
