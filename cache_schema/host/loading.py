"""Loading heavy libraries in less time."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading(*without: str) -> Iterator[None]:
    """Import libraries, and look for no garbage meanwhile.

    A module is thousands of objects that stay: a fifth of the time goes into looking at them.

    Args:
        without: modules that the libraries can do without, to be missing as if not installed.
    """
    absent = [name for name in without if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():  # it is not ours to end what somebody has frozen
            gc.freeze()
            gc.unfreeze()  # so that what was loaded counts as old
        if collecting:
            gc.enable()
        for name in absent:
            del sys.modules[name]
