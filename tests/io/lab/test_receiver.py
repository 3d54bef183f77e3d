"""Receivers answer as their manner says, take octets as they come, and count every copy."""

import asyncio
import hashlib
import smtplib
from pathlib import Path

import pytest

from lab.content import find_end
from lab.house import GreylistMemory
from lab.manner import Extension, Greylist, Manner, TlsManner, unknown_user
from lab.run import Lab
from tests.io.lab.support import MESSAGE, dialogue, running, until_ended, with_manner


def totals(lab: Lab, provider: str = "accepta") -> dict[str, int]:
    lab.tally.flush()
    found: dict[str, int] = lab.tally.counts()["providers"][provider]
    return found


async def test_smtplib_delivers_and_the_bytes_are_fetched_back(lab: Lab) -> None:
    content = b"X-Lab-Id: one\r\nSubject: hi\r\n\r\n.leading dot\r\n..two\r\n\r\n.\r\nend\r\n"

    def send() -> None:
        with smtplib.SMTP("127.0.1.1", lab.receiver.port, timeout=60) as smtp:
            smtp.sendmail("a@sender.test", ["u@accepta.test"], content)

    await asyncio.to_thread(send)
    (stored,) = lab.tally.messages("one")
    assert stored.content == content
    assert stored.sha256 == hashlib.sha256(content).hexdigest()
    assert stored.recipients == ("u@accepta.test",)
    assert totals(lab)["accepted_unique"] == 1


async def test_every_exchanger_answers_on_its_own_address_and_one_port(lab: Lab) -> None:
    names = set()
    for provider in lab.world.providers:
        for number, host in enumerate(provider.mx_hosts):
            async with dialogue(lab, provider.key, number) as line:
                assert (await line.reply()).startswith(f"220 {host.name} ")
            names.add(host.name)
    assert len(names) == 6


async def test_greylisting_defers_a_stranger_and_takes_him_later(lab: Lab) -> None:
    async with dialogue(lab, "greylisto") as line:
        await line.begin()
        first = await line.deliver("u@greylisto.test", MESSAGE % b"g1")
        again = await line.deliver("u@greylisto.test", MESSAGE % b"g1")
        other = await line.deliver("u@greylisto.test", MESSAGE % b"g2", reverse_path="c@s.test")
        assert [one[1][:9] for one in (first, again, other)] == ["451 4.7.1"] * 3
        assert first[2].startswith("554")
    lab.receiver.set_manner(Manner(greylist=Greylist(after_s=0.05)), provider="greylisto")
    await asyncio.sleep(0.06)
    async with dialogue(lab, "greylisto", 1) as line:  # the other exchanger remembers too
        await line.begin()
        assert (await line.deliver("u@greylisto.test", MESSAGE % b"g1"))[-1].startswith("250")
        assert (await line.deliver("v@greylisto.test", MESSAGE % b"g3"))[1].startswith("451")
    counted = totals(lab, "greylisto")
    assert (counted["deferred"], counted["deferred_unique"]) == (4, 3)
    assert counted["accepted_unique"] == 1


def test_greylisting_counts_from_the_first_sight_of_a_triplet() -> None:
    memory, greylist = GreylistMemory(), Greylist(after_s=10.0)
    triplet = ("127.0.0", "b@sender.test", "u@greylisto.test")
    waits = [memory.wait_s(greylist, triplet, seed=1, now=now) for now in (100.0, 104.0, 110.0)]
    assert waits == [10.0, 6.0, 0.0]
    half = Greylist(after_s=10.0, share=0.5)
    waits = [memory.wait_s(half, ("n", "r", f"u{n}"), seed=1, now=0.0) for n in range(400)]
    assert 160 < waits.count(10.0) < 240


async def test_a_fifth_is_unknown_and_the_same_fifth_every_time(lab: Lab) -> None:
    async def refused() -> set[str]:
        found = set()
        async with dialogue(lab, "refusa") as line:
            await line.begin()
            for start in range(0, 2000, 100):
                people = [f"u{number}@refusa.test" for number in range(start, start + 100)]
                group = ["MAIL FROM:<b@sender.test>", *(f"RCPT TO:<{one}>" for one in people)]
                await line.send("\r\n".join([*group, "RSET", ""]).encode())
                replies = [await line.reply() for _ in range(102)]
                found |= {
                    one
                    for one, reply in zip(people, replies[1:], strict=False)
                    if reply.startswith("550 5.1.1")
                }
        return found

    first, second = await refused(), await refused()
    assert first == second
    assert 0.17 < len(first) / 2000 < 0.23
    counted = totals(lab, "refusa")
    assert counted["refused_unique"] == len(first)
    assert counted["refused"] == 2 * len(first)


