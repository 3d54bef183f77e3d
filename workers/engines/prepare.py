"""Make claimed rows ready for the wire: read content, address it, sign it.

Takes    rows with the source they go from
Gives    prepare: per row a WireMessage, or Unready with the reason; make_job
Raises   StoreUnavailable when spool or vault is away; what is wrong with one message or one key is
         that message's or that domain's reason to wait, and nobody else's

Signatures run on threads, in chunks, and release the interpreter lock; the loop never waits for
one message alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mailcore import dkim, tokens
from mailcore.envelope import QueuedRow
from mailcore.errors import PostfleetError, SubmissionRefused
from mailcore.outcome import TlsNeed
from mailcore.policy.lookup import presented_domain, return_path_domain, tls_mode_for
from mailcore.policy.model import PolicySnapshot, TlsMode
from mailcore.ports import StoreUnavailable, WireMessage
from mailcore.render.downgrade import to_7bit
from mailcore.render.overrides import override_headers
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

    async def of_domain(
        self, domain: str, *, policy: PolicySnapshot, ports: DeliverPorts
    ) -> Signers:
        """Return the keys that sign for a From domain, or why one of them cannot."""
        try:
            return await self._keys(domain, policy=policy, ports=ports)
        except StoreUnavailable:
            raise
        except (PostfleetError, LookupError) as exc:
            log.error("a DKIM key cannot be used", extra={"domain": domain, "reason": str(exc)})
            text = f"a DKIM key of {domain} cannot be used: {exc}"
            return Unready(SmtpReply.local(451, "4.3.5", text), "sign")

    async def _keys(
        self, domain: str, *, policy: PolicySnapshot, ports: DeliverPorts
    ) -> Sequence[dkim.SigningKey]:
        found = policy.sending_domains.get(domain)
        if found is None:
            return ()
        ring = []
        for key_id in found.dkim_key_ids:
            spec = policy.dkim_keys[key_id]
            name = (spec.secret_ref, spec.domain, spec.selector)
            key = self.keys.get(name)
            if key is None:
                pem = await ports.vault.open(spec.secret_ref)
                private = dkim.parse_private_key(pem)
                key = dkim.SigningKey(spec.domain, spec.selector, private)
                self.keys[name] = key
            ring.append(key)
        return ring


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
    contents = await _contents(rows, ports=ports)
    signers = {
        domain: await keyring.of_domain(domain, policy=policy, ports=ports)
        for domain in {row.header_from for row in rows}
    }
    now = int(ports.clock.now().timestamp())
    loop = asyncio.get_running_loop()
    chunks = [
        loop.run_in_executor(
            ports.signers,
            _build,
            rows[i : i + CHUNK],
            contents[i : i + CHUNK],
            policy,
            ports.node,
            signers,
            ports.token_ring,
            now,
            in_7bit,
        )
        for i in range(0, len(rows), CHUNK)
    ]
    return [wire for chunk in chunks for wire in await chunk]


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
    signers: Mapping[str, Signers],
    token_ring: Mapping[int, bytes],
    now: int,
    in_7bit: bool,
) -> list[WireMessage | Unready]:
    """Build one chunk; runs on a signing thread."""
    node_policy = policy.nodes.get(node)
    header = node_policy.fbl_header if node_policy is not None else "X-Postfleet-Token"
    built: list[WireMessage | Unready] = []
    for row, content in zip(rows, contents, strict=True):
        keys = signers[row.header_from]
        if content is None:
            built.append(NO_CONTENT)
        elif isinstance(keys, Unready):
            built.append(keys)
        else:
            try:
                plain = to_7bit(content) if in_7bit else content
                built.append(_wire(row, plain, keys, policy, header, token_ring, now))
            except SubmissionRefused as exc:
                text = f"the server takes no 8-bit content, and this must not be converted: {exc}"
                built.append(Unready(SmtpReply.local(554, "5.6.3", text), "mail"))
            except Exception as exc:
                # A fault of ours with this one message must not keep its whole batch from going.
                log.exception("message not made ready", extra={"row": row.id})
                text = f"the message could not be made ready: {type(exc).__name__}"
                built.append(Unready(SmtpReply.local(451, "4.3.0", text), "render"))
    return built


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
    token = tokens.MessageToken(row.message_id, row.recipient_no)
    text = tokens.sign(token, ring=token_ring)
    isp = policy.isps.get(row.isp_id)
    if isp is not None:
        content = override_headers(content, add=isp.add_headers, delete=isp.delete_headers)
    whole = b"%s: %s\r\n%s" % (header.encode("ascii"), text.encode("ascii"), content)
    signature = dkim.sign(whole, keys, now=now) if keys else b""
    return WireMessage(
        reverse_path=_reverse_path(row, text, policy),
        forward_paths=(str(row.recipient),),
        content=signature + whole,
        needs_8bit=not content.isascii(),
        needs_smtputf8=row.recipient.needs_smtputf8,
    )


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
    """Put together what a session needs to know of a row."""
    tls = tls_mode_for(policy, sender_id=row.sender_id, strategy=feed.strategy)
    if row.tls_need is TlsNeed.REQUIRED:
        tls = TlsMode.REQUIRED
    domain = presented_domain(
        policy, sender_id=row.sender_id, header_from=row.header_from, source=feed.source
    )
    return Job(row, wire, tls, domain, incarnation, not_before)
