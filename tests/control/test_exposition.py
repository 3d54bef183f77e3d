"""The text that Prometheus reads, by the rules of its format."""

from __future__ import annotations

import math

import pytest

from control.exposition import Kind, Metric, render

ONE = Metric("pf_a", Kind.GAUGE, "About a.", {(): 1.0})


def test_each_metric_has_its_head_then_its_values_and_the_text_ends_with_a_line_end() -> None:
    two = Metric("pf_b_total", Kind.COUNTER, "B.", {(("x", "1"), ("y", "2")): 7.0, (): 0.5})
    assert render([ONE, two]) == (
        "# HELP pf_a About a.\n# TYPE pf_a gauge\npf_a 1\n"
        '# HELP pf_b_total B.\n# TYPE pf_b_total counter\npf_b_total{x="1",y="2"} 7\n'
        "pf_b_total 0.5\n"
    )


def test_a_metric_without_values_is_told_by_its_head() -> None:
    assert render([Metric("pf_a", Kind.GAUGE, "A.")]) == "# HELP pf_a A.\n# TYPE pf_a gauge\n"
    assert render([]) == ""


def test_backslashes_line_ends_and_quotes_are_escaped_where_the_format_says_so() -> None:
    text = render([Metric("pf_a", Kind.GAUGE, 'a "b"\n\\c', {(("x", 'q"\n\\é'),): 1.0})])
    assert text.splitlines() == [
        r'# HELP pf_a a "b"\n\\c',
        "# TYPE pf_a gauge",
        r'pf_a{x="q\"\n\\é"} 1',
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-3.0, "-3"),
        (2.0**40, "1099511627776"),
        (1e300, "1e+300"),
        (0.1, "0.1"),
        (math.nan, "NaN"),
        (math.inf, "+Inf"),
        (-math.inf, "-Inf"),
    ],
)
def test_numbers_are_written_as_go_reads_them(value: float, text: str) -> None:
    assert render([Metric("a", Kind.GAUGE, "", {(): value})]).splitlines()[2] == f"a {text}"


@pytest.mark.parametrize("name", ["", "1a", "a-b", "a b", "ä", "a\n"])
def test_a_name_the_format_does_not_know_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        render([Metric(name, Kind.GAUGE, "")])


@pytest.mark.parametrize("label", ["", "1a", "a-b", "__name", "a:b"])
def test_a_label_the_format_does_not_know_is_refused(label: str) -> None:
    with pytest.raises(ValueError, match="labels"):
        render([Metric("a", Kind.GAUGE, "", {((label, "x"),): 1.0})])


def test_the_same_name_or_label_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        render([ONE, ONE])
    with pytest.raises(ValueError, match="labels"):
        render([Metric("a", Kind.GAUGE, "", {(("x", "1"), ("x", "2")): 1.0})])


def test_counters_and_they_alone_end_as_counters_do() -> None:
    with pytest.raises(ValueError, match="_total"):
        render([Metric("a", Kind.COUNTER, "")])
    with pytest.raises(ValueError, match="_total"):
        render([Metric("a_total", Kind.GAUGE, "")])
