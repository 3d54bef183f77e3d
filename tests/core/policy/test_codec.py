"""A snapshot as bytes, and back."""

import hashlib
import json
import zlib
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailcore.errors import SchemaError
from mailcore.policy import codec, model, words

IDS = st.integers(0, 9)
TEXT = st.text(max_size=8)
SECONDS = st.floats(0, 1e6, allow_nan=False)


def mapping(values: st.SearchStrategy[Any], key: str) -> st.SearchStrategy[dict[Any, Any]]:
    """Rows by their key, as a snapshot holds them."""
    rows = st.lists(values, max_size=3)
    return rows.map(lambda items: {getattr(item, key): item for item in items})


def built(kind: type, **given_fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(kind, **given_fields)


SNAPSHOTS = st.builds(
    model.PolicySnapshot,
    revision=st.integers(1, 1000),
    accounts=mapping(built(model.Account, id=IDS, name=TEXT, lifetime_s=SECONDS), "id"),
    senders=mapping(built(model.Sender, id=IDS, isp_strategies=st.just(((1, 2), (3, 4)))), "id"),
    sending_domains=mapping(built(model.SendingDomain, id=IDS, domain=TEXT), "domain"),
    pools=mapping(built(model.Pool, id=IDS), "id"),
    sources=mapping(built(model.Source, id=IDS), "id"),
    nodes=mapping(built(model.Node, id=IDS, name=TEXT, dns_timeout_s=SECONDS), "name"),
    isps=mapping(
        built(model.Isp, id=IDS, add_headers=st.just((("X-A", "é\r"),)), domains=st.just(("a.b",))),
        "id",
    ),
    strategies=mapping(
        built(
            model.Strategy,
            id=IDS,
            interval_s=SECONDS,
            helo=st.sampled_from(words.HeloMode),
            tls=st.sampled_from(words.TlsMode),
        ),
        "id",
    ),
    retry_rules=mapping(
        built(
            model.RetryRule,
            id=IDS,
            interval_s=SECONDS,
            exponent=SECONDS,
            mode=st.sampled_from(words.RetryMode),
        ),
        "id",
    ),
    default_rules=mapping(built(model.DefaultRule, id=IDS, unknown_after_s=SECONDS), "id"),
    bounce_patterns=st.lists(built(model.BouncePattern, id=IDS, pattern=TEXT), max_size=2).map(
        tuple
    ),
    dkim_keys=mapping(built(model.DkimKey, id=IDS), "id"),
    default_strategy_id=IDS,
)


def altered(change: Callable[[dict[str, Any]], object]) -> tuple[bytes, str]:
    """Return a stored snapshot whose JSON was changed, with a digest that fits."""
    plain = json.loads(zlib.decompress(codec.encode(SAMPLE).body))
    change(plain)
    text = json.dumps(plain).encode()
    return zlib.compress(text), hashlib.sha256(text).hexdigest()


SAMPLE = model.PolicySnapshot(
    revision=7,
    nodes={"n": model.Node(1, "n")},
    strategies={1: model.Strategy(1, "s", 1, 2, 3, 60.0)},
)


@settings(max_examples=60, deadline=None)
@given(SNAPSHOTS)
def test_every_snapshot_comes_back_as_it_was(snapshot: model.PolicySnapshot) -> None:
    stored = codec.encode(snapshot)
    again = codec.decode(stored.body, digest=stored.digest, revision=snapshot.revision)
    for field in fields(snapshot):
        assert getattr(again, field.name) == getattr(snapshot, field.name), field.name


@settings(max_examples=20, deadline=None)
@given(SNAPSHOTS)
def test_equal_rows_have_equal_digests_whatever_their_number_and_order(
    snapshot: model.PolicySnapshot,
) -> None:
    backwards = dict(reversed(list(snapshot.isps.items())))
    other = replace(snapshot, revision=snapshot.revision + 1, isps=backwards)
    assert codec.encode(other).digest == codec.encode(snapshot).digest


def test_a_decoded_snapshot_cannot_be_changed() -> None:
    stored = codec.encode(SAMPLE)
    again = codec.decode(stored.body, digest=stored.digest, revision=7)
    with pytest.raises(TypeError):
        again.nodes["x"] = model.Node(2, "x")  # type: ignore[index]


def test_bytes_that_do_not_match_their_digest_are_refused() -> None:
    with pytest.raises(SchemaError, match="do not match their digest"):
        codec.decode(codec.encode(SAMPLE).body, digest="0" * 64, revision=1)


@pytest.mark.parametrize("body", [b"", b"nonsense", codec.encode(SAMPLE).body[:-9], b"\x78\x9c"])
def test_damaged_bytes_are_refused(body: bytes) -> None:
    with pytest.raises(SchemaError):
        codec.decode(body, digest="", revision=1)


def test_bytes_with_a_tail_are_refused() -> None:
    stored = codec.encode(SAMPLE)
    with pytest.raises(SchemaError, match="followed by something else"):
        codec.decode(stored.body + b"x", digest=stored.digest, revision=1)


@pytest.mark.parametrize("schema", [0, model.SCHEMA_VERSION + 1, None, "1"])
def test_a_schema_we_do_not_read_is_refused_by_its_number(schema: object) -> None:
    body, digest = altered(lambda plain: plain.update(schema_version=schema))
    with pytest.raises(SchemaError, match=f"has schema {schema!r}"):
        codec.decode(body, digest=digest, revision=3)


def test_what_an_older_snapshot_did_not_have_takes_its_default() -> None:
    body, digest = altered(lambda plain: plain["nodes"]["n"].pop("admin_email"))
    assert codec.decode(body, digest=digest, revision=1).nodes["n"].admin_email == ""


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda plain: plain.update(extra=1), "a field 'extra'"),
        (lambda plain: plain["nodes"]["n"].pop("id"), "nodes/n has no field 'id'"),
        (lambda plain: plain["strategies"]["1"].update(connections="1"), "connections is not int"),
        (lambda plain: plain["strategies"]["1"].update(interval_s=True), "is not a number"),
        (lambda plain: plain["strategies"]["1"].update(helo="loud"), "loud"),
        (lambda plain: plain.update(bounce_patterns={}), "is not a list"),
        (lambda plain: plain.update(nodes=[]), "is not an object"),
        (lambda plain: plain["strategies"].update(x=plain["strategies"]["1"]), "invalid literal"),
    ],
)
def test_a_shape_we_do_not_know_is_refused_by_its_place(
    change: Callable[[dict[str, Any]], object], complaint: str
) -> None:
    body, digest = altered(change)
    with pytest.raises(SchemaError, match=complaint):
        codec.decode(body, digest=digest, revision=1)


def test_what_is_no_object_is_no_snapshot() -> None:
    for text, complaint in ((b"[]", "no snapshot"), (b"{", "no JSON")):
        with pytest.raises(SchemaError, match=complaint):
            codec.decode(zlib.compress(text), digest=hashlib.sha256(text).hexdigest(), revision=1)
