"""What every command line of the project shares: one sentence and status 2 for bad input."""

import gc
import os
import sys
import traceback
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence

from cache_schema.host.children import no_survivors
from cache_schema.host.system import NO_MEMORY, SystemTrouble


class InputError(Exception):
    """Bad input from outside. The message is one sentence: what was found, where, what to do."""


def parser(name: str, doc: str | None) -> ArgumentParser:
    """The parser of ``python -m name``, whose help is the module's docstring as it is written."""
    return ArgumentParser(
        prog=f"python -m {name}", description=doc, formatter_class=RawDescriptionHelpFormatter
    )


def run(main: Callable[[list[str]], int | None], argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status.

    Args:
        main: takes the arguments without ``--debug``; returns the exit status (None is 0).
        argv: arguments; ``sys.argv[1:]`` by default. ``--debug`` shows the traceback of bad input.

    Returns:
        What ``main`` returned, 2 after an `InputError` or an error of the system, 130 after Ctrl-C,
        of which a `KeyboardInterrupt` with a text says what is to be done.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # no name or text is worth losing a finished run
            stream.reconfigure(errors="backslashreplace")
    try:
        with no_survivors():
            return main([a for a in arguments if a != "--debug"]) or 0
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (KeyboardInterrupt, Exception) as error:
        if (stop := _interrupt(error)) is not None:
            advice = str(stop) or "run the same command again"
            print(f"interrupted; {advice}", file=sys.stderr)
            return 130
        sentence = sentence_of(error)
        if sentence is None:
            raise
        if debug:
            traceback.print_exc()
        print(f"error: {sentence}", file=sys.stderr)
        return 2
    finally:
        if argv is None:  # the process ends, and nothing in it is worth a last look for garbage
            gc.freeze()


def _interrupt(error: BaseException | None) -> KeyboardInterrupt | None:
    """The Ctrl-C that an error is, or that a library made it of."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error


def sentence_of(error: BaseException) -> str | None:
    """What a user is told of bad input or of an error of the system; None for a mistake of ours."""
    match error:
        case InputError() | SystemTrouble():
            return str(error)
        case MemoryError():
            return f"{NO_MEMORY}: {error}" if str(error) else NO_MEMORY
        case RuntimeError() if "can't allocate memory" in (text := str(error)):  # torch's, on a CPU
            return f"{NO_MEMORY}: {text.splitlines()[0][-100:]}"
        case OSError(errno=int(), strerror=str(reason), filename=name):
            what = f"{name} cannot be used ({reason})" if name else f"{reason}"
            return f"{what}: mend that, then run the same command again"
    return None
