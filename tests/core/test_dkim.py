"""Our signatures verify with another implementation, and stop verifying when mail is changed."""

from __future__ import annotations

import dkim
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from mailcore.dkim import (
    DkimAlgorithm,
    DkimKeyError,
    SigningKey,
    generate,
    parse_private_key,
    public_record,
    sign,
)

PEMS = {algorithm: generate(algorithm) for algorithm in DkimAlgorithm}
SELECTORS = {DkimAlgorithm.RSA_SHA256: "r1", DkimAlgorithm.ED25519_SHA256: "e1"}
KEYS = {
    algorithm: SigningKey("example.com", SELECTORS[algorithm], parse_private_key(pem))
    for algorithm, pem in PEMS.items()
}
RECORDS = {
    f"{SELECTORS[algorithm]}._domainkey.example.com.".encode(): public_record(pem).encode()
    for algorithm, pem in PEMS.items()
}
NOW = 1_780_000_000
MESSAGE = (
    b"From: A <a@example.com>\r\nTo: b@example.net\r\nSubject:  two   spaces\r\n"
    b" and a fold\t \r\nDate: Mon, 1 Jun 2026 00:00:00 +0000\r\nMessage-ID: <1@example.com>\r\n"
    b"X-Other: not signed\r\n\r\nHello\r\n\r\nworld \t of  space  \r\n\r\n\r\n"
)


def lookup(name: bytes, timeout: int = 5) -> bytes | None:
    """Answer as DNS would."""
    return RECORDS.get(name)


def verifies(content: bytes, index: int = 0) -> bool:
    """Return what dkimpy says of the signature at this place from the top.

    Content gets the line end that the wire gives it before its dot.
    """
    if not content.endswith(b"\r\n"):
        content += b"\r\n"
    try:
        return bool(dkim.DKIM(content).verify(idx=index, dnsfunc=lookup))
    except dkim.DKIMException:
        return False


def signed(content: bytes, *algorithms: DkimAlgorithm) -> bytes:
    """Return content under our signatures."""
    chosen = algorithms or tuple(DkimAlgorithm)
    return sign(content, [KEYS[algorithm] for algorithm in chosen], now=NOW) + content


TEXT = st.text(st.sampled_from("ab \t.:;=<>@é"), max_size=40)
LINES = st.lists(st.one_of(TEXT, st.just(""), st.just(" "), st.just(".")), max_size=12)
VALUES = st.lists(TEXT.map(lambda t: t.strip(" \t") or "x"), min_size=1, max_size=3).map(
    "\r\n \t".join
)
NAMES = st.sampled_from(
    ["To", "SUBJECT", "Date", "List-Unsubscribe", "list-id", "X-Any", "Cc", "References"]
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(NAMES, VALUES), max_size=8), LINES, st.booleans())
def test_signatures_over_any_fields_and_body_verify_with_dkimpy(
    fields: list[tuple[str, str]], lines: list[str], ends_in_line: bool
) -> None:
    head = "From: a@example.com\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields)
    body = "\r\n".join(lines) + ("\r\n" if ends_in_line else "")
    content = signed(f"{head}\r\n{body}".encode())
    assert verifies(content, 0)
    assert verifies(content, 1)


@pytest.mark.parametrize("body", [b"", b"\r\n", b"\r\n\r\n\r\n", b" \r\n", b"x", b"x \t", b"\t"])
@pytest.mark.parametrize("algorithm", DkimAlgorithm)
def test_bodies_at_the_edge_verify(body: bytes, algorithm: DkimAlgorithm) -> None:
    assert verifies(signed(b"From: a@example.com\r\n\r\n" + body, algorithm))


@pytest.mark.parametrize("algorithm", DkimAlgorithm)
@pytest.mark.parametrize(
    "field", [b"From: evil@example.com", b"Subject: another", b"Reply-To: evil@example.com"]
)
def test_a_field_that_is_added_breaks_the_signature(algorithm: DkimAlgorithm, field: bytes) -> None:
    content = signed(MESSAGE, algorithm)
    assert verifies(content)
    assert not verifies(field + b"\r\n" + content)


