"""A private OpenSMTPD in a jail: it takes mail for two domains into a Maildir, and sends other on.

Takes    the package `opensmtpd`, downloaded and unpacked by make test; root
Gives    OpenSmtpd: port, maildir; relay_to(), log(), queue_size(); kill()
Raises   MissingService, StartError
Follows  smtpd.conf(5), smtpd(8)

Whoever is called nobody is refused at RCPT. STARTTLS is offered; OpenSMTPD 6.8 has neither
PIPELINING nor CHUNKING nor SMTPUTF8, on either side.
"""

from __future__ import annotations

from tests.support.services.base import Daemon, account, environment, free_port, greets
from tests.support.services.jail import (
    LOGIN_DOMAIN,
    MAILDIR,
    OPEN_DOMAIN,
    TLS_DOMAIN,
    Smarthost,
    make_jail,
)
from tests.support.smtp_tls import server_context

_PROGRAM = "/usr/sbin/smtpd"
_DELIVERER = "/usr/libexec/opensmtpd/mail.maildir"
_USERS = {"opensmtpd": 201, "opensmtpq": 202}
_CONFIG = """\
pki peer cert "/etc/server.pem"
pki peer key "/etc/server.pem"
mta limit conn-delay-route 0
table users {{ "@" = "mail" }}
table strangers {{ "nobody@mailbox.test" }}
{tables}
listen on 127.0.0.1 port {port} hostname mx.mailbox.test tls pki peer
action "box" maildir "{maildir}" virtual <users>
{actions}
match from any for rcpt-to <strangers> reject
match from any for domain {{ "mailbox.test", "interop.test" }} action "box"
{matches}
"""


class OpenSmtpd:
    """One instance."""

    name = "opensmtpd"

    def __init__(self) -> None:
        # Deliveries go through a shell.
        self._jail = make_jail(self.name, "opensmtpd", [_PROGRAM, _DELIVERER, "/bin/sh"], _USERS)
        self.port = free_port()
        self.maildir = self._jail.maildir
        self._jail.directory("/var/lib/opensmtpd/empty")
        self._jail.directory("/var/spool/smtpd", mode=0o711)
        self._jail.directory("/var/run")
        server_context(self._jail.top / "etc")
        (self._jail.top / "etc" / "server.pem").chmod(0o600)
        self._configure()
        self.version = self._jail.run(_PROGRAM, "-h").partition("OpenSMTPD ")[2].split()[0]
        self._daemon = Daemon(
            self.name,
            self._jail.argv(_PROGRAM, "-d", "-f", "/etc/smtpd.conf"),
            environment(),
            directory=self._jail.top.parent,
            owner=account("root"),
            ready=lambda: greets(self.port, b"220 "),
        )

    def start(self) -> None:
        """Start it."""
        self._daemon.start()

    def kill(self) -> None:
        """End it as a power cut would."""
        self._daemon.kill()

    def relay_to(self, host: Smarthost) -> None:
        """Send mail for the three relay domains on. It reads this at a start alone."""
        ways = (
            ("open", OPEN_DOMAIN, f"smtp+notls://127.0.0.1:{host.open_port}", ""),
            ("login", LOGIN_DOMAIN, f"smtp+tls://us@127.0.0.1:{host.port}", _SECURE),
            ("tls", TLS_DOMAIN, f"smtps://us@127.0.0.1:{host.tls_port}", _SECURE),
        )
        self._configure(
            tables=f'table logins {{ "us" = "{host.user}:{host.password}" }}',
            actions="\n".join(f'action "{w}" relay host "{u}" {o}' for w, _, u, o in ways),
            matches="\n".join(f'match from any for domain "{d}" action "{w}"' for w, d, *_ in ways),
        )
        self.kill()
        self.start()

    def log(self) -> str:
        """Return what it has logged."""
        return self._daemon.whole_output

    def queue_size(self) -> int:
        """Return how many messages it still has."""
        return len(list((self._jail.top / "var/spool/smtpd/queue").glob("*/*/message")))

    def _configure(self, tables: str = "", actions: str = "", matches: str = "") -> None:
        text = _CONFIG.format(
            port=self.port, maildir=MAILDIR, tables=tables, actions=actions, matches=matches
        )
        self._jail.write("/etc/smtpd.conf", text)


# The certificate is the test's own, and OpenSMTPD trusts what the system trusts.
_SECURE = "tls no-verify auth <logins>"
