"""Make claimed rows ready for the wire: read content, address it, sign it.

Takes    rows with the source they go from
Gives    prepare: a WireMessage per row, or None where the spool has no content
Raises   nothing for content that is gone; StoreUnavailable when the vault is away

Signatures run on threads, in chunks, and release the interpreter lock; the loop never waits for
one message alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mailcore import dkim, tokens
from mailcore.envelope import QueuedRow
from mailcore.policy.lookup import return_path_domain
from mailcore.policy.model import PolicySnapshot
from mailcore.ports import WireMessage
from mailcore.render.overrides import override_headers
from workers.engines.context import DeliverPorts

CHUNK = 16


@dataclass(slots=True)
class Keyring:
    """DKIM keys of a process, parsed once; a changed secret has a new reference."""

    keys: dict[tuple[str, str, str], dkim.SigningKey] = field(default_factory=dict)

    async def of_domain(
        self, domain: str, *, policy: PolicySnapshot, ports: DeliverPorts
    ) -> Sequence[dkim.SigningKey]:
        """Return the keys that sign for a From domain."""
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
    rows: Sequence[QueuedRow], *, policy: PolicySnapshot, ports: DeliverPorts, keyring: Keyring
) -> Sequence[WireMessage | None]:
    """Return what each row puts on the wire, in order."""
    contents = await ports.spool.read_many([row.content for row in rows])
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
        )
        for i in range(0, len(rows), CHUNK)
    ]
    return [wire for chunk in chunks for wire in await chunk]


def _build(
    rows: Sequence[QueuedRow],
    contents: Sequence[bytes | None],
    policy: PolicySnapshot,
    node: str,
    signers: Mapping[str, Sequence[dkim.SigningKey]],
    token_ring: Mapping[int, bytes],
    now: int,
) -> list[WireMessage | None]:
    """Build one chunk; runs on a signing thread."""
    node_policy = policy.nodes.get(node)
    header = node_policy.fbl_header if node_policy is not None else "X-Postfleet-Token"
    built: list[WireMessage | None] = []
    for row, content in zip(rows, contents, strict=True):
        if content is None:
            built.append(None)
            continue
        token = tokens.MessageToken(row.message_id, row.recipient_no)
        text = tokens.sign(token, ring=token_ring)
        isp = policy.isps.get(row.isp_id)
        if isp is not None:
            content = override_headers(content, add=isp.add_headers, delete=isp.delete_headers)
        whole = b"%s: %s\r\n%s" % (header.encode("ascii"), text.encode("ascii"), content)
        keys = signers[row.header_from]
        signature = dkim.sign(whole, keys, now=now) if keys else b""
        built.append(
            WireMessage(
                reverse_path=_reverse_path(row, text, policy),
                forward_paths=(str(row.recipient),),
                content=signature + whole,
                needs_8bit=not content.isascii(),
                needs_smtputf8=row.recipient.needs_smtputf8,
            )
        )
    return built


def _reverse_path(row: QueuedRow, token: str, policy: PolicySnapshot) -> str:
    """Return the signed return path, or what the submission asked for where none is set up."""
    if row.reverse_path.is_null:
        return ""
    domain = return_path_domain(policy, sender_id=row.sender_id, header_from=row.header_from)
    if not domain:
        return str(row.reverse_path)
    return f"{tokens.RETURN_PATH_PREFIX}{token}@{domain}"
