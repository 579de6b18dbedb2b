"""Formats under the readers: large JSON tables, run lengths, names."""

import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from cache_schema.host.cli import InputError
from extract.datasets.files import JsonTable, plain_name
from extract.datasets.records import check_rle

values = st.lists(
    st.one_of(
        st.none(),
        st.integers(),
        st.text(alphabet='[]{}",\\: aé\n'),
        st.dictionaries(st.text(max_size=3), st.lists(st.integers(), max_size=2), max_size=2),
    ),
    max_size=4,
)


@settings(max_examples=60)
@given(table=st.dictionaries(st.text(max_size=5), values), indent=st.sampled_from([None, 2]))
def test_a_table_reads_what_json_wrote(tmp_path_factory, table, indent):
    for ascii_only in (True, False):
        path = tmp_path_factory.mktemp("table") / "t.json"
        path.write_text(json.dumps(table, indent=indent, ensure_ascii=ascii_only), "utf-8")
        read = JsonTable(path)
        assert len(read) == len(table) and list(read) == list(table)
        assert all(key in read and read[key] == value for key, value in table.items())


def test_a_table_holds_places_and_not_values(tmp_path):
    """Memory does not grow with the values: 8 MB of them take less than 200 kB."""
    path, values = tmp_path / "t.json", 500
    path.write_text(json.dumps({str(key): ["x" * 16_000] for key in range(values)}))
    tracemalloc.start()
    table = JsonTable(path)
    assert sum(len(table[key][0]) for key in table) == 16_000 * values
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 8e6 and peak < 2e5


@settings(max_examples=100)
@given(text=st.binary(max_size=40))
def test_any_other_file_is_refused_in_one_sentence(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("table") / "t.json"
    path.write_bytes(b'{"a": [1], ' + text)
    try:
        table = JsonTable(path)
        assert isinstance(table["a"], list)
    except InputError as error:
        assert "t.json" in str(error) and "line" in str(error)


@settings(max_examples=60)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    share=st.sampled_from([0.0, 0.02, 0.5, 1.0]),
    seed=st.integers(0, 99),
)
def test_run_lengths_of_any_mask_are_accepted_at_their_size_only(height, width, share, seed):
    mask = np.random.default_rng(seed).random((height, width)) < share
    counts = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    assert check_rle({"size": [height, width], "counts": counts}) is None
    assert "fill" in check_rle({"size": [height + 1, width], "counts": counts})


@pytest.mark.parametrize("counts", ["A", "1?", "P" * 20, "0é"])
def test_other_strings_are_no_run_lengths(counts):
    assert check_rle({"size": [2, 2], "counts": counts})


def test_plain_names():
    assert all(plain_name(name) for name in ("0a1b", "a b", "..a", "ü"))
    assert not any(plain_name(name) for name in ("", ".", "..", "a/b", "/a", "a\\b", "\0", 3, None))
