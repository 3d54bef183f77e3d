"""What ports may raise says where, why, and who has to wait."""

import pytest

from mailcore import ports
from mailcore.errors import PostfleetError
from mailcore.outcome import Scope
from mailcore.reply import SmtpReply

KINDS = [
    ports.ConnectFailed,
    ports.TimedOut,
    ports.TlsFailed,
    ports.Disconnected,
    ports.Withheld,
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_line_names_stage_scope_and_reply(kind: type[ports.TransportError]) -> None:
    reply = SmtpReply.local(421, "4.4.2", "gone")
    error = kind(reply, scope=Scope.HOST, stage="rcpt", after_dot=True)
    assert str(error) == "rcpt: 421 4.4.2 gone"
    assert (error.scope, error.stage, error.after_dot) == (Scope.HOST, "rcpt", True)
    assert error.decided == ()
    assert isinstance(error, PostfleetError)


def test_a_store_that_is_away_is_named() -> None:
    error = ports.StoreUnavailable("redis", "refused")
    assert (error.store, error.reason, str(error)) == ("redis", "refused", "redis: refused")


def test_every_name_a_port_module_defines_can_be_had_from_the_package() -> None:
    modules = (
        ports.disk,
        ports.errors,
        ports.happened,
        ports.inbound,
        ports.limits,
        ports.queue,
        ports.wire,
    )
    for module in modules:
        own = [
            name
            for name, value in vars(module).items()
            if isinstance(value, type) and value.__module__ == module.__name__
        ]
        assert own, module
        for name in own:
            assert getattr(ports, name) is getattr(module, name)
