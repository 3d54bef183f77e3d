"""Certificates made for a test: an authority, one below it, and what they issue.

Gives    Authority (root, below, issue), Shown (a server's chain with its key, as a context)
"""

from __future__ import annotations

import hashlib
import ipaddress
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mailcore.security import Tlsa, public_key_of

DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Shown:
    """What a server shows: its own certificate first."""

    chain: tuple[x509.Certificate, ...]
    key: ec.EllipticCurvePrivateKey

    def context(self, directory: Path) -> ssl.SSLContext:
        """Return a server's TLS with this chain."""
        path = directory / f"{self.chain[0].serial_number:x}.pem"
        pem = serialization.Encoding.PEM
        path.write_bytes(
            b"".join(each.public_bytes(pem) for each in self.chain)
            + self.key.private_bytes(
                pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context

    def tlsa(self, usage: int, selector: int, matching: int, *, depth: int = 0) -> Tlsa:
        """Return the record that means one certificate of the chain."""
        return tlsa_of(self.chain[depth], usage, selector, matching)


def tlsa_of(certificate: x509.Certificate, usage: int, selector: int, matching: int) -> Tlsa:
    """Return the record that means a certificate."""
    data = certificate.public_bytes(serialization.Encoding.DER)
    if selector == 1:
        data = public_key_of(data)
    if matching:
        data = hashlib.new({1: "sha256", 2: "sha512"}[matching], data).digest()
    return Tlsa(usage, selector, matching, data)


@dataclass(frozen=True, slots=True)
class Authority:
    """Issues certificates; `chain` are those above what it issues, itself first."""

    chain: tuple[x509.Certificate, ...]
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def root(cls, name: str = "Test Root") -> Authority:
        """Make one that nobody is above."""
        key = ec.generate_private_key(ec.SECP256R1())
        return cls((_made(name, key, name, key, is_ca=True),), key)

    def below(self, name: str, *, is_ca: bool = True) -> Authority:
        """Make one that this one has issued."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = _made(name, key, _name(self.chain[0]), self.key, is_ca=is_ca)
        return Authority((made, *self.chain), key)

    def issue(
        self,
        *names: str,
        begins: timedelta = -DAY,
        ends: timedelta = DAY,
        common: str = "a server",
        for_clients: bool = False,
    ) -> Shown:
        """Issue a server's certificate for these names; the root stays at home."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = _made(
            common,
            key,
            _name(self.chain[0]),
            self.key,
            names=names,
            begins=begins,
            ends=ends,
            for_clients=for_clients,
        )
        return Shown((made, *self.chain), key)

    def ca_file(self, directory: Path) -> str:
        """Write the certificate of the topmost authority; return where it is."""
        path = directory / "authorities.pem"
        path.write_bytes(self.chain[-1].public_bytes(serialization.Encoding.PEM))
        return str(path)


def self_signed(*names: str, ends: timedelta = DAY) -> Shown:
    """Return a certificate that nobody else vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    return Shown((_made("alone", key, "alone", key, names=names, ends=ends),), key)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _name(certificate: x509.Certificate) -> str:
    return str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def _made(
    subject: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    names: tuple[str, ...] = (),
    begins: timedelta = -DAY,
    ends: timedelta = DAY,
    is_ca: bool = False,
    for_clients: bool = False,
) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now + begins, now + ends - DAY))
        .not_valid_after(now + ends)
        .add_extension(x509.BasicConstraints(is_ca, None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if names:
        shown = [_general_name(name) for name in names]
        builder = builder.add_extension(x509.SubjectAlternativeName(shown), critical=False)
    if for_clients:
        use = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
        builder = builder.add_extension(use, critical=False)
    return builder.sign(issuer_key, hashes.SHA256())
