"""Make the certificates receivers show after STARTTLS.

Gives    server_context() -> ssl.SSLContext with a fresh self-signed certificate, good or bad;
         write_self_signed(), write_public(), for a client that is to trust it
Takes    the host names it is for and a directory for the files the ssl module insists on
Raises   OSError when the directory cannot be written
Follows  RFC 3207 (STARTTLS), RFC 8996 (nothing older than TLS 1.2)
"""

import datetime
import ipaddress
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from lab.manner import Certificate

_OTHER_NAMES = ("somewhere-else.test",)
_EXPIRED = datetime.timedelta(minutes=-30)


def write_self_signed(
    names: tuple[str, ...],
    path: Path,
    *,
    lifetime: datetime.timedelta = datetime.timedelta(days=30),
) -> None:
    """Write a key and a self-signed certificate for the names into one PEM file (mode 0600).

    A name may be an address; a lifetime may be negative.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))  # clocks differ
        .not_valid_after(now + lifetime)
        .add_extension(
            x509.SubjectAlternativeName([_general_name(one) for one in names]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )


def write_public(path: Path, public: Path) -> None:
    """Write the certificate of such a file without its key."""
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    public.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def server_context(
    names: tuple[str, ...],
    directory: Path,
    *,
    certificate: Certificate = Certificate.OWN_NAMES,
) -> ssl.SSLContext:
    """Return a server context whose certificate is for the names, or bad as asked for."""
    path = directory / f"{names[0]}.pem"
    if certificate is Certificate.EXPIRED:
        write_self_signed(names, path, lifetime=_EXPIRED)
    elif certificate is Certificate.OTHER_NAME:
        write_self_signed(_OTHER_NAMES, path)
    else:
        write_self_signed(names, path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(path)
    return context
