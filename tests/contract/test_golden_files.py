"""Bytes that were stored by a release are read for as long as they may be out there.

`make_golden.py` says how the files are made. A test that fails here says that rows, bells, journals
or mail of a running installation would no longer be understood, or that the form was changed
without giving it a new version.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from mailcore import bells, tokens
from mailcore.bells import ApplyBell, DrainBell, RouteBell, UpkeepBell
from mailcore.errors import SchemaError, TokenError
from mailcore.events import Event, decode_lines, encode_lines, raw_lines
from mailcore.outcome import BounceClass, BounceType
from mailcore.policy import codec, model, words
from mailio.journal import recover
from tests.contract import golden_policy, make_golden
from tests.contract.make_golden import GOLDEN

POLICIES = sorted(GOLDEN.glob("policy_v*.bin"))
BELLS = sorted(GOLDEN.glob("bells_v*.txt"))


def stored(name: str) -> bytes:
    """Return a golden file."""
    return (GOLDEN / name).read_bytes()


def decoded(path: Path) -> model.PolicySnapshot:
    digest = path.with_suffix(".digest").read_text(encoding="ascii").strip()
    return codec.decode(path.read_bytes(), digest=digest, revision=golden_policy.REVISION)


def values(value: Any) -> set[Any]:
    """Return every enum member a value holds, however deep."""
    if is_dataclass(value):
        return set().union(*(values(getattr(value, field.name)) for field in fields(value)))
    if isinstance(value, dict):
        return set().union(*map(values, value.values())) if value else set()
    if isinstance(value, tuple):
        return set().union(*map(values, value)) if value else set()
    return {value} if hasattr(value, "value") else set()


def parts(snapshot: model.PolicySnapshot) -> dict[type, list[Any]]:
    """Return the parts of a snapshot by their type; no kind of part may be left out."""
    held: list[Any] = [*snapshot.bounce_patterns]
    for field in fields(snapshot):
        group = getattr(snapshot, field.name)
        held += group.values() if isinstance(group, dict) else []
    held += [member for pool in snapshot.pools.values() for member in pool.members]
    found: dict[type, list[Any]] = {}
    for one in held:
        found.setdefault(type(one), []).append(one)
    kinds = {kind for kind in vars(model).values() if isinstance(kind, type)}
    assert set(found) == {kind for kind in kinds if is_dataclass(kind)} - {type(snapshot)}
    return found


# --- policy ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.stem)
def test_every_released_policy_schema_is_read_or_refused_by_its_number(path: Path) -> None:
    schema = int(path.stem.removeprefix("policy_v"))
    if schema < codec.OLDEST_READ:
        with pytest.raises(SchemaError, match=f"has schema {schema}"):
            decoded(path)
        return
    snapshot = decoded(path)
    assert snapshot.revision == golden_policy.REVISION
    assert snapshot.senders[1].return_path_domain == "b.example.com"
    assert snapshot.isps[1].add_headers == (("X-Added", "größe"),)
    assert snapshot.sources[2].is_active is False
    assert snapshot.bounce_patterns[0].pattern == r"^55\d .*gone"


def test_this_program_writes_policy_as_its_schema_number_says() -> None:
    """Whoever changes the model raises SCHEMA_VERSION: an older worker refuses unknown fields."""
    name = f"policy_v{model.SCHEMA_VERSION}"
    encoded = codec.encode(golden_policy.policy_sample())
    # Unpacked, for another zlib may pack the same text into other bytes.
    assert zlib.decompress(encoded.body) == zlib.decompress(stored(f"{name}.bin"))
    assert f"{encoded.digest}\n".encode() == stored(f"{name}.digest")
    assert decoded(GOLDEN / f"{name}.bin") == golden_policy.policy_sample()


def test_the_policy_sample_uses_every_field_and_every_word() -> None:
    sample = golden_policy.policy_sample()
    for kind, held in parts(sample).items():
        for field in fields(kind):
            if field.default is not MISSING:
                told = [getattr(one, field.name) for one in held]
                assert any(value != field.default for value in told), f"{kind} {field.name}"
    own = [kind for kind in make_golden.VOCABULARIES if kind.__module__ == words.__name__]
    assert own
    vocabularies: list[type[Enum]] = [*own, BounceClass, BounceType]
    for vocabulary in vocabularies:
        assert set(vocabulary) <= values(sample), vocabulary


# --- bells ----------------------------------------------------------------------------------------


def read_bell(sample: make_golden.Bell, payload: str) -> make_golden.Bell:
    """Read a payload as the task of this bell does."""
    kind: type[DrainBell] | type[RouteBell] | type[ApplyBell] | type[UpkeepBell] = type(sample)
    return kind.from_json(payload)


@pytest.mark.parametrize("path", BELLS, ids=lambda path: path.stem)
def test_bells_of_every_released_version_are_understood(path: Path) -> None:
    payloads = path.read_text(encoding="utf-8").splitlines()
    samples = make_golden.bell_samples()
    assert [read_bell(s, p) for s, p in zip(samples, payloads, strict=True)] == samples


def test_this_program_rings_as_its_version_says() -> None:
    payloads = stored(f"bells_v{bells.SCHEMA}.txt").decode().splitlines()
    assert [bell.to_json() for bell in make_golden.bell_samples()] == payloads


# --- outbox ---------------------------------------------------------------------------------------


def test_an_outbox_body_e1_is_read_whole() -> None:
    assert list(decode_lines(stored("outbox_e1.bin"))) == make_golden.event_samples()


def test_this_program_writes_outbox_bodies_e1() -> None:
    """A field more is allowed in E1, at the end; none may go, move or change its name."""
    ours = encode_lines(make_golden.event_samples())
    assert ours[:2] == b"E1"
    assert raw_lines(ours) == raw_lines(stored("outbox_e1.bin"))


def test_the_full_event_leaves_no_field_empty() -> None:
    full = make_golden.event_samples()[0]
    assert [field.name for field in fields(Event) if getattr(full, field.name) in ("", 0)] == []


# --- journal --------------------------------------------------------------------------------------


def test_a_journal_v1_is_replayed(tmp_path: Path) -> None:
    (tmp_path / "dead.journal").touch()
    (tmp_path / "dead.journal.000001").write_bytes(stored("journal_v1.bin"))
    recovery = recover(tmp_path / "dead.journal")
    assert recovery is not None
    outcomes, dots, settled = make_golden.journal_entries()
    assert recovery.damaged_files == 0
    assert recovery.outcomes == outcomes
    assert recovery.dots == dots
    assert not set(settled) & set(recovery.dots)


def test_this_program_writes_journals_v1() -> None:
    assert make_golden.files()["journal_v1.bin"] == stored("journal_v1.bin")


# --- tokens ---------------------------------------------------------------------------------------


def token_file() -> tuple[dict[int, bytes], UUID, list[tuple[int, int, str]]]:
    """Return the ring, the message and the tokens (key number, recipient number, text)."""
    body = json.loads(stored("tokens_v1.json"))
    ring = {int(number): bytes.fromhex(key) for number, key in body["ring"].items()}
    return ring, UUID(body["message_id"]), [tuple(one) for one in body["tokens"]]


def test_message_tokens_v1_are_read_by_either_key_in_either_case() -> None:
    ring, message_id, shown = token_file()
    assert {key_id for key_id, _, _ in shown} == {1, 2}
    for _, number, text in shown:
        wanted = tokens.MessageToken(message_id, number)
        assert tokens.read(text, ring=ring) == wanted
        assert tokens.read(text.upper(), ring=ring) == wanted
        assert tokens.find_in_local_part(f"b-{text}", ring=ring) == wanted


def test_a_token_of_a_key_that_is_gone_is_refused() -> None:
    ring, _, shown = token_file()
    old = next(text for key_id, _, text in shown if key_id == 1)
    with pytest.raises(TokenError, match="no longer kept"):
        tokens.read(old, ring={2: ring[2]})


def test_this_program_signs_message_tokens_v1() -> None:
    assert [tuple(one) for one in make_golden.token_samples()] == token_file()[2]


# --- words ----------------------------------------------------------------------------------------


def test_no_word_of_a_closed_vocabulary_changes_or_goes() -> None:
    released = json.loads(stored("vocabularies.json"))
    ours = make_golden.vocabularies()
    for name, known in released.items():
        assert {word: ours[name].get(word) for word in known} == known, name


def test_every_word_has_its_place_in_the_golden_file() -> None:
    """A new word is added there too, by `make_golden.py --again`, so that it cannot go unseen."""
    assert make_golden.vocabularies() == json.loads(stored("vocabularies.json"))


# --- the generator --------------------------------------------------------------------------------


def test_the_generator_is_deterministic_and_every_file_is_tested() -> None:
    first = make_golden.files()
    assert first == make_golden.files()
    assert first.keys() <= {path.name for path in GOLDEN.iterdir()}
