"""Receivers follow a script, keep the limits of a manner, and count what a lost line left open."""

import asyncio
import math
from dataclasses import replace
from pathlib import Path

import pytest

from lab.manner import Manner, close_after_dot
from lab.receiver import Closing, Receiver, Script, Step
from lab.run import Lab
from lab.tally import Tally
from lab.world import default_world
from tests.io.lab.support import MESSAGE, Dialogue, dialogue, running, until_ended, with_manner


async def test_a_script_answers_each_stage_then_the_manner_returns(lab: Lab) -> None:
    lab.receiver.play(
        Script.of(
            connect=["220-two lines\n220 of greeting"],
            helo=["502 5.5.1 no", None],
            mail=["451 4.3.0 not now"],
            rcpt=["250 2.1.5 ok", "452 4.2.2 full"],
            dot=["451 4.3.0 once more"],
        ),
        provider="accepta",
    )
    async with dialogue(lab) as line:
        assert await line.reply() == "220-two lines\n220 of greeting"
        assert (await line.say("EHLO a")).startswith("502")
        assert (await line.say("EHLO a")).startswith("250")
        assert (await line.say("MAIL FROM:<>")) == "451 4.3.0 not now"
        await line.say("MAIL FROM:<>")
        assert (await line.say("RCPT TO:<a@accepta.test>")) == "250 2.1.5 ok"
        assert (await line.say("RCPT TO:<b@accepta.test>")) == "452 4.2.2 full"
        await line.say("DATA")
        await line.send(MESSAGE % b"again" + b".\r\n")
        assert (await line.reply()) == "451 4.3.0 once more"
        assert (await line.deliver("a@accepta.test", MESSAGE % b"again"))[-1].startswith("250")
    counted = lab.tally.counts()["providers"]["accepta"]
    assert counted["stages"]["deferred at dot"] == 1
    assert counted["stages"]["deferred at rcpt"] == 1
    assert counted["stages"]["deferred at mail"] == 1
    assert counted["accepted"] == 1


async def test_421_closes_and_the_reply_arrives_though_more_was_sent(lab: Lab) -> None:
    lab.receiver.play(Script.of(rcpt=["421 4.7.0 closing"]))
    async with dialogue(lab) as line:
        await line.begin()
        await line.send(b"MAIL FROM:<>\r\n" + b"RCPT TO:<u@accepta.test>\r\n" * 90 + b"DATA\r\n")
        assert (await line.reply()).startswith("250")
        assert (await line.reply()) == "421 4.7.0 closing"
        assert (await line.reply()) == ""


async def test_a_script_per_connection_begins_anew_with_each(lab: Lab) -> None:
    lab.receiver.play(Script.of(is_per_connection=True, mail=["450 4.2.0 first try"]))
    for _ in range(2):
        async with dialogue(lab) as line:
            await line.begin()
            assert (await line.say("MAIL FROM:<>")).startswith("450")
            assert (await line.say("MAIL FROM:<>")).startswith("250")


async def test_garbage_is_written_as_it_stands(lab: Lab) -> None:
    lab.receiver.play(Script.of(mail=[b"what?\n", b"2", None]))
    async with dialogue(lab) as line:
        await line.begin()
        assert (await line.say("MAIL FROM:<>")) == "what?"
        await line.send(b"MAIL FROM:<>\r\nMAIL FROM:<>\r\n")
        assert (await line.reply()).startswith("2250 2.1.0")
    with pytest.raises(ValueError, match="not an SMTP reply line: 'what"):
        Step("what?")


async def test_a_delay_holds_the_reply_and_those_behind_it_not_those_before(lab: Lab) -> None:
    lab.receiver.play(Script.of(rcpt=[Step(None, 0.01), Step(None, math.inf)]))
    async with dialogue(lab) as line:
        await line.begin()
        await line.send(b"MAIL FROM:<>\r\nRCPT TO:<u@accepta.test>\r\nNOOP\r\n")
        assert [(await line.reply())[:9] for _ in range(3)] == [
            "250 2.1.0",
            "250 2.1.5",
            "250 2.0.0",
        ]
        await line.send(b"NOOP\r\nRCPT TO:<v@accepta.test>\r\nNOOP\r\n")
        assert (await line.reply()).startswith("250 2.0.0")
        while not lab.receiver.is_played(host="mx1.accepta.test"):
            await asyncio.sleep(0.001)
        line.reset()
        await until_ended(lab, 1)
    assert lab.tally.endings[0].unanswered == 1  # the first recipient; the second got no answer


@pytest.mark.parametrize("closing", [Closing.INSTEAD, Closing.RESET])
async def test_a_close_after_the_dot_leaves_the_message_unanswered(
    lab: Lab, closing: Closing
) -> None:
    lab.receiver.play(Script.of(dot=[Step(closing=closing)]))
    async with dialogue(lab) as line:
        await line.begin()
        await line.send(b"MAIL FROM:<>\r\nRCPT TO:<u@accepta.test>\r\nDATA\r\n")
        for _ in range(3):
            await line.reply()
        await line.send(MESSAGE % b"lost" + b".\r\n")
        try:
            assert await line.reply() == ""
        except ConnectionResetError:
            assert closing is Closing.RESET
    await until_ended(lab, 1)
    (fact,) = [row for row in lab.tally.rows() if row["kind"] == "fact"]
    assert (fact["fate"], fact["stage"], fact["id"]) == ("unanswered", "dot", "lost")
    assert lab.tally.endings[0].on_the_wire == 1


