"""Sending domains: which From domains there are, who may use them, what signs for them."""

from __future__ import annotations

from django.core.exceptions import ValidationError
from django.db import models
from django.utils.translation import gettext_lazy as _

from control.access import READ, AccessRule
from control.fields import check_selector, clean_domain
from control.rows import PolicyModel


class SendingDomain(PolicyModel):
    """A From domain. Its subdomains are other sending domains: each is listed."""

    access = AccessRule(account_user=READ, account_path="accounts")

    domain = models.CharField(_("domain"), max_length=253, unique=True)
    accounts = models.ManyToManyField(
        "accounts.Account",
        verbose_name=_("accounts that may use it"),
        blank=True,
        related_name="sending_domains",
    )
    return_path_domain = models.CharField(
        _("return-path domain"),
        max_length=253,
        blank=True,
        help_text=_("Where bounces return to. Empty: to the return path each submission gives."),
    )

    class Meta:
        verbose_name = _("sending domain")
        verbose_name_plural = _("sending domains")
        ordering = ["domain"]

    def __str__(self) -> str:
        return self.domain

    def clean_fields(self, exclude: object = None) -> None:
        """Normalise before uniqueness is checked."""
        for name in ("domain", "return_path_domain"):
            if value := getattr(self, name):
                try:
                    setattr(self, name, clean_domain(value))
                except ValidationError as exc:
                    raise ValidationError({name: exc.messages}) from exc
        super().clean_fields(exclude=exclude)  # type: ignore[arg-type]


class DkimKey(PolicyModel):
    """A key that signs for a sending domain under a selector."""

    access = AccessRule(account_user=READ, account_path="sending_domain__accounts")

    sending_domain = models.ForeignKey(
        SendingDomain,
        verbose_name=_("sending domain"),
        on_delete=models.CASCADE,
        related_name="dkim_keys",
    )
    selector = models.CharField(_("selector"), max_length=63, validators=[check_selector])
    key = models.ForeignKey(
        "mta.Key", verbose_name=_("key"), on_delete=models.PROTECT, related_name="dkim_keys"
    )
    is_active = models.BooleanField(_("signs"), default=True)

    class Meta:
        verbose_name = _("DKIM key")
        verbose_name_plural = _("DKIM keys")
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(
                fields=["sending_domain", "selector"], name="selector_once_per_domain"
            )
        ]

    def __str__(self) -> str:
        return f"{self.selector}._domainkey.{self.sending_domain}"

    def clean(self) -> None:
        """Only a DKIM key signs mail."""
        if self.key_id is not None and self.key.type != "dkim":
            raise ValidationError({"key": _("This is no DKIM key.")})
