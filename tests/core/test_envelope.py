"""Message ids are UUIDv7: they sort by time and never lose their version."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailcore.envelope import uuid7


@given(st.integers(0, 2**48 - 1), st.binary(min_size=10, max_size=10))
def test_any_time_and_entropy_make_a_uuid_of_version_7(unix_ms: int, entropy: bytes) -> None:
    made = uuid7(unix_ms, entropy)
    assert made.version == 7
    assert made.variant == "specified in RFC 4122"
    assert made.int >> 80 == unix_ms


@given(st.integers(0, 2**48 - 2), st.binary(min_size=20, max_size=20))
def test_a_later_one_sorts_after(unix_ms: int, entropy: bytes) -> None:
    assert uuid7(unix_ms, entropy[:10]) < uuid7(unix_ms + 1, entropy[10:])


def test_it_wants_just_the_entropy_it_uses() -> None:
    with pytest.raises(ValueError, match="ten bytes"):
        uuid7(0, b"short")
