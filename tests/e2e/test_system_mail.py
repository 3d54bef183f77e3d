"""System mail goes the way of any mail: a welcome made at the panel arrives, signed, and its link
lets the new operator in."""

import email
import email.policy
import re
import uuid
from urllib.parse import urlsplit

from tests.e2e.test_large_message import check_signatures
from tests.support.fleet import Running, eventually
from tests.support.panel import Panel

PASSWORD = "quite another battery"
ARRIVES_S = 120.0


def arrived(running: Running, recipient: str) -> bytes:
    """Return the mail to a recipient as its provider took it."""
    accepted: list[str] = []

    def look() -> bool:
        facts = running.lab.facts(recipient=recipient)
        accepted[:] = [fact["id"] for fact in facts if fact["fate"] == "accepted"]
        return bool(accepted)

    eventually(look, within_s=ARRIVES_S, what=lambda: notices(running))
    return running.lab.message(accepted[0])


def notices(running: Running) -> list[tuple[object, ...]]:
    return running.query("SELECT kind, recipient, state, tries, error FROM notify_notice")


def test_a_welcome_arrives_signed_and_its_link_lets_the_new_operator_in(running: Running) -> None:
    name = f"ann{uuid.uuid4().hex[:8]}"
    address = f"{name}@accepta.test"
    running.panel().save("accounts/user/add/", "user", username=name, email=address)
    raw = arrived(running, address)
    check_signatures(running, raw)
    message = email.message_from_bytes(raw, policy=email.policy.default)
    assert message["From"].addresses[0].addr_spec == "postfleet@sender.test"
    assert message["Auto-Submitted"] == "auto-generated"

    text = message.get_body(("plain",))
    assert text is not None
    found = re.search(r"https?://\S+/panel/set_password/\S+", text.get_content())
    assert found is not None
    panel = Panel(running.fleet.addresses.panel)
    form = panel.get(urlsplit(found[0]).path)
    path = urlsplit(form.url).path
    done = panel.send(path, "password_form", new_password1=PASSWORD, new_password2=PASSWORD)
    assert "Your password is set" in done.text
    panel.log_in(name, PASSWORD)
    assert "has expired, or was used" in panel.get(urlsplit(found[0]).path).text
    assert ("welcome", address, "sent") in [row[:3] for row in notices(running)]
