"""A private Exim in a jail: it takes mail for two domains into a Maildir, and sends other on.

Takes    the package `exim4-daemon-light`, downloaded and unpacked by make test; root
Gives    Exim: port, maildir; relay_to(), log(), queue_size(); kill()
Raises   MissingService, StartError
Follows  Exim's specification: -bdf, appendfile, manualroute, the ACLs

Whoever is called nobody is refused at RCPT. STARTTLS and CHUNKING are offered; Exim 4.96 has no
enhanced status codes. As a client it sends BDAT wherever it is offered.
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

_PROGRAM = "/usr/sbin/exim4"
_USER, _NUMBER = "Debian-exim", 101
_CONFIG = """\
primary_hostname = mx.mailbox.test
daemon_smtp_ports = {port}
local_interfaces = 127.0.0.1
keep_environment =
host_lookup =
rfc1413_query_timeout = 0s
log_file_path = /var/log/exim4/%slog
log_selector = +smtp_confirmation +tls_cipher
smtputf8_advertise_hosts = *
chunking_advertise_hosts = *
tls_advertise_hosts = *
tls_certificate = /etc/server.pem
smtp_accept_max = 100
smtp_accept_queue_per_connection = 0
acl_smtp_rcpt = rcpt
acl_smtp_data = accept

begin acl
rcpt:
  deny
    local_parts = nobody
    message = 5.1.1 no such user
  accept
    domains = mailbox.test : interop.test : *.relay.test
  deny
    message = 5.7.1 no relaying

begin routers
{relays}
box:
  driver = accept
  domains = mailbox.test : interop.test
  transport = box

begin transports
box:
  driver = appendfile
  directory = {maildir}
  maildir_format
  create_directory
  envelope_to_add
  return_path_add
  user = mail
open:
  driver = smtp
  hosts_avoid_tls = *
login:
  driver = smtp
  hosts_require_tls = *
  hosts_require_auth = *
  tls_verify_certificates = /etc/smarthost.pem
  tls_verify_cert_hostnames =
  tls_verify_hosts = *
tls:
  driver = smtp
  protocol = smtps
  hosts_require_tls = *
  hosts_require_auth = *
  tls_verify_certificates = /etc/smarthost.pem
  tls_verify_cert_hostnames =
  tls_verify_hosts = *

begin retry
* * F,1m,1s

begin authenticators
{logins}
"""
_RELAY = """\
{way}:
  driver = manualroute
  domains = {domain}
  transport = {way}
  route_list = * 127.0.0.1::{port}
  self = send
"""
_LOGIN = """\
plain:
  driver = plaintext
  public_name = PLAIN
  client_send = ^{user}^{password}
"""


class Exim:
    """One instance."""

    name = "exim"

    def __init__(self) -> None:
        self._jail = make_jail(self.name, "exim4-daemon-light", [_PROGRAM], {_USER: _NUMBER})
        self.port = free_port()
        self.maildir = self._jail.maildir
        for path in ("/var/spool/exim4", "/var/log/exim4"):
            self._jail.directory(path, owner=_NUMBER, mode=0o750)
        self._jail.directory("/etc/exim4")
        server_context(self._jail.top / "etc")
        # Exim reads it when it is Debian-exim already.
        (self._jail.top / "etc" / "server.pem").chmod(0o644)
        self._configure("", "")
        self.version = self._jail.run(_PROGRAM, "-bV").partition("Exim version ")[2].split(" ")[0]
        self._daemon = Daemon(
            self.name,
            self._jail.argv(_PROGRAM, "-bdf"),
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
        """Send mail for the three relay domains on; each delivery reads this anew."""
        self._jail.write("/etc/smarthost.pem", host.certificate.read_text())
        ways = (
            ("open", OPEN_DOMAIN, host.open_port),
            ("login", LOGIN_DOMAIN, host.port),
            ("tls", TLS_DOMAIN, host.tls_port),
        )
        relays = "".join(_RELAY.format(way=w, domain=d, port=p) for w, d, p in ways)
        self._configure(relays, _LOGIN.format(user=host.user, password=host.password))

    def log(self) -> str:
        """Return what it has logged."""
        logs = (self._jail.top / "var/log/exim4").glob("*log")
        return "".join(path.read_text(errors="replace") for path in sorted(logs))

    def queue_size(self) -> int:
        """Return how many messages it still has."""
        return len(list((self._jail.top / "var/spool/exim4/input").glob("*-H")))

    def _configure(self, relays: str, logins: str) -> None:
        text = _CONFIG.format(port=self.port, maildir=MAILDIR, relays=relays, logins=logins)
        self._jail.write("/etc/exim4/exim4.conf", text)