@pytest.mark.parametrize(
    "field",
    [b"From", b"To", b"Cc", b"Subject", b"Date", b"Message-ID", b"Reply-To", b"MIME-Version",
     b"Content-Type", b"Content-Transfer-Encoding", b"List-Unsubscribe", b"List-Unsubscribe-Post",
     b"List-ID", b"In-Reply-To", b"References", b"Sender", b"Feedback-ID", b"CFBL-Address"],
)  # fmt: skip
def test_each_field_that_matters_is_signed_and_so_is_its_absence(field: bytes) -> None:
    """RFC 6376 §8.15; for List-Unsubscribe-Post RFC 8058 §4 asks it, for CFBL RFC 9477 §3.1."""
    present = signed(b"From: a@example.com\r\n" + field + b": one\r\n\r\nx\r\n")
    absent = signed(b"From: a@example.com\r\n\r\nx\r\n")
    for index in (0, 1):
        assert verifies(present, index)
        assert verifies(absent, index)
        assert not verifies(present.replace(b": one", b": two"), index)
        assert not verifies(field + b": more\r\n" + present, index)
        assert not verifies(field + b": more\r\n" + absent, index)


def test_a_field_that_is_named_is_signed_too() -> None:
    key = KEYS[DkimAlgorithm.ED25519_SHA256]
    content = sign(MESSAGE, [key], now=NOW, also=("X-Other", "Subject")) + MESSAGE
    assert verifies(content)
    assert not verifies(content.replace(b"X-Other: not signed", b"X-Other: changed"))
    assert content.count(b"subject:subject:") == 1
    assert b"subject:subject:subject" not in content.replace(b"\r\n  ", b"")


def test_a_changed_body_or_field_breaks_both_signatures() -> None:
    content = signed(MESSAGE)
    for changed in (
        content.replace(b"Hello", b"Hallo"),
        content.replace(b"A <a@", b"B <a@"),
        content + b"more\r\n",
    ):
        assert not verifies(changed, 0)
        assert not verifies(changed, 1)
    assert verifies(content.replace(b"X-Other: not signed", b"X-Other: changed"))


def test_white_space_that_transports_change_does_not_matter() -> None:
    content = signed(MESSAGE)
    changed = content.replace(b"  two   spaces\r\n and", b" two spaces and")
    changed = changed.replace(b"world \t of  space  \r\n\r\n\r\n", b"world of space\r\n")
    assert changed != content
    assert verifies(changed, 0)
    assert verifies(changed, 1)


def test_signature_fields_are_folded_dated_and_cover_the_whole_body() -> None:
    head = sign(MESSAGE, list(KEYS.values()), now=NOW)
    lines = head.decode().split("\r\n")
    assert max(map(len, lines)) <= 78
    assert head.count(b"DKIM-Signature:") == 2
    tags = dict(tag.strip().split("=", 1) for tag in lines_of_first(head).split(";") if tag.strip())
    assert tags["t"] == str(NOW)
    assert tags["c"] == "relaxed/relaxed"
    assert tags["d"] == "example.com"
    assert "l" not in tags
    names = tags["h"].replace(" ", "").split(":")
    assert names.count("from") == names.count("subject") == 2
    assert names.count("list-unsubscribe") == 1
    assert "x-other" not in names


def lines_of_first(head: bytes) -> str:
    """Return the first signature's tags, unfolded."""
    first = head.decode().split("DKIM-Signature:")[1]
    return first.replace("\r\n", "")


def test_no_keys_give_no_field() -> None:
    assert sign(MESSAGE, [], now=NOW) == b""


def test_content_without_a_body_or_a_header_is_signed_all_the_same() -> None:
    assert verifies(signed(b"From: a@example.com\r\n", DkimAlgorithm.RSA_SHA256) + b"\r\n")
    head = sign(b"\r\nonly a body\r\n", [KEYS[DkimAlgorithm.RSA_SHA256]], now=NOW)
    assert head.startswith(b"DKIM-Signature:")


def test_keys_that_cannot_sign_are_refused_with_a_reason_and_never_quoted() -> None:
    curve = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    locked = serialization.load_pem_private_key(
        PEMS[DkimAlgorithm.ED25519_SHA256], None
    ).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    for pem, reason in (
        (b"not a key", "no private key"),
        (b"", "no private key"),
        (locked, "without password"),
        (curve, "RSA or Ed25519"),
    ):
        with pytest.raises(DkimKeyError, match=reason) as caught:
            parse_private_key(pem)
        assert "PRIVATE KEY" not in str(caught.value)


def test_the_public_record_names_its_kind() -> None:
    assert public_record(PEMS[DkimAlgorithm.RSA_SHA256]).startswith("v=DKIM1; k=rsa; p=MIIB")
    assert public_record(PEMS[DkimAlgorithm.ED25519_SHA256]).startswith("v=DKIM1; k=ed25519; p=")
