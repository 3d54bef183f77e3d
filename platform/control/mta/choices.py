"""Closed sets of the MTA's rules; values are those of `mailcore.policy.model`."""

from django.db import models
from django.utils.translation import gettext_lazy as _


class KeyType(models.TextChoices):
    DKIM = "dkim", _("DKIM")
    SSH = "ssh", _("SSH")


class KeyAlgorithm(models.TextChoices):
    RSA = "rsa-sha256", _("RSA")
    ED25519 = "ed25519-sha256", _("Ed25519")


class Encoding(models.TextChoices):
    """For all texts of a message."""

    AS_SUBMITTED = "as_submitted", _("As submitted")
    QUOTED_PRINTABLE = "quoted-printable", _("Quoted-Printable")
    BASE64 = "base64", _("Base64")
    EIGHT_BIT = "8bit", _("8-bit")


class KindEncoding(models.TextChoices):
    """For one kind of text; the same values, of which one is about the other field."""

    AS_SUBMITTED = "as_submitted", _("As the global one")
    QUOTED_PRINTABLE = "quoted-printable", _("Quoted-Printable")
    BASE64 = "base64", _("Base64")
    EIGHT_BIT = "8bit", _("8-bit")


class HeaderAction(models.TextChoices):
    ADD = "add", _("add")
    DELETE = "delete", _("delete")


class Helo(models.TextChoices):
    PTR = "ptr", _("Greet with IP PTR")
    FROM_DOMAIN = "from_domain", _("Greet with From domain")
    IP = "ip", _("Greet with IP")
    FIXED = "fixed", _("Greet with the source's EHLO name")


class Tls(models.TextChoices):
    NONE = "none", _("Never")
    OPPORTUNISTIC = "opportunistic", _("Try TLS first")
    REQUIRED = "required", _("Required: without TLS mail waits")


class DomainTlsLevel(models.TextChoices):
    NONE = "none", _("Never: in clear")
    OPPORTUNISTIC = "opportunistic", _("Try TLS first, in clear where that fails")
    REQUIRED = "required", _("Required: encrypted, whoever the server is")
    VERIFIED = "verified", _("Verified: encrypted, with a valid certificate of the host")


class RetryMode(models.TextChoices):
    SAME_IP = "same_ip", _("Retry from the same IP of the same node")
    OTHER_IP_SAME_NODE = "other_ip_same_node", _("Retry from any other IP of the same node")
    OTHER_IP_ANY_NODE = "other_ip_any_node", _("Retry from any other IP of any node")


class RetryType(models.TextChoices):
    FIXED = "fixed", _("Fixed (no increase)")
    GEOMETRIC = "geometric", _("Geometric increase delay")
    RANDOM = "random", _("Calculated random delay")


class BounceKind(models.TextChoices):
    HARD = "hard", _("Hard bounce")
    SOFT = "soft", _("Soft bounce")
    BOUNCE = "bounce", _("Bounce")


class Cause(models.TextChoices):
    """The bounce class, under its type (mailcore.outcome.BounceClass)."""

    NONE = "none", _("none")
    INVALID_RECIPIENT = "invalid_recipient", _("invalid recipient")
    INACTIVE_MAILBOX = "inactive_mailbox", _("inactive mailbox")
    BAD_DOMAIN = "bad_domain", _("bad domain")
    MAILBOX_FULL = "mailbox_full", _("mailbox full")
    MESSAGE_TOO_LARGE = "message_too_large", _("message too large")
    SPAM_CONTENT = "spam_content", _("spam content")
    SPAM_BLOCK = "spam_block", _("blocked as spam source")
    POLICY = "policy", _("policy of the receiver")
    AUTHENTICATION = "authentication", _("authentication (SPF, DKIM, DMARC)")
    RATE_LIMIT = "rate_limit", _("rate limit")
    GREYLISTED = "greylisted", _("greylisted")
    CONNECTION = "connection", _("connection")
    DNS = "dns", _("DNS")
    TLS = "tls", _("TLS")
    PROTOCOL = "protocol", _("protocol")
    SYSTEM = "system", _("trouble at the receiver")
    RELAY_DENIED = "relay_denied", _("relay denied")
    EXPIRED = "expired", _("expired")
    UNCLASSIFIED = "unclassified", _("unclassified")


class RuleAction(models.TextChoices):
    RETRY = "retry", _("try again")
    STOP = "stop", _("give up")


class UnknownAction(models.TextChoices):
    RETRY_LATE = "retry_late", _("try again late: may deliver a copy")
    HOLD = "hold", _("keep until a person decides")
    GIVE_UP = "give_up", _("give up: may lose the message")
