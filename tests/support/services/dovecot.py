"""A private Dovecot: mailboxes over POP3 and IMAP, in the clear, with STLS and in TLS; logins for
others to ask about.

Takes    Debian's dovecot-pop3d and dovecot-imapd
Gives    Dovecot: pop3_port, pop3s_port, imap_port, imaps_port, sasl_port, certificate; add_user(),
         deliver(), maildir(); kill(), restart()
Raises   MissingService, StartError; KeyError for mail to a user who was not added

All of it runs as one user without rights, so no privilege is ever changed. Mail is put in as any
delivery agent does: written to `tmp`, renamed to `new`.
"""

from __future__ import annotations

import grp
import itertools
import os
import secrets
import ssl
import subprocess
import time
from pathlib import Path

from tests.support.services.base import (
    Daemon,
    account,
    environment,
    free_port,
    greets,
    home,
    is_open,
    require,
    write,
)

_PROGRAMS = {"dovecot-pop3d": "/usr/lib/dovecot/pop3", "dovecot-imapd": "/usr/lib/dovecot/imap"}
_CONFIG = """\
base_dir = {d}/run
state_dir = {d}/state
log_path = /dev/stderr
protocols = pop3 imap
listen = 127.0.0.1
ssl = yes
ssl_cert = <{d}/cert.pem
ssl_key = <{d}/key.pem
disable_plaintext_auth = no
auth_mechanisms = plain login cram-md5
auth_failure_delay = 0
default_internal_user = {user}
default_internal_group = {group}
default_login_user = {user}
first_valid_uid = 1
mail_uid = {uid}
mail_gid = {gid}
mail_home = {d}/mail/%n
mail_location = maildir:{d}/mail/%n/Maildir
mail_fsync = never
pop3_uidl_format = %08Xu%08Xv
passdb {{
  driver = passwd-file
  args = scheme=PLAIN username_format=%n {d}/users/%n
}}
userdb {{
  driver = static
  args = uid={uid} gid={gid} home={d}/mail/%n
}}
service anvil {{
  chroot =
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service stats {{
  chroot =
}}
service auth {{
  inet_listener {{
    port = {sasl}
  }}
}}
service pop3-login {{
  chroot =
  inet_listener pop3 {{
    port = {pop3}
  }}
  inet_listener pop3s {{
    port = {pop3s}
    ssl = yes
  }}
}}
service imap-login {{
  chroot =
  inet_listener imap {{
    port = {imap}
  }}
  inet_listener imaps {{
    port = {imaps}
    ssl = yes
  }}
}}
"""


class Dovecot:
    """One server and its mailboxes."""

    name = "dovecot"

    def __init__(self) -> None:
        program = require("dovecot", "dovecot-core")
        for package, path in _PROGRAMS.items():
            require(path, package)
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
        self.version = said.stdout.split()[0]
        self.pop3_port, self.pop3s_port = free_port(), free_port()
        self.imap_port, self.imaps_port = free_port(), free_port()
        self.sasl_port = free_port()
        self._owner = account("nobody")
        self._directory = home(self.name, self._owner, "run", "state", "mail", "users")
        self._numbers = itertools.count(1)
        self.uid = os.geteuid() if self._owner.uid is None else self._owner.uid
        self.gid = os.getegid() if self._owner.gid is None else self._owner.gid
        self.certificate = self._make_certificate()
        self._daemon = Daemon(
            self.name,
            [program, "-F", "-c", self._write_config()],
            environment(),
            directory=self._directory,
            owner=self._owner,
            ready=self._is_ready,
        )

    @property
    def mail_directory(self) -> Path:
        """Where the mailboxes lie: `<user>/Maildir` each."""
        return self._directory / "mail"

    @property
    def output(self) -> str:
        """The end of its log."""
        return self._daemon.output

    def tls(self) -> ssl.SSLContext:
        """Return a client's TLS settings that trust this server alone."""
        return ssl.create_default_context(cafile=str(self.certificate))

    def add_user(self, user: str, password: str | None = None) -> str:
        """Make a mailbox, or give it another password; return the password."""
        word = password or secrets.token_hex(8)
        # A file for each user: of one for all Dovecot would overlook a change within a second.
        path = self._directory / "users" / user
        write(path.with_suffix(".new"), f"{user}:{{PLAIN}}{word}::::::\n", self._owner).rename(path)
        top = self._directory / "mail" / user
        folders = [top, top / "Maildir", *(top / "Maildir" / n for n in ("tmp", "new", "cur"))]
        for folder in folders:
            folder.mkdir(mode=0o700, exist_ok=True)
        self._owner.own(*folders)
        return word

    def maildir(self, user: str) -> Path:
        """Return the mailbox of a user."""
        if not (self._directory / "users" / user).exists():
            raise KeyError(f"dovecot has no user {user}")
        return self._directory / "mail" / user / "Maildir"

    def deliver(self, user: str, *messages: bytes) -> None:
        """Put messages into a mailbox, in this order."""
        box = self.maildir(user)
        for content in messages:
            unique = f"{int(time.time())}.M{next(self._numbers):09d}P{os.getpid()}.lab"
            draft = box / "tmp" / unique
            draft.write_bytes(content)
            self._owner.own(draft)
            draft.rename(box / "new" / unique)

    def start(self) -> None:
        """Start it on the mailboxes it has."""
        self._daemon.start()

    def kill(self) -> None:
        """End it as a power cut would."""
        self._daemon.kill()

    def restart(self) -> None:
        """Kill it and start it on the same mailboxes."""
        self.kill()
        self.start()

    def _is_ready(self) -> bool:
        ready = greets(self.pop3_port, b"+OK") and greets(self.imap_port, b"* OK")
        return ready and all(map(is_open, (self.pop3s_port, self.imaps_port, self.sasl_port)))

    def _write_config(self) -> Path:
        text = _CONFIG.format(
            d=self._directory,
            user=self._owner.name,
            group=_group_name(self.gid),
            uid=self.uid,
            gid=self.gid,
            pop3=self.pop3_port,
            pop3s=self.pop3s_port,
            imap=self.imap_port,
            imaps=self.imaps_port,
            sasl=self.sasl_port,
        )
        return write(self._directory / "dovecot.conf", text, self._owner)

    def _make_certificate(self) -> Path:
        certificate, key = self._directory / "cert.pem", self._directory / "key.pem"
        subject = ["-subj", "/CN=localhost", "-addext"]
        names = "subjectAltName=DNS:localhost,DNS:mailbox.test,IP:127.0.0.1"
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"]
        files = ["-keyout", str(key), "-out", str(certificate)]
        subprocess.run(
            ["openssl", "req", "-x509", *curve, *subject, names, *files],
            check=True,
            capture_output=True,
        )
        self._owner.own(certificate, key)
        return certificate


def _group_name(gid: int) -> str:
    return grp.getgrgid(gid).gr_name
