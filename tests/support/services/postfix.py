"""A private Postfix instance out of an unpacked package: it delivers into Dovecot's mailboxes.

Takes    the package `postfix`, downloaded and unpacked by make test (never installed); a Dovecot;
         root, which Postfix's master must be
Gives    Postfix: port; add_user(), route(), relay(), relay_to(), listen(), submission(), log(),
         queue_size(); program() for smtp-source and smtp-sink; kill(), restart()
Raises   MissingService, StartError
Follows  Postfix's postconf(5) and master(5), transport by virtual(8)

Nothing of the system's Postfix is read or written: configuration, queue, data directory and
libraries are the instance's own, and master(8) is started without postfix(1), which would look at
the system's directories. What it needs of the system are two names: an owner of its queue and a
group, for which two of Debian's standing accounts without other use do.

At `mailbox.test` an unknown recipient is refused at RCPT; at any other domain, `late.test` say, it
is accepted and bounces afterwards to the return path. Who is known is read anew for each connection
and each delivery, so a mailbox added to a running instance is there at once. What is relayed goes
to another host: whom that refuses bounces, and what cannot be sent at once makes a warning of
delay. STARTTLS is offered with Dovecot's certificate.
"""

from __future__ import annotations

import grp
import os
import pwd
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from embedded.errors import StartError
from tests.support.services.base import (
    START_S,
    Daemon,
    MissingService,
    account,
    environment,
    free_port,
    greets,
    home,
    is_open,
    write,
)
from tests.support.services.dovecot import Dovecot
from tests.support.services.jail import LOGIN_DOMAIN, OPEN_DOMAIN, TLS_DOMAIN, Smarthost

UNPACKED = Path(__file__).resolve().parents[3] / "var" / "cache" / "packages" / "postfix"
STRICT_DOMAIN = "mailbox.test"
LATE_DOMAIN = "late.test"
# As strict as the first, for tests that need a domain with an exchanger of their own.
REFUSING_DOMAIN = "refusing.test"
_QUEUE_OWNER, _QUEUE_GROUP = "uucp", "news"
_ROOT = account("root")
_QUEUES = (
    *("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming"),
    *("private", "saved", "trace"),
)

