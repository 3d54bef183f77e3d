"""`manage.py reset_password [login]`: a new password for a person, printed once."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from control.access import Actor
from control.accounts.models import User
from control.accounts.services import draw_password, set_password
from control.management.commands.seed import OPERATOR
from control.needs import stores


class Command(BaseCommand):
    """For who has lost it, and for the first login."""

    help = "Give a person a new password and print it."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("login", nargs="?", default=OPERATOR)

    def handle(self, *args: Any, login: str, **options: Any) -> None:
        stores()
        user = User.objects.filter(username=login).first()
        if user is None:
            raise CommandError(f"there is no user {login!r}")
        password = draw_password()
        set_password(user, password, actor=Actor.system("reset_password"))
        self.stdout.write(f"operator: {login}")
        self.stdout.write(f"password: {password}  (shown once)")
