"""Names of hosts as they are compared: lower case, A-labels, no final dot.

Gives    host_name, is_under (MTA-STS patterns), is_named (names in a certificate)
Raises   nothing
Follows  RFC 8461 §4.1 (a wildcard stands for one label, the leftmost); RFC 6125 §6.4
"""

from __future__ import annotations

from collections.abc import Iterable


def host_name(text: str) -> str:
    """Return a name in the form in which names are compared."""
    return text.strip().rstrip(".").lower()


def is_under(pattern: str, host: str) -> bool:
    """Whether a host is meant by `mx.example.com`, or by `*.example.com`: one label, no more."""
    pattern, host = host_name(pattern), host_name(host)
    if not pattern.startswith("*."):
        return bool(host) and pattern == host
    label, dot, rest = host.partition(".")
    return bool(label and dot and rest) and rest == pattern[2:]


def is_named(presented: Iterable[str], wanted: str) -> bool:
    """Whether one of a certificate's DNS names stands for the wanted one.

    A wildcard is taken as the whole leftmost label and above two labels at least, so that a
    certificate for `*.com` proves nothing. A wanted name that begins with a dot is an operator's
    word for every host below it.
    """
    wanted = host_name(wanted)
    for name in map(host_name, presented):
        if wanted.startswith("."):
            if name.removeprefix("*").endswith(wanted) and name != wanted:
                return True
        elif name.startswith("*.") and name.count(".") < 2:
            continue
        elif is_under(name, wanted):
            return True
    return False
