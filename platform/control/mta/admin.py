"""Pages of the MTA's rules."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import Count, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from control.admin_base import PolicyAdmin, PolicyInline, VersionedForm
from control.holdable import Holdable
from control.mta import services
from control.mta.choices import KeyAlgorithm
from control.mta.models import (
    BouncePattern,
    DefaultRule,
    DomainTls,
    Isp,
    IspDomain,
    IspHeader,
    Key,
    Pool,
    PoolMember,
    RetryRule,
    Strategy,
)
from control.panel import actor_of

PERIODS = ((_("day"), 86400), (_("hour"), 3600), (_("minute"), 60))


@admin.register(Strategy)
class StrategyAdmin(PolicyAdmin):
    """Speed profiles."""

    list_display = ("id", "name", "per_hour", "connections", "tls", "drop", "is_system")
    list_display_links = ("id", "name")
    list_filter = ("tls", "drop", "is_system")
    search_fields = ("name",)
    readonly_fields = ("speed",)
    fieldsets = (
        (None, {"fields": ("name",)}),
        (
            _("Speed"),
            {
                "fields": (
                    "connections",
                    "messages_per_connection",
                    "connection_attempts",
                    "interval_s",
                    "speed",
                )
            },
        ),
        (_("Session"), {"fields": ("helo", "tls")}),
        (_("Danger"), {"fields": ("drop",)}),
    )

    @admin.display(description=_("messages/hour and IP"))
    def per_hour(self, strategy: Strategy) -> str:
        return _shown(strategy.messages_per(3600))

    @admin.display(description=_("Average strategy speed per IP address"))
    def speed(self, strategy: Strategy) -> SafeString:
        """The table of the saved values: per day, hour and minute."""
        rows = ((name, _shown(strategy.messages_per(seconds))) for name, seconds in PERIODS)
        body = format_html_join("", "<tr><th>{}</th><td>{}</td></tr>", rows)
        return format_html('<table class="speed">{}</table>', body)


def _shown(count: int | None) -> str:
    return str(_("unlimited")) if count is None else f"{count:,}"


@admin.register(RetryRule)
class RetryRuleAdmin(PolicyAdmin):
    """When a temporarily refused message is tried again."""

    list_display = ("id", "name", "mode", "retries", "interval", "type", "is_system")
    list_display_links = ("id", "name")
    list_filter = ("mode", "type", "is_system")
    search_fields = ("name",)

    @admin.display(description=_("interval (min)"), ordering="interval_s")
    def interval(self, rule: RetryRule) -> str:
        return f"{rule.interval_s / 60:g}"


class IspDomainInline(PolicyInline):
    model = IspDomain
    fields = ("domain",)


class IspHeaderInline(PolicyInline):
    model = IspHeader
    fields = ("action", "name", "value")


@admin.register(Isp)
class IspAdmin(Holdable, PolicyAdmin):
    """Mailbox providers."""

    hold_scope = "isp"
    list_display = ("id", "name", "domain_count", "strategy", "retry_rule", "is_system")
    list_display_links = ("id", "name")
    list_filter = ("is_system", "is_one_site")
    list_select_related = ("strategy", "retry_rule")
    actions = ("hold", "delete_selected")
    search_fields = ("name", "domains__domain")
    inlines = (IspDomainInline, IspHeaderInline)
    fieldsets = (
        (None, {"fields": ("name", "mx_suffixes", "is_one_site")}),
        (_("Rules"), {"fields": ("strategy", "retry_rule")}),
        (_("Content"), {"fields": ("encoding_global", "encoding_html", "encoding_text")}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows: QuerySet[Any] = super().get_queryset(request)
        counted: QuerySet[Any] = rows.annotate(domains_counted=Count("domains"))
        return counted

    @admin.display(description=_("domains"))
    def domain_count(self, isp: Any) -> int:
        return int(isp.domains_counted)


class PoolMemberInline(PolicyInline):
    model = PoolMember
    fields = ("source", "weight", "strategy")


@admin.register(Pool)
class PoolAdmin(Holdable, PolicyAdmin):
    """Sets of sources that send for a domain."""

    hold_scope = "pool"
    list_display = ("id", "name", "domain", "source_count")
    list_display_links = ("id", "name")
    actions = ("hold", "delete_selected")
    search_fields = ("name", "domain")
    inlines = (PoolMemberInline,)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows: QuerySet[Any] = super().get_queryset(request)
        counted: QuerySet[Any] = rows.annotate(sources_counted=Count("members"))
        return counted

    @admin.display(description=_("sources"))
    def source_count(self, pool: Any) -> int:
        return int(pool.sources_counted)


@admin.register(DefaultRule)
class DefaultRuleAdmin(PolicyAdmin):
    """Delivery scenarios."""

    list_display = ("id", "name", "isp", "priority", "retry_rule", "is_system")
    list_display_links = ("id", "name")
    list_filter = ("is_system", ("isp", admin.RelatedOnlyFieldListFilter))
    list_select_related = ("isp", "retry_rule")
    search_fields = ("name",)


@admin.register(DomainTls)
class DomainTlsAdmin(PolicyAdmin):
    """TLS of single recipient domains."""

    list_display = ("id", "domain", "level", "note")
    list_display_links = ("id", "domain")
    list_filter = ("level",)
    search_fields = ("domain", "note")
    fields = ("domain", "level", "names", "note")


@admin.register(BouncePattern)
class BouncePatternAdmin(PolicyAdmin):
    """What ISP answers mean."""

    list_display = ("id", "name", "type", "bounce_class", "isp", "position", "is_active")
    list_display_links = ("id", "name")
    list_filter = ("type", "bounce_class", "is_active", "is_system")
    list_select_related = ("isp",)
    search_fields = ("name", "pattern", "message")


class KeyForm(VersionedForm):
    """A key: drawn here or pasted; never shown."""

    draw = forms.ChoiceField(
        label=_("Draw a new key"),
        required=False,
        choices=(("", "–"), *KeyAlgorithm.choices),
        help_text=_(
            "RSA has 2048 bits. Publish its DNS record at once: "
            "a replaced key signs as soon as it is saved."
        ),
    )
    private_key = forms.CharField(
        label=_("or paste a private key"),
        required=False,
        widget=forms.Textarea(attrs={"rows": 6, "cols": 70, "autocomplete": "off"}),
        help_text=_("PEM or OpenSSH, without passphrase. It is stored sealed, never shown again."),
    )
    private: services.PrivateKey | None = None

    def clean(self) -> dict[str, Any] | None:
        """Take one of both; a new key needs one."""
        cleaned = super().clean() or self.cleaned_data
        pasted, algorithm = cleaned.pop("private_key", ""), cleaned.get("draw")
        if pasted and algorithm:
            self.add_error("draw", _("Draw a key or paste one, not both."))
        elif pasted:
            try:
                self.private = services.read_private_key(pasted)
            except ValidationError as exc:
                self.add_error(None, exc)
        elif algorithm:
            self.private = services.draw_private_key(algorithm)
        elif self.instance.pk is None:
            self.add_error("draw", _("Draw a key, or paste one."))
        return cleaned


@admin.register(Key)
class KeyAdmin(PolicyAdmin):
    """Private keys. The page shows public halves alone."""

    form = KeyForm
    list_display = ("id", "name", "type", "algorithm", "created_at")
    list_display_links = ("id", "name")
    list_filter = ("type", "algorithm")
    search_fields = ("name",)
    fields = ("name", "type", "draw", "private_key", "secret_state", "algorithm", "dns_record")
    readonly_fields = ("secret_state", "algorithm", "dns_record")

    @admin.display(description=_("private key"))
    def secret_state(self, key: Key) -> str:
        return str(_("set")) if key.secret_ref else "–"

    @admin.display(description=_("DNS record"))
    def dns_record(self, key: Key) -> str:
        return services.dns_record(key) if key.public_key else "–"

    def create_row(self, request: HttpRequest, obj: Any, form: Any) -> None:
        services.store_key(obj, form.private, actor=actor_of(request))

    def update_row(self, request: HttpRequest, obj: Any, form: Any) -> None:
        super().update_row(request, obj, form)
        if form.private is not None:
            services.replace_key(obj, form.private, actor=actor_of(request))

    def remove_row(self, request: HttpRequest, obj: Any) -> None:
        services.delete_key(obj, actor=actor_of(request))