async def test_what_a_killed_client_left_on_the_wire_is_counted(lab: Lab) -> None:
    lab.receiver.play(Script.of(dot=[None, Step(None, math.inf)]))
    async with dialogue(lab) as line:
        await line.begin()
        await line.deliver("a@accepta.test", MESSAGE % b"k1")
        await line.send(b"MAIL FROM:<>\r\nRCPT TO:<b@accepta.test>\r\nRCPT TO:<c@accepta.test>\r\n")
        await line.send(b"DATA\r\n")
        for _ in range(4):
            await line.reply()
        await line.send(MESSAGE % b"k2" + b".\r\n")
        while not lab.receiver.is_played(host="mx1.accepta.test"):
            await asyncio.sleep(0.001)
        line.reset()
        await until_ended(lab, 1)
    (ending,) = lab.tally.endings
    assert not ending.is_clean
    assert ending.unanswered == 2
    assert ending.on_the_wire == ending.unanswered + ending.just_answered
    unanswered = [row for row in lab.tally.rows() if row.get("fate") == "unanswered"]
    assert [(row["id"], row["recipient"]) for row in unanswered] == [
        ("k2", "b@accepta.test"),
        ("k2", "c@accepta.test"),
    ]


async def test_a_client_that_quits_leaves_nothing_on_the_wire(lab: Lab) -> None:
    async with dialogue(lab) as line:
        await line.begin()
        await line.deliver("a@accepta.test", MESSAGE % b"q")
        await line.say("QUIT")
    await until_ended(lab, 1)
    assert lab.tally.endings[0].is_clean
    assert lab.tally.counts()["total"]["on_the_wire"] == 0


async def test_limits_of_a_provider_are_kept(tmp_path: Path) -> None:
    manner = Manner(max_connections=1, max_messages_per_connection=1, max_recipients=2)
    async with running(tmp_path, with_manner(manner)) as lab, dialogue(lab) as line:
        await line.begin()
        async with dialogue(lab) as second:
            assert (await second.reply()).startswith("421 4.7.0 Too many connections")
        await line.say("MAIL FROM:<>")
        codes = [(await line.say(f"RCPT TO:<u{n}@accepta.test>"))[:3] for n in range(3)]
        assert codes == ["250", "250", "452"]
        await line.say("RSET")
        await line.deliver("u@accepta.test", MESSAGE % b"only")
        assert (await line.say("MAIL FROM:<>")).startswith("421 4.7.0 Too many messages")


async def test_rules_meet_the_same_message_in_the_same_way(tmp_path: Path) -> None:
    async with running(tmp_path, with_manner(Manner(rules=(close_after_dot(0.5),)))) as lab:

        async def try_once(number: int) -> bool:
            async with dialogue(lab) as line:
                await line.begin()
                content = MESSAGE % (b"r%d" % number)
                return (await line.deliver("u@accepta.test", content))[-1].startswith("250")

        first = [await try_once(number) for number in range(20)]
        assert first == [await try_once(number) for number in range(20)]
        assert set(first) == {True, False}


async def test_a_silent_client_is_told_so_and_let_go(tmp_path: Path) -> None:
    world = with_manner(Manner(idle_timeout_s=0.05))
    async with running(tmp_path, world) as lab, dialogue(lab) as line:
        assert [(await line.reply())[:9] for _ in range(2)] == ["220 mx1.a", "421 4.4.2"]
        assert (await line.reply()) == ""


async def test_a_message_without_a_lab_id_is_known_by_its_message_id(lab: Lab) -> None:
    async with dialogue(lab) as line:
        await line.begin()
        await line.deliver("u@accepta.test", b"Message-ID:\r\n <abc@sender.test>\r\n\r\nx\r\n")
        await line.deliver("u@accepta.test", b"Subject: none\r\n\r\nX-Lab-Id: body\r\n")
    first, second = lab.tally.stored_ids()
    assert first == "<abc@sender.test>"
    assert lab.tally.messages("abc@sender.test")[0].lab_id == first
    assert second.startswith("sha256:")


async def test_a_receiver_may_stand_alone_and_host_everything(tmp_path: Path) -> None:
    tally = Tally(tmp_path, ("accepta",))
    world = replace(default_world(), providers=default_world().providers[:1])
    receiver = Receiver(world, tally, tmp_path, hosts_everything=True)
    await receiver.start()
    reader, writer = await asyncio.open_connection("127.0.1.2", receiver.port)
    line = Dialogue(reader, writer)
    await line.begin()
    assert (await line.deliver("u@any.example.com", MESSAGE % b"x"))[-1].startswith("250")
    await line.close()
    await receiver.stop()
    tally.close()
    assert tally.copies("accepta", "x", "u@any.example.com") == 1


async def test_a_second_lab_on_the_same_directory_is_refused(tmp_path: Path, lab: Lab) -> None:
    with pytest.raises(OSError, match="another lab writes this journal"):
        Tally(lab.tally.journal_path.parent, ("accepta",))
