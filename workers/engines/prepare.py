"""Make claimed rows ready for the wire: read content, address it, sign it.

Takes    rows with the source they go from
Gives    prepare: per row a WireMessage, or Unready with the reason; make_job; share_key
Raises   StoreUnavailable when spool or vault is away; what is wrong with one message or one key is
         that message's or that domain's reason to wait, and nobody else's

Recipients that may share a transaction share its content: built and signed once.
Signatures run on threads, in chunks, and release the interpreter lock; the loop never waits for
one message alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from mailcore import dkim, tokens
from mailcore.dsn import DsnOrder, DsnRequest, DsnReturn, Notify, dsn_of_message
from mailcore.envelope import QueuedRow
from mailcore.errors import PostfleetError, SubmissionRefused
from mailcore.outcome import TlsNeed
from mailcore.policy.lookup import (
    dkim_keys_for,
    presented_domain,
    return_path_domain,
    shares_transactions,
    strategy_for,
    tls_mode_for,
)
from mailcore.policy.model import DkimKey, Isp, PolicySnapshot
from mailcore.policy.words import TlsMode
from mailcore.ports import StoreUnavailable, WireMessage
from mailcore.render.downgrade import to_7bit
from mailcore.render.overrides import override_headers
from mailcore.render.reencode import reencode
from mailcore.reply import SmtpReply
from workers.engines.context import DeliverPorts
from workers.engines.feed import Feed, Job

CHUNK = 16

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Unready:
    """Why a row cannot go on the wire, and at which stage that showed."""

    reply: SmtpReply
    stage: str


NO_CONTENT = Unready(
    SmtpReply.local(451, "4.3.0", "the message's content is missing in the spool"), "spool"
)
Signers = Sequence[dkim.SigningKey] | Unready


@dataclass(slots=True)
class Keyring:
    """DKIM keys of a process, parsed once; a changed secret has a new reference."""

    keys: dict[tuple[str, str, str], dkim.SigningKey] = field(default_factory=dict)

    async def of_mail(
        self, header_from: str, sender_id: int, *, policy: PolicySnapshot, ports: DeliverPorts
    ) -> Signers:
        """Return the keys that sign a sender's mail From a domain, or why one of them cannot."""
        try:
            specs = dkim_keys_for(policy, sender_id=sender_id, header_from=header_from)
            return [await self._key(spec, ports=ports) for spec in specs]
        except StoreUnavailable:
            raise
        except (PostfleetError, LookupError) as exc:
            log.error(
                "a DKIM key cannot be used", extra={"domain": header_from, "reason": str(exc)}
            )
            text = f"a DKIM key of {header_from} cannot be used: {exc}"
            return Unready(SmtpReply.local(451, "4.3.5", text), "sign")

    async def _key(self, spec: DkimKey, *, ports: DeliverPorts) -> dkim.SigningKey:
        name = (spec.secret_ref, spec.domain, spec.selector)
        key = self.keys.get(name)
        if key is None:
            pem = await ports.vault.open(spec.secret_ref)
            key = dkim.SigningKey(spec.domain, spec.selector, dkim.parse_private_key(pem))
            self.keys[name] = key
        return key


async def prepare(
    rows: Sequence[QueuedRow],
    *,
    policy: PolicySnapshot,
    ports: DeliverPorts,
    keyring: Keyring,
    in_7bit: bool = False,
) -> Sequence[WireMessage | Unready]:
    """Return what each row puts on the wire, in order; `in_7bit` for a server that takes no
    other (RFC 6152 §3: converted, or returned)."""
    units, unit_of_row = _units(rows, policy)
    contents = await _contents(units, ports=ports)
    signers = {
        case: await keyring.of_mail(*case, policy=policy, ports=ports)
        for case in {(row.header_from, row.sender_id) for row in units}
    }
    now = int(ports.clock.now().timestamp())
    loop = asyncio.get_running_loop()
    chunks = [
        loop.run_in_executor(
            ports.signers,
            _build,
            units[i : i + CHUNK],
            contents[i : i + CHUNK],
            policy,
            ports.node,
            signers,
            ports.token_ring,
            now,
            in_7bit,
        )
        for i in range(0, len(units), CHUNK)
    ]
    built = [wire for chunk in chunks for wire in await chunk]
    if len(units) == len(rows):
        return built
    addressed = zip(unit_of_row, rows, strict=True)
    return [_addressed(built[unit], row, policy) for unit, row in addressed]


