"""Ledger rows as values: one list of columns, one way to read it.

Gives    columns (for a row and its lane under given names), to_row
Takes    what the statements of this package return
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, cast
from uuid import UUID

from mailcore.address import ForwardPath, ReversePath
from mailcore.envelope import ContentRef, QueuedRow
from mailcore.outcome import MailClass, RowState, TlsNeed

COLUMNS = """\
{row}.id, {row}.lane_id, {row}.state, {row}.message_id, {row}.recipient_no, {row}.recipient,
{row}.reverse_path, {row}.content_segment, {row}.content_offset, {row}.content_length,
{row}.content_crc, {row}.header_from, {row}.message_id_header, {row}.accepted_at, {row}.due_at,
{row}.expires_at, {row}.attempt, {row}.claim_no, {row}.pinned_source_id, {row}.custom,
{lane}.account_id, {lane}.sender_id, {lane}.campaign_id, {lane}.mail_class, {lane}.tls_need,
{lane}.site, {lane}.isp_id,
COALESCE((SELECT g.label FROM campaign g WHERE g.id = {lane}.campaign_id), ''),
{row}.last_reply, {row}.dsn"""

_STATES = {state.value: state for state in RowState}
_CLASSES = {value.value: value for value in MailClass}
_NEEDS = {value.value: value for value in TlsNeed}


def columns(*, row: str, lane: str) -> str:
    """Return the select list that `to_row` reads, for these table aliases."""
    return COLUMNS.format(row=row, lane=lane)


def to_row(values: tuple[Any, ...]) -> QueuedRow:
    """Return the row. Addresses were parsed on the way in and are only split here."""
    local_part, _, domain = cast(str, values[5]).rpartition("@")
    reverse_local, _, reverse_domain = cast(str, values[6]).rpartition("@")
    return QueuedRow(
        id=values[0],
        lane_id=values[1],
        state=_STATES[values[2]],
        message_id=UUID(str(values[3])),
        recipient_no=values[4],
        recipient=ForwardPath(local_part, domain),
        reverse_path=ReversePath(reverse_local, reverse_domain),
        content=ContentRef(values[7], values[8], values[9], values[10]),
        header_from=values[11],
        message_id_header=values[12],
        accepted_at=cast(datetime, values[13]),
        due_at=cast(datetime, values[14]),
        expires_at=cast(datetime, values[15]),
        attempt=values[16],
        claim_no=values[17],
        pinned_source_id=values[18],
        custom=values[19],
        account_id=values[20],
        sender_id=values[21],
        campaign_id=values[22],
        mail_class=_CLASSES[values[23]],
        tls_need=_NEEDS[values[24]],
        site=values[25],
        isp_id=values[26],
        campaign=values[27],
        last_reply=values[28],
        dsn=values[29],
    )
