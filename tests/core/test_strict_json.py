"""JSON of ours holds what the standard has, and nothing else, in both directions."""

import math

import pytest

from dpo_video.core.strict_json import TooDeep, dumps, loads, loads_earlier, loads_foreign


@pytest.mark.parametrize("value", [math.nan, [math.inf], {"a": {"b": -math.inf}}])
def test_a_number_that_is_not_finite_is_not_written(value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        dumps(value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": NaN}', "NaN is no number of JSON"),
        ("[-Infinity]", "-Infinity is no number of JSON"),
        ("1e999", "larger than any number"),
        ('{"a": 1, "a": 2}', "the key 'a' stands twice"),
        ("9" * 5000, "value has 5000 digits$"),
        (b'"\xff"', "utf-8"),
    ],
)
def test_what_the_standard_does_not_have_is_not_read(text, said):
    with pytest.raises(ValueError, match=said):
        loads(text)


@pytest.mark.parametrize("read", [loads, loads_foreign])
def test_endless_nesting_is_an_error_of_its_own(read):
    with pytest.raises(TooDeep):
        read("[" * 100_000)


def test_other_programs_may_write_nan():
    assert math.isnan(loads_foreign('{"a": NaN}')["a"])


def test_nan_of_an_earlier_version_is_null():
    assert loads_earlier('{"a": [NaN, -Infinity, 1.5]}') == {"a": [None, None, 1.5]}
