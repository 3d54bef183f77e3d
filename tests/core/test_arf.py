"""Feedback reports: complaints, and what only looks like one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailcore.classify.arf import FeedbackKind, parse_arf
from mailcore.classify.mime import read_part
from tests.core.reports import expected, read, samples, shown

SAMPLES = samples("arf")


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_each_sample_says_who_complained_of_what(path: Path) -> None:
    octets = path.read_bytes()
    assert shown(read(octets)) == expected(path)
    assert shown(read(octets.replace(b"\n", b"\r\n"))) == expected(path)


def test_the_corpus_is_wide_enough() -> None:
    told = [expected(path) for path in SAMPLES]
    assert len(told) >= 8
    assert {each["kind"] for each in told} == {"complaint", "feedback"}
    assert {each["correlation"] for each in told} >= {"returned", "refused"}


def report(fields: str) -> bytes:
    return f"Content-Type: message/feedback-report\n\n{fields}\n".encode()


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("abuse", FeedbackKind.ABUSE),
        ("ABUSE", FeedbackKind.ABUSE),
        ("opt-out-list", FeedbackKind.OPT_OUT),
        ("not-spam", FeedbackKind.NOT_SPAM),
        ("something new", FeedbackKind.OTHER),
        ("", FeedbackKind.OTHER),
    ],
)
def test_a_type_is_read_in_any_case_and_an_unknown_one_as_other(
    word: str, kind: FeedbackKind
) -> None:
    told = parse_arf(read_part(report(f"Feedback-Type: {word}")))
    assert told is not None
    assert told.kind is kind


def test_only_not_spam_and_failed_checks_are_no_complaints() -> None:
    assert {kind for kind in FeedbackKind if not kind.is_complaint} == {
        FeedbackKind.NOT_SPAM,
        FeedbackKind.AUTH_FAILURE,
    }


def test_what_reports_nothing_is_no_feedback() -> None:
    assert parse_arf(read_part(b"Subject: abuse\n\nFeedback-Type: abuse\n")) is None


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_any_octets_in_a_report_are_read_without_a_fault(octets: bytes) -> None:
    told = parse_arf(read_part(b"Content-Type: message/feedback-report\n\n" + octets))
    assert told is not None
