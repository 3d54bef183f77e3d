"""Make the certificates receivers show after STARTTLS.

Gives    server_context() -> ssl.SSLContext with a fresh self-signed certificate
Takes    the host names it is for and a directory for the files the ssl module insists on
Raises   OSError when the directory cannot be written
Follows  RFC 3207 (STARTTLS), RFC 8996 (nothing older than TLS 1.2)
"""

import datetime
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def write_self_signed(
    names: tuple[str, ...],
    path: Path,
    *,
    lifetime: datetime.timedelta = datetime.timedelta(days=30),
) -> None:
    """Write a key and a self-signed certificate for the names into one PEM file (mode 0600)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + lifetime)
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(one) for one in names]), critical=False
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


def server_context(names: tuple[str, ...], directory: Path) -> ssl.SSLContext:
    """Return a server context whose certificate is for the names."""
    path = directory / f"{names[0]}.pem"
    write_self_signed(names, path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(path)
    return context