async def test_the_seed_decides_who_is_unknown() -> None:
    rule = unknown_user(0.2)
    people = [f"u{number}@refusa.test" for number in range(500)]
    by_seed = [{one for one in people if rule.applies(seed, one)} for seed in (1, 2)]
    assert by_seed[0] != by_seed[1]


async def test_copies_beyond_the_first_are_duplicates(lab: Lab) -> None:
    async with dialogue(lab) as line:
        await line.begin()
        for recipient in ("a@accepta.test", "a@accepta.test", "b@accepta.test", "a@accepta.test"):
            assert (await line.deliver(recipient, MESSAGE % b"same"))[-1].startswith("250")
    counted = totals(lab)
    assert counted["accepted"] == 4
    assert counted["accepted_unique"] == 2
    assert counted["duplicates"] == 2
    assert lab.tally.copies("accepta", "same", "a@accepta.test") == 3


async def test_counts_survive_a_restart_and_a_torn_line(tmp_path: Path) -> None:
    async with running(tmp_path) as lab:
        async with dialogue(lab) as line:
            await line.begin()
            await line.deliver("a@accepta.test", MESSAGE % b"twice")
            await line.deliver("z@elsewhere.test", MESSAGE % b"relay")
        await until_ended(lab, 1)
        before = lab.tally.counts()
    with (tmp_path / "facts.jsonl").open("ab") as journal:
        journal.write(b'{"kind":"fact","fa')
    async with running(tmp_path) as lab:
        assert lab.tally.counts() == before
        async with dialogue(lab) as line:
            await line.begin()
            await line.deliver("a@accepta.test", MESSAGE % b"twice")
        assert totals(lab)["duplicates"] == 1
        assert totals(lab)["transactions_accepted"] == 2
    async with running(tmp_path) as lab:  # what was written behind the torn line is whole
        assert totals(lab)["duplicates"] == 1


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 64])
async def test_a_pipelined_session_in_any_segmentation_is_the_same(lab: Lab, piece: int) -> None:
    bodies = [b"X-Lab-Id: m%d\r\n\r\n..dots\r\n.\r\n" % n for n in range(3)]
    stuffed = [body.replace(b"\r\n.", b"\r\n..") for body in bodies]
    envelope = b"MAIL FROM:<>\r\nRCPT TO:<u@accepta.test>\r\nDATA\r\n"
    stream = envelope + (b".\r\n" + envelope).join(stuffed) + b".\r\nQUIT\r\n"
    async with dialogue(lab) as line:
        await line.begin()
        for at in range(0, len(stream), piece):
            await line.send(stream[at : at + piece])
            if piece < 8 or at % 5:
                await asyncio.sleep(0)
        codes = [(await line.reply())[:3] for _ in range(13)]
    assert codes == ["250", "250", "354", "250"] * 3 + ["221"]
    assert [lab.tally.messages(f"m{n}")[0].content for n in range(3)] == bodies


def test_a_dot_at_the_start_ends_content_and_elsewhere_only_on_a_line_of_its_own() -> None:
    assert find_end(b"DATA\r\n.\r\nQUIT", 6, 6) == (6, 9)
    assert find_end(b"a\r\n.\r\n", 0, 5) == (3, 6)  # the end began before what was searched
    assert find_end(b"a.\r\n", 0, 0) is None
    assert find_end(b".\r\nz", 0, 0, is_start=False) is None  # the start was thrown away


async def test_an_empty_content_and_one_of_dots_alone_are_taken(lab: Lab) -> None:
    async with dialogue(lab) as line:
        await line.begin()
        assert (await line.deliver("u@accepta.test", b""))[-1].startswith("250")
        assert (await line.deliver("u@accepta.test", b"..\r\n...\r\n"))[-1].startswith("250")
    assert lab.tally.messages(lab.tally.stored_ids()[0])[0].content == b""
    assert lab.tally.messages(lab.tally.stored_ids()[1])[0].content == b".\r\n..\r\n"


async def test_a_lone_newline_dot_newline_does_not_end_content(lab: Lab) -> None:
    async with dialogue(lab) as line:
        await line.begin()
        smuggled = MESSAGE % b"s" + b"x\n.\nMAIL FROM:<evil@sender.test>\r\n"
        replies = await line.deliver("u@accepta.test", smuggled)
        assert replies[-1] == "550 5.6.0 Malformed content: bare_newline"
        assert (await line.say("NOOP")).startswith("250")
    counted = lab.tally.counts()["providers"]["accepta"]
    assert counted["defects"] == {"bare_newline": 1}
    assert counted["accepted"] == 0


