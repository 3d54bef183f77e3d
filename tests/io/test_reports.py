"""Reports to senders at the front door: what they are made from, and each once."""

from __future__ import annotations

from mailcore.address import ForwardPath, ReversePath
from mailcore.dsn import DsnFacts
from mailcore.envelope import Recipient
from mailcore.events import recipient_hash
from mailcore.ports import KeyedMail
from mailio.intake import RequestKey
from mailio.reports import SpoolReportDoor
from tests.io.test_intake import CONTENT, World, ids, plan, request
from tests.io.test_intake import database as database
from tests.io.test_intake import world as world


def test_who_is_stopped_at_the_door_can_be_reported_with_what_was_sent(world: World) -> None:
    world.query(
        "INSERT INTO stop_entry (recipient_hash, recipient, reason) VALUES (%s, 'a', 'manual')",
        recipient_hash("a@x.test"),
    )
    smtp = (Recipient(0, ForwardPath.parse("a@x.test"), "S Eenv"),)
    world.intake.submit(request(plan("a@x.test", recipients=smtp)))
    world.intake.submit(request(plan("a@x.test")))  # by HTTP
    world.intake.submit(
        request(plan("a@x.test", recipients=smtp, reverse_path=ReversePath("", "")))
    )
    told, *others = [e for e in world.events() if e.kind == "stopped"]
    facts = DsnFacts.parse(told.dsn)
    assert (facts.order.envid, facts.reverse_path) == ("env", "news@shop.test")
    assert world.spool.read_now([facts.content]) == [CONTENT]
    assert [e.dsn for e in others] == ["", ""]


def test_our_own_mail_is_queued_once_under_its_key_whoever_repeats_it(world: World) -> None:
    def mail(key: str) -> KeyedMail:
        return KeyedMail(key, plan("news@shop.test").submission, 60.0, 9)

    door = SpoolReportDoor(world.intake, world.spool)
    assert not door.is_known("one")
    door.submit([mail("one"), mail("two"), mail("one")])
    again = SpoolReportDoor(world.intake, world.spool)  # as after a crash
    again.submit([mail("two"), mail("three")])
    assert again.is_known("one")
    assert len(world.rows()) == 3
    assert len(world.query("SELECT 1 FROM ledger_idempotency WHERE account_id = 0")) == 3
    # A client may call its own request the same.
    world.intake.submit(request(plan("x@x.test"), key=RequestKey(1, "one", b"h"), answer=ids))
    assert len(world.rows()) == 4
