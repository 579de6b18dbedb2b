"""Escaped ids: reversible, harmless, refused when HDF5 cannot hold them."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_schema.host.cli import InputError
from cache_schema.names import escape, unescape

STORABLE = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=100
)


@given(STORABLE)
def test_round_trip_and_alphabet(identifier):
    name = escape(identifier)
    assert re.fullmatch(r"([A-Za-z0-9_-]|%[0-9A-F]{2})+", name)
    assert unescape(name) == identifier


@pytest.mark.parametrize(
    ("identifier", "name"),
    [
        ("a-b_C9", "a-b_C9"),
        (".", "%2E"),
        ("..", "%2E%2E"),
        ("/", "%2F"),
        ("%2F", "%252F"),
        ("~a b", "%7Ea%20b"),
        ("ä", "%C3%A4"),
    ],
)
def test_what_names_look_like(identifier, name):
    assert escape(identifier) == name


@pytest.mark.parametrize("bad", ["", "a\0b", "\ud800", "x" * 4097, "é" * 683, None, 7])
def test_ids_that_cannot_be_stored_are_refused(bad):
    with pytest.raises(InputError, match="video id"):
        escape(bad, "video id")


@pytest.mark.parametrize("name", ["", "..", "a/b", "%2f", "%41", "%ZZ", "%FF", "ä", "%00"])
def test_names_that_escape_never_gives_are_refused(name):
    with pytest.raises(InputError):
        unescape(name)
