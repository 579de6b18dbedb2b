"""Codecs: what comes back, what is refused, and mask logits in the coded space."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cache_schema.codecs import CODECS, LOWRANK, SMALLEST, get_codec
from cache_schema.host.cli import InputError
from tests.synthetic import make_codec

LEVELS = 127


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


@given(frames())
def test_float32_is_exact(features):
    stored = get_codec("float32").encode(features)
    assert stored["values"].tobytes() == features.tobytes()


@given(frames(65504))
def test_float16_rounds_to_nearest(features):
    stored = get_codec("float16").encode(features)["values"]
    assert stored.dtype == np.float16
    # Half a unit in the last place: 2**-11 relative, 2**-25 among the subnormal numbers.
    assert (
        np.abs(stored.astype(np.float64) - features)
        <= np.maximum(np.abs(features) * 2.0**-11, 2.0**-25)
    ).all()


@given(frames())
def test_int8_is_half_a_step_off_at_most(features):
    stored = get_codec("int8").encode(features)
    scales = stored["scales"].astype(np.float64)
    assert stored["values"].dtype == np.int8 and (stored["values"] >= -LEVELS).all()
    # A step is 1/127 of the component's largest magnitude. Below 127 of the smallest scale there
    # are no steps; the rest is the division's rounding.
    np.testing.assert_allclose(
        scales, np.abs(features).max(axis=(2, 3)) / LEVELS, rtol=1e-6, atol=SMALLEST
    )
    error = np.abs(expand(get_codec("int8"), stored) - features)
    bound = np.maximum(0.5001 * scales, LEVELS * SMALLEST)
    assert (error <= bound[:, :, None, None]).all()


@given(frames(1e6))
def test_lowrank_components_are_half_a_step_off_at_most(features):
    codec = make_codec(LOWRANK, channels=2, rank=2)
    stored = codec.encode(features)
    centred = features - codec.basis.mean.astype(np.float64)[:, None, None]
    components = np.einsum("tchw,cr->trhw", centred, codec.basis.encoder.astype(np.float64))
    steps = stored["scales"].astype(np.float64)[:, :, None, None]
    error = np.abs(stored["values"] * steps - components)
    # Beside the step only the float32 rounding of the product.
    assert (error <= 0.5001 * steps + 1e-6 * (1 + np.abs(features).max())).all()


@pytest.mark.parametrize("codec", ["int8", LOWRANK])
def test_zero_and_constant_frames(codec):
    codec = make_codec(codec, channels=4, rank=4)
    embeds = np.eye(4, dtype=np.float32)
    constant = np.arange(-1.0, 3.0, dtype=np.float32)[None, :, None, None]
    for features in (np.zeros((1, 4, 3, 5), np.float32), np.broadcast_to(constant, (1, 4, 3, 5))):
        stored = codec.encode(features)
        assert np.ptp(stored["values"].astype(int), axis=(2, 3)).max() == 0
        logits = codec.mask_logits(stored, embeds)
        np.testing.assert_allclose(logits, features, atol=1e-6)  # nothing lost, every code is full


def test_a_frame_of_the_mean_has_no_codes_at_all():
    codec = make_codec(LOWRANK, channels=2, rank=1)
    codec.basis.mean[:] = 0.5  # so that the product is exact
    codec.basis.encoder[:] = 0.25
    stored = codec.encode(np.full((1, 2, 3, 3), 0.5, np.float32))
    assert not stored["values"].any() and not stored["scales"].any()
    embeds = np.float32([[1, 2]])
    assert (codec.mask_logits(stored, embeds) == 1.5).all()


def test_numbers_too_small_for_a_scale_become_zeros():
    stored = get_codec("int8").encode(np.full((1, 1, 2, 2), 1e-40, np.float32))
    assert not stored["values"].any() and not stored["scales"].any()


def test_lowrank_products_beyond_float32_are_refused():
    codec = make_codec(LOWRANK, channels=2, rank=1)
    codec.basis.encoder[:] = 4
    with pytest.raises(InputError, match="NaN or infinite"), np.errstate(all="ignore"):
        codec.encode(np.full((1, 2, 2, 2), 3e38, np.float32))


@pytest.mark.parametrize("codec", CODECS)
def test_codes_do_not_depend_on_the_chunks(codec):
    codec = make_codec(codec)
    features = np.random.default_rng(0).standard_normal((7, 16, 6, 7), np.float32)
    whole = codec.encode(features)
    for sizes in ([1] * 7, [3, 3, 1], [5, 2]):
        parts = [codec.encode(part) for part in np.split(features, np.cumsum(sizes)[:-1])]
        for name, array in whole.items():
            assert np.concatenate([part[name] for part in parts]).tobytes() == array.tobytes()


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
    described = [str(make_codec(name).describe()) for name in CODECS]
    described += [str(make_codec(LOWRANK, rank=rank).describe()) for rank in (3, 4)]
    assert len(set(described)) == len(CODECS) + 2


def test_a_basis_goes_with_the_lowrank_codec_only():
    basis = make_codec(LOWRANK).basis
    with pytest.raises(InputError, match="'int8' has no basis"):
        get_codec("int8", basis)
    with pytest.raises(InputError, match="'lowrank-int8' needs a basis"):
        get_codec(LOWRANK)
