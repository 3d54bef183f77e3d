"""What operators demand of TLS for single recipient domains, whatever the domains publish.

Gives    DomainTls
"""

from __future__ import annotations

from django.core.exceptions import ValidationError
from django.db import models
from django.utils.translation import gettext_lazy as _

from control.fields import LinesField, clean_domain, clean_each
from control.mta.choices import DomainTlsLevel
from control.rows import PolicyModel


def clean_suffix(value: str) -> str:
    """Return a domain, or with a leading dot all that is below it, in the form we compare."""
    text = value.strip()
    if text.startswith("."):
        return f".{clean_domain(text[1:])}"
    return clean_domain(text)


class DomainTls(PolicyModel):
    """One domain, or all below one. It is said instead of what the domain publishes by DANE and
    MTA-STS; what a sender or a message asks for still holds."""

    domain = models.CharField(
        _("recipient domain"),
        max_length=254,
        unique=True,
        help_text=_(
            "With a leading dot, as in .example.com, all domains below it. A domain's own row goes"
            " first, then the longest one with a dot."
        ),
    )
    level = models.CharField(
        _("TLS"),
        max_length=16,
        choices=DomainTlsLevel,
        default=DomainTlsLevel.REQUIRED,
        help_text=_(
            "This is done instead of what the domain publishes: its DANE records and its MTA-STS"
            " policy are not asked for. Mail waits where what is required cannot be had."
        ),
    )
    names = LinesField(
        models.CharField(max_length=254),
        verbose_name=_("names in the certificate"),
        default=list,
        blank=True,
        help_text=_(
            "For Verified, one per line: a name, or .example.com for all hosts below it."
            " Empty: the MX host's own name. Names given here keep a forged MX answer from"
            " leading mail elsewhere."
        ),
    )
    note = models.CharField(_("note"), max_length=300, blank=True)

    class Meta:
        verbose_name = _("TLS of a domain")
        verbose_name_plural = _("TLS of domains")
        ordering = ["domain"]

    def __str__(self) -> str:
        return self.domain

    def clean_fields(self, exclude: object = None) -> None:
        """Normalise before uniqueness is checked."""
        problems = {}
        for name, clean in (("domain", clean_suffix), ("names", _clean_names)):
            if value := getattr(self, name):
                try:
                    setattr(self, name, clean(value))
                except ValidationError as exc:
                    problems[name] = exc.messages
        if problems:
            raise ValidationError(problems)
        super().clean_fields(exclude=exclude)  # type: ignore[arg-type]

    def clean(self) -> None:
        """Names are looked at only where a certificate is."""
        if self.names and self.level != DomainTlsLevel.VERIFIED:
            raise ValidationError({"names": _("Only Verified looks at names in certificates.")})


def _clean_names(values: list[str]) -> list[str]:
    return clean_each(values, clean_suffix)
