"""What the panel takes about content: encodings and header overrides of ISPs, keys of senders."""

from __future__ import annotations

import pytest
from django.test import Client

from control.domains.models import DkimKey
from control.mta.models import Isp
from control.nodes.models import Node
from control.policy.compiler import compile_policy
from control.senders.models import Sender
from mailcore.policy.words import Encoding
from tests.control.conftest import House
from tests.control.pages import errors, page, send

pytestmark = pytest.mark.django_db


def test_an_isp_s_encodings_are_set_on_its_page_and_as_submitted_unless_they_are(
    house: House, panel: Client
) -> None:
    isp = Isp.objects.create(name="Example")
    kept = compile_policy().isps[isp.pk]
    assert {kept.encoding_global, kept.encoding_html, kept.encoding_text} == {Encoding.AS_SUBMITTED}
    answer = send(
        panel,
        page(Isp, f"{isp.pk}/change/"),
        encoding_global="base64",
        encoding_html="8bit",
        encoding_text="quoted-printable",
    )
    assert answer.status_code == 302
    told = compile_policy().isps[isp.pk]
    assert told.encoding_global is Encoding.BASE64
    assert told.encoding_html is Encoding.EIGHT_BIT
    assert told.encoding_text is Encoding.QUOTED_PRINTABLE


def test_a_node_s_administrator_and_log_of_answers_are_set_on_its_page(
    house: House, panel: Client
) -> None:
    node = Node.objects.get(name="node1")
    path = page(Node, f"{node.pk}/change/")
    assert send(panel, path, admin_email="ops@acme.test", logs_replies="on").status_code == 302
    told = compile_policy().nodes["node1"]
    assert (told.admin_email, told.logs_replies) == ("ops@acme.test", True)


def test_a_sender_s_own_keys_are_chosen_on_its_page_and_sign_while_they_are_active(
    house: House, panel: Client
) -> None:
    (key,) = DkimKey.objects.all()
    path = page(Sender, f"{house.sender.pk}/change/")
    assert send(panel, path, dkim_keys=[str(key.pk)]).status_code == 302
    assert compile_policy().senders[house.sender.pk].dkim_key_ids == (key.pk,)
    DkimKey.objects.update(is_active=False)
    assert compile_policy().senders[house.sender.pk].dkim_key_ids == ()


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"action": "add", "name": "X-A", "value": "one\r\nBcc: all@acme.test"}, "value"),
        ({"action": "add", "name": "X-A: b\r\nX-B", "value": "one"}, "name"),
        ({"action": "add", "name": "X-A", "value": " "}, "needs a value"),
        ({"action": "delete", "name": "From", "value": ""}, "cannot be overridden"),
        ({"action": "delete", "name": "DATE", "value": ""}, "cannot be overridden"),
        ({"action": "add", "name": "Message-ID", "value": "<a@b>"}, "cannot be overridden"),
        ({"action": "delete", "name": "DKIM-Signature", "value": ""}, "cannot be overridden"),
        ({"action": "delete", "name": "MIME-Version", "value": ""}, "cannot be overridden"),
        ({"action": "add", "name": "Content-Type", "value": "text/x"}, "cannot be overridden"),
        ({"action": "add", "name": "List-Id", "value": "Grüße <a.test>"}, "takes plain ASCII"),
        ({"action": "add", "name": "Reply-To", "value": "grün@a.test"}, "takes plain ASCII"),
        ({"action": "delete", "name": "x-postfleet-token", "value": ""}, "cannot be overridden"),
    ],
)
def test_a_header_override_that_would_break_mail_is_refused(
    fields: dict[str, str], complaint: str, house: House, panel: Client
) -> None:
    isp = Isp.objects.create(name="Example")
    rows = {f"headers-0-{name}": value for name, value in fields.items()}
    rows |= {"headers-TOTAL_FORMS": "1", "headers-0-isp": str(isp.pk)}
    answer = send(panel, page(Isp, f"{isp.pk}/change/"), **rows)
    assert complaint in errors(answer)
    assert not isp.headers.exists()


def test_an_override_of_the_field_that_carries_the_token_is_refused(
    house: House, panel: Client
) -> None:
    Node.objects.filter(name="node1").update(fbl_header="X-Mark")
    isp = Isp.objects.create(name="Example")
    rows = {
        "headers-TOTAL_FORMS": "1",
        "headers-0-isp": str(isp.pk),
        "headers-0-action": "delete",
        "headers-0-name": "x-mark",
        "headers-0-value": "",
    }
    answer = send(panel, page(Isp, f"{isp.pk}/change/"), **rows)
    assert "carries the message token on node node1" in errors(answer)
    node = Node.objects.get(name="node1")
    for name in ("Subject", "date"):
        path = page(Node, f"{node.pk}/change/")
        assert "a meaning of its own" in errors(send(panel, path, fbl_header=name))
