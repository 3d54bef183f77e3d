"""The pictures: well-formed, in proportion, and harmless whatever the words are."""

from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree

import pytest

from control.reports import charts
from control.reports.charts import PLOT_HEIGHT, Segment, Series, StackedTime

START = datetime(2026, 5, 4, 12, tzinfo=UTC)
EVIL = "<script>alert(1)</script>\"' & co"


def parsed(markup: str) -> ElementTree.Element:
    return ElementTree.fromstring(markup)  # noqa: S314 (our own)


def columns(*stack: Series, line: Series | None = None) -> ElementTree.Element:
    chart = StackedTime("Outcomes", START, timedelta(minutes=1), stack, line)
    return parsed(charts.stacked_columns(chart))


def rects(chart: ElementTree.Element, kind: str) -> list[dict[str, str]]:
    group = chart.find(f".//g[@class='k-{kind}']")
    return [] if group is None else [dict(one.attrib) for one in group.findall("rect")]


def test_columns_stand_on_one_another_in_proportion() -> None:
    chart = columns(
        Series("delivered", "delivered", [30, 0]), Series("bounced", "bounced", [10, 0])
    )
    (below,), (above,) = rects(chart, "delivered"), rects(chart, "bounced")
    assert float(below["height"]) == pytest.approx(3 * float(above["height"]), rel=1e-3)
    assert float(above["y"]) + float(above["height"]) == pytest.approx(float(below["y"]), abs=0.01)
    assert float(below["height"]) == pytest.approx(PLOT_HEIGHT * 30 / 40, rel=1e-3)


def test_every_column_has_a_hit_area_that_tells_its_figures() -> None:
    chart = columns(
        Series("delivered", "delivered", [1200, 0]),
        line=Series("accepted", "accepted", [1300, 0]),
    )
    told = [one.findtext("title") for one in chart.findall(".//rect[@class='hit']")]
    assert told == [
        "04 May 12:00 – 12:01 UTC\naccepted: 1,300\ndelivered: 1,200",
        "04 May 12:01 – 12:02 UTC\nnothing",
    ]


def test_the_axis_reaches_over_a_line_higher_than_the_columns() -> None:
    chart = columns(Series("delivered", "d", [1]), line=Series("accepted", "a", [90]))
    labels = [one.text for one in chart.findall("svg[@class='axis']/text")]
    assert labels == ["0", "50", "100"]


def test_a_chart_has_a_name_and_says_its_totals_to_those_who_do_not_see_it() -> None:
    plot = columns(Series("delivered", "delivered", [5, 6])).find("svg[@class='plot']")
    assert plot is not None
    assert (plot.get("role"), plot.get("aria-label")) == ("img", "Outcomes")
    assert (plot.findtext("desc") or "").endswith("delivered 11")


def test_words_are_escaped_wherever_they_stand() -> None:
    chart = columns(Series("delivered", EVIL, [1]))
    bar = parsed(charts.bar(EVIL, [Segment("bounced", EVIL, 1)], 2))
    assert chart.findall(".//script") == bar.findall(".//script") == []
    assert bar.get("aria-label") == EVIL
    assert (bar.findtext("rect/title") or "").startswith(EVIL)


def test_nothing_drawn_has_a_style_or_a_handler() -> None:
    drawn = [
        charts.stacked_columns(
            StackedTime("n", START, timedelta(hours=1), [Series("delivered", "d", [1, 2])])
        ),
        charts.histogram("t", {20: 3, 41: 9}),
        charts.time_range("t", {20: 3, 41: 9}, longest=9_000),
        charts.bar("b", [Segment("bounced", "bounced", 3)], 9),
    ]
    for markup in drawn:
        for element in parsed(markup).iter():
            assert element.tag not in ("style", "script", "image", "use", "a")
            for name in element.attrib:
                assert name != "style"
                assert not name.startswith("on")
                assert "href" not in name


def test_series_of_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="bounced: 1 values, not 2"):
        columns(Series("delivered", "delivered", [1, 2]), Series("bounced", "bounced", [1]))


def test_a_bar_is_as_long_as_its_share() -> None:
    bar = parsed(charts.bar("x", [Segment("delivered", "d", 75), Segment("bounced", "b", 25)], 200))
    assert [(one.get("x"), one.get("width")) for one in bar.findall("rect")] == [
        ("0%", "37.5%"),
        ("37.5%", "12.5%"),
    ]
    assert parsed(charts.bar("x", [Segment("delivered", "d", 0)], 0)).findall("rect") == []


def test_a_histogram_counts_every_delivery_and_marks_the_quantiles_in_order() -> None:
    chart = parsed(charts.histogram("Time", {20: 50, 21: 40, 48: 10}))
    told = [one.findtext("title") or "" for one in chart.findall(".//g[@class='k-delivered']/rect")]
    assert [text.partition("\n")[2] for text in told] == [
        "90 delivered, 90 %",
        "10 delivered, 10 %",
    ]
    places = [float(x.rstrip("%")) for x in _quantile_places(chart)]
    assert len(places) == 3
    assert places == sorted(places)
    assert 0 <= places[0] <= places[-1] <= 100


def _quantile_places(chart: ElementTree.Element) -> list[str]:
    return [one.get("x1", "") for one in chart.findall(".//line[@class='quantile']")]


@pytest.mark.parametrize("bucket", [0, 1, 80, 255])
def test_a_histogram_of_one_bucket_is_drawn_within_its_frame(bucket: int) -> None:
    chart = parsed(charts.histogram("Time", {bucket: 1}))
    (column,) = chart.findall(".//g[@class='k-delivered']/rect")
    start, width = (float(column.get(name, "").rstrip("%")) for name in ("x", "width"))
    assert start >= 0
    assert start + width <= 100