_MAIN = """\
compatibility_level = 3.6
queue_directory = {d}/queue
data_directory = {d}/data
command_directory = {p}/usr/sbin
daemon_directory = {p}/usr/lib/postfix/sbin
shlib_directory = {p}/usr/lib/postfix
meta_directory = {d}/conf
mail_owner = {owner}
setgid_group = {group}
import_environment = LD_LIBRARY_PATH PATH LC_ALL TZ MAIL_CONFIG
export_environment = TZ PATH
maillog_file = {d}/log/mail.log
maillog_file_prefixes = {d}
myhostname = mx.mailbox.test
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
alias_database =
local_recipient_maps =
local_transport = error:5.1.1 no local mailboxes
default_transport = error:5.7.1 this server sends nothing to other hosts
relayhost =
smtpd_relay_restrictions = permit_auth_destination, reject
smtpd_recipient_restrictions =
    check_recipient_access inline:{{
        {strict}=reject_unlisted_recipient, {refusing}=reject_unlisted_recipient }}
smtpd_reject_unlisted_recipient = no
smtpd_reject_unlisted_sender = no
smtpd_client_connection_count_limit = 0
smtpd_peername_lookup = no
virtual_mailbox_domains = static:mail
virtual_mailbox_maps = texthash:{d}/conf/mailboxes
virtual_mailbox_base = {mail}
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
virtual_minimum_uid = 1
virtual_mailbox_limit = 0
virtual_alias_maps =
transport_maps = texthash:{d}/conf/relays
delay_warning_time = 1s
smtpd_tls_security_level = may
smtpd_tls_cert_file = {cert}
smtpd_tls_key_file = {key}
message_size_limit = 52428800
in_flow_delay = 0s
"""
_MASTER = """\
{listeners}
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
error unix - - n - - error
retry unix - - n - - error
smtp unix - - n - - smtp
{transports}
virtual unix - n n - - virtual -o max_use=1
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""


class Postfix:
    """One instance."""

    name = "postfix"

    def __init__(self, dovecot: Dovecot) -> None:
        master = UNPACKED / "usr/lib/postfix/sbin/master"
        if not master.is_file():
            raise MissingService("postfix is not unpacked (make test does so where apt-get is)")
        if os.geteuid() != 0:
            raise MissingService("postfix: only root can run its master")
        self.version = _version()
        self.port = free_port()
        self._dovecot = dovecot
        self._routes: dict[str, str] = {}
        self._relays: dict[str, str] = {}
        self._listeners = [_listener("127.0.0.1", self.port, {})]
        self._transports: list[str] = []
        self._directory = home(self.name, _ROOT, "conf", "queue", "data", "log")
        self._prepare()
        argv: list[str | Path] = [master, "-c", self._directory / "conf", "-d"]
        libraries = str(UNPACKED / "usr/lib/postfix")
        self._daemon = Daemon(
            self.name,
            argv,
            environment(LD_LIBRARY_PATH=libraries, MAIL_CONFIG=str(self._directory / "conf")),
            directory=self._directory / "queue",
            owner=_ROOT,
            ready=lambda: greets(self.port, b"220 "),
        )

    @property
    def pid(self) -> int | None:
        """Its master, while it runs."""
        return self._daemon.pid

    def start(self) -> None:
        """Start it on the queue it has."""
        self._daemon.start()

    def kill(self) -> None:
        """End it as a power cut would."""
        self._daemon.kill()

    def restart(self) -> None:
        """Kill it and start it on the same queue."""
        self.kill()
        self.start()

    def add_user(self, user: str, password: str | None = None) -> str:
        """Make a mailbox in Dovecot that takes mail at both domains; return its password."""
        word = self._dovecot.add_user(user, password)
        self._routes |= {f"{user}@{domain}": user for domain in (STRICT_DOMAIN, LATE_DOMAIN)}
        self._write_mailboxes()
        return word

    def route(self, pattern: str, user: str) -> None:
        """Put mail for an address, or for everybody at `@domain`, into the mailbox of a user."""
        self._dovecot.maildir(user)
        self._routes[pattern.lower()] = user
        self._write_mailboxes()

    def relay(self, domain: str, address: str, port: int) -> None:
        """Send mail for a domain on to another host."""
        self._relays[domain.lower()] = f"smtp:[{address}]:{port}"
        self._write_relays()
        self._reload()

    def relay_to(self, host: Smarthost) -> None:
        """Send mail for the three relay domains on."""
        login = {
            "smtp_tls_security_level": "secure",
            "smtp_tls_CAfile": str(host.certificate),
            "smtp_tls_secure_cert_match": host.host,
            "smtp_sasl_auth_enable": "yes",
            "smtp_sasl_security_options": "noanonymous",
            "smtp_sasl_password_maps": f"static:{host.user}:{host.password}",
        }
        ways: tuple[tuple[str, int, Mapping[str, str]], ...] = (
            (OPEN_DOMAIN, host.open_port, {}),
            (LOGIN_DOMAIN, host.port, login),
            (TLS_DOMAIN, host.tls_port, {**login, "smtp_tls_wrappermode": "yes"}),
        )
        self._transports = []
        for domain, port, options in ways:
            name = domain.partition(".")[0]
            self._transports.append(f"{name} unix - - n - - smtp{_overrides(options)}")
            self._relays[domain] = f"{name}:[127.0.0.1]:{port}"
        self._write_relays()
        # A port of its own tells when all this is read.
        self.listen("127.0.0.1", free_port())

    def listen(self, address: str, port: int) -> None:
        """Take mail at another address, too; return when it does."""
        self._listen((address, port, {}))

    def submission(self, *variants: Mapping[str, str]) -> list[int]:
        """Take mail of Dovecot's users alone, at a port for each of these options of smtpd(8)."""
        login = {
            "smtpd_sasl_auth_enable": "yes",
            "smtpd_sasl_type": "dovecot",
            "smtpd_sasl_path": f"inet:127.0.0.1:{self._dovecot.sasl_port}",
            "smtpd_client_restrictions": "permit_sasl_authenticated, reject",
            "smtpd_relay_restrictions": "permit_sasl_authenticated, reject",
        }
        ports = [free_port() for _ in variants]
        chosen = zip(ports, variants, strict=True)
        self._listen(*(("127.0.0.1", port, {**login, **each}) for port, each in chosen))
        return ports

    def log(self) -> str:
        """Return what it has logged."""
        path = self._directory / "log" / "mail.log"
        return path.read_text(errors="replace") if path.exists() else self._daemon.output

    def queue_size(self) -> int:
        """Return how many messages it still has."""
        folders = (self._directory / "queue" / name for name in ("incoming", "active", "deferred"))
        return sum(1 for folder in folders for path in folder.rglob("*") if path.is_file())

    def _prepare(self) -> None:
        queue_owner, queue_group = pwd.getpwnam(_QUEUE_OWNER), grp.getgrnam(_QUEUE_GROUP)
        top = self._directory
        # Its daemons run as several users, each of which has to pass through.
        for path in (top, top / "conf", top / "queue", top / "log"):
            path.chmod(0o755)
        os.chown(top / "data", queue_owner.pw_uid, queue_owner.pw_gid)
        for name in (*_QUEUES, "maildrop", "public", "pid"):
            (top / "queue" / name).mkdir(mode=0o700)
        for name in _QUEUES:
            os.chown(top / "queue" / name, queue_owner.pw_uid, -1)
        for name, mode in (("maildrop", 0o1730), ("public", 0o710)):
            os.chown(top / "queue" / name, queue_owner.pw_uid, queue_group.gr_gid)
            (top / "queue" / name).chmod(mode)
        (top / "queue" / "pid").chmod(0o755)
        main = _MAIN.format(
            d=top,
            p=UNPACKED,
            owner=_QUEUE_OWNER,
            group=_QUEUE_GROUP,
            strict=STRICT_DOMAIN,
            refusing=REFUSING_DOMAIN,
            mail=self._dovecot.mail_directory,
            uid=self._dovecot.uid,
            gid=self._dovecot.gid,
            cert=self._dovecot.certificate,
            key=self._dovecot.certificate.with_name("key.pem"),
        )
        write(top / "conf" / "main.cf", main, _ROOT, mode=0o644)
        self._write_services()
        self._write_relays()
        self._write_mailboxes()

    def _listen(self, *more: tuple[str, int, Mapping[str, str]]) -> None:
        self._listeners += [_listener(*one) for one in more]
        self._write_services()
        self._reload()
        deadline = time.monotonic() + START_S
        for address, port, _ in more:
            while not is_open(port, address):
                if time.monotonic() > deadline:
                    raise StartError(self.name, f"nobody listens at {address}:{port}")
                time.sleep(0.02)  # noqa: TID251 - between two looks at another process

    def _reload(self) -> None:
        """Let a running instance read its configuration anew."""
        if (pid := self.pid) is not None:
            os.kill(pid, signal.SIGHUP)

    def _write_services(self) -> None:
        text = _MASTER.format(
            listeners="\n".join(self._listeners), transports="\n".join(self._transports)
        )
        write(self._directory / "conf" / "master.cf", text, _ROOT, mode=0o644)

    def _write_relays(self) -> None:
        text = "".join(f"{domain} {where}\n" for domain, where in self._relays.items())
        self._write_table("relays", text)

    def _write_mailboxes(self) -> None:
        text = "".join(f"{who} {user}/Maildir/\n" for who, user in self._routes.items())
        self._write_table("mailboxes", text)

    def _write_table(self, name: str, text: str) -> None:
        path = self._directory / "conf" / name
        draft = write(path.with_suffix(".new"), text, _ROOT, mode=0o644)
        # It would wait two seconds for a table that changed just now, lest half of it be read.
        os.utime(draft, (0, time.time() - 60))
        draft.rename(path)


def _listener(address: str, port: int, options: Mapping[str, str]) -> str:
    return f"{address}:{port} inet n - n - - smtpd -o max_use=1{_overrides(options)}"


def _overrides(options: Mapping[str, str]) -> str:
    return "".join(f" -o {{ {name} = {value} }}" for name, value in options.items())


def program(name: str) -> tuple[Path, dict[str, str]]:
    """Return one of the package's tools (smtp-source, smtp-sink) and the environment it needs."""
    path = UNPACKED / "usr/sbin" / name
    if not path.is_file():
        raise MissingService("postfix is not unpacked (make test does so where apt-get is)")
    return path, environment(LD_LIBRARY_PATH=str(UNPACKED / "usr/lib/postfix"))


def _version() -> str:
    path, env = program("postconf")
    argv: list[str | Path] = [
        path,
        "-c",
        UNPACKED / "usr/share/postfix",
        "-d",
        "-h",
        "mail_version",
    ]
    said = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    return said.stdout.strip() or "?"
