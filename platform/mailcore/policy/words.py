"""The closed vocabularies of policy: what operators choose between.

Gives    an Enum for each; its values are what rows, snapshots and the API hold
Follows  reference/mta-model.md §§2-8 for names and meaning
"""

from __future__ import annotations

from enum import Enum


class RetryMode(Enum):
    """From where a deferred message is tried again (reference §7.1)."""

    SAME_IP = "same_ip"
    OTHER_IP_SAME_NODE = "other_ip_same_node"
    OTHER_IP_ANY_NODE = "other_ip_any_node"


class RetryType(Enum):
    """How the delay grows (reference §7.1)."""

    FIXED = "fixed"
    GEOMETRIC = "geometric"
    RANDOM = "random"


class HeloMode(Enum):
    """The name a session greets with (reference §6)."""

    PTR = "ptr"
    FROM_DOMAIN = "from_domain"
    IP = "ip"
    FIXED = "fixed"


class DomainType(Enum):
    """Which domain a sender presents itself as (reference §3.1)."""

    FROM_HEADER = "from_header"
    PTR = "ptr"
    FIXED = "fixed"


class ReturnPathMode(Enum):
    """Whom a signed return path names. One that names the message alone lets its recipients share
    a transaction; then the report itself has to say whom it is about."""

    PER_RECIPIENT = "per_recipient"
    PER_MESSAGE = "per_message"


class RelayTls(Enum):
    """How the line to a relay is encrypted: not, where STARTTLS is offered, only with STARTTLS, or
    from the first octet (RFC 8314 §3.3)."""

    NONE = "none"
    OPPORTUNISTIC = "opportunistic"
    STARTTLS = "starttls"
    IMPLICIT = "implicit"


class RelayAuth(Enum):
    """How we log in to a relay; `any` takes the best mechanism that it offers for a password."""

    NONE = "none"
    ANY = "any"
    PLAIN = "PLAIN"
    LOGIN = "LOGIN"
    CRAM_MD5 = "CRAM-MD5"
    XOAUTH2 = "XOAUTH2"


class TlsMode(Enum):
    """How a path uses TLS; `dane` and `mta_sts` are asked of DNS, not set here."""

    NONE = "none"
    OPPORTUNISTIC = "opportunistic"
    REQUIRED = "required"


class DomainTlsLevel(Enum):
    """What operators demand of TLS for a recipient domain, instead of what it publishes."""

    NONE = "none"
    OPPORTUNISTIC = "opportunistic"
    REQUIRED = "required"
    VERIFIED = "verified"


class Encoding(Enum):
    """The content transfer encoding an ISP is sent (reference §5).

    AS_SUBMITTED for HTML and text means: as the global one says.
    """

    QUOTED_PRINTABLE = "quoted-printable"
    BASE64 = "base64"
    EIGHT_BIT = "8bit"
    AS_SUBMITTED = "as_submitted"


class RuleAction(Enum):
    """What a default rule does with a bounce of its kind (reference §7.4)."""

    RETRY = "retry"
    STOP = "stop"


class UnknownAction(Enum):
    """What becomes of a message whose final reply was lost."""

    RETRY_LATE = "retry_late"
    HOLD = "hold"
    GIVE_UP = "give_up"


class MailboxProtocol(Enum):
    """How a mailbox is read."""

    POP3 = "pop3"
    IMAP = "imap"


class MailboxTls(Enum):
    """When a session with a mailbox is encrypted."""

    NONE = "none"
    STARTTLS = "starttls"
    TLS = "tls"


class MailboxPurpose(Enum):
    """What is looked for in a mailbox; a report is read for what it is in each of them."""

    BOUNCES = "bounces"
    COMPLAINTS = "complaints"
    REPLIES = "replies"
    ALL = "all"