@pytest.mark.parametrize(
    ("content", "defect"),
    [
        (b"S: x\r\n\r\n" + b"y" * 999 + b"\r\n", "long_line"),
        (b"S: x\r\n\r\na\rb\r\n", "bare_newline"),
        (b"S: x\r\n\r\na\0b\r\n", "nul_octet"),
    ],
)
async def test_malformed_content_is_refused_by_name(lab: Lab, content: bytes, defect: str) -> None:
    async with dialogue(lab) as line:
        await line.begin()
        assert (await line.deliver("u@accepta.test", content))[-1].endswith(defect)
    assert totals(lab)["refused_unique"] == 1


async def test_eight_bit_content_arrives_unchanged_and_undeclared_is_counted(lab: Lab) -> None:
    content = "X-Lab-Id: eight\r\n\r\nGrüße\r\n".encode()
    async with dialogue(lab) as line:
        assert "250-8BITMIME" in await line.begin()
        await line.say("MAIL FROM:<a@sender.test> BODY=8BITMIME")
        await line.say("RCPT TO:<u@accepta.test>")
        await line.say("DATA")
        await line.send(content + b".\r\n")
        assert (await line.reply()).startswith("250")
        assert lab.tally.counts()["total"]["defects"] == {}
        await line.deliver("u@accepta.test", content)
    assert [one.content for one in lab.tally.messages("eight")] == [content, content]
    assert lab.tally.counts()["total"]["defects"] == {"undeclared_8bit": 1}


async def test_oversize_is_refused_by_declaration_and_by_weight(tmp_path: Path) -> None:
    async with running(tmp_path, with_manner(Manner(max_size_bytes=5_000))) as lab:
        async with dialogue(lab) as line:
            assert "SIZE 5000" in await line.begin()
            assert (await line.say("MAIL FROM:<a@s.test> SIZE=5001")).startswith("552 5.3.4")
            for size in (60, 2_000, 200_000):  # over once, and far beyond what is remembered
                content = b"S: x\r\n\r\n" + (b"y" * 98 + b"\r\n") * size
                assert (await line.deliver("u@accepta.test", content))[-1].startswith("552 5.3.4")
            assert (await line.deliver("u@accepta.test", MESSAGE % b"small"))[-1].startswith("250")
        assert totals(lab)["accepted"] == 1


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("MAIL FROM: <a@sender.test>", "501"),
        ("MAIL FROM:<a@sender.test", "501"),
        ("MAIL FROM:<a b@sender.test>", "501 5.1.7"),
        ("MAIL FROM:<ü@sender.test>", "553 5.6.7"),
        ("MAIL FROM:<a@sender.test> SOLICIT=x", "555"),
        ("MAIL FROM:<a@sender.test> SIZE=x", "501"),
        ("MAIL FROM:<a@sender.test> SIZE=1 SIZE=1", "501"),
        ("MAIL FROM:<a@sender.test> BODY=9BIT", "501"),
        ("RCPT TO:<u@accepta.test>", "503"),
        ("DATA", "503"),
        ("AUTH PLAIN x", "502"),
        ("STARTTLS now", "501"),
        ("EHLO ", "501"),
        ("FLY", "500"),
        ("N" * 3000, "500"),
    ],
)
async def test_a_bad_command_gets_its_code_and_the_session_goes_on(
    lab: Lab, command: str, code: str
) -> None:
    async with dialogue(lab) as line:
        await line.begin()
        assert (await line.say(command)).startswith(code)
        assert (await line.deliver("u@accepta.test", MESSAGE % b"ok"))[-1].startswith("250")


@pytest.mark.parametrize(
    ("recipient", "code"),
    [
        ("<>", "501"),
        ("<u@>", "501 5.1.3"),
        ("<u@refusa.test>", "550 5.7.1"),
        ("<u@accepta.test> NOTIFY=NEVER,FAILURE", "501"),
        ("<u@accepta.test> NOTIFY=FAILURE,DELAY ORCPT=rfc822;u@accepta.test", "250"),
        ('<"odd name"@accepta.test>', "250"),
        ("<U@ACCEPTA.test>", "250"),
        ("<ü@accepta.test>", "553 5.6.7"),
    ],
)
async def test_recipients_are_judged_one_by_one(lab: Lab, recipient: str, code: str) -> None:
    async with dialogue(lab) as line:
        await line.begin()
        assert (await line.say("MAIL FROM:<> RET=HDRS ENVID=ab+2Bc")).startswith("250")
        assert (await line.say(f"RCPT TO:{recipient}")).startswith(code)


