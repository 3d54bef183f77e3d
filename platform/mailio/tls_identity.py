"""Whether a server under TLS is the one that was meant: by PKIX or by TLSA records.

Gives    TlsIdentity: `context_for` (before the handshake), `check` (after it); Unproven
Takes    a file of certificate authorities, "" for those of the system; a demand
Raises   Unproven with the RFC 8460 word and the reason
Follows  RFC 8461 §4.1 (PKIX; names in subjectAltName alone), RFC 7672 §3 (DANE-EE: neither names
         nor dates count; DANE-TA: both do), RFC 7671 §4-5

The chain of PKIX is OpenSSL's to verify. That of a DANE-TA record is verified here, since Python
gives no way to tell OpenSSL of it: signature by signature up to a certificate that a record means.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from mailcore.outcome import TlsResult
from mailcore.security import (
    Proof,
    Proven,
    Tlsa,
    TlsaUsage,
    TlsDemand,
    is_named,
    matches,
    public_key_of,
)

MAX_DEPTH = 10
# X509_V_ERR_CERT_HAS_EXPIRED; the others of its kind are of a chain that is not trusted.
_EXPIRED = 10
# What reading and checking somebody else's certificate may come to.
_NOT_OURS = (
    ValueError,
    TypeError,
    InvalidSignature,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


class Unproven(Exception):
    """The server is not who it should be."""

    def __init__(self, result: TlsResult, reason: str) -> None:
        super().__init__(reason)
        self.result = result
        self.reason = reason


@dataclass(frozen=True, slots=True)
class _Shown:
    """One certificate of a server's chain; `parsed` None if it cannot be read."""

    der: bytes
    parsed: x509.Certificate | None


