"""The statements that compute the roll-ups of whole minutes from the distinct events.

Gives    newest_version, set_version, TOUCHED (what must be rolled up); roll_up, roll_up_reply,
         minute_marks (to write); current (to read); OUTCOME_NAMES, REPLY_NAMES (the dimensions)
Follows  design.md section 3 step 8; services.md: no CTE, no window function, on old servers

A roll-up never adds: it is computed from what there is, as a new generation of the minute. The
row of kind '' stands for the minute itself, so that a minute that lost its last event has a newest
generation as well, one without figures.
"""

from __future__ import annotations

from collections.abc import Sequence

from mailcore.stats import BUCKETS_PER_DOUBLING

# What outcomes are counted by, beside the minute.
OUTCOME_NAMES = (
    *("account_id", "campaign_id", "campaign", "sender_id", "node", "source_id", "source_ip"),
    *("pool_id", "isp_id", "isp", "mail_class", "kind", "bounce_type", "bounce_class"),
)
REPLY_NAMES = (
    *("account_id", "campaign_id", "sender_id", "source_id", "isp_id", "isp", "kind"),
    *("bounce_type", "bounce_class", "code", "enhanced", "rule", "reply_normal"),
)
_DIMENSIONS = ", ".join(("minute", *OUTCOME_NAMES))
_REPLY_DIMENSIONS = ", ".join(("minute", *REPLY_NAMES))
_FIGURES = (
    "events, first_tries, with_tls, size_bytes, queue_ms, dialogue_ms, "
    "queue_bucket, queue_count, dialogue_bucket, dialogue_count"
)


def _starts(minutes: Sequence[int]) -> str:
    starts = ",".join(str(int(minute) * 60) for minute in minutes)
    return f"toDateTime(arrayJoin([{starts}]), 'UTC')"


def _bucket(column: str) -> str:
    """Which bucket of the histogram a time belongs to; see mailcore.stats.bucket_value."""
    doublings = f"log2(greatest({column}, 0) + 1)"
    return f"toUInt8(least(255, floor({doublings} * {BUCKETS_PER_DOUBLING})))"


def newest_version(minutes: str) -> str:
    """Ask for the highest version among minutes (the list of an IN)."""
    return f"SELECT max(version) FROM minute_state WHERE minute IN ({minutes})"  # noqa: S608


def set_version(minutes: Sequence[int], version: int) -> str:
    """Note that minutes were touched (an even version) or computed (the odd one above it)."""
    return f"""
INSERT INTO minute_state (minute, version)
SELECT {_starts(minutes)}, toUInt64({version})
"""


TOUCHED = """
SELECT intDiv(toUInt32(minute), 60) FROM minute_state FINAL WHERE version % 2 = 0 ORDER BY minute
"""


def roll_up(minutes: str, generation: int) -> str:
    """Compute the outcomes of minutes."""
    return f"""
INSERT INTO roll_up ({_DIMENSIONS}, generation, {_FIGURES})
SELECT {_DIMENSIONS}, toUInt64({generation}), events, first_tries, with_tls, size, queued, spoken,
       tupleElement(queue_histogram, 1), tupleElement(queue_histogram, 2),
       tupleElement(dialogue_histogram, 1), tupleElement(dialogue_histogram, 2)
  FROM (
    SELECT {_DIMENSIONS}, count() AS events, countIf(attempt = 1) AS first_tries,
           countIf(tls_version != '') AS with_tls, sum(size_bytes) AS size,
           sum(queue_ms) AS queued, sum(dialogue_ms) AS spoken,
           sumMap([{_bucket("queue_ms")}], [toUInt64(1)]) AS queue_histogram,
           sumMap([{_bucket("dialogue_ms")}], [toUInt64(1)]) AS dialogue_histogram
      FROM event FINAL
     WHERE minute IN ({minutes})
     GROUP BY {_DIMENSIONS})
"""  # noqa: S608 (numbers of ours)


def minute_marks(table: str, minutes: Sequence[int], generation: int) -> str:
    """Note that minutes were computed, whatever is in them. After the rows, so that a reader
    never meets a minute that looks empty."""
    return f"""
INSERT INTO {table} (minute, generation)
SELECT {_starts(minutes)}, toUInt64({generation})
"""


def current(table: str, minutes: str) -> str:
    """The condition that keeps what is in force: the newest generation of each minute.

    `minutes` is a condition on `minute`. Read FROM … FINAL: two writers that did not know of each
    other may have made the same generation.
    """
    newest = f"SELECT minute, max(generation) FROM {table} WHERE {minutes} GROUP BY minute"  # noqa: S608
    return f"{minutes} AND kind != '' AND (minute, generation) IN ({newest})"


def roll_up_reply(minutes: str, generation: int) -> str:
    """Count what servers said in minutes."""
    return f"""
INSERT INTO roll_up_reply ({_REPLY_DIMENSIONS}, generation, events)
SELECT {_REPLY_DIMENSIONS}, toUInt64({generation}), count()
  FROM event FINAL
 WHERE minute IN ({minutes}) AND reply_normal != ''
 GROUP BY {_REPLY_DIMENSIONS}
"""  # noqa: S608 (numbers of ours)
