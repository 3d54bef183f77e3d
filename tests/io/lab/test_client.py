"""The SMTP client and the lab's receiver are two readings of the same RFCs: they must agree."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lab.manner import Extension, Manner, TlsManner
from mailcore.outcome import Scope
from mailcore.policy.words import TlsMode
from mailcore.ports import WireMessage
from mailcore.transaction import DsnRequest, DsnReturn, Notify
from mailio.smtp import SmtpConnector
from tests.io.lab.support import running, with_manner
from tests.support.smtp_peer import Heard
from tests.support.smtp_session import PATIENT, codes, endpoint, yes

ALL = frozenset(Extension)


@pytest.mark.parametrize("tls", [TlsManner.NONE, TlsManner.REQUIRED])
@pytest.mark.parametrize(
    "extensions", [ALL, ALL - {Extension.CHUNKING}, ALL - {Extension.PIPELINING}, frozenset()]
)
async def test_a_chain_of_messages_is_taken_as_it_was_sent(
    tmp_path: Path, extensions: frozenset[Extension], tls: TlsManner
) -> None:
    manner = Manner(extensions=extensions, tls=tls)
    asked = DsnRequest("e1", DsnReturn.HEADERS, frozenset({Notify.NEVER}), ("old@accepta.test",))
    content = b"X-Lab-Id: %d\r\n\r\n.\r\n..dots\r\n" + (b"y" * 70 + b"\r\n") * 3_000
    async with running(tmp_path, with_manner(manner)) as lab:
        address = lab.world.provider("accepta").mx_hosts[0].address
        where = endpoint(Heard(port=lab.receiver.port), TlsMode.OPPORTUNISTIC, address=address)
        connection = await SmtpConnector(PATIENT).connect(replace(where, source_address=""))
        assert bool(connection.session.tls_version) is (tls is not TlsManner.NONE)
        chain = []
        for number in range(3):
            wire = WireMessage(
                "f@sender.test", ("u@accepta.test", "v@accepta.test"), content % number, dsn=asked
            )
            chain.append(connection.begin(wire, before_dot=yes))
            await chain[-1].content_sent
        told = [codes(await transaction.replies) for transaction in chain]
        await connection.close()
        assert told == [[(250, "dot", Scope.MESSAGE)] * 2] * 3
        for number in range(3):
            (stored,) = lab.tally.messages(str(number))
            assert stored.content == content % number
            assert stored.recipients == ("u@accepta.test", "v@accepta.test")
            assert stored.envid == ("e1" if Extension.DSN in extensions else None)
        assert lab.tally.counts()["total"]["defects"] == {}
