"""`manage.py seed [--lab]`: the rows an installation begins with, and policy revision 1.

Takes    --lab: also the demo company and the lab's providers; LAB_WORLD says which (`wide`),
         LAB_POP3_PORT where the lab's mailboxes are read; NOREPLY_MAILER, a JSON object: how
         system mail leaves, until the panel says otherwise
Gives    the operator's password, printed once; with --lab the demo's API token in a 0600 file
Raises   CommandError naming what is wrong
"""

from __future__ import annotations

import os
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from control.access import Actor, ApiScope
from control.accounts.models import Account, ApiToken, User
from control.accounts.services import create_operator, issue_token, seal_token
from control.audit.changes import policy_change
from control.needs import stores
from control.notify.services import create_rows, set_up_from
from control.policy.models import PolicyRevision
from control.policy.publisher import publish
from control.policy.system_rows import create_system_rows
from mailcore.errors import PolicyRefused

OPERATOR = "operator"
TOKEN_NAME = "demo"  # noqa: S105 (a name)
TOKEN_FILE = "api-token"  # noqa: S105 (a name)


def _create_lab_rows(node: str, actor: Actor) -> None:
    # Only here: a live installation may come without the lab.
    from control.management.lab_rows import create_lab_rows, read_mailboxes
    from control.management.lab_system_mail import set_up_system_mail
    from lab.world import WORLDS

    name = os.environ.get("LAB_WORLD", "wide")
    if name not in WORLDS:
        raise CommandError(f"LAB_WORLD: {name!r} is none of {', '.join(sorted(WORLDS))}")
    world = WORLDS[name]()
    create_lab_rows(world, node_name=node, actor=actor)
    set_up_system_mail(world, actor=actor)
    port = os.environ.get("LAB_POP3_PORT", "")
    if port:
        read_mailboxes(world, port=int(port), actor=actor)


def _publish_dkim_keys() -> None:
    """Tell a lab that runs of the keys; without one there is nobody who could ask."""
    from control.management.lab_rows import publish_dkim_keys
    from lab.client import LabClient, LabError

    port = os.environ.get("LAB_CONTROL_PORT", "")
    if not port:
        return
    try:
        publish_dkim_keys(LabClient(int(port)))
    except LabError as exc:
        raise CommandError(f"the lab's DNS did not take the DKIM keys: {exc}") from exc


class Command(BaseCommand):
    """Idempotent: what is there stays as it is."""

    help = "Create the rows an installation begins with and publish the policy."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--lab", action="store_true", help="also create the demo company and the lab's ISPs"
        )

    def handle(self, *args: Any, lab: bool, **options: Any) -> None:
        settings = stores()
        if lab and not settings.is_lab:
            raise CommandError("--lab: this is a live installation (MODE=live)")
        actor = Actor.system("seed")
        try:
            password = self._seed(actor, node=settings.node, lab=lab)
        except PolicyRefused as exc:
            raise CommandError(f"the policy is refused: {exc}") from exc
        if lab:
            self._write_token(settings.var_dir, actor)
            _publish_dkim_keys()
        active = PolicyRevision.objects.filter(is_active=True).values_list("revision", flat=True)
        self.stdout.write(f"policy revision: {active[0]}")
        if password is not None:
            self.stdout.write(f"operator: {OPERATOR}")
            self.stdout.write(f"password: {password}  (shown once; manage.py reset_password)")

    def _seed(self, actor: Actor, *, node: str, lab: bool) -> str | None:
        """Create everything in one transaction, so that it makes one revision."""
        password = None
        with transaction.atomic(), policy_change(actor):
            create_system_rows(actor=actor)
            create_rows(actor=actor)
            self._set_up_system_mail(actor)
            if lab:
                _create_lab_rows(node, actor)
            if not User.objects.filter(account__isnull=True).exists():
                password = create_operator(OPERATOR, actor=actor)
        if not PolicyRevision.objects.exists():
            with transaction.atomic():
                publish(author=actor.label)
        return password

    def _set_up_system_mail(self, actor: Actor) -> None:
        """Take NOREPLY_MAILER over into the row, while that has no sender address."""
        try:
            set_up_from(os.environ.get("NOREPLY_MAILER", ""), actor=actor)
        except ValidationError as exc:
            raise CommandError(f"NOREPLY_MAILER: {'; '.join(exc.messages)}") from exc

    def _write_token(self, var_dir: Path, actor: Actor) -> None:
        """Write the demo's token where only we can read it; a lost file means a new token."""
        path = var_dir / TOKEN_FILE
        token = ApiToken.objects.filter(name=TOKEN_NAME).first()
        if token is not None and path.is_file():
            return
        if token is None:
            account = Account.objects.get(login_name="demo")
            used_for = (ApiScope.MESSAGES_SEND, ApiScope.MESSAGES_READ, ApiScope.QUEUE)
            scopes = [one.value for one in used_for]
            _token, clear = issue_token(
                name=TOKEN_NAME, account=account, scopes=scopes, actor=actor
            )
        else:
            with policy_change(actor) as change:
                change.touch(token)
                clear = seal_token(token)
                token.save(update_fields=["prefix", "token_hash"])
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as out:
            out.write(clear + "\n")
        self.stdout.write(f"API token: in {path}")
