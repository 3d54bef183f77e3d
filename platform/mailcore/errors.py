"""The exception tree of the core.

    PostfleetError              everything we raise on purpose
    ├── AddressError            a mailbox or a domain name that may not be used
    ├── ReplySyntaxError        a server's answer that is no SMTP reply (RFC 5321 §4.2)
    ├── TokenError              a message token that is damaged, forged, or of a key that is gone
    ├── SchemaError             bytes that are no snapshot, bell or event of a version we read
    ├── PolicyRefused           rows that make no valid policy; names row, field and reason
    ├── SubmissionRefused       what a client offered cannot be accepted; a list of `Problem`
    └── (mailcore.ports)        TransportError and StoreUnavailable, declared beside the ports

A remote server's verdict is never an exception: it is a `mailcore.outcome.Outcome`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class PostfleetError(Exception):
    """Base of all that we raise on purpose."""


class AddressError(PostfleetError, ValueError):
    """A mailbox or domain name that may not be used; the message says why."""


class ReplySyntaxError(PostfleetError, ValueError):
    """Bytes from a server that are no SMTP reply."""


class TokenError(PostfleetError, ValueError):
    """A message token that is damaged, forged or signed by an unknown key."""


class SchemaError(PostfleetError, ValueError):
    """Stored or transmitted bytes of a shape or version that cannot be read."""


class PolicyRefused(PostfleetError):
    """Rows that cannot be compiled to a policy.

    `row` names the model and key (`"sender 12"`), `field` the field, `reason` why.
    """

    def __init__(self, *, row: str, field: str, reason: str) -> None:
        super().__init__(f"{row}: {field}: {reason}")
        self.row = row
        self.field = field
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a submission.

    `pointer` is a JSON pointer (RFC 6901) into the request, `code` a stable word for programs,
    `detail` a sentence for people.
    """

    pointer: str
    code: str
    detail: str


class SubmissionRefused(PostfleetError):
    """A submission that cannot be accepted, with all that is wrong with it."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(f"{p.pointer}: {p.detail}" for p in problems))
        self.problems = tuple(problems)