def _units(
    rows: Sequence[QueuedRow], policy: PolicySnapshot
) -> tuple[Sequence[QueuedRow], Sequence[int]]:
    """Return a row for each thing to build, and for each row which of these is its."""
    units: list[QueuedRow] = []
    unit_of_row: list[int] = []
    known: dict[tuple[object, ...], int] = {}
    for row in rows:
        key = share_key(row, policy)
        unit = len(units) if key is None else known.setdefault(key, len(units))
        if unit == len(units):
            units.append(row)
        unit_of_row.append(unit)
    return units, unit_of_row


def _addressed(
    built: WireMessage | Unready, row: QueuedRow, policy: PolicySnapshot
) -> WireMessage | Unready:
    if isinstance(built, Unready):
        return built
    return replace(built, forward_paths=(str(row.recipient),), dsn=_dsn(row, policy))


def share_key(row: QueuedRow, policy: PolicySnapshot) -> tuple[object, ...] | None:
    """Return what rows must have in common to share a transaction; None for one that goes alone.

    All that goes into the content or the envelope but the recipient, and who it was at first, is
    in it.
    """
    if not shares_transactions(policy, sender_id=row.sender_id):
        return None
    return (
        row.message_id,
        row.sender_id,
        row.isp_id,
        row.tls_need,
        row.header_from,
        row.reverse_path,
        row.recipient.needs_smtputf8,
        dsn_of_message(row.dsn),
    )


async def _contents(rows: Sequence[QueuedRow], *, ports: DeliverPorts) -> Sequence[bytes | None]:
    """Read each row's content. Upkeep may have moved it since the row was claimed: what is not
    where it was is looked for where the row points now."""
    contents = list(await ports.spool.read_many([row.content for row in rows]))
    missing = {row.id: at for at, row in enumerate(rows) if contents[at] is None}
    if missing:
        found = await ports.ledger.rows_by_id(list(missing))
        moved = [row for row in found if row.content != rows[missing[row.id]].content]
        again = await ports.spool.read_many([row.content for row in moved])
        for row, content in zip(moved, again, strict=True):
            contents[missing[row.id]] = content
    return contents


def _build(
    rows: Sequence[QueuedRow],
    contents: Sequence[bytes | None],
    policy: PolicySnapshot,
    node: str,
    signers: Mapping[tuple[str, int], Signers],
    token_ring: Mapping[int, bytes],
    now: int,
    in_7bit: bool,
) -> list[WireMessage | Unready]:
    """Build one chunk; runs on a signing thread."""
    node_policy = policy.nodes.get(node)
    header = node_policy.fbl_header if node_policy is not None else "X-Postfleet-Token"
    built: list[WireMessage | Unready] = []
    for row, content in zip(rows, contents, strict=True):
        keys = signers[row.header_from, row.sender_id]
        if content is None:
            built.append(NO_CONTENT)
        elif isinstance(keys, Unready):
            built.append(keys)
        else:
            try:
                shaped = _shaped(content, policy.isps.get(row.isp_id), in_7bit)
                built.append(_wire(row, shaped, keys, policy, header, token_ring, now))
            except SubmissionRefused as exc:
                text = f"the server takes no 8-bit content, and this must not be converted: {exc}"
                built.append(Unready(SmtpReply.local(554, "5.6.3", text), "mail"))
            except Exception as exc:
                # A fault of ours with this one message must not keep its whole batch from going.
                log.exception("message not made ready", extra={"row": row.id})
                text = f"the message could not be made ready: {type(exc).__name__}"
                built.append(Unready(SmtpReply.local(451, "4.3.0", text), "render"))
    return built


def _shaped(content: bytes, isp: Isp | None, in_7bit: bool) -> bytes:
    """Return the content in the ISP's encodings; in seven bits where the server takes no other."""
    if isp is not None:
        content = reencode(
            content,
            overall=isp.encoding_global,
            html=isp.encoding_html,
            text=isp.encoding_text,
        )
    return to_7bit(content) if in_7bit else content


