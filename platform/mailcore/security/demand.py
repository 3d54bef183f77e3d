"""What message, domain and mail server together demand of TLS, and whether a session has it.

Gives    Level, Proof; Wish, plan_wish (before a host is known); TlsDemand, demand_of_host; Proven
Takes    the operators' word, the message's need, the domain's MTA-STS policy, a host's TLSA records
Raises   nothing: a host that must not be used is a demand with a refusal
Follows  RFC 7672 §2.2, §3; RFC 8461 §2 (DANE goes first), §4, §5; RFC 8689 §4.2.1; RFC 8460 §4.3

Operators come first: what a row says of a domain is said instead of what the domain publishes. What
the message or its sender asks for is a floor that nothing lowers.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum

from mailcore.outcome import TlsNeed, TlsPolicy, TlsResult
from mailcore.policy.model import DomainTls
from mailcore.policy.words import DomainTlsLevel, TlsMode
from mailcore.routing.site import DnsStatus
from mailcore.security.names import host_name
from mailcore.security.sts import StsAnswer, StsMode, StsPolicy
from mailcore.security.tlsa import Tlsa, TlsaAnswer, TlsaUsage, strongest, usable


class Level(IntEnum):
    """How much a session must be; each includes those below it."""

    NONE = 0
    OPPORTUNISTIC = 1
    ENCRYPTED = 2
    AUTHENTICATED = 3


class Proof(Enum):
    """How a server shows that it is the right one."""

    NONE = "none"
    PKIX = "pkix"
    TLSA = "tlsa"


_LEVEL_OF_MODE = {
    TlsMode.NONE: Level.NONE,
    TlsMode.OPPORTUNISTIC: Level.OPPORTUNISTIC,
    TlsMode.REQUIRED: Level.ENCRYPTED,
}
_LEVEL_OF_NEED = {
    TlsNeed.POLICY: Level.NONE,
    TlsNeed.REQUIRED: Level.ENCRYPTED,
    TlsNeed.REQUIRETLS: Level.AUTHENTICATED,
}
_LEVEL_OF_WORD = {
    DomainTlsLevel.NONE: Level.NONE,
    DomainTlsLevel.OPPORTUNISTIC: Level.OPPORTUNISTIC,
    DomainTlsLevel.REQUIRED: Level.ENCRYPTED,
    DomainTlsLevel.VERIFIED: Level.AUTHENTICATED,
}


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for one recipient domain whatever its host.

    `names` are those an operator allows in a certificate, none for the host's own. `asks_dane`:
    the hosts' TLSA records count. `sts_result` is why the domain's own policy could not be had.
    `needs_secure_host`: a name from unsigned DNS is not enough to know the right server by.
    `canonical` is the domain behind its aliases, if the MX was found there.
    """

    domain: str
    floor: Level
    by: TlsPolicy = TlsPolicy.NOT_FOUND
    names: tuple[str, ...] = ()
    sts: StsPolicy | None = None
    sts_result: str = ""
    asks_dane: bool = False
    needs_secure_host: bool = False
    canonical: str = ""


@dataclass(frozen=True, slots=True)
class TlsDemand:
    """What a session with one host must be for a domain's mail.

    With a `refusal` the host must not be used at all. `is_tested`: the proof is asked for, and the
    mail goes as `level` says whether it is had or not. `result` is the failure that is to be
    counted, of this refusal or of what made the demand less than the domain's own.
    """

    level: Level
    by: TlsPolicy = TlsPolicy.NOT_FOUND
    proof: Proof = Proof.NONE
    names: tuple[str, ...] = ()
    tlsa: tuple[Tlsa, ...] = ()
    is_tested: bool = False
    result: str = ""
    refusal: str = ""

    @property
    def is_strict(self) -> bool:
        """Whether mail waits rather than go another way."""
        return self.level >= Level.ENCRYPTED


@dataclass(frozen=True, slots=True)
class Proven:
    """What a session turned out to be: the names and the records its certificate stands for.

    `names` were shown by PKIX. `tlsa_names` were shown below the authority of a DANE-TA record: it
    may have issued for anybody, so it stands for no other names.
    """

    is_encrypted: bool = False
    names: frozenset[str] = frozenset()
    tlsa: frozenset[Tlsa] = frozenset()
    tlsa_names: frozenset[str] = frozenset()

    def meets(self, demand: TlsDemand) -> bool:
        """Whether mail with this demand may travel here."""
        if demand.refusal:
            return False
        if demand.level <= Level.OPPORTUNISTIC:
            return True
        if demand.level is Level.ENCRYPTED:
            return self.is_encrypted
        if demand.proof is Proof.TLSA:
            found = self.tlsa.intersection(demand.tlsa)
            is_named = not self.tlsa_names.isdisjoint(demand.names)
            return any(is_named or record.usage == TlsaUsage.DANE_EE for record in found)
        return not self.names.isdisjoint(demand.names)


CLEAR = Proven()


