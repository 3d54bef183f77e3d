"""Bells survive the broker as text, and what is no bell is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailcore.bells import ApplyBell, DrainBell, Path, RouteBell, UpkeepBell
from mailcore.errors import SchemaError
from mailcore.outcome import MailClass

BELLS = (
    DrainBell("n1", MailClass.PRIORITY, (Path(1, "mx.example.com"), Path(2, "mx.example.net"))),
    DrainBell("n1", MailClass.MAIN, (), is_retry=True),
    RouteBell(),
    ApplyBell("statistics"),
    UpkeepBell(),
    UpkeepBell("n2"),
)
Bell = DrainBell | RouteBell | ApplyBell | UpkeepBell


@pytest.mark.parametrize("bell", BELLS, ids=repr)
def test_a_bell_comes_out_as_it_went_in(bell: Bell) -> None:
    assert type(bell).from_json(bell.to_json()) == bell


@given(
    node=st.text(max_size=20),
    mail_class=st.sampled_from(MailClass),
    paths=st.lists(st.builds(Path, st.integers(), st.text(max_size=30)), max_size=100),
    is_retry=st.booleans(),
)
def test_any_drain_bell_comes_out_as_it_went_in(
    node: str, mail_class: MailClass, paths: list[Path], is_retry: bool
) -> None:
    bell = DrainBell(node, mail_class, tuple(paths), is_retry)
    assert DrainBell.from_json(bell.to_json()) == bell


@pytest.mark.parametrize("kind", [DrainBell, RouteBell, ApplyBell, UpkeepBell])
@pytest.mark.parametrize("payload", ["", "no json", "[]", "{}", '{"v":2}', '{"v":"1"}', "null"])
def test_what_is_no_bell_of_a_known_version_is_refused(kind: type[Bell], payload: str) -> None:
    with pytest.raises(SchemaError, match="a bell"):
        kind.from_json(payload)


@pytest.mark.parametrize(
    "change",
    [
        {"node": None, "class": 9},
        {"class": "main"},
        {"paths": [["a", "mx"]]},
        {"paths": [[1]]},
        {"paths": 3},
        {"class": None},
    ],
)
def test_a_drain_bell_with_a_wrong_field_is_refused(change: dict[str, object]) -> None:
    body = json.loads(BELLS[0].to_json()) | change
    with pytest.raises(SchemaError, match="drain bell"):
        DrainBell.from_json(json.dumps(body))


@pytest.mark.parametrize("field", ["node", "class", "paths", "retry"])
def test_a_drain_bell_that_lacks_a_field_is_refused(field: str) -> None:
    body = json.loads(BELLS[0].to_json())
    del body[field]
    with pytest.raises(SchemaError, match=field):
        DrainBell.from_json(json.dumps(body))


def test_an_apply_bell_names_its_consumer() -> None:
    with pytest.raises(SchemaError, match="consumer"):
        ApplyBell.from_json('{"v":1}')


def test_a_newer_writers_extra_fields_are_passed_over() -> None:
    body = json.loads(UpkeepBell("n2").to_json()) | {"later": True}
    assert UpkeepBell.from_json(json.dumps(body)) == UpkeepBell("n2")


def test_paths_have_an_order_and_a_key_of_their_own() -> None:
    assert sorted([Path(2, "a"), Path(1, "b"), Path(1, "a")])[0] == Path(1, "a")
    assert Path(7, "mx.example.com").key == "7:mx.example.com"


@pytest.mark.parametrize(
    ("bell", "words"),
    [
        (
            DrainBell("n1", MailClass.PRIORITY, (Path(7, "mx.example.com"),)),
            "n1 priority, 1 path: 7:mx.example.com",
        ),
        (
            DrainBell("n1", MailClass.MAIN, tuple(Path(n, "a") for n in range(100)), is_retry=True),
            "n1 main retry, 100 paths: 0:a, 1:a, 2:a, 3:a, 4:a …",
        ),
        (RouteBell(), "unrouted lanes"),
        (ApplyBell("statistics"), "statistics"),
        (UpkeepBell("n2"), "n2"),
        (UpkeepBell(), "any node"),
    ],
)
def test_a_bell_can_be_read_by_people(
    bell: DrainBell | RouteBell | ApplyBell | UpkeepBell, words: str
) -> None:
    assert bell.words == words
