"""The commands of an envelope, and what must not be sent to this server at all.

Gives    mail_command, rcpt_command, group_of, refusal_of, leave_out_excess
Takes    a message, what the server offers, whether the session is under TLS
Raises   nothing: what cannot be said is a refusal of our own
Follows  RFC 5321 §4.1.1.2-3, RFC 1870 (SIZE), RFC 6152 (8BITMIME), RFC 6531 (SMTPUTF8),
         RFC 3461 (DSN) with RFC 6533 §3 (its UTF-8 addresses), RFC 8689 (REQUIRETLS),
         RFC 9422 (LIMITS), RFC 5891 (a domain needs no SMTPUTF8: it has A-labels)
"""

from __future__ import annotations

from mailcore.address import to_a_label
from mailcore.dsn import (
    MAX_ENVID,
    MAX_ORCPT,
    DsnRequest,
    Notify,
    to_xtext_address,
    xtext,
)
from mailcore.errors import AddressError
from mailcore.outcome import Scope
from mailcore.reply import SmtpReply
from mailcore.transaction.extensions import Extensions
from mailcore.transaction.message import (
    RecipientReply,
    Stage,
    Transaction,
    WireMessage,
)


def mail_command(message: WireMessage, extensions: Extensions) -> str:
    """Return the MAIL command with every parameter that is needed and offered."""
    parameters = ""
    if extensions.size is not None:
        parameters = f" SIZE={len(message.content)}"
    if message.needs_8bit and extensions.eight_bit:
        parameters += " BODY=8BITMIME"
    if message.needs_smtputf8 or needs_smtputf8(message):
        parameters += " SMTPUTF8"
    if message.requires_tls and extensions.require_tls:
        parameters += " REQUIRETLS"
    if message.dsn is not None and extensions.dsn:
        parameters += _mail_dsn(message.dsn)
    return f"MAIL FROM:<{_path(message.reverse_path)}>{parameters}\r\n"


def rcpt_command(message: WireMessage, index: int, extensions: Extensions) -> str:
    """Return the RCPT command of one forward-path."""
    parameters = ""
    if message.dsn is not None and extensions.dsn:
        parameters = _rcpt_dsn(message.dsn, index)
    return f"RCPT TO:<{_path(message.forward_paths[index])}>{parameters}\r\n"


def group_of(transaction: Transaction, extensions: Extensions) -> list[str]:
    """Return MAIL, every RCPT, and DATA unless a chunk follows: what PIPELINING lets go at once."""
    message = transaction.message
    commands = [mail_command(message, extensions)]
    commands += [rcpt_command(message, index, extensions) for index in transaction.offered]
    return commands if transaction.is_chunked else [*commands, "DATA\r\n"]


def refusal_of(message: WireMessage, extensions: Extensions, *, is_tls: bool) -> SmtpReply | None:
    """Return why this server must not get this message, as a reply of our own."""
    # A report is not lost over a server that knows only half of it (RFC 8689 §5).
    lacks_word = bool(message.reverse_path) and not extensions.require_tls
    if message.requires_tls and (lacks_word or not is_tls):
        lacking = "offers no REQUIRETLS" if is_tls else "has no TLS session with us"
        return SmtpReply.local(
            550, "5.7.30", f"the message asks for REQUIRETLS and the server {lacking}"
        )
    paths = "".join((message.reverse_path, *message.forward_paths))
    if not (paths.isascii() and paths.isprintable()):
        refusal = _refused_paths(message)
        if refusal is not None:
            return refusal
    if not extensions.smtputf8 and (message.needs_smtputf8 or needs_smtputf8(message)):
        return SmtpReply.local(550, "5.6.7", "the server does not take UTF-8 in addresses")
    return _refused_content(message, extensions)


def leave_out_excess(transaction: Transaction, extensions: Extensions) -> None:
    """Ask for no more recipients than the server's LIMITS; the others may come again at once."""
    most, most_domains = extensions.rcpt_max, extensions.rcpt_domain_max
    reply = SmtpReply.local(452, "4.5.3", "more recipients than the server takes at a time")
    offered, domains = list[int](), set[str]()
    for index, path in enumerate(transaction.message.forward_paths):
        domain = path.rpartition("@")[2].lower()
        is_over = bool(most) and len(offered) == most
        if most_domains and domain not in domains and len(domains) == most_domains:
            is_over = True
        if is_over:
            verdict = RecipientReply(reply, Stage.RCPT.value, Scope.SESSION)
            transaction.verdicts[index] = verdict
        else:
            offered.append(index)
            domains.add(domain)
    transaction.offered = offered


def needs_smtputf8(message: WireMessage) -> bool:
    """Whether the message can only go to a server with SMTPUTF8."""
    if message.needs_smtputf8:
        return True
    for path in (message.reverse_path, *message.forward_paths):
        if not path.isascii() and not path.rpartition("@")[0].isascii():
            return True
    return False


def _refused_paths(message: WireMessage) -> SmtpReply | None:
    """Look at paths that are not all plain ASCII."""
    for path in (message.reverse_path, *message.forward_paths):
        if not path.isprintable():
            return SmtpReply.local(553, "5.1.3", "an address contains a control character")
        try:
            _path(path)
        except AddressError as exc:
            return SmtpReply.local(553, "5.1.3", str(exc))
    return None


def _refused_content(message: WireMessage, extensions: Extensions) -> SmtpReply | None:
    content = message.content
    if extensions.size and len(content) > extensions.size:
        return SmtpReply.local(
            552,
            "5.3.4",
            f"the message has {len(content)} octets, the server takes {extensions.size}",
        )
    if b"\0" in content:
        # Some servers drop it, so that what stands around it may look like the end.
        return SmtpReply.local(554, "5.6.0", "the content contains a NUL octet")
    if not extensions.eight_bit and not content.isascii():
        # A later try may convert it, or meet a server that takes it: nobody bounces over this.
        return SmtpReply.local(
            451, "4.6.3", "the server takes no 8-bit content and the message was not converted"
        )
    return None


def _path(path: str) -> str:
    """Return the path as it is sent; raise AddressError for a domain that has no A-labels."""
    if path.isascii():
        return path
    local_part, at, domain = path.rpartition("@")
    return f"{local_part}{at}{to_a_label(domain)}"


def _mail_dsn(dsn: DsnRequest) -> str:
    parameters = f" RET={dsn.returns.value}" if dsn.returns is not None else ""
    envid = xtext(dsn.envid)
    # What is cut short would match nothing: too long means none.
    return parameters + (f" ENVID={envid}" if 0 < len(envid) <= MAX_ENVID else "")


def _rcpt_dsn(dsn: DsnRequest, index: int) -> str:
    parameters = ""
    if Notify.NEVER in dsn.notify:
        parameters = " NOTIFY=NEVER"
    elif dsn.notify:
        parameters = " NOTIFY=" + ",".join(each.value for each in Notify if each in dsn.notify)
    orcpt = dsn.orcpts[index] if index < len(dsn.orcpts) else ""
    if not orcpt and index < len(dsn.original_recipients) and dsn.original_recipients[index]:
        orcpt = _orcpt(dsn.original_recipients[index])
    return parameters + (f" ORCPT={orcpt}" if 0 < len(orcpt) <= MAX_ORCPT else "")


def _orcpt(address: str) -> str:
    if address.isascii():
        return f"rfc822;{xtext(address)}"
    return f"utf-8;{to_xtext_address(address)}"
