"""What property tests try is the same in every run."""

import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st


def drawn() -> list[str]:
    found = []

    @settings(max_examples=100)
    @given(st.integers(), st.floats(), st.text())
    def draw(whole: int, number: float, words: str) -> None:
        found.append(repr((whole, number, words)))

    draw()
    return found


@pytest.mark.skipif(not settings.default.derandomize, reason="random examples are asked for")
def test_examples_do_not_depend_on_what_has_been_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = drawn()
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "numbers_of_ours.py").write_text(f"numbers = {list(range(10**6, 10**6 + 999))}")
    __import__("numbers_of_ours")
    after = drawn()
    del sys.modules["numbers_of_ours"]
    assert after == before
