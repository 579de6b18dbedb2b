"""Fingerprints: canonical, and differences that name the field."""

import pytest

from cache_schema.fingerprint import Fingerprint, differences


def test_order_of_keys_and_tuples_do_not_matter():
    a = Fingerprint({"a": 1, "b": {"c": (1, 2), "d": None}})
    b = Fingerprint({"b": {"d": None, "c": [1, 2]}, "a": 1})
    assert a.hex == b.hex and a.json == b.json
    assert differences(a.data, b.data) == []


def test_differences_have_dotted_paths_and_both_values():
    a = {"segmenter": {"window": 6, "depths": [1, 1]}, "codec": "float16", "old": {}}
    b = {"segmenter": {"window": 4, "depths": [1, 2]}, "codec": "float16", "new": "x"}
    assert differences(a, b) == [
        "segmenter.depths: [1, 1] != [1, 2]",
        "segmenter.window: 6 != 4",
        'new: absent != "x"',
        "old: {} != absent",
    ]


def test_hashes_come_last_and_cut_short():
    a = {"annotations_sha256": {"a.json": "a" * 64}, "weights_sha256": "b" * 64, "resize": 1}
    b = {"annotations_sha256": {"a.json": "c" * 64}, "weights_sha256": "random", "resize": 2}
    assert differences(a, b) == [
        "resize: 1 != 2",
        'weights_sha256: "bbbbbbbbbbbb..." != "random"',
        'annotations_sha256.a.json: "aaaaaaaaaaaa..." != "cccccccccccc..."',
    ]


def test_an_empty_fingerprint_differs_by_the_fields_it_lacks():
    assert differences({}, {"a": 1}) == ["a: absent != 1"]


def test_nan_has_no_canonical_form():
    with pytest.raises(ValueError):
        _ = Fingerprint({"a": float("nan")}).hex
