"""Property tests run untraced: the tracer doubles their time, and the bar of branch coverage is for
the tests that name what they reach. They have no deadline but pytest's: on a busy machine an
example that takes a millisecond takes a second now and then."""

from __future__ import annotations

import sys
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, is_hypothesis_test, settings

settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Take coverage's tracer off while hypothesis draws and tries."""
    tracer = sys.gettrace()
    if tracer is None or not is_hypothesis_test(getattr(item, "obj", None)):
        return (yield)
    sys.settrace(None)
    try:
        return (yield)
    finally:
        sys.settrace(tracer)