async def test_an_address_beyond_ascii_goes_with_smtputf8(lab: Lab) -> None:
    async with dialogue(lab) as line:
        await line.begin()
        assert (await line.say("MAIL FROM:<ü@sender.test> SMTPUTF8")).startswith("250")
        assert (await line.say("RCPT TO:<jürgen@accepta.test>")).startswith("250")


async def test_helo_offers_nothing_so_parameters_are_refused(lab: Lab) -> None:
    async with dialogue(lab) as line:
        await line.reply()
        assert await line.say("HELO client.test") == "250 mx1.accepta.test greets 127.0.0.1"
        assert (await line.say("MAIL FROM:<a@sender.test> SIZE=10")).startswith("555")


async def test_a_data_command_followed_by_content_is_counted_as_talking_early(lab: Lab) -> None:
    async with dialogue(lab) as line:
        await line.begin()
        await line.send(b"MAIL FROM:<>\r\nRCPT TO:<u@accepta.test>\r\nDATA\r\nS: x\r\n\r\n.\r\n")
        assert [(await line.reply())[:3] for _ in range(4)] == ["250", "250", "354", "250"]
    assert lab.tally.counts()["total"]["defects"] == {"talked_early": 1}


async def test_starttls_discards_what_was_sent_in_clear_behind_it(lab: Lab) -> None:
    async with dialogue(lab) as line:
        assert "STARTTLS" in await line.begin()
        await line.send(b"STARTTLS\r\nMAIL FROM:<evil@sender.test>\r\n")
        assert (await line.reply()).startswith("220")
        await line.start_tls()
        assert (await line.say("MAIL FROM:<a@sender.test>")).startswith("503")  # EHLO anew
        assert "STARTTLS" not in await line.say("EHLO client.test")
        assert (await line.deliver("u@accepta.test", MESSAGE % b"tls"))[-1].startswith("250")
        assert (await line.say("QUIT")).startswith("221")
    await until_ended(lab, 1)
    counted = lab.tally.counts()["providers"]["accepta"]
    assert counted["defects"] == {"tls_injection": 1}
    assert counted["tls_connections"] == 1
    assert [row["tls"] for row in lab.tally.rows() if row["kind"] == "fact"] == ["TLSv1.3"]


async def test_a_failed_handshake_ends_the_connection_and_is_counted(lab: Lab) -> None:
    async with dialogue(lab) as line:
        await line.begin()
        assert (await line.say("STARTTLS")).startswith("220")
        await line.send(b"this is no handshake\r\n" * 20)
        await until_ended(lab, 1)
    assert totals(lab)["lost_connections"] == 1


async def test_tls_may_be_required(tmp_path: Path) -> None:
    world = with_manner(Manner(tls=TlsManner.REQUIRED))
    async with running(tmp_path, world) as lab, dialogue(lab) as line:
        await line.begin()
        assert (await line.say("MAIL FROM:<a@sender.test>")).startswith("530 5.7.0")
    async with running(tmp_path / "none") as lab, dialogue(lab, "greylisto") as line:
        assert "STARTTLS" not in await line.begin()
        assert (await line.say("STARTTLS")).startswith("502")


async def test_chunking_is_taken_where_it_is_offered(tmp_path: Path) -> None:
    manner = Manner(extensions=frozenset(Extension), max_size_bytes=1_000)
    async with running(tmp_path, with_manner(manner)) as lab:
        async with dialogue(lab) as line:
            assert "CHUNKING" in await line.begin()
            await line.send(
                b"MAIL FROM:<>\r\nRCPT TO:<u@accepta.test>\r\n"
                b"BDAT 20\r\nX-Lab-Id: chunk\r\n\r\n.BDAT 5 LAST\r\n\r\n.\r\n"
            )
            codes = [(await line.reply())[:3] for _ in range(4)]
            assert codes == ["250"] * 4
            await line.send(b"BDAT 2 LAST\r\nxx")
            assert (await line.reply()).startswith("503")
            assert (await line.say("BDAT 1001 LAST")).startswith("552")
        (stored,) = lab.tally.messages("chunk")
        assert stored.content == b"X-Lab-Id: chunk\r\n\r\n." + b"\r\n.\r\n"
