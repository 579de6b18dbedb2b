"""Ids as HDF5 link names: escaped so that nothing in an id can leave its place."""

from urllib.parse import quote, unquote

from cache_schema.host.cli import InputError

# HDF5 itself stops at about 64 KiB; ids are also file names elsewhere, so this is generous.
MAX_NAME = 4096


def check_text(text: str, what: str) -> str:
    """Return ``text`` when HDF5 can store it: a string without NUL and without lone surrogates.

    Raises:
        InputError: otherwise, naming ``what``.
    """
    if not isinstance(text, str):
        raise InputError(f"{what} is {text!r}, not a string")
    if "\0" in text:
        raise InputError(f"{what} {text!r} holds a NUL character, which HDF5 cannot store")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(f"{what} {text!r} is not valid Unicode (a lone surrogate)") from None
    return text


def escape(identifier: str, what: str = "id") -> str:
    """Percent-escape every UTF-8 byte of an id outside ``[A-Za-z0-9_-]``; reversible.

    ``/``, ``.`` and ``..`` become harmless names. Different ids stay different.

    Raises:
        InputError: the id is empty, no storable text, or longer than 4096 characters once escaped.
    """
    check_text(identifier, what)
    # quote() never escapes "_.-~"; the dot and the tilde still have to go.
    name = quote(identifier, safe="").replace(".", "%2E").replace("~", "%7E")
    if not name:
        raise InputError(f"{what} is empty")
    if len(name) > MAX_NAME:
        raise InputError(
            f"{what} {identifier[:40]!r}... has {len(name)} characters once escaped; "
            f"at most {MAX_NAME} fit"
        )
    return name


def unescape(name: str) -> str:
    """The id of an escaped name.

    Raises:
        InputError: no id is escaped like that, so the name did not come from `escape`.
    """
    try:
        identifier = unquote(name, errors="strict")
        if escape(identifier) == name:
            return identifier
    except (InputError, UnicodeDecodeError):
        pass
    raise InputError(f"{name!r} is not an escaped id")
