"""Noise schemes: reading, writing, counting."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinai.common.errors import InputError
from sinai.common.scheme import GROUP, Scheme


@pytest.mark.parametrize(
    ("text", "kind", "ratio", "group"),
    [
        ("dense", "dense", Fraction(0), 0),
        ("unstructured:0", "unstructured", Fraction(0), 0),
        ("unstructured:0.9", "unstructured", Fraction(9, 10), 0),
        ("unstructured:1", "unstructured", Fraction(1), 0),
        ("unstructured:7/8", "unstructured", Fraction(7, 8), 0),
        ("structured:0:8", "structured", Fraction(0), 8),
        ("structured:7:8", "structured", Fraction(7, 8), 8),
        ("structured:8:8", "structured", Fraction(1), 8),
        ("structured:1:4", "structured", Fraction(1, 4), 4),
    ],
)
def test_parse(text, kind, ratio, group):
    assert Scheme.parse(text) == Scheme(kind, ratio, group)


@pytest.mark.parametrize(
    "text", ["dense", "unstructured:0.9", "unstructured:0.875", "structured:0:8", "structured:7:8"]
)
def test_text_reads_back(text):
    assert str(Scheme.parse(text)) == text


@given(data=st.data(), denominator=st.integers(1, 4096))
def test_any_ratio_reads_back_exactly(data, denominator):
    """Ratios that six decimals cannot hold survive being written into a manifest."""
    numerator = data.draw(st.integers(0, denominator))
    scheme = Scheme("unstructured", Fraction(numerator, denominator))
    assert Scheme.parse(str(scheme)) == scheme


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("foo", "scheme must be dense, unstructured:RATIO .* not 'foo'"),
        ("", "scheme must be dense, .* not ''"),
        ("dense:1", "not 'dense:1'"),
        ("unstructured", "not 'unstructured'"),
        ("unstructured:", "not 'unstructured:'"),
        ("unstructured:nan", "not 'unstructured:nan'"),
        ("unstructured:1/0", "not 'unstructured:1/0'"),
        ("unstructured:1e999999999", "not 'unstructured:1e999999999'"),
        ("unstructured:1.5", "'unstructured:1.5': the noise ratio .* between 0 and 1, not 1.5"),
        ("unstructured:-0.1", "the noise ratio must be between 0 and 1, not -0.1"),
        ("structured:9:8", "'structured:9:8': q noisy of 8 must be between 0 and 8, not 9"),
        ("structured:-1:8", "must be between 0 and 8, not -1"),
        ("structured:0:0", "M must be at least 1, not 0"),
        ("structured:0.5:8", "not 'structured:0.5:8'"),
        ("structured:7", "not 'structured:7'"),
        ("structured:7:8:9", "not 'structured:7:8:9'"),
    ],
)
def test_bad_schemes_are_refused(text, message):
    with pytest.raises(InputError, match=message):
        Scheme.parse(text)


def test_group_counts():
    scheme = Scheme.parse(f"structured:6:{GROUP}")
    assert scheme.structured
    assert not scheme.dense
    assert (scheme.noisy_of_group, scheme.essential_of_group) == (6, 2)


@given(q=st.integers(0, 64), m=st.integers(1, 64))
def test_noisy_and_essential_make_a_group(q, m):
    if q <= m:
        scheme = Scheme.parse(f"structured:{q}:{m}")
        assert (scheme.noisy_of_group, scheme.essential_of_group) == (q, m - q)


@pytest.mark.parametrize(
    ("text", "neurons", "expected"),
    [
        pytest.param("dense", 100, 100, id="dense keeps all"),
        pytest.param("unstructured:0.9", 100, 10, id="a tenth of 100"),
        pytest.param("unstructured:0.9", 65536, 6554, id="6553.6 to 6554"),
        pytest.param("unstructured:0.5", 5, 3, id="2.5 rounds up"),
        pytest.param("unstructured:1", 7, 0, id="all noisy"),
        pytest.param("unstructured:0", 7, 7, id="none noisy"),
    ],
)
def test_essential_count_by_hand(text, neurons, expected):
    assert Scheme.parse(text).essential_count(neurons) == expected