class TlsIdentity:
    """Checks identities for all sessions of a process."""

    def __init__(
        self,
        ca_file: str = "",
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._now = now
        self._ca_file = ca_file
        self._open = _unchecked()
        # Encryption of old is better than none, where none is the other choice (RFC 7435).
        self._any = _unchecked()
        self._any.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        self._any.set_ciphers("DEFAULT:!aNULL:!eNULL:@SECLEVEL=0")
        self._pkix: ssl.SSLContext | None = None
        if ca_file:
            # Read at once: a file that is not there must stop the process, not its mail.
            self._pkix = pkix_context(ca_file)

    def context_for(
        self, demand: TlsDemand | None, *, is_opportunistic: bool = False
    ) -> ssl.SSLContext:
        """Return what to shake hands with; `is_opportunistic`: the mail goes in clear otherwise."""
        if demand is None or demand.proof is Proof.NONE:
            return self._any if is_opportunistic else self._open
        if demand.proof is not Proof.PKIX:
            return self._open
        if self._pkix is None:
            self._pkix = pkix_context(self._ca_file)
        return self._pkix

    def check(self, session: ssl.SSLObject, demand: TlsDemand | None) -> Proven:
        """Return what the handshake proved, or raise Unproven."""
        if demand is None or demand.proof is Proof.NONE:
            return Proven(is_encrypted=True)
        chain = [_Shown(der, _parsed(der)) for der in _chain(session)]
        if not chain:
            raise Unproven(TlsResult.NOT_TRUSTED, "the server shows no certificate")
        try:
            if demand.proof is Proof.PKIX:
                return Proven(is_encrypted=True, names=frozenset(_named(chain[0], demand.names)))
            return self._matched(chain, demand)
        except _NOT_OURS as exc:
            # Of many odd things in a certificate one is met only when it is read.
            reason = f"the certificate cannot be read: {type(exc).__name__}"
            raise Unproven(TlsResult.NOT_TRUSTED, reason) from exc

    # -- DANE

    def _matched(self, chain: Sequence[_Shown], demand: TlsDemand) -> Proven:
        """Return the records that stand for this chain, and below an authority the names."""
        found = [each for each in demand.tlsa if each.usage == TlsaUsage.DANE_EE]
        found = [each for each in found if _means(each, chain[0])]
        if found:
            return Proven(is_encrypted=True, tlsa=frozenset(found))
        problem: Unproven | None = None
        for record in demand.tlsa:
            if record.usage != TlsaUsage.DANE_TA:
                continue
            try:
                if self._leads_to(record, chain):
                    names = _named(chain[0], demand.names)
                    return Proven(
                        is_encrypted=True,
                        tlsa=frozenset({record}),
                        tlsa_names=frozenset(names),
                    )
            except Unproven as exc:
                problem = exc
        reason = "no TLSA record means the certificate of the server or of one who issued it"
        raise problem or Unproven(TlsResult.VALIDATION_FAILURE, reason)

    def _leads_to(self, record: Tlsa, chain: Sequence[_Shown]) -> bool:
        """Whether a chain of signatures leads from the server to the authority of a record."""
        issuers = [shown for shown in chain[1:] if shown.parsed is not None]
        meant = [shown.parsed for shown in issuers if _means(record, shown) and shown.parsed]
        key = None
        if record.matching == 0 and record.selector == 0:
            given = _parsed(record.data)
            meant += [given] if given is not None else []
        elif record.matching == 0:
            key = _key(record.data)
        if not meant and key is None:
            return False
        leaf = chain[0].parsed
        if leaf is None:
            raise Unproven(TlsResult.NOT_TRUSTED, "the server's certificate cannot be read")
        self._in_time(leaf)
        _is_for_servers(leaf)
        current, left = leaf, [shown.parsed for shown in issuers if shown.parsed is not None]
        for depth in range(MAX_DEPTH):
            for anchor in meant:
                if _has_issued(anchor, current, depth=depth, is_anchor=True):
                    self._in_time(anchor)
                    return True
            if key is not None and _has_signed(key, current):
                return True
            issuer = next((one for one in left if _has_issued(one, current, depth=depth)), None)
            if issuer is None:
                break
            self._in_time(issuer)
            left.remove(issuer)
            current = issuer
        raise Unproven(
            TlsResult.NOT_TRUSTED, "the certificate was not issued by the authority of the TLSA"
        )

    def _in_time(self, certificate: x509.Certificate) -> None:
        now = self._now()
        if now > certificate.not_valid_after_utc:
            subject = certificate.subject.rfc4514_string()
            raise Unproven(TlsResult.EXPIRED, f"the certificate of {subject} has expired")
        if now < certificate.not_valid_before_utc:
            subject = certificate.subject.rfc4514_string()
            raise Unproven(TlsResult.NOT_TRUSTED, f"the certificate of {subject} is not yet valid")


def _unchecked() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def pkix_context(ca_file: str = "") -> ssl.SSLContext:
    """Return a context that wants a chain to an authority of this file, or of the system's.

    Names are not its business: an operator may allow others, and a subject's CN is none.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_file:
        context.load_verify_locations(cafile=ca_file)
    else:
        # Slow: a hundred certificates. Who never asks for a proof never waits for it.
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    return context


def unproven(error: ssl.SSLCertVerificationError) -> Unproven:
    """Return what OpenSSL found wrong with a chain."""
    result = TlsResult.EXPIRED if error.verify_code == _EXPIRED else TlsResult.NOT_TRUSTED
    return Unproven(result, f"the certificate is not valid: {error.verify_message}")


def _chain(session: ssl.SSLObject) -> list[bytes]:
    """Return what the server sent, its own certificate first."""
    # Public from Python 3.13 on, in DER; before that the same call sits one object deeper.
    ask: Any = getattr(session, "get_unverified_chain", None)
    if ask is not None:
        return list(ask())
    inner: Any = session._sslobj  # type: ignore[attr-defined]
    return [one.public_bytes(2) for one in inner.get_unverified_chain() or ()]


def _parsed(der: bytes) -> x509.Certificate | None:
    try:
        return x509.load_der_x509_certificate(der)
    except _NOT_OURS:
        return None


def _key(der: bytes) -> Any:
    try:
        return load_der_public_key(der)
    except _NOT_OURS:
        return None


def _named(shown: _Shown, wanted: Iterable[str]) -> list[str]:
    """Return the wanted names that the certificate has; Unproven if it has none of them.

    An address stands in a field of its own (RFC 6125 §1.7.2): no name is one.
    """
    names: list[str] = []
    addresses: list[str] = []
    if shown.parsed is not None:
        try:
            found = shown.parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName)
            names = found.value.get_values_for_type(x509.DNSName)
            addresses = list(map(str, found.value.get_values_for_type(x509.IPAddress)))
        except (x509.ExtensionNotFound, *_NOT_OURS):
            names = addresses = []
    proven = [
        name
        for name in wanted
        if (name in addresses if _is_address(name) else is_named(names, name))
    ]
    if not proven:
        has = ", ".join((names + addresses)[:5]) or "no DNS name"
        reason = f"the certificate is for {has}, not for {' or '.join(wanted)}"
        raise Unproven(TlsResult.WRONG_HOST, reason)
    return proven


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _means(record: Tlsa, shown: _Shown) -> bool:
    try:
        key = public_key_of(shown.der) if record.selector == 1 else b""
    except ValueError:
        return False
    return matches(record, certificate=shown.der, public_key=key)


def _has_issued(
    issuer: x509.Certificate, issued: x509.Certificate, *, depth: int, is_anchor: bool = False
) -> bool:
    """Whether a certificate is that of an authority and has signed the other; `depth` is how many
    authorities lie below it. An anchor of old needs no basicConstraints."""
    try:
        issued.verify_directly_issued_by(issuer)
        extensions = issuer.extensions
    except _NOT_OURS:
        return False
    try:
        limits = extensions.get_extension_for_class(x509.BasicConstraints).value
        if not limits.ca or (limits.path_length is not None and depth > limits.path_length):
            return False
    except x509.ExtensionNotFound:
        if not is_anchor:
            return False
    try:
        return extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound:
        return True


def _has_signed(key: Any, issued: x509.Certificate) -> bool:
    """Whether a bare public key has signed a certificate."""
    try:
        if isinstance(key, rsa.RSAPublicKey):
            how = issued.signature_algorithm_parameters
            algorithm = issued.signature_hash_algorithm
            if not isinstance(how, padding.PKCS1v15 | padding.PSS) or algorithm is None:
                return False
            key.verify(issued.signature, issued.tbs_certificate_bytes, how, algorithm)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            how = issued.signature_algorithm_parameters
            if not isinstance(how, ec.ECDSA):
                return False
            key.verify(issued.signature, issued.tbs_certificate_bytes, how)
        else:
            key.verify(issued.signature, issued.tbs_certificate_bytes)
    except (*_NOT_OURS, AttributeError):
        return False
    return True


def _is_for_servers(leaf: x509.Certificate) -> None:
    try:
        uses = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (x509.ExtensionNotFound, ValueError):
        return
    allowed = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
    if not allowed & set(uses):
        raise Unproven(TlsResult.NOT_TRUSTED, "the certificate is not for servers")
