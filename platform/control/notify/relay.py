"""One message to the relay of an installation, so that system mail leaves when our own queue is
what is broken.

Gives    send_by_relay; Relay, where and how
Raises   NotSent: worth another try; Undeliverable: the relay will never take this message
Follows  reference/admin-panel.md §6.2; RFC 3207 (STARTTLS), RFC 8314 §3.3 (implicit TLS)

The wire is Django's mail backend. TLS is asked for unless the relay is said to have none, so that
nobody on the way can make a password go in clear by hiding STARTTLS.
"""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import re
import socket
import ssl
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

from django.core.mail import EmailMultiAlternatives
from django.core.mail.backends.smtp import EmailBackend
from django.utils.translation import gettext as _

from control.notify.errors import NotSent, Undeliverable
from control.notify.letters import Mail, span
from mailio.relay_session import Deadline, TimedSmtp, TimedSmtps

# Long, for a relay that looks at a message before it takes it: to give up sooner makes a copy.
SESSION_S = 60.0
IMPLICIT_TLS_PORT = 465
# RFC 3463 §3.2: the address is bad. Any other refusal may be about us, and is mended by people.
_NO_SUCH_ADDRESS = re.compile(r"5\d\d 5\.1\.")


@dataclass(frozen=True, slots=True)
class Relay:
    """Where the relay is and how it is spoken to."""

    host: str
    port: int
    login: str = ""
    password: str = field(default="", repr=False)
    helo: str = ""
    is_insecure: bool = False
    without_tls: bool = False
    is_confined: bool = False  # lab: to loopback alone


class _Backend(EmailBackend):
    """Django's, with a HELO name and a certificate check of the operator's choice."""

    def __init__(self, relay: Relay, deadline: Deadline) -> None:
        is_implicit = relay.port == IMPLICIT_TLS_PORT and not relay.without_tls
        super().__init__(
            host=relay.host,
            port=relay.port,
            username=relay.login,
            password=relay.password,
            use_ssl=is_implicit,
            use_tls=not is_implicit and not relay.without_tls,
            timeout=int(deadline.seconds) + 1,  # the deadline comes first
        )
        self._relay = relay
        self._deadline = deadline

    @property
    def connection_class(self) -> Any:
        named = {"local_hostname": self._relay.helo} if self._relay.helo else {}
        # Django's own options say `local_hostname` too; it is ours that counts.
        return partial(_connect, TimedSmtps if self.use_ssl else TimedSmtp, self._deadline, named)

    @cached_property
    def ssl_context(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        if self._relay.is_insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def _connect(
    client: Any, deadline: Deadline, named: dict[str, str], host: str, port: int, **options: Any
) -> Any:
    return client(host, port, deadline=deadline, **(options | named))


def send_by_relay(relay: Relay, mail: Mail, *, session_s: float = SESSION_S) -> None:
    """Hand one message to the relay; return once it has taken it."""
    if relay.is_confined:
        _check_loopback(relay)
    message = EmailMultiAlternatives(
        subject=mail.subject,
        body=mail.text,
        from_email=mail.sender,  # the return path too: an answer to it reaches people
        to=[mail.recipient],
        headers={**mail.headers, "From": mail.header_from, "Message-ID": mail.message_id_header},
    )
    message.attach_alternative(mail.html, "text/html")
    deadline = Deadline(session_s)
    backend = _Backend(relay, deadline)
    try:
        backend.send_messages([message])
    except (OSError, ValueError) as exc:  # smtplib's own errors are OSErrors
        _refuse(relay, exc, deadline)
    finally:
        with contextlib.suppress(OSError):
            backend.close()  # a session that failed half way is still open
        deadline.close()


def _refuse(relay: Relay, exc: Exception, deadline: Deadline) -> None:
    place = f"{relay.host}:{relay.port}"
    if deadline.is_over:
        late = _("%(relay)s did not take it within %(time)s")
        raise NotSent(late % {"relay": place, "time": span(deadline.seconds)}) from exc
    said = _without_password(relay, _words_of(exc))
    if _NO_SUCH_ADDRESS.match(said):
        raise Undeliverable(_("%(relay)s refused it: %(said)s") % {"relay": place, "said": said})
    hint = ""
    if isinstance(exc, ssl.SSLCertVerificationError):
        hint = _(" (tick “do not verify the certificate” only if you know whose it is)")
    elif "STARTTLS" in said:
        hint = _(" (tick “without TLS” if the line to it is trusted)")
    raise NotSent(f"{place}: {said}{hint}") from exc


def _without_password(relay: Relay, said: str) -> str:
    """Blot out the password in what a relay says: some repeat the command that they refuse."""
    if not relay.password:
        return said
    clear = relay.password.encode()
    forms = (clear, b"\0%b\0%b" % (relay.login.encode(), clear))
    for form in (relay.password, *(base64.b64encode(one).decode() for one in forms)):
        said = said.replace(form, "…")
    return said


def _words_of(exc: Exception) -> str:
    """Return the relay's reply, or what went wrong before there was one."""
    if isinstance(exc, UnicodeEncodeError):
        return _("only ASCII can be said there: look at login, password and addresses")
    refused = getattr(exc, "recipients", None)
    if isinstance(refused, dict) and refused:
        code, text = next(iter(refused.values()))
        return f"{code} {_text(text)}"
    code = getattr(exc, "smtp_code", 0)
    if code:
        return f"{code} {_text(getattr(exc, 'smtp_error', ''))}"
    return str(exc) or type(exc).__name__


def _text(said: object) -> str:
    return said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)


def _check_loopback(relay: Relay) -> None:
    try:
        found = socket.getaddrinfo(relay.host, relay.port, type=socket.SOCK_STREAM)
    except OSError as exc:
        raise NotSent(f"{relay.host}: {exc.strerror or exc}") from exc
    for *_rest, address in found:
        if not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback:
            raise NotSent(
                _("%s is another machine, and in the lab nothing leaves this one") % relay.host
            )
