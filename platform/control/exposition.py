"""Metrics in the text form that Prometheus reads.

Gives    Metric, Kind, Labels; render
Takes    names, help, and values by their labels
Raises   ValueError for a name or a label that the format does not allow, for a counter whose name
         does not end as one, for the same name or labels twice
Follows  the Prometheus text exposition format, version 0.0.4
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*\Z")
_LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*\Z")

Labels = tuple[tuple[str, str], ...]


class Kind(Enum):
    """What a number may do: go up and down, or only up."""

    GAUGE = "gauge"
    COUNTER = "counter"


@dataclass(frozen=True, slots=True)
class Metric:
    """One name with its values."""

    name: str
    kind: Kind
    help: str
    values: Mapping[Labels, float] = field(default_factory=dict)


def render(metrics: Iterable[Metric]) -> str:
    """Return the text of a scrape. A metric without values is told by its head alone."""
    seen: set[str] = set()
    lines: list[str] = []
    for metric in metrics:
        if metric.name in seen:
            raise ValueError(f"{metric.name} is told twice")
        seen.add(metric.name)
        lines += _lines(metric)
    return "".join(f"{line}\n" for line in lines)


def _lines(metric: Metric) -> Iterator[str]:
    if not _NAME.match(metric.name):
        raise ValueError(f"{metric.name!r} is no name of a metric")
    if (metric.kind is Kind.COUNTER) != metric.name.endswith("_total"):
        raise ValueError(f"{metric.name}: counters end with _total, and nothing else does")
    yield f"# HELP {metric.name} {_escape(metric.help)}"
    yield f"# TYPE {metric.name} {metric.kind.value}"
    for labels, value in metric.values.items():
        yield f"{metric.name}{_braces(metric.name, labels)} {_number(value)}"


def _braces(name: str, labels: Labels) -> str:
    if not labels:
        return ""
    if len(dict(labels)) < len(labels) or not all(_LABEL.match(label) for label, _ in labels):
        raise ValueError(f"{name}: bad labels {labels!r}")
    quoted = (f'{label}="{_escape(value, quotes=True)}"' for label, value in labels)
    return "{" + ",".join(quoted) + "}"


def _escape(text: str, *, quotes: bool = False) -> str:
    """Write backslash and line feed, and within quotes the quote, as two characters each."""
    text = text.replace("\\", r"\\").replace("\n", r"\n")
    return text.replace('"', r"\"") if quotes else text


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 2**53 else repr(float(value))
