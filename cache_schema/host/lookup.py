"""Files, classes and keys by the names that a user writes, and what to say where there is none."""

import importlib
import pkgutil
from collections.abc import Collection, Iterable
from difflib import get_close_matches
from pathlib import Path

from cache_schema.host.cli import InputError

ROOT = Path(__file__).parents[2]


def nearest(name: str, known: Iterable[str]) -> str:
    """In brackets, which known name looks like it; empty if none does."""
    close = get_close_matches(str(name), list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def find_config(name: str | Path, folder: Path, what: str = "config") -> Path:
    """A Python file, or the one of that name in ``folder``; those that start with _ are parts.

    Raises:
        InputError: there is neither.
    """
    own = {path.stem: path for path in sorted(folder.glob("[!_]*.py"))}
    path = own.get(str(name), Path(name))
    if not path.is_file():
        raise InputError(
            f"{what} {name} does not exist{nearest(path.stem, own)}: give a Python file, or one of "
            f"{folder.relative_to(ROOT)} by its name: {', '.join(own)}"
        )
    return path


def existing(path: str | Path, what: str) -> Path:
    """A file or folder that has to be there.

    Raises:
        InputError: it is not; ``what`` says what it should have been.
    """
    if not Path(path).exists():
        raise InputError(f"{what} {path} does not exist; check the path")
    return Path(path)


def find_kind(spec: str, where: str, base: type, package: str, apart: Collection[str]) -> type:
    """The subclass of ``base`` that a configuration names.

    Args:
        spec: a module of ``package``, which has one such class, or ``"package.module:Class"``.
        base: of the classes.
        package: its name.
        apart: what else lies in it.

    Raises:
        InputError: see `find_class`; there is no such module, or it is no such class.
    """
    if ":" in spec:
        found = find_class(spec, where)
        if not issubclass(found, base):
            raise InputError(
                f"{where} is {spec!r}, which is no {base.__name__.lower()}: derive it from "
                f"{base.__module__}.{base.__name__}"
            )
        return found
    folder = importlib.import_module(package).__path__
    known = [module.name for module in pkgutil.iter_modules(folder) if module.name not in apart]
    if spec not in known:
        raise InputError(
            f"unknown {where} {spec!r}{nearest(spec, known)}: known are {', '.join(known)}, and "
            "package.module:Class"
        )
    module = importlib.import_module(f"{package}.{spec}")
    return next(
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, base)
        and f"{value.__module__}.".startswith(f"{module.__name__}.")
    )


def find_class(spec: str, where: str) -> type:
    """The class of ``"package.module:Class"``; the folder of the command counts as a place.

    Raises:
        InputError: it does not read so, the module does not import, or has no such class.
    """
    module_name, _, name = spec.partition(":")
    if not module_name or not name:
        raise InputError(f"{where} is {spec!r}: write it as package.module:Class")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # whatever a module from outside may raise
        raise InputError(
            f"{where} is {spec!r}, and {module_name} does not import: "
            f"{type(error).__name__}: {error}"
        ) from error
    found = getattr(module, name, None)
    if not isinstance(found, type):
        classes = [key for key, value in vars(module).items() if isinstance(value, type)]
        raise InputError(
            f"{where} is {spec!r}, but {module_name} has no class {name!r}{nearest(name, classes)}"
        )
    return found
