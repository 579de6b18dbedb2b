"""How tests of readers ask for one sentence about bad input."""

from collections.abc import Callable
from typing import Any

import pytest

from cache_schema.host.cli import InputError


def refused(call: Callable[[], Any], *words: str) -> None:
    """The call ends in an `InputError` of one line with all of these words."""
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
