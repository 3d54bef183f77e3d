"""System mail in the lab: on our own path, from an account of its own, so that it stays out of the
demo company's figures.

Gives    set_up_system_mail
Takes    the rows of lab_rows.create_lab_rows, and the world they were made from

Once there is a sender address, whatever an operator made of it stays.
"""

from __future__ import annotations

from control.access import Actor
from control.accounts.models import Account
from control.audit.changes import policy_change
from control.domains.models import SendingDomain
from control.notify.models import SystemMail
from control.senders.models import Sender
from lab.world import World

ACCOUNT = "system"


def set_up_system_mail(world: World, *, actor: Actor) -> None:
    """Send system mail as postfleet@ the first sending domain, and alerts to the first provider."""
    row = SystemMail.objects.filter(email="").first()
    if row is None:
        return
    with policy_change(actor) as change:
        sender = Sender.objects.get(name="demo")
        domain = SendingDomain.objects.get(domain=world.sending_domains[0])
        account, is_new = Account.objects.get_or_create(
            login_name=ACCOUNT, defaults={"title": "System mail", "default_sender": sender}
        )
        if is_new:
            change.created(account)
        sender.accounts.add(account)
        domain.accounts.add(account)
        change.touch(row)
        row.email = f"postfleet@{domain.domain}"
        row.account = account
        row.alert_to = [f"operator@{world.providers[0].domains[0].name}"]
        row.full_clean()
        row.save()
