"""ISPs: mailbox providers with their domains, encodings and header overrides.

Models of the app `mta`; import them from `control.mta.models`.
"""

from __future__ import annotations

from django.core.exceptions import ValidationError
from django.db import models
from django.utils.translation import gettext_lazy as _

from control.fields import (
    LinesField,
    check_header_name,
    check_one_line,
    clean_domain,
    clean_each,
)
from control.mta.choices import Encoding, HeaderAction, KindEncoding
from control.rows import PolicyModel
from mailcore.render.overrides import can_be_written, is_protected


class Isp(PolicyModel):
    """A mailbox provider: its domains, encodings, header overrides, speed."""

    name = models.CharField(_("name"), max_length=80, unique=True)
    mx_suffixes = LinesField(
        models.CharField(max_length=253),
        verbose_name=_("MX suffixes"),
        default=list,
        blank=True,
        help_text=_("Domains whose mail exchangers end in one of these belong to the ISP too."),
    )
    is_one_site = models.BooleanField(
        _("one site"),
        default=False,
        help_text=_("All its exchangers share connections and limits, however its domains differ."),
    )
    is_catch_all = models.BooleanField(
        _("catch-all"),
        default=False,
        editable=False,
        help_text=_("Stands for every domain that is in no other ISP."),
    )
    strategy = models.ForeignKey(
        "mta.Strategy",
        verbose_name=_("strategy"),
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="isps",
    )
    retry_rule = models.ForeignKey(
        "mta.RetryRule",
        verbose_name=_("retry rule"),
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="isps",
    )
    encoding_global = models.CharField(
        _("encoding: global"),
        max_length=20,
        choices=Encoding,
        default=Encoding.AS_SUBMITTED,
        help_text=_(
            "How the texts of a message travel to this ISP. Attachments, signed and encrypted parts"
            " stay as they are, and so do messages that bring a DKIM signature."
        ),
    )
    encoding_html = models.CharField(
        _("encoding: HTML"), max_length=20, choices=KindEncoding, default=KindEncoding.AS_SUBMITTED
    )
    encoding_text = models.CharField(
        _("encoding: text"),
        max_length=20,
        choices=KindEncoding,
        default=KindEncoding.AS_SUBMITTED,
        help_text=_(
            "8-bit: a text with lines over 998 octets goes as Quoted-Printable all the same, and so"
            " does every text to a server that takes no 8-bit content."
        ),
    )

    class Meta:
        verbose_name = _("ISP")
        verbose_name_plural = _("ISPs")
        ordering = ["name"]
        constraints = [
            models.UniqueConstraint(
                fields=["is_catch_all"],
                condition=models.Q(is_catch_all=True),
                name="isp_one_catch_all",
            )
        ]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """Keep suffixes as DNS spells them."""
        try:
            suffixes = [value.lstrip(".") for value in self.mx_suffixes or []]
            self.mx_suffixes = clean_each(suffixes, clean_domain)
        except ValidationError as exc:
            raise ValidationError({"mx_suffixes": exc.messages}) from exc
        if self.is_one_site and not self.mx_suffixes:
            raise ValidationError({"is_one_site": _("One site needs an MX suffix to go by.")})
        if self.is_catch_all and self.mx_suffixes:
            raise ValidationError({"mx_suffixes": _("The catch-all has no exchangers of its own.")})


class IspDomain(PolicyModel):
    """A recipient domain of an ISP; a domain belongs to one ISP."""

    isp = models.ForeignKey(
        Isp, verbose_name=_("ISP"), on_delete=models.CASCADE, related_name="domains"
    )
    domain = models.CharField(
        _("domain"),
        max_length=253,
        unique=True,
        error_messages={"unique": _("This domain belongs to another ISP: take it out there.")},
    )

    class Meta:
        verbose_name = _("ISP domain")
        verbose_name_plural = _("ISP domains")
        ordering = ["domain"]

    def __str__(self) -> str:
        return self.domain

    def clean_fields(self, exclude: object = None) -> None:
        """Normalise before uniqueness is checked."""
        if self.isp_id is not None and self.isp.is_catch_all:
            raise ValidationError({"domain": _("The catch-all has no domains of its own.")})
        try:
            self.domain = clean_domain(self.domain)
        except ValidationError as exc:
            raise ValidationError({"domain": exc.messages}) from exc
        super().clean_fields(exclude=exclude)  # type: ignore[arg-type]


class IspHeader(PolicyModel):
    """A header field that is added to, or deleted from, mail to an ISP."""

    isp = models.ForeignKey(
        Isp, verbose_name=_("ISP"), on_delete=models.CASCADE, related_name="headers"
    )
    action = models.CharField(_("action"), max_length=8, choices=HeaderAction)
    name = models.CharField(_("key"), max_length=76, validators=[check_header_name])
    value = models.CharField(_("value"), max_length=900, blank=True, validators=[check_one_line])

    class Meta:
        verbose_name = _("overriding header")
        verbose_name_plural = _("overriding headers")
        ordering = ["id"]

    def __str__(self) -> str:
        return f"{self.action} {self.name}"

    def clean(self) -> None:
        """An added header field needs a value, and must be one we may write."""
        if self.action == HeaderAction.ADD and not self.value.strip():
            raise ValidationError({"value": _("An added header needs a value.")})
        if is_protected(self.name):
            raise ValidationError({"name": _("This header field cannot be overridden.")})
        if self.action == HeaderAction.ADD and not can_be_written(self.name, self.value):
            text = _("%(name)s takes plain ASCII, but for the names of addresses.")
            raise ValidationError({"value": text % {"name": self.name}})