def plan_wish(
    domain: str,
    *,
    mode: TlsMode,
    need: TlsNeed,
    word: DomainTls | None,
    sts: StsAnswer,
    is_mx_secure: bool,
    uses_dane: bool,
    canonical: str = "",
) -> Wish:
    """Put together what is asked for a domain.

    `mode` is that of sender and strategy, `word` the operators' row about the domain. DANE counts
    where the MX answer is secure (RFC 7672 §2.2.1) and this node `uses_dane`.
    """
    asked = _LEVEL_OF_NEED[need]
    if mode is TlsMode.REQUIRED:
        asked = max(asked, Level.ENCRYPTED)
    strict = need is TlsNeed.REQUIRETLS and not is_mx_secure
    if word is not None:
        level = max(_LEVEL_OF_WORD[word.level], asked)
        names = tuple(map(host_name, word.names))
        strict = strict and not names
        return Wish(domain, level, TlsPolicy.OPERATOR, names, needs_secure_host=strict)
    floor = max(_LEVEL_OF_MODE[mode], asked)
    if floor is Level.NONE:
        # The path is said to go without TLS: nobody is asked what the domain would like.
        return Wish(domain, floor, TlsPolicy.OPERATOR)
    policy = sts.policy
    if policy is not None and policy.mode is StsMode.NONE:
        policy = None
    return Wish(
        domain,
        floor,
        sts=policy,
        sts_result=sts.result,
        asks_dane=is_mx_secure and uses_dane,
        needs_secure_host=strict,
        canonical=host_name(canonical),
    )


def demand_of_host(wish: Wish, host: str, tlsa: TlsaAnswer | None) -> TlsDemand:
    """Return what the wish comes to with one host; `tlsa` None: its records do not count."""
    host = host_name(host)
    if wish.asks_dane and tlsa is not None:
        if tlsa.status is DnsStatus.TEMPORARY:
            # §2.1.3: what cannot be looked up may be there. A downgrade would begin like this.
            refusal = f"its TLSA records cannot be had: {tlsa.detail}"
            return TlsDemand(
                wish.floor,
                TlsPolicy.TLSA,
                result=TlsResult.DNSSEC_INVALID.value,
                refusal=refusal,
            )
        if tlsa.is_secure and tlsa.records:
            return _by_tlsa(wish, host, tlsa)
    if wish.sts is not None:
        return _by_sts(wish, wish.sts, host)
    if wish.floor is not Level.AUTHENTICATED:
        by = TlsPolicy.STS if wish.sts_result else wish.by
        return TlsDemand(wish.floor, by, result=wish.sts_result)
    if wish.needs_secure_host:
        # RFC 8689 §4.2.1: the host's name must come from DNSSEC or from an MTA-STS policy.
        return TlsDemand(
            wish.floor,
            wish.by,
            result=TlsResult.VALIDATION_FAILURE.value,
            refusal="REQUIRETLS, and neither DNSSEC nor MTA-STS says that it is the domain's",
        )
    return TlsDemand(wish.floor, wish.by, Proof.PKIX, wish.names or (host,))


def _by_tlsa(wish: Wish, host: str, answer: TlsaAnswer) -> TlsDemand:
    good = strongest(usable(answer.records))
    if good:
        # §3.2.2: for DANE-TA the certificate is the host's, or the domain's own.
        own = wish.domain, wish.canonical or wish.domain
        names = tuple(dict.fromkeys((host_name(answer.base or host), host, *own)))
        return TlsDemand(Level.AUTHENTICATED, TlsPolicy.TLSA, Proof.TLSA, names, good)
    # §2.2: records that nobody can use still say that there is TLS, and take nothing from a policy.
    if wish.sts is not None and wish.sts.mode is StsMode.ENFORCE:
        return _by_sts(wish, wish.sts, host)
    if wish.floor is Level.AUTHENTICATED:
        return TlsDemand(wish.floor, TlsPolicy.TLSA, Proof.PKIX, wish.names or (host,))
    result = TlsResult.TLSA_INVALID.value
    return TlsDemand(Level.ENCRYPTED, TlsPolicy.TLSA, result=result)


def _by_sts(wish: Wish, policy: StsPolicy, host: str) -> TlsDemand:
    is_allowed = policy.allows(host)
    if policy.mode is StsMode.ENFORCE:
        if not is_allowed:
            return TlsDemand(
                Level.AUTHENTICATED,
                TlsPolicy.STS,
                result=TlsResult.VALIDATION_FAILURE.value,
                refusal=f"the MTA-STS policy of {wish.domain} does not name it",
            )
        return TlsDemand(Level.AUTHENTICATED, TlsPolicy.STS, Proof.PKIX, (host,))
    if wish.floor is Level.AUTHENTICATED:
        if wish.needs_secure_host and not is_allowed:
            return TlsDemand(
                wish.floor,
                TlsPolicy.STS,
                result=TlsResult.VALIDATION_FAILURE.value,
                refusal=f"REQUIRETLS, and the MTA-STS policy of {wish.domain} does not name it",
            )
        return TlsDemand(wish.floor, TlsPolicy.STS, Proof.PKIX, wish.names or (host,))
    if not is_allowed:
        result = TlsResult.VALIDATION_FAILURE.value
        return TlsDemand(wish.floor, TlsPolicy.STS, result=result)
    return TlsDemand(wish.floor, TlsPolicy.STS, Proof.PKIX, (host,), is_tested=True)
