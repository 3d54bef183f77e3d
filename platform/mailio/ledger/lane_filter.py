"""The part of a row filter that lanes answer.

Gives    LANES (a condition on lane `l` over the parameters $1 to $6), lane_params (their values)
Takes    a RowFilter
"""

from __future__ import annotations

from collections.abc import Sequence

from mailcore.rowfilter import RowFilter
from mailio.ledger import arrays

# NULL asks for nothing in that respect. Planned with the values of now (Profile.CHORE), so what is
# not asked for is not looked at.
LANES = """\
    ($1::int[] IS NULL OR l.sender_id = ANY ($1::int[]))
   AND ($2::int[] IS NULL OR l.account_id = ANY ($2::int[]))
   AND ($3::int[] IS NULL OR l.campaign_id = ANY ($3::int[]))
   AND ($4::int[] IS NULL OR l.isp_id = ANY ($4::int[]))
   AND ($5::text[] IS NULL OR l.site = ANY ($5::text[]))
   AND ($6::int[] IS NULL OR l.mail_class = ANY ($6::int[]))"""


def lane_params(wanted: RowFilter) -> tuple[str | None, ...]:
    """Return the six parameters of LANES."""
    return (
        numbers_or_none(wanted.senders),
        numbers_or_none(wanted.accounts),
        numbers_or_none(wanted.campaigns),
        numbers_or_none(wanted.isps),
        texts_or_none(wanted.sites),
        numbers_or_none([one.value for one in wanted.classes]),
    )


def numbers_or_none(values: Sequence[int]) -> str | None:
    """Return an array literal, None of nothing."""
    return arrays.numbers(values) if values else None


def texts_or_none(values: Sequence[str]) -> str | None:
    """Return an array literal, None of nothing."""
    return arrays.texts(values) if values else None
