"""Random octets through a real session into a real spool: what got 250 is there, as it was sent."""

from __future__ import annotations

import random
import re

from mailcore.reception.content import find_fault
from tests.support.smtpd import House, Listening, Wire

HEAD = b"From: a@shop.test\r\nContent-Type: application/octet-stream\r\n\r\n"
PIECES = [b"\r\n", b"\r\n.\r\n", b".", b"..", b"\r", b"\n", b"\0", b"\xff", b"QUIT\r\n", b"x" * 900]


def bodies(count: int) -> list[bytes]:
    """Return bodies that end in a line end, many of them with an octet that no line may hold."""
    draw = random.Random(8)
    made = []
    for number in range(count):
        allowed = PIECES if number % 3 == 0 else [one for one in PIECES if not find_fault(one)]
        pieces = [draw.choice((draw.choice(allowed), b"a", b"\r\n")) for _ in range(20)]
        made.append(b"".join(pieces) + b"\r\n")
    return made


def test_what_is_sound_arrives_to_the_octet_and_the_rest_not_at_all(
    house: House, server: Listening
) -> None:
    sound: dict[str, bytes] = {}
    for number, body in enumerate(bodies(60)):
        content = HEAD + body
        for way in ("data", "bdat"):
            recipient = f"{way}{number}@example.com"
            with Wire(server.port) as wire:
                wire.reply()
                wire.ask(b"EHLO x\r\n")
                wire.ask(b"MAIL FROM:<a@shop.test>\r\n")
                wire.ask(f"RCPT TO:<{recipient}>\r\n".encode())
                if way == "data":
                    wire.ask(b"DATA\r\n")
                    said = re.sub(rb"(?m)(\A|(?<=\r\n))\.", b"..", content) + b".\r\n"
                else:
                    cut = len(content) // 2
                    said = b"BDAT %d\r\n" % cut + content[:cut]
                    said += b"BDAT %d LAST\r\n" % len(content[cut:]) + content[cut:]
                    wire.send(said)
                    said = b""
                    assert wire.reply().startswith("250 2.0.0")
                (answer,) = wire.ask(said)
            if find_fault(content):
                assert answer.startswith("554 5.6.0")
            else:
                assert answer.startswith("250 2.0.0")
                sound[recipient] = body
    queued = {recipient: content for recipient, _, content in house.accepted()}
    assert queued.keys() == sound.keys()
    for recipient, body in sound.items():
        longest = max(map(len, body.split(b"\r\n")))
        assert longest > 998 or queued[recipient].endswith(b"\r\n\r\n" + body), recipient
