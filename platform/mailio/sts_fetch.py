"""Fetch the policy file of a domain: one GET over verified TLS, within limits.

Gives    StsFetcher: `fetch` -> the file's octets; FetchFailed
Takes    a resolver, a file of certificate authorities ("" for the system's), a port, a deadline
Raises   FetchFailed with the RFC 8460 word and the reason
Follows  RFC 8461 §3.3: https://mta-sts.<domain>/.well-known/mta-sts.txt; no redirects, text/plain,
         64 KB, a certificate for that very name

It runs on the loop and waits for nothing but the line. The address comes from our own resolver, so
that a lab stays on loopback.
"""

from __future__ import annotations

import asyncio
import http.client
import io
import re
import ssl

from mailcore.outcome import TlsResult
from mailcore.ports import DnsStatus, Resolver
from mailcore.security.sts import MAX_POLICY_BYTES
from mailio.tls_identity import pkix_context

PATH = "/.well-known/mta-sts.txt"
MOST_ADDRESSES = 4
_HEAD_BYTES = 32 * 1024
_LENGTH = re.compile(rb"^content-length:[ \t]*([0-9]{1,10})[ \t]*\r?$", re.I | re.M)


class FetchFailed(Exception):
    """No policy was had."""

    def __init__(self, result: TlsResult, reason: str) -> None:
        super().__init__(reason)
        self.result = result
        self.reason = reason


class _Answer:
    """Octets in the form that http.client reads an answer from."""

    def __init__(self, octets: bytes) -> None:
        self._octets = octets

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._octets)


class StsFetcher:
    """Fetches policies."""

    def __init__(
        self,
        resolver: Resolver,
        *,
        ca_file: str = "",
        port: int = 443,
        deadline_s: float = 20.0,
    ) -> None:
        self._resolver = resolver
        self._port = port
        self._deadline_s = deadline_s
        self._ca_file = ca_file
        self._context: ssl.SSLContext | None = None

    async def fetch(self, domain: str) -> bytes:
        """Return the policy file of a domain."""
        host = f"mta-sts.{domain}"
        try:
            async with asyncio.timeout(self._deadline_s) as deadline:
                found = await self._resolver.addresses(host)
                if found.status is not DnsStatus.OK:
                    raise _failed(f"{host}: {found.detail or found.status.value}")
                addresses = found.addresses[:MOST_ADDRESSES]
                return await self._first(host, addresses, until=deadline.when() or 0.0)
        except TimeoutError as exc:
            raise _failed(f"{host} did not answer within {self._deadline_s:g} s") from exc

    async def _first(self, host: str, addresses: tuple[str, ...], *, until: float) -> bytes:
        """Return what the first address that answers says. Each has its part of the time."""
        failure = _failed(f"{host} has no address")
        loop = asyncio.get_running_loop()
        for number, address in enumerate(addresses):
            try:
                part_s = (until - loop.time()) / (len(addresses) - number)
                async with asyncio.timeout(part_s):
                    return _content(host, await self._get(host, address))
            except TimeoutError:
                failure = _failed(f"{host} at {address} did not answer in time")
            except ssl.SSLCertVerificationError as exc:
                reason = f"{host}: {exc.verify_message}"
                failure = FetchFailed(TlsResult.STS_WEBPKI_INVALID, reason)
            except (OSError, EOFError, ValueError) as exc:
                failure = _failed(f"{host} at {address}: {exc}")
        raise failure

    async def _get(self, host: str, address: str) -> bytes:
        reader, writer = await asyncio.open_connection(
            address, self._port, ssl=self._pkix(), server_hostname=host
        )
        try:
            writer.write(
                f"GET {PATH} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: Postfleet\r\n"
                "Accept: text/plain\r\nConnection: close\r\n\r\n".encode("ascii")
            )
            octets = bytearray()
            while len(octets) <= _HEAD_BYTES + 2 * MAX_POLICY_BYTES:
                part = await reader.read(16384)
                octets += part
                if not part or _is_whole(octets):
                    break
            return bytes(octets)
        finally:
            # An answer that is there is not made worse by a server that does not say goodbye.
            writer.transport.abort()

    def _pkix(self) -> ssl.SSLContext:
        if self._context is None:
            self._context = pkix_context(self._ca_file)
            self._context.hostname_checks_common_name = False
            self._context.check_hostname = True
        return self._context


def _is_whole(octets: bytearray) -> bool:
    """Whether as much has come as the answer says that it has."""
    head, end, body = bytes(octets).partition(b"\r\n\r\n")
    length = _LENGTH.search(head) if end else None
    return length is not None and len(body) >= int(length[1])


def _content(host: str, octets: bytes) -> bytes:
    """Return the body of an answer that is one."""
    answer = http.client.HTTPResponse(_Answer(octets))  # type: ignore[arg-type]
    try:
        answer.begin()
        body = answer.read(MAX_POLICY_BYTES + 1)
    except (http.client.HTTPException, ValueError) as exc:
        raise _failed(f"{host}: no HTTP answer: {type(exc).__name__}") from exc
    if answer.status != 200:
        raise _failed(f"{host} answers {answer.status}")
    kind = answer.headers.get_content_type() if "content-type" in answer.headers else "none"
    if kind != "text/plain":
        raise _failed(f"{host}: the policy is {kind}, not text/plain")
    if answer.length and len(body) <= MAX_POLICY_BYTES:
        raise _failed(f"{host}: the policy was cut short")
    if len(body) > MAX_POLICY_BYTES:
        reason = f"{host}: the policy has more than {MAX_POLICY_BYTES} octets"
        raise FetchFailed(TlsResult.STS_INVALID, reason)
    return body


def _failed(reason: str) -> FetchFailed:
    return FetchFailed(TlsResult.STS_FETCH_ERROR, reason)
