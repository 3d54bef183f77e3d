"""The names of the lab: records from the world, records and faults set at run time.

Gives    Zone: find(), add(), remove(), script_fault(), take_fault(), reset(); records_of(),
         reverse_name()
Takes    a world, or records in presentation form
Raises   RecordError for a record or fault that cannot be, naming it
Follows  RFC 1034 §4.3.2 (answers), §3.6.2 (CNAME), RFC 2308 (no data, no name), RFC 1035 §3.5 (PTR)
"""

import ipaddress
import math

import dns.exception
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.ANY.CNAME
import dns.rrset

from lab.world import Fault, Provider, Record, World

MAX_CNAMES = 8
MAX_TTL_S = 86_400


class RecordError(ValueError):
    """A record or fault the zone cannot hold."""


def reverse_name(address: str) -> str:
    """Return the name under which the PTR of an address is found."""
    return ipaddress.ip_address(address).reverse_pointer


def records_of(world: World) -> list[Record]:
    """Return all record sets a world implies."""
    records = list(world.records)
    for provider in world.providers:
        records += _exchangers(provider)
        for host in provider.mx_hosts:
            records.append(Record(host.name, "A", (host.address,)))
            records.append(Record(reverse_name(host.address), "PTR", (f"{host.name}.",)))
    for source in world.sources:
        records.append(Record(source.name, "A", (source.address,)))
        records.append(Record(reverse_name(source.address), "PTR", (f"{source.name}.",)))
    senders = " ".join(f"ip4:{source.address}" for source in world.sources)
    for name in world.sending_domains:
        records.append(Record(name, "TXT", (f'"v=spf1 {senders} -all"',)))
        records.append(Record(f"_dmarc.{name}", "TXT", ('"v=DMARC1; p=none"',)))
        records.append(Record(name, "A", (world.sources[0].address,)))
    return records


def _exchangers(provider: Provider) -> list[Record]:
    """Return the MX sets of a provider's domains: one for all, or a name for each."""
    domains = [domain.name for domain in provider.domains if domain.has_mx_set]
    if not provider.has_mx_per_domain:
        shared = tuple(f"{host.preference} {host.name}." for host in provider.mx_hosts)
        return [Record(name, "MX", shared) for name in domains]
    addresses = tuple(host.address for host in provider.mx_hosts)
    records = []
    for name in domains:
        exchanger = f"{name.replace('.', '-')}.{provider.mx_suffix}"
        records.append(Record(name, "MX", (f"0 {exchanger}.",)))
        records.append(Record(exchanger, "A", addresses))
    return records


class Zone:
    """Every name there is. What is not here does not exist."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._sets: dict[tuple[dns.name.Name, dns.rdatatype.RdataType], dns.rrset.RRset] = {}
        self._names: dict[dns.name.Name, int] = {}
        self._faults: dict[dns.name.Name, tuple[Fault, int | None]] = {}
        self.reset()

    def reset(self) -> None:
        """Go back to what the world says."""
        self._sets.clear()
        self._names.clear()
        self._faults.clear()
        for record in records_of(self._world):
            self.add(record)
        for fault in self._world.faults:
            self.script_fault(fault)

    # -- writing -------------------------------------------------------------------------------

    def add(self, record: Record) -> None:
        """Set the whole record set of a name and type."""
        name, kind = _name(record.name), _type(record.type)
        if not record.values:
            raise RecordError(f"{record.name} {record.type}: no values")
        if not 0 <= record.ttl_s <= MAX_TTL_S:
            raise RecordError(f"{record.name} {record.type}: ttl_s must lie in 0..{MAX_TTL_S}")
        try:
            rdatas = [
                dns.rdata.from_text(
                    dns.rdataclass.IN, kind, value, origin=dns.name.root, relativize=False
                )
                for value in record.values
            ]
        except (dns.exception.DNSException, ValueError) as exc:
            raise RecordError(f"{record.name} {record.type}: {exc or type(exc).__name__}") from exc
        is_alias = kind is dns.rdatatype.CNAME
        others = {t for n, t in self._sets if n == name and t is not kind}
        if others and (is_alias or dns.rdatatype.CNAME in others):
            raise RecordError(f"{record.name}: a CNAME stands alone at its name")
        if (name, kind) not in self._sets:
            self._touch(name, 1)
        self._sets[name, kind] = dns.rrset.from_rdata_list(name, record.ttl_s, rdatas)

    def remove(self, name: str, kind: str) -> bool:
        """Take a record set away; False when there was none."""
        key = (_name(name), _type(kind))
        if self._sets.pop(key, None) is None:
            return False
        self._touch(key[0], -1)
        return True

    def script_fault(self, fault: Fault) -> None:
        """Let a name fail from now on."""
        if not (math.isfinite(fault.delay_s) and fault.delay_s >= 0):
            raise RecordError(f"{fault.name}: delay_s must be a number of seconds from 0")
        if fault.times is not None and fault.times < 1:
            raise RecordError(f"{fault.name}: times must be at least 1")
        self._faults[_name(fault.name)] = (fault, fault.times)

    def remove_fault(self, name: str) -> bool:
        """Let a name resolve again; False when it did."""
        return self._faults.pop(_name(name), None) is not None

    # -- reading -------------------------------------------------------------------------------

    def take_fault(self, name: dns.name.Name) -> Fault | None:
        """Return the fault that meets this question, and count it off."""
        entry = self._faults.get(name)
        if entry is None:
            return None
        fault, left = entry
        if left is not None:
            if left == 1:
                del self._faults[name]
            else:
                self._faults[name] = (fault, left - 1)
        return fault

    def find(
        self, name: dns.name.Name, kind: dns.rdatatype.RdataType
    ) -> tuple[list[dns.rrset.RRset], bool]:
        """Return the answer, CNAMEs first, and whether the (last) name exists at all."""
        answer: list[dns.rrset.RRset] = []
        for _ in range(MAX_CNAMES):
            found = self._sets.get((name, kind))
            if found is not None:
                return [*answer, found], True
            alias = self._sets.get((name, dns.rdatatype.CNAME))
            if alias is None:
                return answer, name in self._names
            answer.append(alias)
            target = alias[0]
            if not isinstance(target, dns.rdtypes.ANY.CNAME.CNAME):
                raise TypeError(f"{name}: a CNAME set without a CNAME")
            name = target.target
        return answer, True

    def _touch(self, name: dns.name.Name, change: int) -> None:
        """Keep count of names, those between a name and the root included (RFC 8020)."""
        while name != dns.name.root:
            self._names[name] = self._names.get(name, 0) + change
            if not self._names[name]:
                del self._names[name]
            name = name.parent()


def _name(text: str) -> dns.name.Name:
    try:
        return dns.name.from_text(text).canonicalize()
    except (dns.exception.DNSException, UnicodeError) as exc:
        raise RecordError(f"not a name: {text!r}") from exc


def _type(text: str) -> dns.rdatatype.RdataType:
    try:
        return dns.rdatatype.from_text(text)
    except (dns.exception.DNSException, ValueError) as exc:
        raise RecordError(f"not a record type: {text!r}") from exc
