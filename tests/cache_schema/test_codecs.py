"""Codecs: what comes back, what is refused, and mask logits in the coded space."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cache_schema.cli import InputError
from cache_schema.codecs import CODECS, get_codec
from tests.cache_schema.helpers import examples
from tests.synthetic import make_codec


def expand(codec, stored):
    """The C channels (t, C, h, w) float64 that coded frames stand for."""
    values = stored["values"].astype(np.float64)
    if codec.scaled:
        values *= stored["scales"][:, :, None, None]
    if codec.basis is None:
        return values
    mean, decoder = codec.basis.mean[:, None, None], codec.basis.decoder
    return mean + np.einsum("trhw,rc->tchw", values, decoder)


def frames(limit=None):
    """Mask features (1, 2, 2, 3) of any finite float32."""
    values = st.floats(
        None if limit is None else -limit, limit, width=32, allow_nan=False, allow_infinity=False
    )
    return arrays.arrays(np.float32, (1, 2, 2, 3), elements=values)


@examples
@given(frames())
def test_float32_is_exact(features):
    stored = get_codec("float32").encode(features)
    assert stored["values"].tobytes() == features.tobytes()


@examples
@given(frames(65504))
def test_float16_rounds_to_nearest(features):
    stored = get_codec("float16").encode(features)["values"]
    assert stored.dtype == np.float16
    # Half a unit in the last place: 2**-11 relative, 2**-25 among the subnormal numbers.
    assert (
        np.abs(stored.astype(np.float64) - features)
        <= np.maximum(np.abs(features) * 2.0**-11, 2.0**-25)
    ).all()


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_features_are_refused(codec, bad):
    features = np.zeros((1, 2, 3, 3), np.float32)
    features[0, 1, 2, 0] = bad
    with pytest.raises(InputError, match="NaN or infinite"):
        make_codec(codec, channels=2, rank=1).encode(features)


def test_values_beyond_float16_are_refused_and_float32_is_offered():
    features = np.full((1, 1, 1, 1), -70000, np.float32)
    with pytest.raises(InputError, match=r"reaches 70000.*float32"):
        get_codec("float16").encode(features)
    assert get_codec("float32").encode(features)["values"] == -70000


@pytest.mark.parametrize("codec", CODECS)
def test_layout_is_what_encode_gives(codec):
    codec = make_codec(codec, channels=4, rank=2)
    stored = codec.encode(np.zeros((3, 4, 5, 6), np.float32))
    layout = codec.layout(4, 5, 6)
    assert {n: (a.shape[1:], a.dtype) for n, a in stored.items()} == layout


@pytest.mark.parametrize("codec", CODECS)
def test_mask_logits_are_products_and_do_not_depend_on_the_chunk(codec):
    rng = np.random.default_rng(0)
    codec = make_codec(codec)
    stored = codec.encode(rng.standard_normal((5, 16, 6, 7), np.float32))
    embeds = rng.standard_normal((3, 16), np.float32)
    logits = codec.mask_logits(stored, embeds)
    assert logits.shape == (5, 3, 6, 7) and logits.dtype == np.float32
    expected = np.einsum("tchw,nc->tnhw", expand(codec, stored), embeds)
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    for t in range(5):
        one = codec.mask_logits({k: v[t : t + 1] for k, v in stored.items()}, embeds)
        assert np.array_equal(one[0], logits[t])


def test_unknown_codec_names_the_known_ones():
    with pytest.raises(InputError, match="'zip'.*float32, float16"):
        get_codec("zip")


def test_codecs_describe_themselves_differently():
    assert get_codec("float32").describe() != get_codec("float16").describe()