def _wire(
    row: QueuedRow,
    content: bytes,
    keys: Sequence[dkim.SigningKey],
    policy: PolicySnapshot,
    header: str,
    token_ring: Mapping[int, bytes],
    now: int,
) -> WireMessage:
    """Address and sign one message."""
    is_shared = shares_transactions(policy, sender_id=row.sender_id)
    number = tokens.ALL_RECIPIENTS if is_shared else row.recipient_no
    token = tokens.MessageToken(row.message_id, number)
    text = tokens.sign(token, ring=token_ring)
    isp = policy.isps.get(row.isp_id)
    if isp is not None:
        content = override_headers(content, add=isp.add_headers, delete=isp.delete_headers)
    content = override_headers(content, add=(), delete=(header,))
    whole = b"%s: %s\r\n%s" % (header.encode("ascii"), text.encode("ascii"), content)
    signature = dkim.sign(whole, keys, now=now, also=(header,)) if keys else b""
    is_ascii = content.isascii()
    # Such as addresses, for which no encoded word can stand (RFC 6532): `repair` wrote the rest so.
    has_utf8_fields = not is_ascii and not content[: content.find(b"\r\n\r\n")].isascii()
    return WireMessage(
        reverse_path=_reverse_path(row, text, policy),
        forward_paths=(str(row.recipient),),
        content=signature + whole,
        needs_8bit=not is_ascii,
        needs_smtputf8=has_utf8_fields or row.recipient.needs_smtputf8,
        requires_tls=row.tls_need is TlsNeed.REQUIRETLS,
        dsn=_dsn(row, policy),
    )


def _dsn(row: QueuedRow, policy: PolicySnapshot) -> DsnRequest | None:
    """Return which reports the next server is asked for: those the client asked us for, and of a
    relay those that tell us what it could not do."""
    relay = policy.relays.get(row.sender_id)
    if relay is None and not row.dsn:
        return None
    own = return_path_domain(policy, sender_id=row.sender_id, header_from=row.header_from)
    request = DsnOrder.parse(row.dsn).request(returns_to_us=bool(own)) if row.dsn else None
    if relay is None or not relay.asks_reports or not own or row.reverse_path.is_null:
        # Without a return path of ours reports go to the client, who said which it wants.
        return request
    request = request or DsnRequest(envid=row.message_id.hex, returns=DsnReturn.HEADERS)
    wanted = (request.notify - {Notify.NEVER}) | {Notify.FAILURE, Notify.DELAY}
    return replace(request, notify=wanted, original_recipients=(str(row.recipient),))


def _reverse_path(row: QueuedRow, token: str, policy: PolicySnapshot) -> str:
    """Return the signed return path, or what the submission asked for where none is set up."""
    if row.reverse_path.is_null:
        return ""
    domain = return_path_domain(policy, sender_id=row.sender_id, header_from=row.header_from)
    if not domain:
        return str(row.reverse_path)
    return f"{tokens.RETURN_PATH_PREFIX}{token}@{domain}"


def make_job(
    feed: Feed,
    row: QueuedRow,
    wire: WireMessage,
    policy: PolicySnapshot,
    incarnation: int,
    not_before: float,
) -> Job:
    """Put together what a session needs to know of a row.

    Of the strategies that meet on a path the slowest sets its pace; how a message travels is the
    word of its own.
    """
    strategy = strategy_for(
        policy, sender_id=row.sender_id, isp_id=row.isp_id, source_id=feed.source.id
    )
    tls = tls_mode_for(policy, sender_id=row.sender_id, strategy=strategy)
    if row.tls_need is not TlsNeed.POLICY:
        tls = TlsMode.REQUIRED
    domain = presented_domain(
        policy, sender_id=row.sender_id, header_from=row.header_from, source=feed.source
    )
    relay = policy.relays.get(row.sender_id)
    share = share_key(row, policy)
    return Job(row, wire, tls, domain, incarnation, not_before, share, relay, helo=strategy.helo)
