"""Whatever JSON is offered, it is taken or refused; whatever time is written, it is read."""

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mailcore.errors import SubmissionRefused
from mailcore.submission.reader import read_time
from tests.core.test_submission import message, planned


@settings(deadline=None)
@given(st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)), st.integers(-14 * 60, 14 * 60))  # noqa: DTZ001
def test_times_round_trip(moment: datetime, minutes: int) -> None:
    moment = moment.replace(tzinfo=UTC)
    shifted = (moment + timedelta(minutes=minutes)).replace(tzinfo=None).isoformat()
    sign = "-" if minutes < 0 else "+"
    offset = f"{sign}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"
    text = shifted if "T" in shifted else f"{shifted}T00:00:00"
    assert read_time(f"{text}{offset}") == moment


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(
            [*message(), "cc", "headers", "attachments", "custom", "raw", "recipients", "sender"]
        ),
        json_values,
    )
)
def test_any_json_is_taken_or_refused(changes: dict[str, Any]) -> None:
    try:
        plan = planned(message(**changes))
    except SubmissionRefused as exc:
        pointers = [problem.pointer for problem in exc.problems]
        assert all(pointer == "" or pointer.startswith("/") for pointer in pointers)
    else:
        assert plan.submission.recipients
