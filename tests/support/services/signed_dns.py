"""Signed DNS: Knot signs a zone, Unbound checks it and says so.

Takes    Debian's knot and unbound
Gives    SignedDns: resolver (address and port), set(), SIGNED, PLAIN, BOGUS, FORGED
Raises   MissingService, StartError

SIGNED is signed and Unbound holds its key. PLAIN is not signed. Of BOGUS Unbound holds a key that
is not the zone's, so that all of it is forged in its eyes; of FORGED, a host of SIGNED, what lies
below `_tcp`. Nothing is cached.
"""

from __future__ import annotations

import re
import subprocess

import dns.exception
import dns.flags
import dns.message
import dns.query

from tests.support.services.base import (
    LOOPBACK,
    Daemon,
    account,
    environment,
    free_port,
    home,
    require,
    write,
)

SIGNED, PLAIN, BOGUS = "signed.test", "plain.test", "bogus.test"
FORGED = f"forged.{SIGNED}"

_KNOT = """\
server:
    listen: 127.0.0.1@{port}
    rundir: "{home}/run"
database:
    storage: "{home}/db"
control:
    listen: "{home}/run/knot.sock"
log:
  - target: stderr
    any: info
policy:
  - id: one
    algorithm: ecdsap256sha256
    single-type-signing: on
zone:
  - domain: signed.test
    file: "{home}/signed.test.zone"
    dnssec-signing: on
    dnssec-policy: one
    zonefile-sync: -1
  - domain: plain.test
    file: "{home}/plain.test.zone"
    zonefile-sync: -1
  - domain: bogus.test
    file: "{home}/bogus.test.zone"
    zonefile-sync: -1
"""
_ZONE = """\
$ORIGIN {zone}.
$TTL 300
@ SOA ns host 1 3600 600 86400 300
@ NS ns
ns A 127.0.0.1
"""
_UNBOUND = """\
server:
    interface: 127.0.0.1@{port}
    access-control: 127.0.0.0/8 allow
    chroot: ""
    username: ""
    directory: "{home}"
    pidfile: "{home}/unbound.pid"
    use-syslog: no
    logfile: ""
    do-daemonize: no
    do-ip6: no
    num-threads: 1
    module-config: "validator iterator"
    do-not-query-localhost: no
    cache-max-ttl: 0
    cache-max-negative-ttl: 0
    val-bogus-ttl: 0
    aggressive-nsec: no
    local-zone: "test." nodefault
    trust-anchor: "{anchor}"
    trust-anchor: "bogus.test. DS 12345 13 2 {digest}"
    trust-anchor: "_tcp.forged.signed.test. DS 12345 13 2 {digest}"
{stubs}
remote-control:
    control-enable: yes
    control-interface: "{home}/control"
    control-use-cert: no
"""
_STUB = 'stub-zone:\n    name: "{zone}."\n    stub-addr: 127.0.0.1@{port}\n'


class SignedDns:
    """A name server and a resolver before it."""

    name = "signed_dns"

    def __init__(self) -> None:
        knotd, unbound = require("knotd", "knot"), require("unbound", "unbound")
        self._knotc, self._keymgr = require("knotc", "knot"), require("keymgr", "knot")
        self._unbound_control = require("unbound-control", "unbound")
        said = subprocess.run([knotd, "--version"], capture_output=True, text=True, check=True)
        self.version = f"knot {said.stdout.split()[-1]}"
        self._knot_port, self.port = free_port(), free_port()
        knot_user = account("knot", "nobody")
        self._home = home("knot", knot_user, "run", "db")
        for zone in (SIGNED, PLAIN, BOGUS):
            text = _ZONE.format(zone=zone)
            write(self._home / f"{zone}.zone", text, knot_user)
        config = _KNOT.format(port=self._knot_port, home=self._home)
        self._config = write(self._home / "knot.conf", config, knot_user)
        self._knot = Daemon(
            "knot",
            [knotd, "-c", self._config],
            environment(),
            directory=self._home,
            owner=knot_user,
            ready=lambda: self._asked(self._knot_port, SIGNED) is not None,
        )
        self._unbound_user = account("unbound", "nobody")
        self._unbound_home = home("unbound", self._unbound_user)
        self._unbound = Daemon(
            "unbound",
            [unbound, "-d", "-c", self._unbound_home / "unbound.conf"],
            environment(),
            directory=self._unbound_home,
            owner=self._unbound_user,
            ready=self._is_secure,
        )

    @property
    def resolver(self) -> tuple[str, int]:
        """Where Unbound listens."""
        return LOOPBACK, self.port

    def set(self, zone: str, **records: str) -> None:
        """Put records into a zone in place of those of their kinds: `mx_MX="10 mx"`, with the
        name relative to the zone, `__` for a dot in it, `at` for the zone itself."""
        self._control("zone-begin", zone)
        for key, data in records.items():
            owner, _, kind = key.rpartition("_")
            name = "@" if owner == "at" else owner.replace("__", ".")
            # What is not there cannot be taken away, and need not.
            self._control("zone-unset", zone, name, kind, check=False)
            for one in filter(None, data.split("\n")):
                self._control("zone-set", zone, name, "0", kind, one)
        self._control("zone-commit", zone)
        # Even what may be kept for no time is given again within the second.
        forget = [self._unbound_control, "-c", str(self._unbound_home / "unbound.conf")]
        subprocess.run(
            [*forget, "flush_zone", "test."], capture_output=True, timeout=30, check=True
        )

    def start(self) -> None:
        """Start both."""
        self._knot.start()
        said = subprocess.run(
            [self._keymgr, "-c", str(self._config), SIGNED, "ds"],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
        found = re.search(rf"^{SIGNED}\. DS \d+ \d+ 2 \S+$", said.stdout, re.M)
        assert found is not None, said.stdout + said.stderr
        stubs = [_STUB.format(zone=zone, port=self._knot_port) for zone in (SIGNED, PLAIN, BOGUS)]
        text = _UNBOUND.format(
            port=self.port,
            home=self._unbound_home,
            anchor=found[0],
            digest="00" * 32,
            stubs="".join(stubs),
        )
        write(self._unbound_home / "unbound.conf", text, self._unbound_user)
        self._unbound.start()

    def kill(self) -> None:
        """End both."""
        self._unbound.kill()
        self._knot.kill()

    def _control(self, *words: str, check: bool = True) -> None:
        argv = [self._knotc, "-c", str(self._config), "-b", *words]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
        assert not check or done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"

    def _is_secure(self) -> bool:
        answer = self._asked(self.port, SIGNED)
        return answer is not None and bool(answer.flags & dns.flags.AD)

    @staticmethod
    def _asked(port: int, zone: str) -> dns.message.Message | None:
        query = dns.message.make_query(zone, "SOA")
        query.flags |= dns.flags.AD
        try:
            answer = dns.query.udp(query, LOOPBACK, timeout=2, port=port)
        except (dns.exception.DNSException, OSError):
            return None
        return answer if answer.answer else None
